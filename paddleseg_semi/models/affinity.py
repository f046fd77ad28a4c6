"""Which pixels near each other show the same class (AffinityNet: Ahn and Kwak, "Learning Pixel-level Semantic Affinity
with Image-level Supervision for Weakly Supervised Semantic Segmentation", CVPR 2018)."""

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddleseg.cvlibs import manager

from paddleseg_semi.errors import InputError
from paddleseg_semi.models.weights import load_pretrained


def half_disk(radius):
    """Steps from a pixel to those nearer than `radius` that come after it; the others see the same pairs from their
    other end.

    Args:
        radius (int): in pixels.

    Returns:
        list[tuple[int, int]]: P steps (dy, dx), row by row; 34 for a radius of 5, none for 1.
    """
    around = range(1 - radius, radius)
    return [(dy, dx) for dy in range(radius) for dx in around if (dy, dx) > (0, 0) and dy * dy + dx * dx < radius ** 2]


def fitting_radius(radius, height, width):
    """int: `radius`, or less on a map so small that no pixel could look that far to all sides."""
    return min(radius, (min(height, width) - 1) // 2)


def from_sources(maps, steps):
    """What the sources see: pixels from which every step stays inside the map, row by row.

    Args:
        maps (Tensor|np.ndarray): [..., h, w].
        steps (list[tuple[int, int]]): (dy, dx).

    Returns:
        Callable: (dy, dx) → [..., h', w'], the values one of the steps away from each source; (0, 0) → their own.
    """
    height, width = maps.shape[-2:]
    down, right = ([0, *offsets] for offsets in (zip(*steps) if steps else ((), ())))
    top, left = -min(down), -min(right)
    rows, columns = height - top - max(down), width - left - max(right)
    return lambda dy, dx: maps[..., top + dy:top + dy + rows, left + dx:left + dx + columns]


def affinities(feature, steps):
    """How alike neighbors are.

    .. math:: a_{ij} = \\exp(-\\frac{1}{D} \\| f_i - f_j \\|_1)

    Args:
        feature (Tensor): [N, D, h, w].
        steps (list[tuple[int, int]]): P of them, at least one; see :func:`half_disk`.

    Returns:
        Tensor: [N, P, h', w'], 0..1, between each source and the pixel each step leads to.
    """
    at = from_sources(feature, steps)
    source = at(0, 0)
    return paddle.exp(-paddle.stack([(at(*step) - source).abs().mean(1) for step in steps], axis=1))


@manager.MODELS.add_component
class AffinityNet(nn.Layer):
    """Features that differ where classes do. The defaults fit `ResNet38d`; any backbone of PaddleSeg does.

    Args:
        backbone (nn.Layer): a PaddleSeg backbone with `feat_channels`.
        backbone_indices (tuple[int], optional): its features that are read. All are brought to the size of the first,
            which has to be an eighth of the image's. Default: (3, 4, 6).
        channels (tuple[int], optional): what each is reduced to. Default: (64, 128, 256).
        out_channels (int, optional): D, of the features it gives. Default: the sum of `channels`.
        num_classes (int, optional): not used; PaddleSeg gives it to every model.
        pretrained (str, optional): path or URL of weights, also of another network with this backbone. Default: None.
    """

    def __init__(self, backbone, backbone_indices=(3, 4, 6), channels=(64, 128, 256), out_channels=None,
                 num_classes=None, pretrained=None):
        super().__init__()
        found = backbone.feat_channels
        if not backbone_indices or not all(0 <= index < len(found) for index in backbone_indices):
            raise InputError(f'model.backbone_indices: {list(backbone_indices)}: {type(backbone).__name__} has the '
                             f'features 0 to {len(found) - 1}.')
        if len(channels) != len(backbone_indices):
            raise InputError(f'model.channels: {list(channels)}: give one number per feature of backbone_indices '
                             f'{list(backbone_indices)}.')
        self.backbone, self.backbone_indices = backbone, backbone_indices
        self.reduce = nn.LayerList([
            nn.Conv2D(found[index], width, 1, bias_attr=False, weight_attr=nn.initializer.KaimingNormal())
            for index, width in zip(backbone_indices, channels)])
        self.embed = nn.Conv2D(sum(channels), out_channels or sum(channels), 1, bias_attr=False,
                               weight_attr=nn.initializer.XavierUniform(gain=4))
        if pretrained is not None:
            load_pretrained(self, pretrained)

    def forward(self, x):
        """
        Args:
            x (Tensor): [N, 3, H, W].

        Returns:
            list[Tensor]: one element, features [N, D, h, w] for :func:`affinities`.
        """
        features = self.backbone(x)
        return [self.embedding([features[index] for index in self.backbone_indices])]

    def embedding(self, features):
        """Tensor: [N, D, h, w], of the features at `backbone_indices`."""
        size = paddle.shape(features[0])[2:]
        reduced = [F.elu(conv(feature)) for conv, feature in zip(self.reduce, features)]
        reduced = [reduced[0], *(F.interpolate(each, size, mode='bilinear') for each in reduced[1:])]
        return F.elu(self.embed(paddle.concat(reduced, axis=1)))
