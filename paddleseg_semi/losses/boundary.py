"""SBNet: maps that are smooth except at class boundaries."""

import numpy as np
import paddle
import paddle.nn.functional as F

from paddleseg_semi.runtime import to_device

_FILTERS = [[[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],       # Sobel, across and down
            [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
            [[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]]]  # Laplace


def derivatives(maps):
    """Derivatives of every map by itself, zeros around it.

    Args:
        maps (Tensor): [N, C, H, W] float32.

    Returns:
        list[Tensor]: Sobel across, Sobel down and Laplace (8 in the middle), [N, C, H, W] each.
    """
    batch, channels, height, width = maps.shape
    filters = to_device(np.array(_FILTERS, 'float32')).unsqueeze(1)
    found = F.conv2d(maps.reshape([-1, 1, height, width]), filters, padding=1)
    return [found[:, i].reshape([batch, channels, height, width]) for i in range(len(_FILTERS))]


@paddle.amp.auto_cast(enable=False)  # differences of neighbors are lost in float16
def smoothness(prob, boundary, label, first=10., second=1., gate=10.):
    """Punishes derivatives of first and second order where there is no boundary.

    .. math:: \\phi(t) = \\sqrt{t^2 + 10^{-6}}, w = e^{-gate \\cdot b},
        first \\cdot mean(l (\\phi(w |G_x p|) + \\phi(w |G_y p|))) + second \\cdot mean(l \\phi(w |D p|))

    Args:
        prob (Tensor): [N, C, H, W], 0..1.
        boundary (Tensor): b, [N, C, H, W], 0..1.
        label (Tensor): l, [N, C, 1, 1], 1 for the classes present; the mean counts the others as zeros.
        first, second (float): weights.
        gate (float): how fast a boundary frees from punishment.

    Returns:
        Tensor: scalar.
    """
    prob, weight = prob.astype('float32'), paddle.exp(-gate * boundary.astype('float32'))
    across, down, laplace = (paddle.sqrt((found * weight) ** 2 + 1e-6) for found in derivatives(prob))
    return first * ((across + down) * label).mean() + second * (laplace * label).mean()
