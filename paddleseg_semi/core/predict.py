"""Prediction of photos: overlays and palette masks; pseudo labels."""

import os

import paddle
import paddle.distributed as dist
import paddle.nn.functional as F
from paddleseg.core import infer
from paddleseg.core.infer import reverse_transform
from paddleseg.core.predict import preprocess
from paddleseg.utils import logger

from paddleseg_semi import images
from paddleseg_semi.core import palette
from paddleseg_semi.core.common import (
    as_tested,
    blended,
    check_class_count,
    progress_bar,
    save_mask,
    save_picture,
)
from paddleseg_semi.errors import InputError
from paddleseg_semi.models.modes import evaluating


def predict(model, transforms, photos, save_dir, classes, aug_pred=False, scales=1.0, flip_horizontal=True,
            flip_vertical=False, is_slide=False, stride=None, crop_size=None, size_divisor=None, average_probs=False):
    """Writes `added_prediction/` (the photo with the classes over it) and `pseudo_color_prediction/` (palette PNG).

    With several ranks each predicts every nranks-th image.

    Args:
        model (nn.Layer): returns a list of logits, the main one [N, C, H, W] first.
        transforms (Compose): what an image passes before the network.
        photos (list[tuple]): (path, name), from `list_images`.
        save_dir (str): where the two folders go.
        classes (Classes): their colors.
        aug_pred (bool): average the logits over `scales`, `flip_horizontal` and `flip_vertical`.
        is_slide (bool): sliding window of `crop_size` (width, height), moved by `stride` (width, height).
        size_divisor, average_probs: see :func:`as_tested`.

    Returns:
        list[str]: the two folders.
    """
    added, masks = (os.path.join(save_dir, name) for name in ('added_prediction', 'pseudo_color_prediction'))
    options = {'is_slide': is_slide, 'stride': stride, 'crop_size': crop_size}
    if aug_pred:
        options.update(scales=scales, flip_horizontal=flip_horizontal, flip_vertical=flip_vertical)
    run = infer.aug_inference if aug_pred else infer.inference
    net = as_tested(model, size_divisor, average_probs)
    photos = photos[dist.get_rank()::dist.get_world_size()]
    logger.info('Start to predict...')
    bar = progress_bar(len(photos), show=dist.get_rank() == 0)
    with evaluating(model), paddle.no_grad():
        for i, (path, name) in enumerate(photos):
            data = _prepared(path, transforms)
            pred, logit = run(net, data['img'], trans_info=data['trans_info'], **options)
            check_class_count(logit.shape[1])
            pred = pred[0, 0].numpy().astype('uint8')
            save_mask(pred, os.path.join(masks, f'{name}.png'), classes.colors)
            overlay = blended(images.read(path)[..., ::-1], pred, classes.colors, classes.unpainted)
            save_picture(overlay, os.path.join(added, name), os.path.splitext(path)[1])
            bar.update(i + 1)
    return [added, masks]


def _prepared(image, transforms):
    try:
        return preprocess(image, transforms)
    except InputError:
        raise
    except Exception as error:  # transforms raise all kinds
        raise InputError(f'{image}: cannot be used ({type(error).__name__}: {error}). Repair or unlist it.') from None


def label(model, transforms, pairs, scales=(1.0,), flip=False, **options):
    """Writes what a network says about images as palette PNGs of their sizes. Masks that are there already stay, so a
    killed run can be repeated. Images that cannot be read get none. With several ranks each labels every nranks-th
    image.

    Args:
        model (nn.Layer): returns a list of logits, the main one [N, C, H, W] first.
        transforms (Compose): what an image passes before the network.
        pairs (list[tuple[str, str]]): image, and the mask to write.
        scales, flip, **options: as :func:`class_scores`.

    Returns:
        dict[str, str]: the images of this rank that cannot be read → why.
    """
    unreadable = {}
    color_map = palette.default()
    pairs = [pair for pair in pairs[dist.get_rank()::dist.get_world_size()] if not os.path.exists(pair[1])]
    bar = progress_bar(len(pairs), show=dist.get_rank() == 0)
    with evaluating(model), paddle.no_grad():
        for i, (image, mask) in enumerate(pairs):
            bar.update(i + 1)
            try:
                data = _prepared(image, transforms)
            except images.Unreadable as error:
                unreadable[image] = str(error)
                continue
            scores = class_scores(model, data['img'], scales, flip, **options)
            check_class_count(scores.shape[1])
            scores = reverse_transform(scores, data['trans_info'], mode='bilinear')
            save_mask(scores.argmax(1)[0].numpy().astype('uint8'), mask, color_map, durable=True)
    return unreadable


def class_scores(model, img, scales=(1.0,), flip=False, size_divisor=None, average_probs=False, **window):
    """Adds up a network's soft-max maps of an image at several scales, each also mirrored.

    Args:
        model (nn.Layer): in eval mode; returns a list of logits, the main one [N, C, h, w] first.
        img (Tensor): [N, 3, H, W] float32.
        scales (Sequence[float]): of the sides, which are cut off to whole pixels.
        flip (bool): mirror left and right as well.
        size_divisor, average_probs: see :func:`as_tested`; here the latter concerns windows only.
        **window: `is_slide`, `crop_size` and `stride` of PaddleSeg's inference.

    Returns:
        Tensor: [N, C, H, W] float32, 0 to the number of maps.
    """
    height, width = img.shape[2:]
    net, total = as_tested(model, size_divisor, average_probs), 0
    for scale in scales:
        size = [max(int(side * scale), 1) for side in (height, width)]
        view = F.interpolate(img, size, mode='bilinear', align_corners=True)
        for mirror in (False, True)[:1 + flip]:
            said = infer.inference(net, view.flip(3) if mirror else view, **window)
            prob = said if average_probs else F.softmax(said, axis=1)
            prob = F.interpolate(prob, [height, width], mode='bilinear', align_corners=True)
            total = total + (prob.flip(3) if mirror else prob)
    return total
