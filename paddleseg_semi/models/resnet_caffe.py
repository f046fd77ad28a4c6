"""The ResNet of DeepLabV2 and AdvSemiSeg: Caffe's layout, as the published COCO weights need it."""

from paddle import nn
from paddleseg.cvlibs import manager

from paddleseg_semi.models.weights import load_pretrained


class Stages(nn.Layer):
    """How a ResNet of conv1, bn1, maxpool and layer1, layer2, … computes its features, whatever these are."""

    def forward(self, x):
        """
        Args:
            x (Tensor): [N, in_channels, H, W].

        Returns:
            list[Tensor]: features of the stages, usually four, with `feat_channels` channels.
        """
        x = self.maxpool(nn.functional.relu(self.bn1(self.conv1(x))))
        features = []
        for k in range(len(self.feat_channels)):
            x = getattr(self, f'layer{k + 1}')(x)
            features.append(x)
        return features


@manager.BACKBONES.add_component
class CaffeResNet(Stages):
    """A bottleneck ResNet that differs from PaddleSeg's ResNet_vd in four places.

    One 7x7 stem convolution; a max-pool that rounds sizes up; the stride sits on the first 1x1 convolution of a
    block; every stage begins with a projection shortcut. Layers are named as in the authors' code.

    Args:
        layers (tuple[int], optional): blocks of the four stages. Default: (3, 4, 23, 3), ResNet-101.
        strides (tuple[int], optional): of the first block of each stage. Default: (1, 2, 1, 1), output stride 8.
        dilations (tuple[int], optional): of the 3x3 convolutions of each stage. Default: (1, 1, 2, 4).
        freeze_bn_affine (bool, optional): do not train scale and shift of batch normalization, as the authors do;
            its running statistics still move. Default: True.
        in_channels (int, optional): channels of the image. Default: 3.
        pretrained (str, optional): path or URL of weights. Default: None.
    """

    def __init__(self, layers=(3, 4, 23, 3), strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), freeze_bn_affine=True,
                 in_channels=3, pretrained=None):
        super().__init__()
        self.conv1 = _conv(in_channels, 64, 7, stride=2)
        self.bn1 = nn.BatchNorm2D(64)
        self.maxpool = nn.MaxPool2D(3, stride=2, padding=1, ceil_mode=True)
        channels, self.feat_channels = 64, []
        for k, (blocks, stride, dilation) in enumerate(zip(layers, strides, dilations)):
            width = 64 * 2 ** k
            stage = [Bottleneck(channels, width, stride, dilation, project=True)]
            channels = width * Bottleneck.expansion
            stage += [Bottleneck(channels, width, 1, dilation) for _ in range(1, blocks)]
            self.add_sublayer(f'layer{k + 1}', nn.Sequential(*stage))
            self.feat_channels.append(channels)
        if freeze_bn_affine:
            for layer in self.sublayers():
                if isinstance(layer, nn.BatchNorm2D):
                    layer.weight.stop_gradient = layer.bias.stop_gradient = True
        if pretrained is not None:
            load_pretrained(self, pretrained)


class Bottleneck(nn.Layer):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut.

    Args:
        in_channels (int): channels of the input.
        width (int): channels of the first two convolutions; the output has four times as many.
        stride (int): of the block.
        dilation (int): of the 3x3 convolution.
        project (bool, optional): a convolution in the shortcut. Default: False.
        stride_at (int, optional): the convolution that strides, 1 as in Caffe or 2. Default: 1.
    """

    expansion = 4

    def __init__(self, in_channels, width, stride, dilation, project=False, stride_at=1):
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = _conv(in_channels, width, 1, stride=stride if stride_at == 1 else 1)
        self.bn1 = nn.BatchNorm2D(width)
        self.conv2 = _conv(width, width, 3, stride=stride if stride_at == 2 else 1, dilation=dilation)
        self.bn2 = nn.BatchNorm2D(width)
        self.conv3 = _conv(width, out_channels, 1)
        self.bn3 = nn.BatchNorm2D(out_channels)
        self.downsample = nn.Sequential(
            _conv(in_channels, out_channels, 1, stride=stride), nn.BatchNorm2D(out_channels)) if project else None

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = nn.functional.relu(self.bn1(self.conv1(x)))
        x = nn.functional.relu(self.bn2(self.conv2(x)))
        return nn.functional.relu(self.bn3(self.conv3(x)) + shortcut)


@manager.BACKBONES.add_component
def ResNet101_caffe(**kwargs):
    """ResNet-101 at output stride 8, for the published AdvSemiSeg and DeepLabV2 weights.

    Args:
        **kwargs: see :class:`CaffeResNet`.
    """
    return CaffeResNet((3, 4, 23, 3), **kwargs)


def _conv(in_channels, out_channels, kernel, stride=1, dilation=1):
    return nn.Conv2D(in_channels, out_channels, kernel, stride, padding=kernel // 2 * dilation, dilation=dilation,
                     weight_attr=nn.initializer.Normal(std=0.01), bias_attr=False)
