"""The thirteen convolutions of VGG-16 (Simonyan and Zisserman, 2015), plain or with a large field of view."""

from paddle import nn
from paddleseg.cvlibs import manager

from paddleseg_semi.models.weights import load_pretrained

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


@manager.BACKBONES.add_component
class VGG16(nn.Layer):
    """VGG-16 without its fully connected layers, named as the ImageNet weights of Paddle and PyTorch have it.

    Args:
        large_fov (bool, optional): the trunk of DeepLab-LargeFOV (Chen et al., 2015): pooling over 3x3 pixels, without
            stride after the fourth and fifth stage, the fifth dilated by 2; output stride 8, not 32. Default: False.
        in_channels (int, optional): channels of the image. Default: 3.
        pretrained (str, optional): path or URL of weights. Default: None.
    """

    def __init__(self, large_fov=False, in_channels=3, pretrained=None):
        super().__init__()
        layers, channels = [], in_channels
        for k, stage in enumerate(_STAGES):
            dilation = 2 if large_fov and k == 4 else 1
            for width in stage:
                layers += [nn.Conv2D(channels, width, 3, padding=dilation, dilation=dilation), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2D(3, 2 if k < 3 else 1, padding=1) if large_fov else nn.MaxPool2D(2, 2))
        self.features = nn.Sequential(*layers)
        self.feat_channels = [channels]
        if pretrained is not None:
            load_pretrained(self, pretrained)

    def forward(self, x):
        """
        Args:
            x (Tensor): [N, 3, H, W].

        Returns:
            list[Tensor]: one element, [N, 512, h, w].
        """
        return [self.features(x)]


@manager.BACKBONES.add_component
def VGG16_LargeFOV(**kwargs):
    """VGG-16 with a large field of view.

    Args:
        **kwargs: see :class:`VGG16`.
    """
    return VGG16(large_fov=True, **kwargs)
