"""DINOv2 encoders (Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024)."""

import contextlib

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddleseg.cvlibs import manager

from paddleseg_semi.errors import InputError
from paddleseg_semi.models.weights import load_pretrained

_NORMAL = nn.initializer.TruncatedNormal(std=0.02)
_TINY = nn.initializer.Normal(std=1e-6)


@manager.BACKBONES.add_component
class DINOv2(nn.Layer):
    """A vision transformer, named as the published weights have it; see :func:`DINOv2_small` and its like.

    Sides of images must be multiples of the patch size.

    Args:
        embed_dim (int, optional): D, channels of a token. Default: 384.
        depth (int, optional): blocks. Default: 12.
        num_heads (int, optional): of the attention. Default: 6.
        blocks (Sequence[int], optional): whose outputs are the features, from 0. Default: (2, 5, 8, 11).
        swiglu (bool, optional): gated feed-forward layers, as the giant has them. Default: False.
        registers (int, optional): tokens without a place, of the models "with registers". Default: 0.
        img_size (int, optional): side of the square images the positions are stored for. Default: 518.
        patch_size (int, optional): P. Default: 14.
        frozen (bool, optional): the encoder is not trained, and its activations are not kept. Default: False.
        in_channels (int, optional): channels of the image. Default: 3.
        pretrained (str, optional): weights, see `load_pretrained`. Default: None.

    Attributes:
        feat_channels (list[int]): D for each feature.
    """

    def __init__(self, embed_dim=384, depth=12, num_heads=6, blocks=(2, 5, 8, 11), swiglu=False, registers=0,
                 img_size=518, patch_size=14, frozen=False, in_channels=3, pretrained=None):
        super().__init__()
        if max(blocks) >= depth or list(blocks) != sorted(blocks):
            raise ValueError(f'blocks must be ascending numbers below depth {depth}, not {list(blocks)}')
        self.patch_size, self.grid, self.chosen = patch_size, img_size // patch_size, tuple(blocks)
        self.registers, self.frozen = registers, frozen
        self.feat_channels = [embed_dim] * len(blocks)
        self.patch_embed = PatchEmbed(in_channels, embed_dim, patch_size)
        self.cls_token = self._tokens(1, embed_dim, _TINY)
        self.pos_embed = self._tokens(1 + self.grid**2, embed_dim, _NORMAL)
        self.register_tokens = self._tokens(registers, embed_dim, _TINY) if registers else None
        self.blocks = nn.LayerList([Block(embed_dim, num_heads, swiglu) for _ in range(depth)])
        self.norm = nn.LayerNorm(embed_dim, epsilon=1e-6)
        if frozen:
            for param in self.parameters():
                param.stop_gradient = True
        if pretrained is not None:
            load_pretrained(self, pretrained)

    def _tokens(self, count, channels, initializer):
        return self.create_parameter([1, count, channels], default_initializer=initializer)

    def forward(self, x):
        """
        Args:
            x (Tensor): [N, 3, H, W], sides multiples of P.

        Returns:
            list[Tensor]: tokens [N, H/P * W/P, D] of the chosen blocks, rows after each other, normalized.
        """
        with paddle.no_grad() if self.frozen else contextlib.nullcontext():
            height, width = paddle.shape(x)[2:] // self.patch_size if not paddle.in_dynamic_mode() else \
                (side // self.patch_size for side in x.shape[2:])
            x = self.patch_embed(x)                                                         # [N, L, D]
            x = paddle.concat([self.cls_token.expand([x.shape[0], -1, -1]), x], 1) + self.positions(height, width)
            special = 1
            if self.register_tokens is not None:
                special += self.register_tokens.shape[1]
                registers = self.register_tokens.expand([x.shape[0], -1, -1])
                x = paddle.concat([x[:, :1], registers, x[:, 1:]], 1)
            features = []
            for number, block in enumerate(self.blocks[:self.chosen[-1] + 1]):
                x = block(x)
                if number in self.chosen:
                    features.append(self.norm(x)[:, special:])
        return features

    def positions(self, height, width):
        """Positions of class token and patches, [1, 1 + height * width, D]: of another grid than the stored one by
        bicubic interpolation.

        Models without registers are scaled by (height + 0.1) / grid, not to height: where they look differs a little
        from a plain resize.

        Args:
            height, width (int|Tensor): patches.
        """
        stored = (height == self.grid) & (width == self.grid)
        if stored is True:
            return self.pos_embed
        if self.registers:
            more = 0
        else:  # of a static graph, which is for all sizes, the stored one too
            more = 0.1 if stored is False else 0.1 * (1 - stored.astype('float32'))
        patches = self.pos_embed[:, 1:].reshape([1, self.grid, self.grid, -1]).transpose([0, 3, 1, 2])
        rows, columns = (_bicubic(self.grid, side, more, self.registers > 0) for side in (height, width))
        with paddle.amp.auto_cast(False):
            patches = paddle.matmul(paddle.matmul(rows, patches), columns, transpose_y=True)
        return paddle.concat([self.pos_embed[:, :1], patches.flatten(2).transpose([0, 2, 1])], 1)


def layer_groups(layer, decay):
    """Optimizer groups in which the rate falls by a factor with each block towards the image.

    Args:
        layer (nn.Layer): with a DINOv2 encoder somewhere in it.
        decay (float): rate of a block over that of the next, 0..1; block i of n has decay^(n - i) of the recipe's rate,
            what is below the blocks decay^(n + 1).

    Returns:
        list[dict]: PaddleSeg's `custom_cfg`.

    Raises:
        InputError: no encoder that is trained.
    """
    groups = []
    for name, encoder in layer.named_sublayers(include_self=True):
        if isinstance(encoder, DINOv2) and not encoder.frozen:
            prefix, depth = f'{name}.' if name else '', len(encoder.blocks)
            groups += [{'name': f'{prefix}blocks.{k}.', 'lr_mult': decay ** (depth - k)} for k in range(depth)]
            below = ['patch_embed.', 'cls_token', 'pos_embed', *['register_tokens'] * (encoder.registers > 0)]
            groups += [{'name': prefix + part, 'lr_mult': decay ** (depth + 1)} for part in below]
    if not groups:
        raise InputError(f'optimizer.layer_decay: {type(layer).__name__} has no DINOv2 encoder that is trained. Leave '
                         'the key out.')
    return groups


def _bicubic(count, side, more, antialias):
    """[side, count]: weights of the numbers that bicubic interpolation makes of a row of so many; see `positions`. As a
    matrix, because `F.interpolate` forgets the scale where one number is left, and goes into ONNX without antialiasing
    only.

    Args:
        count (int): numbers in the row.
        side (int|Tensor): how many are made of them.
        more (float|Tensor): the scale is (side + more) / count; with 0, and side = count, they stay as they are.
        antialias (bool): and A = -0.5; otherwise -0.75.
    """
    side = paddle.to_tensor(side) if isinstance(side, int) else side
    a, step = -0.5 if antialias else -0.75, count / (side.astype('float32') + more)
    places = (paddle.arange(side).astype('float32') + 0.5) * step - 0.5
    gap = places.unsqueeze(1) - paddle.arange(-2, count + 2, dtype='float32')               # two more on either side
    far = paddle.maximum(gap, -gap)  # not abs(): oneDNN joins it to the difference, and overwrites that too early
    far = far / step.clip(1) if antialias else far
    near, beyond = ((a + 2) * far - (a + 3)) * far**2 + 1, (((far - 5) * far + 8) * far - 4) * a
    weights = paddle.where(far < 1, near, beyond * (far < 2).astype('float32'))
    if antialias:
        weights = weights[:, 2:-2]
        return weights / weights.sum(1, keepdim=True)
    first, last = weights[:, :3].sum(1, keepdim=True), weights[:, -3:].sum(1, keepdim=True)
    return paddle.concat([first, weights[:, 3:-3], last], 1)


class PatchEmbed(nn.Layer):
    def __init__(self, in_channels, embed_dim, patch_size):
        super().__init__()
        self.proj = nn.Conv2D(in_channels, embed_dim, patch_size, patch_size)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose([0, 2, 1])


class Block(nn.Layer):
    """Attention and a feed-forward layer, each behind a normalization and added with a factor per channel."""

    def __init__(self, dim, num_heads, swiglu):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, epsilon=1e-6), nn.LayerNorm(dim, epsilon=1e-6)
        self.attn = Attention(dim, num_heads)
        self.mlp = SwiGLU(dim) if swiglu else MLP(dim)
        self.ls1, self.ls2 = LayerScale(dim), LayerScale(dim)

    def forward(self, x):
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Attention(nn.Layer):
    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.qkv, self.proj = _linear(dim, 3 * dim), _linear(dim, dim)

    def forward(self, x):
        qkv = self.qkv(x).reshape([0, 0, 3, self.num_heads, self.head_dim])                 # [N, L, 3, heads, d]
        if _is_fused(qkv):                                      # and keeps no matrix of L x L
            x = F.scaled_dot_product_attention(*qkv.unbind(2))
        else:
            q, k, v = qkv.transpose([2, 0, 3, 1, 4]).unbind(0)                              # [N, heads, L, d]
            weights = F.softmax(paddle.matmul(q * self.head_dim**-0.5, k, transpose_y=True), -1)
            x = paddle.matmul(weights, v).transpose([0, 2, 1, 3])
        return self.proj(x.reshape([0, 0, self.num_heads * self.head_dim]))


