"""Class activation maps: [N, C, H, W], one map per class, the background's first."""

import paddle
import paddle.nn.functional as F

_EPS = 1e-5


def normalized(maps, from_min=True):
    """Cuts negative values off and stretches every map to 0..1. Gradient flows through both ends.

    .. math:: ReLU(a - a_{min} - \\epsilon) / (a_{max} - a_{min} + \\epsilon), a = ReLU(maps), \\epsilon = 10^{-5}

    Args:
        maps (Tensor): [N, C, H, W].
        from_min (bool, optional): False takes 0 for the minimum. Default: True.

    Returns:
        Tensor: [N, C, H, W], at least 0 and below 1.
    """
    maps = F.relu(maps)
    flat = maps.flatten(2)
    # not max() and min(), whose gradient is slow on a CPU
    high = flat.take_along_axis(flat.argmax(2, keepdim=True), 2).unsqueeze(3)
    low = flat.take_along_axis(flat.argmin(2, keepdim=True), 2).unsqueeze(3) if from_min else 0.
    return F.relu(maps - low - _EPS) / (high - low + _EPS)


@paddle.no_grad()
def competing(maps):
    """Lets classes compete for the pixels: where another one is greater, a class gets 0; the background gets what the
    greatest one leaves of 1. Without gradient.

    Args:
        maps (Tensor): [N, C, H, W], about 0..1; the first map is not read.

    Returns:
        Tensor: [N, C, H, W].
    """
    classes = maps[:, 1:]
    best = classes.max(1, keepdim=True)
    return paddle.concat([1 - best, paddle.where(classes < best, paddle.zeros_like(classes), classes)], axis=1)


@paddle.amp.auto_cast(enable=False)  # bfloat16 turns the gradient of what is made of it: cosine 0.82
def pixel_correlation(maps, feature):
    """Replaces every value by a mean over the pixels that look alike, the more alike the heavier (SEAM's PCM).

    Args:
        maps (Tensor): [N, C, h, w]; resized to the feature.
        feature (Tensor): [N, D, H, W]. A pair of pixels counts by the cosine of theirs, if that is positive.

    Returns:
        Tensor: [N, C, H, W].
    """
    maps, feature = maps.astype('float32'), feature.astype('float32')
    size = paddle.shape(feature)[2:]
    maps = resize(maps, size).flatten(2)                                                    # [N, C, HW]
    feature = feature.flatten(2)                                                            # [N, D, HW]
    feature = feature / (paddle.norm(feature, axis=1, keepdim=True) + _EPS)
    alike = F.relu(paddle.matmul(feature, feature, transpose_x=True))                       # [N, HW, HW]
    means = paddle.matmul(maps, alike) / (alike.sum(1, keepdim=True) + _EPS)
    return means.reshape([0, 0, size[0], size[1]])


def resize(maps, size):
    """Bilinear, with aligned corners.

    Args:
        maps (Tensor): [N, C, h, w].
        size (list[int]|Tensor): height and width.

    Returns:
        Tensor: [N, C, height, width].
    """
    return F.interpolate(maps, size, mode='bilinear', align_corners=True)
