"""DINOv2 encoders and the DPT head against the authors' modules: positions, features, logits and gradients; names and
shapes of the published files."""

import re

import numpy as np
import paddle
import pytest
from conftest import close, golden, tensor
from paddle import nn
from procedural import formula

from paddleseg_semi.models import dinov2
from paddleseg_semi.models.dinov2 import DINOv2
from paddleseg_semi.models.dpt import DPT, WIDTHS, DPTHead
from paddleseg_semi.models.weight_files import Weights
from paddleseg_semi.models.weights import assign, find


def cases(topic):
    return [pytest.param(file, id=name) for name, file in golden(f'dinov2_{topic}*.npz')]


def linear_weights(net):
    return {f'{name}.weight' for name, layer in net.named_sublayers() if isinstance(layer, nn.Linear)}


def load(net, weights):
    """Puts weights of PyTorch into a network; all of it gets some."""
    state = find(net, Weights(weights, True), 'golden')
    assert assign(net, state, 'golden', partial=True) == len(net.state_dict())


def check_gradients(net, wanted):
    linear, params = linear_weights(net), dict(net.named_parameters())
    for name, array in wanted.items():
        if name != 'mask_token':
            grad = np.zeros(array.shape) if params[name].grad is None else params[name].grad.numpy()
            grad = grad.T if name in linear and params[name].grad is not None else grad
            close(grad, array, rtol=1e-4, atol=1e-5 * max(1, np.abs(array).max()))


def only(file, prefix):
    return {key[len(prefix):]: array for key, array in file.items() if key.startswith(prefix)}


