"""The dense prediction head of transformers (Ranftl et al., "Vision Transformers for Dense Prediction", ICCV 2021), as
UniMatch V2 has it."""

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddleseg.cvlibs import manager

from paddleseg_semi.errors import InputError
from paddleseg_semi.models.weights import load_pretrained

WIDTHS = {384: (64, (48, 96, 192, 384)), 768: (128, (96, 192, 384, 768)),  # channels of tokens → of the head
          1024: (256, (256, 512, 1024, 1024)), 1536: (384, (1536,) * 4)}


@manager.MODELS.add_component
class DPT(nn.Layer):
    """A vision transformer whose tokens, of four depths, become maps of four scales that are joined.

    In training, sides must be multiples of the patch size. In evaluation, and exported, an image of another size is
    resized to the nearest multiples, and its logits back, both bilinear with aligned corners.

    Args:
        num_classes (int): C.
        backbone (nn.Layer): a `DINOv2` with four features.
        features (int, optional): channels of the joined maps. Default: as UniMatch V2 has it for this width of tokens.
        out_channels (Sequence[int], optional): of the four maps, the finest first. Default: the same.
        pretrained (str, optional): weights of the whole network, see `load_pretrained`. Default: None.
    """

    def __init__(self, num_classes, backbone, features=None, out_channels=None, pretrained=None):
        super().__init__()
        width = backbone.feat_channels[0]
        if len(backbone.feat_channels) != 4 or not hasattr(backbone, 'patch_size'):
            raise InputError(f'model.backbone: DPT wants a DINOv2 with four blocks, not {type(backbone).__name__} with '
                             f'{len(backbone.feat_channels)} features.')
        usual = WIDTHS.get(width, (max(width // 6, 8), [max(width >> k, 8) for k in (3, 2, 1, 0)]))
        self.backbone = backbone
        self.head = DPTHead(num_classes, width, features or usual[0], out_channels or usual[1])
        if pretrained is not None:
            load_pretrained(self, pretrained)

    def check_crop(self, size):
        """InputError for height and width of crops that are no multiples of the patch size."""
        near = self._near(size)
        if near != list(size):
            raise InputError(f'crops are {list(size)}: {type(self.backbone).__name__} is trained on sides that are '
                             f'multiples of {self.backbone.patch_size}, such as {near}. Change crop_size.')

    def _near(self, size):
        patch = self.backbone.patch_size
        return [max(int(side / patch + 0.5), 1) * patch for side in size]

    def forward(self, x):
        """
        Args:
            x (Tensor): [N, 3, H, W].

        Returns:
            list[Tensor]: one element, logits [N, C, H, W].
        """
        patch = self.backbone.patch_size
        if paddle.in_dynamic_mode():
            size = list(x.shape[2:])
            near = self._near(size)
            grid = [side // patch for side in near]
            if self.training:
                self.check_crop(size)
        else:
            size = paddle.shape(x)[2:]
            grid = paddle.clip((size.astype('float32') / patch + 0.5).astype('int32'), 1)
            near = grid * patch
        if not isinstance(near, list) or near != size:
            x = F.interpolate(x, near, mode='bilinear', align_corners=True)
        logits = self.head(self.backbone(x), grid)
        return [F.interpolate(logits, size, mode='bilinear', align_corners=True)]


class DPTHead(nn.Layer):
    """Tokens of four depths → logits at eight times the grid of patches; named as UniMatch V2's."""

    def __init__(self, num_classes, in_channels, features, out_channels):
        super().__init__()
        a, b, _, d = out_channels
        self.projects = nn.LayerList([nn.Conv2D(in_channels, channels, 1) for channels in out_channels])
        self.resize_layers = nn.LayerList([nn.Conv2DTranspose(a, a, 4, 4), nn.Conv2DTranspose(b, b, 2, 2),
                                           nn.Identity(), nn.Conv2D(d, d, 3, 2, 1)])
        self.scratch = Scratch(out_channels, features, num_classes)

    def forward(self, tokens, grid):
        """
        Args:
            tokens (list[Tensor]): four of [N, h * w, D].
            grid (Sequence[int]|Tensor): h, w.

        Returns:
            Tensor: [N, C, 8 h, 8 w].
        """
        height, width = grid[0], grid[1]
        maps = []
        for level, project, resize in zip(tokens, self.projects, self.resize_layers):
            level = level.transpose([0, 2, 1]).reshape([0, project.weight.shape[1], height, width])
            maps.append(resize(project(level)))
        return self.scratch(maps)


class Scratch(nn.Layer):
    """Joins the maps from the coarsest to the finest."""

    def __init__(self, out_channels, features, num_classes):
        super().__init__()
        for number, channels in enumerate(out_channels, 1):
            self.add_sublayer(f'layer{number}_rn', nn.Conv2D(channels, features, 3, padding=1, bias_attr=False))
            self.add_sublayer(f'refinenet{number}', Fusion(features))
        self.output_conv = nn.Sequential(nn.Conv2D(features, features, 3, padding=1), nn.ReLU(),
                                         nn.Conv2D(features, num_classes, 1))

    def forward(self, maps):
        levels = [getattr(self, f'layer{number}_rn')(level) for number, level in enumerate(maps, 1)]
        joined = None
        for number in (4, 3, 2, 1):
            size = paddle.shape(levels[number - 2])[2:] if number > 1 else paddle.shape(levels[0])[2:] * 2
            joined = getattr(self, f'refinenet{number}')(joined, levels[number - 1], size)
        return self.output_conv(joined)


class Fusion(nn.Layer):
    def __init__(self, features):
        super().__init__()
        self.out_conv = nn.Conv2D(features, features, 1)
        self.resConfUnit1, self.resConfUnit2 = Residual(features), Residual(features)

    def forward(self, deeper, level, size):
        """The deepest level has nothing to be added to, and no use for its first unit, which published weights have."""
        joined = level if deeper is None else deeper + self.resConfUnit1(level)
        joined = F.interpolate(self.resConfUnit2(joined), size, mode='bilinear', align_corners=True)
        return self.out_conv(joined)


class Residual(nn.Layer):
    def __init__(self, features):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2D(features, features, 3, padding=1) for _ in range(2))

    def forward(self, x):
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))
