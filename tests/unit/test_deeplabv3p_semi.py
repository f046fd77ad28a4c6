"""The width of SemiDeepLabV3P, and which features it uses."""

import paddle
import pytest
from paddle import nn

from paddleseg_semi.models.deeplabv3p_semi import SemiDeepLabV3P


class Features(nn.Layer):
    feat_channels = [2, 3, 4, 5]

    def forward(self, x):
        return [paddle.ones([len(x), width, 32 >> k, 32 >> k]) for k, width in enumerate(self.feat_channels)]


@pytest.mark.parametrize('indices, widths', [((0, -1), (2, 5, 4)), ((1, 3), (3, 5, 4)), ((0, 2), (2, 4, 3))])
@pytest.mark.parametrize('channels', [6, 256])
def test_width_and_features(indices, widths, channels):
    net = SemiDeepLabV3P(7, Features(), backbone_indices=indices, channels=channels, low_channels=8, aux=True)
    assert [net.decoder.low_conv[0].weight.shape[1], net.decoder.branches[0][0].weight.shape[1],
            net.aux[0].weight.shape[1]] == list(widths)
    inner = {layer.weight.shape[0] for layer in net.sublayers() if isinstance(layer, nn.Conv2D)}
    assert inner == {channels, 8, 7}
    assert [output.shape for output in net(paddle.ones([2, 3, 64, 64]))] == [[2, 7, 64, 64]] * 2
