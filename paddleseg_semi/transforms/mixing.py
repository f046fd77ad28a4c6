"""Images made of two images.

Every mask is a bool tensor [N, H, W], drawn from a `np.random.Generator` and True where the partner shows;
:func:`paste` applies it to images, pseudo labels and whatever else belongs to the pixels.
"""

import functools
import math

import numpy as np
import paddle
import paddle.nn.functional as F

from paddleseg_semi.errors import InputError
from paddleseg_semi.runtime import to_device

_TRIES = 100000
PARTNERS = ('next', 'reversed', 'same')


def paste(mask, inside, outside):
    """CutMix, ClassMix, or CutOut when `inside` is a number.

    Args:
        mask (Tensor): [N, H, W], bool.
        inside (Tensor|float): shaped like `outside`; or one value, such as 0 for images and 255 for labels.
        outside (Tensor): [N, H, W] or [N, C, H, W].

    Returns:
        Tensor: `inside` where the mask is True, `outside` elsewhere.
    """
    if not isinstance(inside, paddle.Tensor):
        inside = paddle.full_like(outside, inside)
    return paddle.where(mask if outside.ndim == 3 else mask.unsqueeze(1), inside, outside)


def partners(value, partner='next'):
    """What each image of a batch is mixed with, when the batch is mixed with itself.

    Args:
        value (Tensor): [N, ...].
        partner (str, optional): 'next': image i takes from image i + 1 (the last from the first); 'reversed': from
            image N - 1 - i, which in the middle of an odd batch is itself; 'same': from itself. Default: 'next'.

    Returns:
        Tensor: shaped like `value`.
    """
    if partner == 'next':
        return value.roll(-1, 0)
    return value.flip(0) if partner == 'reversed' else value


def toggled_boxes(rng, n, size, share=(0.25, 0.5), boxes=3, random_aspect=True, by_area=True, within=True,
                  invert=True, reference_quirks=False):
    """Boxes of random shape that toggle the mask inside them (French et al., BMVC 2020; CPS with three boxes).

    With area share a and :math:`t \\sim U(0, 1)`, a box takes :math:`a^t` of the height and :math:`a^{1-t}` of the
    width, both times :math:`\\sqrt{1 / boxes}`.

    Args:
        rng (np.random.Generator): of this step.
        n (int): masks.
        size (Sequence[int]): height and width in pixels.
        share (Sequence[float], optional): range of a box's share of the image, 0..1. Default: (0.25, 0.5).
        boxes (int, optional): per mask. Default: 3.
        random_aspect (bool, optional): False: height and width take the same share. Default: True.
        by_area (bool, optional): `share` is one of the area; False: of each side. Default: True.
        within (bool, optional): boxes lie inside the image; False: their centres do. Default: True.
        invert (bool, optional): start from an empty mask; False: from a full one. Default: True.
        reference_quirks (bool, optional): as in the published code, the factor for several boxes is applied twice
            when the aspect is fixed, and a box that begins outside of the image vanishes. Default: False.

    Returns:
        Tensor: [n, H, W], bool.
    """
    size = np.array(size)
    shares = rng.uniform(*share, (n, boxes))
    if by_area:
        height = shares ** (rng.uniform(0, 1, (n, boxes)) if random_aspect else 0.5)
        width = shares / height
    else:
        height, width = shares, rng.uniform(*share, (n, boxes)) if random_aspect else shares
    factor = math.sqrt(1 / boxes) ** (1 if random_aspect or not reference_quirks else 2)
    sides = np.round(np.stack([height, width], 2) * factor * size)                          # [n, boxes, 2]
    position = rng.uniform(0, 1, (n, boxes, 2))
    start = np.round((size - sides) * position) if within else np.round(size * position) - sides / 2
    start, end = np.trunc(start), np.trunc(start + sides)
    if reference_quirks:
        start = np.where(start < 0, start + size, start)  # a negative index counts from the other end
    inside = _rectangles(start, end, size)                                                  # [n, boxes, H, W]
    odd = functools.reduce(paddle.logical_xor, inside.unbind(1))
    return odd if invert else ~odd


