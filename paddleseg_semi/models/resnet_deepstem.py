"""The ResNet of U2PL, AugSeg and iMAS: three small convolutions for a stem, dilation by stage and by block."""

import math

from paddle import nn
from paddleseg.cvlibs import manager

from paddleseg_semi.models.resnet_caffe import Bottleneck, Stages
from paddleseg_semi.models.weights import load_pretrained


@manager.BACKBONES.add_component
class DeepStemResNet(Stages):
    """A bottleneck ResNet that differs from PaddleSeg's ResNet_vd in four places.

    The stem is twice as wide, up to 128 channels; the max-pool may round sizes up; shortcuts are plain strided
    convolutions; and the blocks of the last stage may have dilations of their own (multi-grid).

    Args:
        layers (tuple[int], optional): blocks of the four stages. Default: (3, 4, 6, 3), ResNet-50.
        output_stride (int, optional): 8, 16 or 32. Default: 16.
        multi_grid (tuple[int], optional): factors of the dilation of the last stage's blocks. Default: (2, 2, 4).
        in_channels (int, optional): channels of the image. Default: 3.
        ceil_mode (bool, optional): the max-pool rounds sizes up, as in U2PL, AugSeg and iMAS, not in UniMatch and CPS.
            It matters where it sees an even side. Default: True.
        pretrained (str, optional): weights, see `load_pretrained`. Default: None.
    """

    def __init__(self, layers=(3, 4, 6, 3), output_stride=16, multi_grid=(2, 2, 4), in_channels=3, ceil_mode=True,
                 pretrained=None):
        if output_stride not in (8, 16, 32):
            raise ValueError(f'output_stride must be 8, 16 or 32, not {output_stride}.')
        if len(multi_grid) != layers[3]:
            raise ValueError(f'multi_grid needs {layers[3]} factors, one per block of the last stage: {multi_grid}.')
        super().__init__()
        self.conv1 = nn.Sequential(_conv(in_channels, 64, 2), nn.BatchNorm2D(64), nn.ReLU(),
                                   _conv(64, 64), nn.BatchNorm2D(64), nn.ReLU(), _conv(64, 128))
        self.bn1 = nn.BatchNorm2D(128)
        self.maxpool = nn.MaxPool2D(3, stride=2, padding=1, ceil_mode=ceil_mode)
        channels, self.feat_channels, reached, dilation = 128, [], 4, 1
        for k, blocks in enumerate(layers):
            width, before = 64 * 2 ** k, dilation
            stride = 2 if k and reached < output_stride else 1
            reached *= stride
            dilation *= 2 if k and stride == 1 else 1
            grid = multi_grid if k == 3 else [1] * blocks
            stage = []
            for block, factor in enumerate(grid):
                stage.append(Bottleneck(channels, width, 1 if block else stride,
                                        factor * (dilation if block else before), project=not block, stride_at=2))
                channels = width * Bottleneck.expansion
            self.add_sublayer(f'layer{k + 1}', nn.Sequential(*stage))
            self.feat_channels.append(channels)
        for layer in self.sublayers():
            if isinstance(layer, nn.Conv2D):
                out, _, *kernel = layer.weight.shape
                nn.initializer.Normal(std=math.sqrt(2 / (out * math.prod(kernel))))(layer.weight)
            elif isinstance(layer, Bottleneck):
                nn.initializer.Constant(0.)(layer.bn3.weight)
        if pretrained is not None:
            load_pretrained(self, pretrained)


@manager.BACKBONES.add_component
def ResNet50_deepstem(**kwargs):
    """ResNet-50.

    Args:
        **kwargs: see :class:`DeepStemResNet`.
    """
    return DeepStemResNet((3, 4, 6, 3), **kwargs)


@manager.BACKBONES.add_component
def ResNet101_deepstem(**kwargs):
    """ResNet-101.

    Args:
        **kwargs: see :class:`DeepStemResNet`.
    """
    return DeepStemResNet((3, 4, 23, 3), **kwargs)


def _conv(in_channels, out_channels, stride=1):
    return nn.Conv2D(in_channels, out_channels, 3, stride, padding=1, bias_attr=False)
