"""What published weights call the tensors of our networks, and where their arrays differ besides."""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_OF_ALL = (  # batch normalization has other names; training on several cards and compiling left prefixes
    (r'^(?:module\.|_orig_mod\.)+', ''), (r'running_mean$', '_mean'), (r'running_var$', '_variance'))


class Layout(NamedTuple):
    """Tensors of one of our networks as a repository publishes them.

    Attributes:
        rules (tuple[tuple[str, str]]): regular expression and replacement, applied in order to each name, after what
            holds for all of PyTorch's.
        finish (Callable): dict of arrays by our names → the same where arrays differ in more than their names.
    """

    rules: tuple = ()
    finish: Callable = dict

    def ours(self, state, known=()):
        """
        Args:
            state (dict[str, Any]): by their names.
            known (Container[str], optional): names that are ours already, where only what holds for all is applied.
                Default: none.

        Returns:
            dict[str, Any]: the same values by our names, in the same order, without PyTorch's batch counters.
        """
        kept = () if self.rules else known
        return self.finish({name if name in kept else self._ours(name): value for name, value in state.items()
                            if not name.endswith('num_batches_tracked')})

    def _ours(self, name):
        for pattern, replacement in (*_OF_ALL, *self.rules):
            name = re.sub(pattern, replacement, name)
        return name


def _with_low_bias(state):
    """Our 1x1 convolution of the low-level feature has a bias, as U2PL's; that of others is one of zeros."""
    weight = state.get('decoder.low_conv.0.weight')
    return state if weight is None else {'decoder.low_conv.0.bias': np.zeros(len(weight), weight.dtype), **state}


def _unimatch(state):
    """Their pyramid ends with the pooled branch, ours begins with it."""
    state, key = _with_low_bias(state), 'decoder.head.0.weight'
    if key in state:
        first = state[key].shape[1] // 5 * 4
        state[key] = np.concatenate([state[key][:, first:], state[key][:, :first]], 1)
    return state


def _cps(state):
    """Four branches share a normalization, a convolution joins them and another one the pooled branch; the low-level
    feature comes second."""
    state = _with_low_bias(state)
    for name in [name for name in state if name.startswith('joined.')]:
        for k, part in enumerate(np.split(state.pop(name), 4)):
            state[f'decoder.branches.{k}.1.{name.removeprefix("joined.")}'] = part
    if {'red', 'pool_red'} <= state.keys():
        state['decoder.head.0.weight'] = np.concatenate([state.pop('pool_red'), state.pop('red')], 1)
    low, key = state.get('decoder.low_conv.0.weight'), 'decoder.classifier.0.weight'
    if low is not None and key in state:
        state[key] = np.concatenate([state[key][:, -len(low):], state[key][:, :-len(low)]], 1)
    return state


def _vit(state):
    """Queries, keys and values of Hugging Face are apart; positions of timm's register models have none for the class
    token, which holds its own already."""
    for name in [name for name in state if '.attn.query.' in name]:
        parts = [name.replace('.query.', f'.{part}.') for part in ('query', 'key', 'value')]
        if all(part in state for part in parts):
            state[name.replace('.query.', '.qkv.')] = np.concatenate([state.pop(part) for part in parts])
    positions = state.get('pos_embed')
    if positions is not None and positions.ndim == 3 and positions.shape[1] == round(positions.shape[1] ** 0.5) ** 2:
        state['pos_embed'] = np.concatenate([np.zeros_like(positions[:, :1]), positions], 1)
    return state


_SEAM = ((r'^fc8\.', 'seam.classifier.'), (r'^f8_3\.', 'seam.reduce.0.'), (r'^f8_4\.', 'seam.reduce.1.'),
         (r'^f9\.', 'seam.embed.'), (r'^fuse_canny_edge\.', 'boundary.fuse.'),
         *((rf'^edge_layer\.conv{name}\.', f'boundary.reduce.{i}.0.') for i, name in enumerate('1356')),
         *((rf'^edge_layer\.conv8_{name}\.', f'boundary.reduce.{i}.2.') for i, name in enumerate('1356')),
         (r'^edge_layer\.rcab\.body\.3\.conv_du\.', 'boundary.attend.squeeze.'),
         (r'^edge_layer\.rcab\.', 'boundary.attend.'), (r'^edge_layer\.', 'boundary.'),
         (r'^(?!seam\.|boundary\.)', 'backbone.'))
_MXNET = ((r'^(arg|aux):', ''), (r'_(weight|gamma)$', '.weight'), (r'_beta$', '.bias'),
          (r'_(?:moving_)?mean$', '._mean'), (r'_(?:moving_)?var$', '._variance'),
          (r'^res(\d)a_', r'b\1.conv_'), (r'^res(\d)b(\d)_', r'b\1_\2.conv_'),
          (r'^bn(\d)a_', r'b\1.bn_'), (r'^bn(\d)b(\d)_', r'b\1_\2.bn_'))
