"""From features that are classified to features that are compared."""

from paddle import nn
from paddleseg.models.layers import ConvBNReLU


class Projector(nn.Sequential):
    """The representation head of U2PL (Wang et al., 2022): two 3x3 convolutions and a linear one.

    Args:
        in_channels (int): of the features it reads.
        out_channels (int, optional): D. Default: 256.
        hidden (int, optional): channels in between. Default: 256.
        dropout (float, optional): probability that a channel is dropped after each 3x3 convolution. Default: 0.1.
    """

    def __init__(self, in_channels, out_channels=256, hidden=256, dropout=0.1):
        super().__init__(
            ConvBNReLU(in_channels, hidden, 3, padding=1), nn.Dropout2D(dropout),
            ConvBNReLU(hidden, hidden, 3, padding=1), nn.Dropout2D(dropout),
            nn.Conv2D(hidden, out_channels, 1))
