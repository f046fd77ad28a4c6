"""ResNet-38d, the wide pre-activation network of AffinityNet, SEAM and SBNet."""

import paddle.nn.functional as F
from paddle import nn
from paddleseg.cvlibs import manager

from paddleseg_semi.models.weights import load_pretrained

_PLAIN = [2, 2, 5, 2]                       # units after the first one of stages 2 to 5
_STRIDES, _DILATIONS = [2, 2, 2, 1], [1, 1, 1, 2]
_DROPOUT = [0.3, 0.5]                       # of the bottlenecks, stages 6 and 7


@manager.BACKBONES.add_component
class ResNet38d(nn.Layer):
    """A wide ResNet with output stride 8. Its batch normalization stays as it was loaded: it wants pretrained weights;
    its first convolution and its first stage are not trained either.

    Units are named as in the published weights, `b<stage>` and `b<stage>_<n>`.

    Args:
        width (float, optional): factor of all channels, for small trials; published weights need 1. Default: 1.
        in_channels (int, optional): channels of the image. Default: 3.
        pretrained (str, optional): path or URL of weights. Default: None.
    """

    def __init__(self, width=1., in_channels=3, pretrained=None):
        super().__init__()
        self.feat_channels = [max(int(width * 64 * 2 ** k), 4) for k in range(7)]
        channels, mid = self.feat_channels, self.feat_channels[3]
        self.conv1a = _conv(in_channels, channels[0], 3)
        self.stages = []
        for k, (more, stride, dilation) in enumerate(zip(_PLAIN, _STRIDES, _DILATIONS)):
            middle, out_channels = min(channels[k + 1], mid), channels[k + 1]
            self._add_stage(k + 2, [
                PlainUnit(channels[k], middle, out_channels, stride, (dilation // 2 or 1, dilation)),
                *(PlainUnit(out_channels, middle, out_channels, 1, (dilation, dilation)) for _ in range(more))])
        for k, dropout in enumerate(_DROPOUT, 4):
            self._add_stage(k + 2, [BottleneckUnit(channels[k], channels[k + 1], 4, dropout)])
        self.bn7 = FrozenBatchNorm(channels[-1])
        for layer in (self.conv1a, *(getattr(self, name) for name in self.stages[0])):
            for param in layer.parameters():
                param.stop_gradient = True
        if pretrained is not None:
            load_pretrained(self, pretrained)

    def _add_stage(self, number, units):
        names = [f'b{number}' + (f'_{n}' if n else '') for n in range(len(units))]
        for name, unit in zip(names, units):
            self.add_sublayer(name, unit)
        self.stages.append(names)

    def forward(self, x):
        """
        Args:
            x (Tensor): [N, in_channels, H, W].

        Returns:
            list[Tensor]: seven features, `feat_channels` wide, at 1, 1/2, 1/4 and four times 1/8 of the size (rounded
                up): the activated input of each stage, then the activated output of the last.
        """
        x = self.conv1a(x)
        features = []
        for names in self.stages:
            for position, name in enumerate(names):
                unit = getattr(self, name)
                active = unit.activate(x)
                if position == 0:
                    features.append(active)
                x = unit(x, active)
        return [*features, F.relu(self.bn7(x))]


class FrozenBatchNorm(nn.Layer):
    """Batch normalization by statistics, scale and shift that never change: buffers, not parameters. A `BatchNorm2D`
    would be trained again once it is converted to `SyncBatchNorm`.

    Args:
        channels (int): of the input.
    """

    def __init__(self, channels):
        super().__init__()
        for name, value in (('weight', 1.), ('bias', 0.), ('_mean', 0.), ('_variance', 1.)):
            self.register_buffer(name, self.create_parameter(
                [channels], default_initializer=nn.initializer.Constant(value)).detach())

    def forward(self, x):
        return F.batch_norm(x, self._mean, self._variance, self.weight, self.bias, use_global_stats=True)


class _Unit(nn.Layer):
    """A shortcut beside a branch, both of the activated input.

    Args:
        in_channels, out_channels (int): of the unit.
        project (bool): a convolution in the shortcut, at `stride`; False passes the input on as it is.
    """

    def __init__(self, in_channels, out_channels, stride, project):
        super().__init__()
        self.bn_branch2a = FrozenBatchNorm(in_channels)
        self.conv_branch1 = _conv(in_channels, out_channels, 1, stride) if project else None

    def activate(self, x):
        """Tensor: the input as its convolutions see it."""
        return F.relu(self.bn_branch2a(x))

    def forward(self, x, active):
        """
        Args:
            x (Tensor): [N, in_channels, H, W].
            active (Tensor): what `activate` makes of it.

        Returns:
            Tensor: [N, out_channels, H / stride, W / stride], not activated.
        """
        return (x if self.conv_branch1 is None else self.conv_branch1(active)) + self.branch(active)


class PlainUnit(_Unit):
    """Two 3x3 convolutions.

    Args:
        in_channels, mid_channels, out_channels (int): before, between and after them.
        stride (int): of the first.
        dilations (tuple[int]): of both.
    """

    def __init__(self, in_channels, mid_channels, out_channels, stride=1, dilations=(1, 1)):
        super().__init__(in_channels, out_channels, stride, in_channels != out_channels or stride != 1)
        self.conv_branch2a = _conv(in_channels, mid_channels, 3, stride, dilations[0])
        self.bn_branch2b1 = FrozenBatchNorm(mid_channels)
        self.conv_branch2b1 = _conv(mid_channels, out_channels, 3, 1, dilations[1])

    def branch(self, active):
        return self.conv_branch2b1(F.relu(self.bn_branch2b1(self.conv_branch2a(active))))


class BottleneckUnit(_Unit):
    """1x1, 3x3 and 1x1 convolutions, with dropout of whole channels before the last two.

    Args:
        in_channels, out_channels (int): of the unit.
        dilation (int): of the 3x3 convolution.
        dropout (float): share of channels, 0..1.
    """

    def __init__(self, in_channels, out_channels, dilation, dropout):
        super().__init__(in_channels, out_channels, 1, True)
        self.conv_branch2a = _conv(in_channels, out_channels // 4, 1)
        self.bn_branch2b1 = FrozenBatchNorm(out_channels // 4)
        self.conv_branch2b1 = _conv(out_channels // 4, out_channels // 2, 3, 1, dilation)
        self.bn_branch2b2 = FrozenBatchNorm(out_channels // 2)
        self.conv_branch2b2 = _conv(out_channels // 2, out_channels, 1)
        self.dropout = nn.Dropout2D(dropout)

    def branch(self, active):
        x = self.dropout(F.relu(self.bn_branch2b1(self.conv_branch2a(active))))
        return self.conv_branch2b2(self.dropout(F.relu(self.bn_branch2b2(self.conv_branch2b1(x)))))


def _conv(in_channels, out_channels, kernel, stride=1, dilation=1):
    return nn.Conv2D(in_channels, out_channels, kernel, stride, padding=kernel // 2 * dilation, dilation=dilation,
                     bias_attr=False)
