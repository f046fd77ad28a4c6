"""A sliding window over photos that are too large for the network."""

import math

import numpy as np
from paddleseg.transforms import Compose, Normalize
from scipy.special import softmax

from paddleseg_semi.core.testing import Testing
from paddleseg_semi.deploy.results import check_scores
from paddleseg_semi.deploy.segment import as_input, best_classes, to_photo
from paddleseg_semi.errors import InputError


def asked_window(args, bundle):
    """The Testing that --is_slide, --crop_size, --stride, --average_probs (Namespace) ask for; None without the first.

    Raises:
        InputError: it leaves gaps, has no size, or not the one the model was exported for; the model gives classes.
    """
    if not args.is_slide:
        return None
    window = Testing(is_slide=True, crop_size=args.crop_size, stride=args.stride, average_probs=args.average_probs)
    height, width = bundle.input_shape[2:]
    if height not in (-1, args.crop_size[1]) or width not in (-1, args.crop_size[0]):
        raise InputError(f'--crop_size {args.crop_size[0]} {args.crop_size[1]}: the model was exported for images of '
                         f'width {width} and height {height} (-1: any).')
    check_scores(bundle, '--is_slide')
    return window


def slide(bundle, run, image, window, batch_size=1, with_conf=False):
    """Segments a photo of any size by a sliding window, with the result of PaddleSeg's `slide_inference`.

    The network sees `batch_size` windows at a time. Scores are added in float64, as there, but only for the rows the
    window is on: rows it has left become classes at once. Where the transforms resize the photo its scores are kept
    whole, in float32, because they have to be resized back. Transforms of single pixels are left to the windows, so
    a photo that nothing resizes stays in bytes.

    Args:
        bundle (Bundle): of a model that gives scores.
        run (callable): a batch of windows → ndarray [N, C, h, w].
        image (ndarray): uint8 [h, w, 3] in BGR, or [h, w].
        window (Testing): its window.
        with_conf (bool): give the probability of the class as well.

    Returns:
        tuple: classes, uint8 [h, w], and their probability, float32 [h, w] or None.
    """
    whole = bundle.transforms
    ops, pointwise = list(whole.transforms), []
    while ops and isinstance(ops[-1], Normalize):
        pointwise.insert(0, ops.pop())
    whole = Compose(ops, whole.to_rgb, whole.img_channels)
    pointwise = Compose(pointwise, to_rgb=False, img_channels=whole.img_channels)
    data = whole({'img': image.astype('float32') if ops else image})
    img, trans_info = data['img'], data['trans_info']

    def scores_of(crops):
        crops = [pointwise({'img': crop.transpose(1, 2, 0).astype('float32')})['img'] for crop in crops]
        scores = run(np.stack([as_input(bundle, crop) for crop in crops]))
        if window.average_probs:
            return scores if bundle.output_op == 'softmax' else softmax(scores, axis=1)
        return scores if bundle.output_op == 'none' else np.log(scores.clip(min=1e-37))

    strips = _strips(scores_of, img, window, batch_size)
    if any(item[0] == 'resize' for item in trans_info):
        scores = np.concatenate([strip.astype('float32') for strip in strips], axis=1)
        return best_classes(to_photo(scores, trans_info, 'bilinear'), with_conf, window.average_probs)
    height, width = trans_info[0][1] if trans_info else img.shape[1:]  # paddings: the first one saw the photo
    classes, conf = zip(*(best_classes(strip, with_conf, window.average_probs) for strip in strips))
    return tuple(np.concatenate(maps)[:height, :width] if maps[0] is not None else None for maps in (classes, conf))


def _strips(scores_of, img, window, batch_size):
    """Mean scores of a photo [C, H, W] from top to bottom, in float64 arrays [classes, rows, W], each valid until the
    next."""
    (_, height, width), (wide, high) = img.shape, window.crop_size
    tops, lefts = _starts(height, high, window.stride[1]), _starts(width, wide, window.stride[0])
    wide, high = min(wide, width), min(high, height)
    total, count = None, np.zeros([high, width])
    for top, following in zip(tops, [*tops[1:], height]):
        for i in range(0, len(lefts), batch_size):
            some = lefts[i:i + batch_size]
            scores = scores_of([img[:, top:top + high, left:left + wide] for left in some])
            if total is None:
                total = np.zeros([scores.shape[1], high, width])
            for left, score in zip(some, scores):
                total[:, :, left:left + wide] += score
                count[:, left:left + wide] += 1
        done = following - top
        total[:, :done] /= count[:done]
        yield total[:, :done]
        for rows in (total, count):
            rows[..., :high - done, :] = rows[..., done:, :]
            rows[..., high - done:, :] = 0


def _starts(size, crop, stride):
    """Where windows begin along one side; the last ends with the photo."""
    steps = max(math.ceil((size - crop) / stride), 0) + 1
    return [max(min(i * stride, size - crop), 0) for i in range(steps)]