_U2PL = ((r'^encoder\.', 'backbone.'), (r'^decoder\.aspp\.conv1\.', 'decoder.pool.'),
         *((rf'^decoder\.aspp\.conv{i + 2}\.', f'decoder.branches.{i}.') for i in range(4)), (r'^auxor\.aux\.', 'aux.'))
_U2PL_NO_DROPOUT = (*_U2PL, *((rf'^(decoder\.classifier|aux)\.{theirs}\.', rf'\1.{ours}.')
                               for theirs, ours in ((4, 3), (5, 4), (8, 6))))  # the layers behind it move up
_UNIMATCH = ((r'^head\.b4\.gap\.', 'decoder.pool.'), (r'^head\.b(\d)\.', r'decoder.branches.\1.'),
             (r'^head\.project\.', 'decoder.head.'), (r'^reduce\.', 'decoder.low_conv.'),
             (r'^fuse\.', 'decoder.classifier.'), (r'^classifier\.', 'decoder.classifier.6.'))
_CPS = ((r'^head\.aspp\.map_convs\.(\d)\.', r'decoder.branches.\1.0.'), (r'^head\.aspp\.map_bn\.', 'joined.'),
        (r'^head\.aspp\.global_pooling_conv\.', 'decoder.pool.1.'),
        (r'^head\.aspp\.global_pooling_bn\.', 'decoder.pool.2.'),
        (r'^head\.aspp\.(pool_red|red)_conv\.weight$', r'\1'), (r'^head\.aspp\.red_bn\.', 'decoder.head.1.'),
        (r'^head\.reduce\.', 'decoder.low_conv.'), (r'^head\.last_conv\.', 'decoder.classifier.'),
        (r'^classifier\.', 'decoder.classifier.6.'))
_HUGGINGFACE = ((r'^embeddings\.patch_embeddings\.projection\.', 'patch_embed.proj.'),
                (r'^embeddings\.position_embeddings$', 'pos_embed'), (r'^embeddings\.', ''),
                (r'^encoder\.layer\.', 'blocks.'), (r'^layernorm\.', 'norm.'),
                (r'\.layer_scale(\d)\.lambda1$', r'.ls\1.gamma'),
                (r'\.attention\.output\.dense\.', '.attn.proj.'), (r'\.attention\.attention\.', '.attn.'),
                (r'\.attention\.o_proj\.', '.attn.proj.'), (r'\.attention\.q_proj\.', '.attn.query.'),
                (r'\.attention\.k_proj\.', '.attn.key.'), (r'\.attention\.v_proj\.', '.attn.value.'),
                (r'\.mlp\.weights_in\.', '.mlp.w12.'), (r'\.mlp\.weights_out\.', '.mlp.w3.'))
_TIMM = ((r'^reg_token$', 'register_tokens'),)
_TIMM_GIANT = (*_TIMM, (r'\.mlp\.fc1\.', '.mlp.w12.'), (r'\.mlp\.fc2\.', '.mlp.w3.'))

LAYOUTS = {  # class of a network → layouts, besides that with our own names; the one that covers most of it is taken
    'AffinityNet': {'affinitynet': Layout((*((rf'^f8_{i + 3}\.', f'reduce.{i}.') for i in range(3)),
                                           (r'^f9\.', 'embed.'), (r'^(?!reduce\.|embed\.)', 'backbone.')))},
    'DeepLabV2': {'advsemiseg': Layout(((r'^layer5\.conv2d_list\.', 'head.branches.'),
                                        (r'^(?!head\.)', 'backbone.')))},
    'DINOv2': {'timm': Layout(_TIMM, _vit), 'timm_giant': Layout(_TIMM_GIANT, _vit),
               'huggingface': Layout(_HUGGINGFACE, _vit)},
    'ResNet38d': {'mxnet': Layout(_MXNET)},
    'SBNet': {'seam': Layout(_SEAM)},
    'SemiDeepLabV3P': {'u2pl': Layout(_U2PL), 'u2pl_no_dropout': Layout(_U2PL_NO_DROPOUT),
                       'unimatch': Layout(_UNIMATCH, _unimatch), 'cps': Layout(_CPS, _cps)},
}

UNUSED = {  # class of a backbone → what files hold besides, by our names: classifiers, heads, what other trainings need
    'CaffeResNet': r'fc\.|layer5\.',
    'DeepStemResNet': r'fc\.',
    'DINOv2': r'mask_token$|(linear_)?head\.|classifier\.',
    'EfficientNetLite': r'(_conv_head|_bn1|_fc)\.',
    'PlainResNet': r'fc\.|layer\d\.',  # a network may end before the last stage
    'ResNet38d': r'linear1000[._]|(fc8|f8_\d|f9|edge_layer|fuse_canny_edge|seam|boundary|reduce|embed)\.',
    'VGG16': r'classifier\.',
}

SPARE = {'DeepLabV2': r'head\.branches\.'}  # class → blocks of which files hold more: two of four, in published weights
