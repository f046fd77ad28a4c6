"""Prediction of photos: overlays and palette masks; pseudo labels."""

import os

import numpy as np
import paddle
import paddle.distributed as dist
from paddleseg.core.infer import reverse_transform
from paddleseg.core.predict import preprocess
from paddleseg.utils import logger

from paddleseg_semi import images
from paddleseg_semi.core import palette, pictures
from paddleseg_semi.core.common import blended, check_class_count, progress_bar, save_mask, save_picture
from paddleseg_semi.core.testing import Testing
from paddleseg_semi.errors import InputError
from paddleseg_semi.models.modes import evaluating


def predict(model, transforms, photos, save_dir, classes, testing=None):
    """Writes `added_prediction/` (the photo with the classes over it) and `pseudo_color_prediction/` (palette PNG).

    With several ranks each predicts every nranks-th image.

    Args:
        model (nn.Layer): returns a list of logits, the main one [N, C, H, W] first.
        transforms (Compose): what an image passes before the network.
        photos (list[tuple]): (path, name), from `list_images`.
        save_dir (str): where the two folders go.
        classes (Classes): their colors.
        testing (Testing, optional): scales, flips, windows. Default: the image as it is.

    Returns:
        list[str]: the two folders.
    """
    added, masks = (os.path.join(save_dir, name) for name in ('added_prediction', 'pseudo_color_prediction'))
    testing = testing or Testing()
    photos = photos[dist.get_rank()::dist.get_world_size()]
    logger.info('Start to predict...')
    bar = progress_bar(len(photos), show=dist.get_rank() == 0)
    with evaluating(model), paddle.no_grad():
        for i, (path, name) in enumerate(photos):
            data = _prepared(path, transforms)
            pred, logit = testing.infer(model, data['img'], data['trans_info'])
            check_class_count(logit.shape[1])
            pred = pred[0, 0].numpy().astype('uint8')
            save_mask(pred, os.path.join(masks, f'{name}.png'), classes.colors)
            overlay = blended(images.read(path)[..., ::-1], pred, classes.colors, classes.unpainted)
            save_picture(overlay, os.path.join(added, name), os.path.splitext(path)[1])
            bar.update(i + 1)
    return [added, masks]


def worst(model, dataset, right, classes, testing=None, count=6):
    """A picture of the photos on which a network does worst.

    Args:
        model (nn.Layer): returns a list of logits, the main one [N, C, H, W] first.
        dataset (paddle.io.Dataset): a PaddleSeg data set in mode 'val'.
        right (list[tuple[int, float]]): positions in it, and shares of right pixels, the lowest first.
        classes (Classes): their names and colors.
        testing (Testing, optional): scales, flips, windows. Default: the image as it is.
        count (int, optional): of photos. Default: 6.

    Returns:
        np.ndarray: [height, width, 3] uint8 RGB: photo, truth, prediction, and where it is wrong.
    """
    rows, seen, testing = [], set(), testing or Testing()
    with evaluating(model), paddle.no_grad():
        for position, _ in right[:count]:
            photo = images.read(dataset.file_list[position][0], 3)
            data = dataset[position]
            truth = np.asarray(data['label']).reshape(photo.shape[:2]).astype('int64')
            pred, _ = testing.infer(model, paddle.to_tensor(data['img'][None]), data['trans_info'])
            pred = pred[0, 0].numpy()
            seen.update(np.unique(truth).tolist(), np.unique(pred).tolist())
            wrong = (pred != truth) & (truth != dataset.ignore_index)
            errors = np.where(wrong[..., None], np.array([230, 40, 40], 'uint8'), photo // 2 + 110)
            rows.append([photo, *(pictures.over(photo, label, classes) for label in (truth, pred)), errors])
    size = max((row[0].shape[1::-1] for row in rows), key=lambda size: size[0])
    return pictures.sheet([(('photo', 'truth', 'prediction', 'wrong'), rows)], size, classes, seen)


def _prepared(image, transforms):
    try:
        return preprocess(image, transforms)
    except InputError:
        raise
    except Exception as error:  # transforms raise all kinds
        raise InputError(f'{image}: cannot be used ({type(error).__name__}: {error}). Repair or unlist it.') from None


def label(model, transforms, pairs, testing=None, **views):
    """Writes what a network says about images as palette PNGs of their sizes. Masks that are there already stay, so a
    killed run can be repeated. Images that cannot be read get none. With several ranks each labels every nranks-th
    image.

    Args:
        model (nn.Layer): returns a list of logits, the main one [N, C, H, W] first.
        transforms (Compose): what an image passes before the network.
        pairs (list[tuple[str, str]]): image, and the mask to write.
        testing (Testing, optional): windows and the like. Default: the image as it is.
        **views: `scales` and `flip` of :meth:`Testing.scores`.

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
            scores = (testing or Testing()).scores(model, data['img'], **views)
            check_class_count(scores.shape[1])
            scores = reverse_transform(scores, data['trans_info'], mode='bilinear')
            save_mask(scores.argmax(1)[0].numpy().astype('uint8'), mask, color_map, durable=True)
    return unreadable
