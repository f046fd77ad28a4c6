"""DeepLabV2 (Chen et al., 2017), the segmenter of AdvSemiSeg."""

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddleseg.cvlibs import manager

from paddleseg_semi.models.weights import load_pretrained


@manager.MODELS.add_component
class DeepLabV2(nn.Layer):
    """A backbone and parallel dilated convolutions, straight to classes, summed.

    Args:
        num_classes (int): C.
        backbone (nn.Layer): any PaddleSeg backbone with `feat_channels`; its last feature is used. The paper's
            has output stride 8.
        dilations (tuple[int], optional): of the branches. The published AdvSemiSeg weights were trained with the
            first two only, (6, 12): their code returns before it adds the others. Default: (6, 12, 18, 24).
        align_corners (bool, optional): of the resize to the size of the image. Default: True.
        pretrained (str, optional): path or URL of weights of the whole network. Default: None.
    """

    def __init__(self, num_classes, backbone, dilations=(6, 12, 18, 24), align_corners=True, pretrained=None):
        super().__init__()
        self.backbone = backbone
        self.head = DeepLabV2Head(backbone.feat_channels[-1], num_classes, dilations)
        self.align_corners = align_corners
        if pretrained is not None:
            load_pretrained(self, pretrained)

    def forward(self, x):
        """
        Args:
            x (Tensor): [N, 3, H, W].

        Returns:
            list[Tensor]: one element, the logits [N, C, H, W].
        """
        logits = self.head(self.backbone(x)[-1])
        return [F.interpolate(logits, paddle.shape(x)[2:], mode='bilinear', align_corners=self.align_corners)]


class DeepLabV2Head(nn.Layer):
    """Parallel 3x3 convolutions with bias, one per dilation, summed.

    Args:
        in_channels (int): channels of the feature.
        num_classes (int): C.
        dilations (tuple[int]): dilation and padding of each branch.
    """

    def __init__(self, in_channels, num_classes, dilations):
        super().__init__()
        self.branches = nn.LayerList([
            nn.Conv2D(in_channels, num_classes, 3, padding=dilation, dilation=dilation,
                      weight_attr=nn.initializer.Normal(std=0.01)) for dilation in dilations])

    def forward(self, x):
        return sum(branch(x) for branch in self.branches)
