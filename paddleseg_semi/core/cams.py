"""From a network that knows tags only to score maps, and from score maps to labels."""

import numpy as np
import paddle
import paddle.nn.functional as F
from PIL import Image

from paddleseg_semi.models.modes import evaluating

SCALES = (0.5, 1.0, 1.5, 2.0)
_EPS = 1e-5


def cams(model, image, tags, normalize, scales=SCALES, flip=True):
    """Class activation maps of an image, added up over scales and its mirror image.

    Args:
        model (nn.Layer): has `class_maps`: [1, 3, H, W] float32 (gray: [1, 1, H, W]) → [1, C-1, h, w], one map per
            class without background.
        image (np.ndarray): [H, W, 3] uint8, RGB; or [H, W], gray.
        tags (np.ndarray): [C-1] of 0 and 1, the classes it shows.
        normalize (Callable): the recipe's `Normalize`.
        scales (Sequence[float], optional): of its sides. Default: 0.5, 1, 1.5 and 2.
        flip (bool, optional): mirrored left and right as well. Default: True.

    Returns:
        dict[int, np.ndarray]: class, 1 to C-1 → map [H, W] float32, stretched so that 1 is the top. The lowest values
            may lie below 0.
    """
    present = np.flatnonzero(tags)
    height, width = image.shape[:2]
    total = np.zeros([len(present), height, width], 'float32')
    if not len(present):
        return {}
    columns = paddle.to_tensor(present)
    with evaluating(model), paddle.no_grad():
        for scale in scales:
            size = [max(round(side * scale), 1) for side in (width, height)]
            view = np.asarray(Image.fromarray(image).resize(size, Image.BICUBIC), 'float32')
            view = np.atleast_3d(normalize({'img': view})['img']).transpose(2, 0, 1)[None]
            for step in (1, -1)[:1 + flip]:
                maps = model.class_maps(paddle.to_tensor(np.ascontiguousarray(view[..., ::step]), 'float32'))
                maps = F.interpolate(maps.gather(columns, axis=1), [height, width], mode='bilinear')
                total += maps[0].numpy()[..., ::step]
    return dict(zip((present + 1).tolist(), _stretched(total)))


def _stretched(maps):
    """Stretches every map [K, H, W] between its extremes, as the authors do."""
    maps = maps.clip(min=0)
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    maps = np.where(maps < low + _EPS, 0, maps)
    return ((maps - low - _EPS) / (high - low + _EPS)).astype('float32')


def with_background(classes, maps, alpha):
    """Adds the score of the background: what the strongest class leaves of 1, to the power of alpha. A small alpha
    makes much background, a large one little.

    Args:
        classes (Sequence[int]): K ids above 0, in rising order.
        maps (np.ndarray): [K, H, W] float32, at most 1.
        alpha (float): above 0.

    Returns:
        tuple[list[int], np.ndarray]: K + 1 ids, 0 first, and maps [K + 1, H, W].
    """
    background = (1 - maps.max(0, keepdims=True, initial=0)) ** alpha
    return [0, *classes], np.concatenate([background, maps]).astype('float32')


def label_of(classes, maps, num_classes, background=None):
    """The class with the greatest score in every pixel, the smaller id if two are equal. Classes without map score 0.

    Args:
        classes (Sequence[int]): K ids.
        maps (np.ndarray): [K, H, W].
        num_classes (int): C.
        background (float, optional): its score everywhere. Default: it has a map like the others.

    Returns:
        np.ndarray: [H, W] integers.
    """
    scores = np.zeros([num_classes, *maps.shape[1:]], 'float32')
    scores[list(classes)] = maps
    if background is not None:
        scores[0] = background
    return scores.argmax(0)
