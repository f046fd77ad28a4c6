"""DeepLabV3+ as U2PL, AugSeg and iMAS have it."""

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddleseg.cvlibs import manager

from paddleseg_semi.models.weights import load_pretrained


@manager.MODELS.add_component
class SemiDeepLabV3P(nn.Layer):
    """Differs from PaddleSeg's DeepLabV3P in that all convolutions are dense, none is separable.

    The defaults are iMAS's; U2PL has `low_channels` 256, `head_kernel` 3, `conv_bias` True and `dropout` 0.1.

    Args:
        num_classes (int): C.
        backbone (nn.Layer): a PaddleSeg backbone with `feat_channels`.
        aspp_ratios (tuple[int], optional): dilations of the three 3x3 branches. Default: (6, 12, 18), for output
            stride 16; (12, 24, 36) for 8.
        low_channels (int, optional): channels of the low-level feature. Default: 48.
        head_kernel (int, optional): of the convolution behind the branches, 1 or 3. Default: 1.
        conv_bias (bool, optional): biases of the classifier's 3x3 convolutions. Default: False.
        dropout (float, optional): share of channels set to 0 in training, 0..1. Default: 0.
        aux (bool, optional): an auxiliary classifier on the third stage: a second output in train mode.
            Default: False.
        align_corners (bool, optional): of all resizing. Default: True.
        channels (int, optional): of the branches and of the decoder; small networks want fewer. Default: 256.
        backbone_indices (tuple[int], optional): which of the backbone's features are the low-level one and the last;
            `aux` takes the one before the last. Default: (0, -1).
        aspp_slope (float, optional): of the branches' rectifiers, and of the one behind them, below 0: 0.01 in CPS.
            Default: 0.
        pretrained (str, optional): path or URL of weights of the whole network. Default: None.
    """

    def __init__(self, num_classes, backbone, aspp_ratios=(6, 12, 18), low_channels=48, head_kernel=1,
                 conv_bias=False, dropout=0., aux=False, align_corners=True, channels=256, backbone_indices=(0, -1),
                 aspp_slope=0., pretrained=None):
        super().__init__()
        self.backbone = backbone
        self.low, self.high = backbone_indices
        widths = backbone.feat_channels
        self.decoder = Decoder(num_classes, widths[self.low], widths[self.high], aspp_ratios, channels, low_channels,
                               head_kernel, conv_bias, dropout, align_corners, aspp_slope)
        self.aux = nn.Sequential(*_conv_bn_relu(widths[self.high - 1], channels, 3, bias=conv_bias, dropout=dropout),
                                 nn.Conv2D(channels, num_classes, 1)) if aux else None
        self.align_corners = align_corners
        if pretrained is not None:
            load_pretrained(self, pretrained)

    def forward(self, x):
        """
        Args:
            x (Tensor): [N, 3, H, W].

        Returns:
            list[Tensor]: logits [N, C, H, W]; in train mode those of the auxiliary classifier behind them.
        """
        features = self.backbone(x)
        outputs = [self.decoder(features[self.low], features[self.high])]
        if self.aux is not None and self.training:
            outputs.append(self.aux(features[self.high - 1]))
        return [_resize(output, x, self.align_corners) for output in outputs]


class Decoder(nn.Layer):
    """Atrous spatial pyramid pooling, joined with a low-level feature; see :class:`SemiDeepLabV3P`."""

    def __init__(self, num_classes, low_in, high_in, aspp_ratios, channels, low_channels, head_kernel, conv_bias,
                 dropout, align_corners, aspp_slope):
        super().__init__()
        self.low_conv = nn.Sequential(*_conv_bn_relu(low_in, low_channels, 1, bias=True))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2D(1), *_conv_bn_relu(high_in, channels, 1, slope=aspp_slope))
        self.branches = nn.LayerList([
            nn.Sequential(*_conv_bn_relu(high_in, channels, 3 if ratio else 1, max(ratio, 1), slope=aspp_slope))
            for ratio in (0, *aspp_ratios)])
        self.head = nn.Sequential(*_conv_bn_relu(channels * (len(aspp_ratios) + 2), channels, head_kernel,
                                                 dropout=dropout, slope=aspp_slope))
        self.classifier = nn.Sequential(
            *_conv_bn_relu(channels + low_channels, channels, 3, bias=conv_bias, dropout=dropout),
            *_conv_bn_relu(channels, channels, 3, bias=conv_bias, dropout=dropout), nn.Conv2D(channels, num_classes, 1))
        self.align_corners = align_corners

    def forward(self, low, high):
        pooled = _resize(self.pool(high), high, self.align_corners)
        high = self.head(paddle.concat([pooled, *(branch(high) for branch in self.branches)], axis=1))
        return self.classifier(paddle.concat([self.low_conv(low), _resize(high, low, self.align_corners)], axis=1))


def _resize(x, like, align_corners):
    return F.interpolate(x, paddle.shape(like)[2:], mode='bilinear', align_corners=align_corners)


def _conv_bn_relu(in_channels, out_channels, kernel, dilation=1, bias=False, dropout=0., slope=0.):
    layers = [nn.Conv2D(in_channels, out_channels, kernel, padding=kernel // 2 * dilation, dilation=dilation,
                        bias_attr=None if bias else False), nn.BatchNorm2D(out_channels),
              nn.LeakyReLU(slope) if slope else nn.ReLU()]
    return [*layers, nn.Dropout2D(dropout)] if dropout else layers
