"""How alike the places of an image are, as CorrMatch (Sun et al., CVPR 2024) learns it."""

import math

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddleseg.models.layers import ConvBNReLU

_ROUNDING = 1e-5  # of resizing: equal numbers come out unequal


class Correlation(nn.Layer):
    """Two embeddings of a feature map, and the correlation of every place with every other. It is trained beside a
    network and not exported.

    Args:
        in_channels (int): of the features it reads.
        num_classes (int): C, also the width of the embeddings.
        stride (int, optional): finer features are averaged down to one place per so many pixels: the correlation has
            (HW / stride²)² numbers per image. Default: 8.
        hidden (int, optional): channels of the projection in front. Default: 256.
        dropout (float, optional): probability that a channel of it is dropped. Default: 0.1.
    """

    def __init__(self, in_channels, num_classes, stride=8, hidden=256, dropout=0.1):
        super().__init__()
        self.proj = nn.Sequential(ConvBNReLU(in_channels, hidden, 3, padding=1), nn.Dropout2D(dropout))
        self.first, self.second = nn.Conv2D(hidden, num_classes, 1), nn.Conv2D(hidden, num_classes, 1)
        self.stride = stride

    def forward(self, feature, logits):
        """
        Args:
            feature (Tensor): [N, D, h, w], or tokens [N, hw, D], rows after each other.
            logits (Tensor): [N, C, H, W]; no gradient reaches them.

        Returns:
            tuple[Tensor, Tensor]: the logits as the correlation spreads them, [N, C, H, W]; and the correlation of each
            place with all, [N, hw, h, w] float32, whose sums over the map are 1.
        """
        size = logits.shape[2:]
        spread, rows = self.propagate(self.proj(coarse(as_map(feature, size), size, self.stride)), logits)
        return F.interpolate(spread, size, mode='bilinear', align_corners=True), rows

    def propagate(self, projected, logits):
        """Logits at the size of the features, as the correlation spreads them.

        .. math:: R = softmax_j(f_1^T f_2 / \\sqrt{C}), \\quad out_{c, j} = \\sum_i z_{c, i} R_{i, j}

        Args:
            projected (Tensor): [N, hidden, h, w].
            logits (Tensor): [N, C, H, W]; no gradient reaches them.

        Returns:
            tuple[Tensor, Tensor]: [N, C, h, w]; and R [N, hw, h, w].
        """
        size = projected.shape[2:]
        first, second = self.first(projected).flatten(2), self.second(projected).flatten(2)         # [N, C, hw]
        rows = F.softmax(paddle.matmul(first, second, transpose_x=True) / math.sqrt(first.shape[1]), axis=-1)
        small = F.interpolate(logits.detach(), size, mode='bilinear', align_corners=True).flatten(2)
        return paddle.matmul(small, rows).reshape([0, 0, *size]), rows.reshape([0, 0, *size])


def as_map(feature, size):
    """Tokens as the map that they are.

    Args:
        feature (Tensor): [N, D, h, w], or tokens [N, hw, D], rows after each other.
        size (Sequence[int]): H and W of the images, to which h and w are proportional.

    Returns:
        Tensor: [N, D, h, w].
    """
    if feature.ndim == 4:
        return feature
    height = round(math.sqrt(feature.shape[1] * size[0] / size[1]))
    return feature.transpose([0, 2, 1]).reshape([0, 0, height, -1])


def coarse(feature, size, stride):
    """Features with at most one place per `stride` pixels each way: finer ones are averaged.

    Args:
        feature (Tensor): [N, D, h, w].
        size (Sequence[int]): H and W of the images.
        stride (int): pixels.

    Returns:
        Tensor: [N, D, min(h, ⌈H / stride⌉), min(w, ⌈W / stride⌉)].
    """
    most = [min(here, math.ceil(side / stride)) for here, side in zip(feature.shape[2:], size)]
    return feature if most == list(feature.shape[2:]) else F.adaptive_avg_pool2d(feature, most)


@paddle.no_grad()
@paddle.amp.auto_cast(enable=False)     # the middle between two numbers is soon one of them in float16
def region_masks(rows, size):
    """Where each chosen place finds its like.

    Args:
        rows (Tensor): [N, K, h, w], rows of the correlation.
        size (Sequence[int]): H and W.

    Returns:
        Tensor: [N, K, H, W] bool: the row, at the size of the image, lies above the middle between its least and its
        greatest value; nowhere, if all are equal.
    """
    rows = F.interpolate(rows.astype('float32'), size, mode='bilinear', align_corners=True)
    low, high = rows.amin([2, 3], keepdim=True), rows.amax([2, 3], keepdim=True)
    return (rows > (low + high) / 2) & (high > low * (1 + _ROUNDING))