def _is_fused(x):
    """Whether the framework has attention in one kernel for it: not on a CPU, where plain operators are as fast, and
    not in an exported graph."""
    return paddle.in_dynamic_mode() and x.place.is_gpu_place()


class LayerScale(nn.Layer):
    def __init__(self, dim):
        super().__init__()
        self.gamma = self.create_parameter([dim], default_initializer=nn.initializer.Constant(1.0))

    def forward(self, x):
        return x * self.gamma


class MLP(nn.Layer):
    def __init__(self, dim):
        super().__init__()
        self.fc1, self.fc2 = _linear(dim, 4 * dim), _linear(4 * dim, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Layer):
    """Half of the hidden channels gate the other half; there are about two thirds as many as in an MLP."""

    def __init__(self, dim):
        super().__init__()
        hidden = (int(4 * dim * 2 / 3) + 7) // 8 * 8
        self.w12, self.w3 = _linear(dim, 2 * hidden), _linear(hidden, dim)

    def forward(self, x):
        gate, value = self.w12(x).chunk(2, -1)
        return self.w3(F.silu(gate) * value)


def _linear(in_features, out_features):
    return nn.Linear(in_features, out_features, paddle.ParamAttr(initializer=_NORMAL))


_SIZES = {'small': {'embed_dim': 384, 'depth': 12, 'num_heads': 6, 'blocks': (2, 5, 8, 11)},
          'base': {'embed_dim': 768, 'depth': 12, 'num_heads': 12, 'blocks': (2, 5, 8, 11)},
          'large': {'embed_dim': 1024, 'depth': 24, 'num_heads': 16, 'blocks': (4, 11, 17, 23)},
          'giant': {'embed_dim': 1536, 'depth': 40, 'num_heads': 24, 'blocks': (9, 19, 29, 39), 'swiglu': True}}


@manager.BACKBONES.add_component
def DINOv2_small(**kwargs):
    """ViT-S/14, 22 M parameters. `registers: 4` for the weights "with registers".

    Args:
        **kwargs: see :class:`DINOv2`.
    """
    return DINOv2(**{**_SIZES['small'], **kwargs})


@manager.BACKBONES.add_component
def DINOv2_base(**kwargs):
    """ViT-B/14, 87 M parameters.

    Args:
        **kwargs: see :class:`DINOv2`.
    """
    return DINOv2(**{**_SIZES['base'], **kwargs})


@manager.BACKBONES.add_component
def DINOv2_large(**kwargs):
    """ViT-L/14, 304 M parameters.

    Args:
        **kwargs: see :class:`DINOv2`.
    """
    return DINOv2(**{**_SIZES['large'], **kwargs})


@manager.BACKBONES.add_component
def DINOv2_giant(**kwargs):
    """ViT-g/14, 1.1 billion parameters.

    Args:
        **kwargs: see :class:`DINOv2`.
    """
    return DINOv2(**{**_SIZES['giant'], **kwargs})
