"""The ResNet of the original paper (He et al., 2016), as the ImageNet weights of Paddle and PyTorch have it."""

from paddle import nn
from paddle.vision.models.resnet import BasicBlock, BottleneckBlock
from paddleseg.cvlibs import manager

from paddleseg_semi.errors import InputError
from paddleseg_semi.models.resnet_caffe import Stages
from paddleseg_semi.models.weights import load_pretrained


@manager.BACKBONES.add_component
class PlainResNet(Stages):
    """A stem of one 7x7 convolution and stages of Paddle's blocks, four of them unless `layers` says otherwise.

    Differs from `paddle.vision.models.ResNet`, whose constructor knows no dilation and whose dilated stages dilate
    their first block only; names and weights are the same.

    Args:
        layers (tuple[int], optional): blocks of each stage. Default: (3, 4, 6, 3), ResNet-50.
        bottleneck (bool, optional): blocks of three convolutions, not of two. Default: True.
        output_stride (int, optional): 32; or 16 or 8, where the last one or two stages dilate and do not stride. A
            stage's first block keeps the dilation of the stage before. Only with bottlenecks. Default: 32.
        width (int, optional): channels of the 3x3 convolutions of the first stage's bottlenecks. Default: 64.
        in_channels (int, optional): channels of the image. Default: 3.
        pretrained (str, optional): path or URL of weights. Default: None.
    """

    def __init__(self, layers=(3, 4, 6, 3), bottleneck=True, output_stride=32, width=64, in_channels=3,
                 pretrained=None):
        strides = {32: (1, 2, 2, 2), 16: (1, 2, 2, 1), 8: (1, 2, 1, 1)}
        if output_stride not in strides or not bottleneck and output_stride != 32:
            raise InputError(f'output_stride: {output_stride}: give 32, 16 or 8; a ResNet without bottlenecks has 32.')
        super().__init__()
        self.conv1 = nn.Conv2D(in_channels, 64, 7, stride=2, padding=3, bias_attr=False)
        self.bn1 = nn.BatchNorm2D(64)
        self.maxpool = nn.MaxPool2D(3, stride=2, padding=1)
        block = BottleneckBlock if bottleneck else BasicBlock
        channels, dilation, self.feat_channels = 64, 1, []
        for k, (blocks, stride) in enumerate(zip(layers, strides[output_stride])):
            planes = 64 * 2 ** k
            out_channels, stage = planes * block.expansion, []
            for number in range(blocks):
                first = number == 0
                shortcut = _projection(channels, out_channels, stride) if first and (k or bottleneck) else None
                stage.append(block(channels, planes, stride if first else 1, shortcut, base_width=width,
                                   dilation=dilation))
                channels = out_channels
                dilation *= 2 if first and k > 1 and stride == 1 else 1
            self.add_sublayer(f'layer{k + 1}', nn.Sequential(*stage))
            self.feat_channels.append(channels)
        if pretrained is not None:
            load_pretrained(self, pretrained)


@manager.BACKBONES.add_component
def ResNet18_plain(**kwargs):
    """ResNet-18.

    Args:
        **kwargs: see :class:`PlainResNet`.
    """
    return PlainResNet((2, 2, 2, 2), bottleneck=False, **kwargs)


@manager.BACKBONES.add_component
def ResNet50_plain(**kwargs):
    """ResNet-50.

    Args:
        **kwargs: see :class:`PlainResNet`.
    """
    return PlainResNet((3, 4, 6, 3), **kwargs)


@manager.BACKBONES.add_component
def ResNet101_plain(**kwargs):
    """ResNet-101.

    Args:
        **kwargs: see :class:`PlainResNet`.
    """
    return PlainResNet((3, 4, 23, 3), **kwargs)


@manager.BACKBONES.add_component
def WideResNet50_plain(**kwargs):
    """ResNet-50 with 3x3 convolutions of twice as many channels.

    Args:
        **kwargs: see :class:`PlainResNet`.
    """
    return PlainResNet((3, 4, 6, 3), width=128, **kwargs)


def _projection(in_channels, out_channels, stride):
    return nn.Sequential(nn.Conv2D(in_channels, out_channels, 1, stride=stride, bias_attr=False),
                         nn.BatchNorm2D(out_channels))
