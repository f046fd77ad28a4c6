"""The whole network with weights given by a formula; see the README of the golden data."""

import numpy as np
import paddle
import pytest
from conftest import close, golden, tensor
from procedural import formula

from paddleseg_semi.models.deeplabv2 import DeepLabV2
from paddleseg_semi.models.name_rules import LAYOUTS
from paddleseg_semi.models.resnet_caffe import CaffeResNet
from paddleseg_semi.models.weight_files import Weights
from paddleseg_semi.models.weights import assign, find

LAYOUT = LAYOUTS['DeepLabV2']['advsemiseg']
FILES = golden('advsemiseg_deeplabv2*.npz')
NETWORKS = [pytest.param(file, tag, id=f'{name}-{tag}') for name, file in FILES for tag in ('r101', 'tiny')]


def reference_weights(file, tag, net):
    """The authors' names, shapes from our network, values from the formula."""
    names = [str(name) for name in file[f'{tag}_names']]
    ours = LAYOUT.ours(dict.fromkeys(names))
    shapes = {name: list(value.shape) for name, value in net.state_dict().items()}
    assert len(ours) == len(names)
    state = {}
    for k, name in enumerate(names):
        u = formula(shapes[list(ours)[k]], k, int(file['formula_seed']))
        if name.endswith('running_var'):
            u = 1 + 0.25 * u
        elif name.endswith('running_mean') or name.endswith('bias'):
            u = 0.1 * u
        elif u.ndim == 4:
            u = u * np.sqrt(3 / np.prod(u.shape[1:]))
        else:
            u = 1 + 0.2 * u
        state[name] = u.astype('float32')
    return state


def build(file, tag, branches):
    backbone = CaffeResNet(tuple(file[f'{tag}_depth'].tolist()))
    net = DeepLabV2(int(file['num_classes']), backbone, (6, 12, 18, 24))
    published = {f'Scale.{name}': array for name, array in reference_weights(file, tag, net).items()}
    state = find(net, Weights(published, True), 'formula')
    assert assign(net, state, 'formula') == len(state)
    net.head.branches = net.head.branches[:branches]
    net.eval()
    return net


@pytest.mark.parametrize('file, tag', NETWORKS)
@paddle.no_grad()
def test_logits_and_features(file, tag):
    net = build(file, tag, 4)
    low, seen = [], {}
    net.head.register_forward_post_hook(lambda layer, inputs, output: low.append(output))
    for stage in ('maxpool', 'layer1', 'layer2', 'layer3', 'layer4'):
        getattr(net.backbone, stage).register_forward_post_hook(
            lambda layer, inputs, output, stage=stage: seen.__setitem__(stage, output.numpy()))
    size = [1, 3, *file[f'{tag}_input_hw'].tolist()]
    x = tensor((formula(size, 9999, int(file['formula_seed'])) * 2).astype('float32'))
    logits, = net(x)
    assert list(logits.shape) == [1, int(file['num_classes']), *size[2:]]
    for stage, feature in seen.items():
        np.testing.assert_array_equal(feature.shape, file[f'{tag}_{stage}_shape'])
        close([feature.mean(), feature.std()], file[f'{tag}_{stage}_mean_std'])
        close(feature[0, :4, :3, :3], file[f'{tag}_{stage}_corner'])
    close(low[0], file[f'{tag}_y_four_branch'])
    net.head.branches = net.head.branches[:2]
    net(x)
    close(low[1], file[f'{tag}_y_two_branch'])


@pytest.mark.parametrize('name, file', FILES)
def test_state(name, file):
    """Every tensor of the authors' network has a place in ours, of the same shape, trained or frozen alike."""
    net = DeepLabV2(int(file['num_classes']), CaffeResNet(tuple(file['r101_depth'].tolist())))
    names = [str(n) for n in file['r101_names']]
    ours = list(LAYOUT.ours(dict.fromkeys(names)))
    params = net.state_dict()
    assert set(ours) == set(params)
    for name, theirs, shape, trainable, head in zip(
            ours, names, file['r101_shapes'], file['r101_trainable'], file['r101_in_10x_group']):
        assert list(params[name].shape) == [n for n in shape.tolist() if n > 0], theirs
        assert params[name].stop_gradient == (trainable != 1), theirs
        assert name.startswith('head.') == bool(head), theirs


@pytest.mark.parametrize('name, file', FILES)
def test_output_sizes(name, file):
    """In a static program Paddle infers sizes without computing anything."""
    paddle.enable_static()
    try:
        with paddle.static.program_guard(paddle.static.Program(), paddle.static.Program()):
            net = DeepLabV2(int(file['num_classes']), CaffeResNet(tuple(file['tiny_depth'].tolist())))
            for h, w, low_h, low_w in file['output_hw'].tolist():
                image = paddle.static.data(f'image_{h}x{w}', [1, 3, h, w])
                assert list(net.head(net.backbone(image)[-1]).shape[2:]) == [low_h, low_w]
    finally:
        paddle.disable_static()
