"""Prediction of photos: overlays and palette masks."""

import os

import cv2
import paddle
import paddle.distributed as dist
from paddleseg.core import infer
from paddleseg.core.predict import preprocess
from paddleseg.utils import logger, visualize

from paddleseg_semi.core.common import progress_bar, save_mask
from paddleseg_semi.errors import RunError
from paddleseg_semi.models.modes import evaluating


def predict(model, transforms, images, save_dir, aug_pred=False, scales=1.0, flip_horizontal=True,
            flip_vertical=False, is_slide=False, stride=None, crop_size=None, custom_color=None):
    """Writes `added_prediction/` (the photo with the classes over it) and `pseudo_color_prediction/` (palette PNG).

    With several ranks each predicts every nranks-th image.

    Args:
        model (nn.Layer): returns a list of logits, the main one [N, C, H, W] first.
        transforms (Compose): what an image passes before the network.
        images (list[tuple]): (path, name), from `list_images`.
        save_dir (str): where the two folders go.
        aug_pred (bool): average the logits over `scales`, `flip_horizontal` and `flip_vertical`.
        is_slide (bool): sliding window of `crop_size` (width, height), moved by `stride` (width, height).
        custom_color (list[int], optional): R G B of class 0, R G B of class 1, …

    Returns:
        list[str]: the two folders.
    """
    added, masks = (os.path.join(save_dir, name) for name in ('added_prediction', 'pseudo_color_prediction'))
    color_map = visualize.get_color_map_list(256, custom_color=custom_color)
    options = {'is_slide': is_slide, 'stride': stride, 'crop_size': crop_size}
    if aug_pred:
        options.update(scales=scales, flip_horizontal=flip_horizontal, flip_vertical=flip_vertical)
    run = infer.aug_inference if aug_pred else infer.inference
    images = images[dist.get_rank()::dist.get_world_size()]
    logger.info('Start to predict...')
    bar = progress_bar(len(images), show=dist.get_rank() == 0)
    with evaluating(model), paddle.no_grad():
        for i, (path, name) in enumerate(images):
            data = preprocess(path, transforms)
            pred, _ = run(model, data['img'], trans_info=data['trans_info'], **options)
            pred = pred[0, 0].numpy().astype('uint8')
            save_mask(pred, os.path.join(masks, f'{name}.png'), color_map)
            _save_overlay(path, pred, color_map, os.path.join(added, name + os.path.splitext(path)[1]))
            bar.update(i + 1)
    return [added, masks]


def _save_overlay(image, pred, color_map, path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if not cv2.imwrite(path, visualize.visualize(image, pred, color_map, weight=0.6)):
        raise RunError(f'{path}: cannot be written.')
