"""The fully convolutional discriminator of AdvSemiSeg (Hung et al., 2018)."""

import paddle.nn.functional as F
from paddle import nn
from paddleseg.cvlibs import manager

from paddleseg_semi.errors import InputError

SMALLEST = 32  # pixels: five layers halve the map, and one pixel has to be left


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
        size = list(prob.shape[2:])
        if min(size) < SMALLEST:
            raise InputError(f'The discriminator needs crops of at least {SMALLEST}x{SMALLEST} pixels and got '
                             f'{size[0]}x{size[1]}. Enlarge the crop of train_dataset.transforms.')
        x = prob
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = F.leaky_relu(conv(x), 0.2)
        return F.interpolate(self.classifier(x), size, mode='bilinear', align_corners=True)


def _halve(in_channels, out_channels):
    # The authors start from PyTorch's default, U(-b, b) for weight and bias. Paddle's default weights are 2.4 times
    # as large, which through five layers makes a discriminator that is sure of itself before it has learned anything.
    bound = (in_channels * 4 * 4) ** -0.5
    start = nn.initializer.Uniform(-bound, bound)
    return nn.Conv2D(in_channels, out_channels, 4, stride=2, padding=1, weight_attr=start, bias_attr=start)
