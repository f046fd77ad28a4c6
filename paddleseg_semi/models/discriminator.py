"""The discriminators of AdvSemiSeg (Hung et al., 2018), one logit per pixel, and of s4GAN (Mittal et al., 2019), one
per image."""

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddleseg.cvlibs import manager

from paddleseg_semi.errors import InputError

SMALLEST = 32  # pixels: five layers halve the map, and one pixel has to be left
SMALLEST_IMAGE = 16  # four layers


@manager.MODELS.add_component
class Discriminator(nn.Layer):
    """Tells, per location, whether a class-probability map is a one-hot label map or a prediction.

    Five 4x4 convolutions of stride 2, the first four followed by LeakyReLU(0.2); no normalization.

    Args:
        num_classes (int): channels of the maps, C.
        ndf (int, optional): channels of the first layer; the next three have 2, 4 and 8 times as many. Default: 64.
    """

    def __init__(self, num_classes, ndf=64):
        super().__init__()
        self.conv1 = _halve(num_classes, ndf)
        self.conv2 = _halve(ndf, ndf * 2)
        self.conv3 = _halve(ndf * 2, ndf * 4)
        self.conv4 = _halve(ndf * 4, ndf * 8)
        self.classifier = _halve(ndf * 8, 1)

    def forward(self, prob):
        """
        Args:
            prob (Tensor): [N, C, H, W], probabilities or one-hot labels; H and W at least 32.

        Returns:
            Tensor: [N, 1, H, W], logits: positive for a label map, negative for a prediction.

        Raises:
            InputError: the maps are smaller than 32 pixels.
        """
        size = _size_of(prob, SMALLEST)
        x = prob
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = F.leaky_relu(conv(x), 0.2)
        return F.interpolate(self.classifier(x), size, mode='bilinear', align_corners=True)


@manager.MODELS.add_component
class ImageDiscriminator(nn.Layer):
    """Tells whether a class-probability map is the label map of the image beside it, or a prediction.

    Four 4x4 convolutions of stride 2, each followed by LeakyReLU(0.2) and the first three by dropout of whole channels;
    then the mean over the map, and one linear layer.

    Args:
        num_classes (int): channels of the maps, C.
        ndf (int, optional): channels of the first layer; the next three have 2, 4 and 8 times as many. Default: 64.
        dropout (float, optional): share of the channels that are dropped, 0..1. Default: 0.5.
        img_channels (int, optional): of the image. Default: 3.
    """

    def __init__(self, num_classes, ndf=64, dropout=0.5, img_channels=3):
        super().__init__()
        self.conv1 = _halve(num_classes + img_channels, ndf)
        self.conv2 = _halve(ndf, ndf * 2)
        self.conv3 = _halve(ndf * 2, ndf * 4)
        self.conv4 = _halve(ndf * 4, ndf * 8)
        self.dropout = nn.Dropout2D(dropout)
        start = _small(ndf * 8)
        self.fc = nn.Linear(ndf * 8, 1, start, start)

    def forward(self, maps):
        """
        Args:
            maps (Tensor): [N, C + 3, H, W]: probabilities or one-hot labels, then the image, 0..1; H and W at least 16.

        Returns:
            tuple[Tensor, Tensor]: logits [N, 1], positive for a label map, negative for a prediction; and the features
                [N, 8 ndf, 1, 1] they come from.

        Raises:
            InputError: the maps are smaller than 16 pixels.
        """
        _size_of(maps, SMALLEST_IMAGE)
        x = maps
        for conv in (self.conv1, self.conv2, self.conv3):
            x = self.dropout(F.leaky_relu(conv(x), 0.2))
        features = paddle.mean(F.leaky_relu(self.conv4(x), 0.2), axis=[2, 3], keepdim=True)
        return self.fc(features.flatten(1)), features


def _size_of(maps, smallest):
    size = list(maps.shape[2:])
    if min(size) < smallest:
        raise InputError(f'The discriminator needs crops of at least {smallest}x{smallest} pixels and got '
                         f'{size[0]}x{size[1]}. Enlarge the crop of train_dataset.transforms.')
    return size


def _halve(in_channels, out_channels):
    start = _small(in_channels * 4 * 4)
    return nn.Conv2D(in_channels, out_channels, 4, stride=2, padding=1, weight_attr=start, bias_attr=start)


def _small(fan_in):
    # The authors start from PyTorch's default, U(-b, b) for weight and bias. Paddle's default weights are 2.4 times
    # as large, which through five layers makes a discriminator that is sure of itself before it has learned anything.
    return nn.initializer.Uniform(-fan_in ** -0.5, fan_in ** -0.5)
