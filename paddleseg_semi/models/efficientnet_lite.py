"""EfficientNet-Lite (Google, 2020): EfficientNet (Tan and Le, ICML 2019) without squeeze-and-excitation, with ReLU6."""

import math

import paddle.nn.functional as F
from paddle import nn
from paddleseg.cvlibs import manager

from paddleseg_semi.models.weights import load_pretrained

_STEM = 32
_GROUPS = (  # blocks, kernel, stride, expansion, channels of Lite0
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320))
_LAST = (1, 2, 4, 6)  # groups that end with the features at strides 4, 8, 16 and 32


class EfficientNetLite(nn.Layer):
    """Layers are named as in the weights published for PyTorch, where classifier and last convolution come besides.

    Images are (RGB - 127) / 128 in its training, which PaddleSeg's default `Normalize` is but for half a percent.

    Args:
        width (float): factor of the channels of all groups, rounded to multiples of 8.
        depth (float): factor of the blocks of all groups but the first and the last, rounded up.
        output_stride (int, optional): 8, 16 or 32: later groups do not stride but dilate. Default: 32.
        bn_momentum (float, optional): share, 0..1, of the running statistics that is kept in an update. A training of
            a few hundred updates wants 0.9. Default: 0.99, as published.
        pad_as (int, optional): convolutions with a stride pad as they do in square images of this side, whatever is
            shown to them: the PyTorch package with the weights does so, with 240 for Lite1 and 260 for Lite2. Default:
            as the image at hand wants it, as in TensorFlow.
        in_channels (int, optional): channels of the image. Default: 3.
        pretrained (str, optional): weights, see `load_pretrained`. Default: None.

    Attributes:
        feat_channels (list[int]): of the features at strides 4, 8, 16 and 32 (or `output_stride`).
    """

    def __init__(self, width, depth, output_stride=32, bn_momentum=0.99, pad_as=None, in_channels=3, pretrained=None):
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise ValueError(f'output_stride must be 8, 16 or 32, not {output_stride}')
        self._conv_stem = SameConv2D(in_channels, _STEM, 3, 2, pad_as=pad_as)
        self._bn0 = _batch_norm(_STEM, bn_momentum)
        blocks, self.ends, self.feat_channels = [], [], []
        before, reached, dilation = _STEM, 2, 1
        for number, (count, kernel, stride, expansion, channels) in enumerate(_GROUPS):
            channels = _to_eights(channels * width)
            count = count if number in (0, len(_GROUPS) - 1) else math.ceil(count * depth)
            later = dilation  # a convolution that does not stride any more sees the same pixels; those behind it dilate
            if reached * stride > output_stride:
                later, stride = dilation * stride, 1
            reached *= stride
            for k in range(count):
                blocks.append(Block(before, channels, kernel, 1 if k else stride, later if k else dilation, expansion,
                                    bn_momentum, pad_as and math.ceil(pad_as / (reached // stride))))
                before = channels
            dilation = later
            if number in _LAST:
                self.ends.append(len(blocks) - 1)
                self.feat_channels.append(channels)
        self._blocks = nn.LayerList(blocks)
        if pretrained is not None:
            load_pretrained(self, pretrained)

    def forward(self, x):
        """
        Args:
            x (Tensor): [N, 3, H, W].

        Returns:
            list[Tensor]: four features, [N, feat_channels[i], H / stride, W / stride], rounded up.
        """
        x = F.relu6(self._bn0(self._conv_stem(x)))
        features = []
        for number, block in enumerate(self._blocks):
            x = block(x)
            if number in self.ends:
                features.append(x)
        return features


class Block(nn.Layer):
    """An inverted residual: expand, look around in each channel, project."""

    def __init__(self, in_channels, channels, kernel, stride, dilation, expansion, bn_momentum, pad_as):
        super().__init__()
        inner = in_channels * expansion
        self.expands, self.skips = expansion > 1, stride == 1 and in_channels == channels
        if self.expands:
            self._expand_conv = nn.Conv2D(in_channels, inner, 1, bias_attr=False)
            self._bn0 = _batch_norm(inner, bn_momentum)
        self._depthwise_conv = SameConv2D(inner, inner, kernel, stride, dilation, inner, pad_as)
        self._bn1 = _batch_norm(inner, bn_momentum)
        self._project_conv = nn.Conv2D(inner, channels, 1, bias_attr=False)
        self._bn2 = _batch_norm(channels, bn_momentum)

    def forward(self, x):
        inner = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        inner = F.relu6(self._bn1(self._depthwise_conv(inner)))
        out = self._bn2(self._project_conv(inner))
        return x + out if self.skips else out


class SameConv2D(nn.Conv2D):
    """A convolution that pads as TensorFlow's 'SAME': with stride 2 and an even side, one pixel more at its end."""

    def __init__(self, in_channels, channels, kernel, stride, dilation=1, groups=1, pad_as=None):
        padding = kernel // 2 * dilation if stride == 1 else 'SAME'
        if stride > 1 and pad_as:
            total = kernel - 2 + pad_as % 2
            padding = [total // 2, total - total // 2] * 2
        super().__init__(in_channels, channels, kernel, stride, padding, dilation, groups, bias_attr=False)


def _batch_norm(channels, momentum):
    return nn.BatchNorm2D(channels, momentum, 1e-3)


def _to_eights(channels):
    """int: the nearest multiple of 8, at least 8, that is not more than a tenth below."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


@manager.BACKBONES.add_component
def EfficientNetLite0(**kwargs):
    """Width and depth as they are.

    Args:
        **kwargs: see :class:`EfficientNetLite`.
    """
    return EfficientNetLite(1.0, 1.0, **kwargs)


@manager.BACKBONES.add_component
def EfficientNetLite1(**kwargs):
    """A tenth deeper than Lite0.

    Args:
        **kwargs: see :class:`EfficientNetLite`.
    """
    return EfficientNetLite(1.0, 1.1, **kwargs)


@manager.BACKBONES.add_component
def EfficientNetLite2(**kwargs):
    """A tenth wider and a fifth deeper than Lite0.

    Args:
        **kwargs: see :class:`EfficientNetLite`.
    """
    return EfficientNetLite(1.1, 1.2, **kwargs)