def gated_boxes(rng, n, size, prob=0.5, area=(0.02, 0.4), ratio=(0.3, 1 / 0.3)):
    """One box per mask, or none (UniMatch).

    Args:
        rng (np.random.Generator): of this step.
        n (int): masks.
        size (Sequence[int]): height and width in pixels.
        prob (float, optional): of a box, 0..1. Default: 0.5.
        area (Sequence[float], optional): range of its share of the image, 0..1. Default: (0.02, 0.4).
        ratio (Sequence[float], optional): range of its height over its width. Default: (0.3, 1 / 0.3).

    Returns:
        Tensor: [n, H, W], bool.

    Raises:
        InputError: the area drawn fits into the image at no such ratio.
    """
    corners = np.array([_gated_box(rng, size, prob, area, ratio) for _ in range(n)])
    return _rectangles(corners[:, 0], corners[:, 1], size)


def _gated_box(rng, size, prob, area, ratio):
    if rng.uniform(0, 1) > prob:
        return (0, 0), (0, 0)
    height, width = size
    pixels = rng.uniform(*area) * height * width
    for _ in range(_TRIES):
        aspect = rng.uniform(*ratio)
        w, h = int(math.sqrt(pixels / aspect)), int(math.sqrt(pixels * aspect))
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        if x + w <= width and y + h <= height:
            return (y, x), (y + h, x + w)
    raise InputError(f'method.box_area {list(area)} and box_ratio {list(ratio)}: no such box fits into crops of '
                     f'{height}x{width}. Give smaller areas, or ratios nearer to that of the crops.')


def half_boxes(rng, n, size):
    """One box per mask that covers about half of the image (U2PL).

    Args:
        rng (np.random.Generator): of this step.
        n (int): masks.
        size (Sequence[int]): height and width in pixels, at least 3.

    Returns:
        Tensor: [n, H, W], bool.
    """
    height, width = size
    start, end = [], []
    for _ in range(n):
        w = int(rng.integers(width // 2 + 1, width))
        h = round(height * width / 2 / w)
        x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        start.append((y, x))
        end.append((y + h, x + w))
    return _rectangles(np.array(start), np.array(end), size)


def centered_boxes(rng, n, size, share=(0.1, 0.9), margin=16):
    """One box per mask, all of one size, around a random pixel and clipped to the image (iMAS, AugSeg).

    Args:
        rng (np.random.Generator): of this step.
        n (int): masks.
        size (Sequence[int]): height and width in pixels.
        share (Sequence[float], optional): range of a box's share of each side, 0..1. Default: (0.1, 0.9).
        margin (int, optional): the first of so many parts of rows and columns holds no center. Default: 16.

    Returns:
        Tensor: [n, H, W], bool.
    """
    size = np.array(size)
    half = np.floor(size * rng.uniform(*share)) // 2
    center = np.stack([rng.integers(side // margin, side, n) for side in size], 1)          # [n, 2]
    return _rectangles(center - half, center + half, size)


def class_masks(rng, label, num_classes):
    """The pixels of half of the classes an image shows, rounded up, give way to the partner (ClassMix).

    Args:
        rng (np.random.Generator): of this step.
        label (Tensor): [N, H, W], int; all labels outside of 0..num_classes-1 count as one class more.
        num_classes (int): C.

    Returns:
        Tensor: [N, H, W], bool; False on the pixels of the other half, which stay.
    """
    known = (label >= 0) & (label < num_classes)
    one_hot = F.one_hot(paddle.where(known, label, paddle.full_like(label, num_classes)), num_classes + 1)
    shown = one_hot.any(axis=[1, 2])                                                        # [N, C + 1]
    score = to_device(rng.random((len(label), num_classes + 1)).astype('float32')) + (~shown).astype('float32') * 2
    stays = score.argsort(axis=1).argsort(axis=1) < shown.sum(1, keepdim=True) // 2         # rank among those shown
    return ~(one_hot * stays.astype(one_hot.dtype).unsqueeze([1, 2])).any(axis=-1)


def _rectangles(start, end, size):
    """Half-open boxes, arrays [..., 2] (y, x) of whole numbers → tensor [..., H, W] bool. The corners go to the device,
    not the masks: these would wait for it."""
    corners = to_device(np.stack([start, end]).astype('int32')).unsqueeze([-2, -2])         # [2, ..., 1, 1, 2]
    rows, cols = (paddle.arange(side, dtype='int32') for side in map(int, size))
    (top, bottom), (left, right) = corners[..., 0].unbind(0), corners[..., 1].unbind(0)
    return ((rows.unsqueeze(1) >= top) & (rows.unsqueeze(1) < bottom)) & ((cols >= left) & (cols < right))