@pytest.mark.parametrize('file', cases('pos_embed'))
@paddle.no_grad()
def test_positions(file):
    for tag, registers in (('plain', 0), ('register', 4)):
        stored = file[f'{tag}_pos_embed']
        side = round((stored.shape[1] - 1)**0.5)
        net = DINOv2(stored.shape[2], 1, 1, (0,), registers=registers, img_size=14 * side)
        net.pos_embed.set_value(stored)
        for i, (height, width) in enumerate(file['sizes'].tolist()):
            close(net.positions(height // 14, width // 14), file[f'{tag}_{i}'], rtol=0, atol=1e-5)


def tiny():
    for name, file in golden('dinov2_tiny*.npz'):
        for tag in file['cases'].tolist():
            for key in file:
                match = re.fullmatch(rf'{tag}_(\d+)_x', key)
                if match:
                    yield pytest.param(file, tag, match[1], id=f'{name}-{tag}-{match[1]}')


def tiny_network(file, weights):
    registers = weights['register_tokens'].shape[1] if 'register_tokens' in weights else 0
    return DINOv2(int(file['embed_dim']), int(file['depth']), int(file['num_heads']), file['blocks'].tolist(),
                  'blocks.0.mlp.w12.weight' in weights, registers, int(file['img_size']), int(file['patch_size']))


@pytest.mark.parametrize('file, tag, number', tiny())
def test_features(file, tag, number):
    weights = only(file, f'{tag}_w_')
    net = tiny_network(file, weights)
    load(net, weights)
    x = tensor(file[f'{tag}_{number}_x'].astype('float32'), grad=True)
    features, total = net(x), 0
    for j, feature in enumerate(features):
        close(feature, file[f'{tag}_{number}_feature{j}'])
        total = total + (feature * tensor(file[f'{tag}_{number}_g{j}'].astype('float32'))).sum()
    total.backward()
    close(x.grad, file[f'{tag}_{number}_gx'])
    check_gradients(net, only(file, f'{tag}_{number}_gw_'))


def timm(weights):
    """As timm has them: no mask token; with registers the class token holds its position already, and comes first."""
    theirs = {name: array for name, array in weights.items() if name != 'mask_token'}
    if 'register_tokens' in theirs:
        theirs['reg_token'] = theirs.pop('register_tokens')
        theirs['cls_token'] = theirs['cls_token'] + theirs['pos_embed'][:, :1]
        theirs['pos_embed'] = theirs['pos_embed'][:, 1:]
    return {name.replace('.w12.', '.fc1.').replace('.w3.', '.fc2.'): array for name, array in theirs.items()}


def huggingface(weights, apart='attention.attention.{}', out='attention.output.dense', parts=('query', 'key', 'value')):
    names = {'patch_embed.proj': 'embeddings.patch_embeddings.projection', 'cls_token': 'embeddings.cls_token',
             'pos_embed': 'embeddings.position_embeddings', 'register_tokens': 'embeddings.register_tokens',
             'mask_token': 'embeddings.mask_token', 'blocks.': 'encoder.layer.', 'ls1.gamma': 'layer_scale1.lambda1',
             'ls2.gamma': 'layer_scale2.lambda1', 'attn.proj': out, 'w12': 'weights_in', 'w3': 'weights_out'}
    theirs = {}
    for name, array in weights.items():
        name = re.sub(r'^norm\.', 'layernorm.', name)
        for ours, other in names.items():
            name = name.replace(ours, other)
        if '.attn.qkv.' in name:
            for part, third in zip(parts, np.split(array, 3)):
                theirs[f'dinov2.{name}'.replace('attn.qkv', apart.format(part))] = third
        else:
            theirs[f'dinov2.{name}'] = array
    return {**theirs, 'classifier.weight': np.zeros([3, 2])}


def huggingface_of_2026(weights):
    return huggingface(weights, 'attention.{}', 'attention.o_proj', ('q_proj', 'k_proj', 'v_proj'))


@pytest.mark.parametrize('layout', [timm, huggingface, huggingface_of_2026])
@pytest.mark.parametrize('file, tag, number', tiny())
@paddle.no_grad()
def test_other_layouts_have_the_same_features(file, tag, number, layout):
    weights = only(file, f'{tag}_w_')
    net = tiny_network(file, weights)
    load(net, layout(weights))
    for j, feature in enumerate(net(tensor(file[f'{tag}_{number}_x'].astype('float32')))):
        close(feature, file[f'{tag}_{number}_feature{j}'])


def heads():
    for name, file in golden('dinov2_dpt_head*.npz'):
        for key in file:
            match = re.fullmatch(r'(c\d+)_patches', key)
            if match:
                yield pytest.param(file, match[1], id=f'{name}-{match[1]}')


@pytest.mark.parametrize('file, tag', heads())
def test_head(file, tag):
    net = DPTHead(int(file[f'{tag}_num_classes']), int(file['in_channels']), int(file['features']),
                  file['out_channels'].tolist())
    load(net, only(file, f'{tag}_w_'))
    tokens = [tensor(file[f'{tag}_x{j}'].astype('float32'), grad=True) for j in range(4)]
    y = net(tokens, file[f'{tag}_patches'].tolist())
    close(y, file[f'{tag}_y'])
    full = paddle.nn.functional.interpolate(y, list(file[f'{tag}_full'].shape[2:]), mode='bilinear', align_corners=True)
    close(full, file[f'{tag}_full'])
    (full * tensor(file[f'{tag}_g'].astype('float32'))).sum().backward()
    for j, level in enumerate(tokens):
        close(level.grad, file[f'{tag}_gx{j}'])
    check_gradients(net, only(file, f'{tag}_gw_'))
    idle = {name for name, param in net.named_parameters() if param.grad is None}
    assert idle == set(file[f'{tag}_without_gradient'].tolist())


def value(name, shape, k, seed):
    u = formula(shape, k, seed)
    layer, _, kind = name.rpartition('.')
    if kind == 'gamma':
        return 0.5 + 0.25 * u
    if kind == 'weight' and 'norm' in layer.split('.')[-1]:
        return 1 + 0.2 * u
    if kind == 'bias':
        return 0.1 * u
    if name.rpartition('.')[2].endswith(('token', 'tokens', 'embed')):
        return 0.5 * u
    return u * np.sqrt(3 / np.prod(shape[1:]))


@pytest.mark.parametrize('file', cases('dpt_small'))
@paddle.no_grad()
def test_small_network(file):
    net = DPT(int(file['logits'].shape[1]), dinov2.DINOv2_small())
    shapes, linear = {name: list(array.shape) for name, array in net.state_dict().items()}, linear_weights(net)
    weights = {}
    for k, name in enumerate(file['names'].tolist()):
        if name in shapes:
            shape = shapes[name][::-1] if name in linear else shapes[name]
            weights[name] = value(name, shape, k, int(file['formula_seed'])).astype('float32')
    # as UniMatch V2 leaves them: a student, and the average that is evaluated
    load(net, {'model': {f'module.{name}': np.zeros_like(array) for name, array in weights.items()},
               'model_ema': {f'module.{name}': array for name, array in weights.items()}, 'epoch': 7})
    net.eval()
    x = 2 * formula([1, 3, *file['input_hw'].tolist()], int(file['input_k']), int(file['input_seed']))
    x = tensor(x.astype('float32'))
    for j, feature in enumerate(net.backbone(x)):
        corner = file[f'feature{j}_corner']
        close(feature[0].numpy()[:corner.shape[0], :corner.shape[1]], corner, rtol=1e-3, atol=1e-3)
        close([feature.mean().item(), feature.numpy().std()], file[f'feature{j}_mean_std'], rtol=1e-3, atol=1e-3)
    close(net(x)[0], file['logits'], rtol=0, atol=1e-3 * file['logits'].std())


@pytest.mark.parametrize('file', cases('layouts'))
def test_names_and_shapes_of_the_published_files(file):
    for key in (key.removesuffix('_names') for key in file if key.endswith('_names')):
        size, part = key.split('_')
        width = dinov2._SIZES[size]['embed_dim']
        with paddle.LazyGuard():  # nothing of their size is allocated
            net = DPTHead(21, width, *WIDTHS[width]) if part == 'head' else \
                getattr(dinov2, f'DINOv2_{size}')(registers=int(part.removeprefix('reg')))
        linear = linear_weights(net)
        ours = {name: list(param.shape)[::-1 if name in linear else 1] for name, param in net.named_parameters()}
        theirs = {name: [int(side) for side in shape.split(',')]
                  for name, shape in zip(file[f'{key}_names'].tolist(), file[f'{key}_shapes'].tolist())}
        theirs.pop('mask_token', None)
        assert ours == theirs
