"""SEAM: what class activation maps of an image and of its smaller copy have to agree on."""

import math

import paddle.nn.functional as F


def extreme_mean(values, share, largest=True):
    """The mean of the largest, or smallest, values of every row.

    Args:
        values (Tensor): [N, M].
        share (float): of the M that are taken, 0..1; rounded down, at least one.
        largest (bool, optional): False takes the smallest. Default: True.

    Returns:
        Tensor: scalar.
    """
    count = max(math.floor(values.shape[1] * share), 1)
    return values.topk(count, axis=1, largest=largest)[0].mean()


def least_response(maps, share=0.25):
    """Adaptive min pooling: pushes the weakest pixels of an image below 0, so that not everything is a class.

    Args:
        maps (Tensor): [N, C, H, W], of classes; 0 for absent ones.
        share (float, optional): of the pixels, 0..1. Default: 0.25.

    Returns:
        Tensor: scalar, at least 0.
    """
    best = maps.take_along_axis(maps.argmax(1, keepdim=True), 1).flatten(1)                 # [N, HW]
    return extreme_mean(F.relu(best), share, largest=False)


def hardest_distance(maps, target, share=0.2):
    """The absolute difference, where it is largest in each image.

    Args:
        maps (Tensor): [N, C, H, W].
        target (Tensor): the same shape.
        share (float, optional): of the values of an image, 0..1. Default: 0.2.

    Returns:
        Tensor: scalar.
    """
    return extreme_mean((maps - target).abs().flatten(1), share)
