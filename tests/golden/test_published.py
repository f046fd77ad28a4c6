"""Names and shapes of published files; logits of networks that no other golden file has, with weights by a formula."""

import re

import numpy as np
import paddle
import pytest
from conftest import close, golden, tensor
from paddleseg.cvlibs import manager
from test_dinov2 import linear_weights
from test_imas_network import formula

from paddleseg_semi.models.deeplabv3p_semi import SemiDeepLabV3P
from paddleseg_semi.models.name_rules import UNUSED
from paddleseg_semi.models.resnet_deepstem import DeepStemResNet
from paddleseg_semi.models.weight_files import Weights
from paddleseg_semi.models.weights import assign, find

KEYS = {'timm_vit_small_patch14_dinov2': ('DINOv2_small', {}), 'timm_vit_base_patch14_dinov2': ('DINOv2_base', {}),
        'timm_vit_small_patch14_reg4_dinov2': ('DINOv2_small', {'registers': 4}),
        'timm_resnet50': ('ResNet50_plain', {}), 'timm_resnet101': ('ResNet101_plain', {}),
        'huggingface_dinov2_small': ('DINOv2_small', {}),
        'unimatch_resnet50': ('ResNet50_deepstem', {}), 'unimatch_resnet101': ('ResNet101_deepstem', {})}
FILES = golden('published_layouts*.npz')
PUBLISHED = [pytest.param(file, key, id=f'{name}-{key}') for name, file in FILES for key in KEYS
             if f'{key}_names' in file]
DEPTH = (1, 1, 1, 3)
PLACES = np.s_[:, ::21, ::26]
# Numbers taken once from the authors' modules: mean and deviation of the logits, and every 21st row and 26th column of
# the first and last class.
UNIMATCH = [(1.0003711, 1.8367014),
            [[0.8692488, 3.2095327, 3.9229476, 3.7373495], [0.3994004, 5.2603083, 4.4803967, 4.6410356],
             [0.5257679, 5.0777345, 5.146312, 4.7426567], [-0.2540723, 1.953923, 2.177407, 2.0051167]],
            [[1.3353838, 1.5359876, 1.0544426, 0.5527544], [1.100456, 0.2374282, 0.0338087, 0.3819228],
             [1.7947983, 0.7627628, 1.0858569, 0.5424658], [0.4799516, 0.6934531, 0.1071678, 0.5376912]]]
CPS = [(-0.7508415, 2.2621882),
       [[-2.09004, -5.4687033, -4.980178, -3.157404], [-3.8093276, -3.7938783, -4.021577, -1.9833038],
        [-2.856934, -4.0553303, -3.9103663, -1.2684474], [-1.8938352, 0.3170749, 0.2823231, 1.4908091]],
       [[-0.1883023, -0.5352016, -0.4831702, 1.021765], [0.7585568, 2.06069, 2.1346571, 2.7772255],
        [1.1004035, 2.6477907, 2.8018546, 2.5777676], [0.9529153, 3.1239898, 3.0712247, 2.170707]]]


def shapes(file, key):
    return {name: [int(side) for side in shape.split(',') if side]
            for name, shape in zip(file[f'{key}_names'].tolist(), file[f'{key}_shapes'].tolist())}


@pytest.mark.parametrize('file, key', PUBLISHED)
def test_names_and_shapes(file, key):
    name, settings = KEYS[key]
    with paddle.LazyGuard():  # nothing of their size is allocated
        net = manager.BACKBONES[name](**settings)
        if key.startswith('unimatch'):
            net = SemiDeepLabV3P(21, net)
    theirs = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes(file, key).items()}
    found = {name: list(array.shape) for name, array in find(net, Weights(theirs, True), key).items()}
    linear = linear_weights(net)
    assert linear or 'dinov2' not in key
    for name, param in net.state_dict().items():
        assert found.pop(name) == list(param.shape), name
    assert all(re.match(UNUSED[type(net).__name__], name) for name in found)


def network(multi_grid, **settings):
    return SemiDeepLabV3P(5, DeepStemResNet(DEPTH, multi_grid=multi_grid, ceil_mode=False), **settings)


def backbone(file):
    """Names and shapes of a shallow deep-stem ResNet: those of UniMatch without some blocks."""
    found = {}
    for name, shape in shapes(file, 'unimatch_resnet50').items():
        stage = re.match(r'backbone\.layer(\d)\.(\d)', name)
        if name.startswith('backbone.') and not name.endswith('tracked') and not (
                stage and int(stage[2]) >= DEPTH[int(stage[1]) - 1]):
            found[name] = shape
    return found


def normalized(layer, channels):
    return {f'{layer}.{part}': [channels] for part in ('weight', 'bias', 'running_mean', 'running_var')}


def check(net, content, wanted):
    state = find(net, Weights(content, True), 'checkpoint')
    assert assign(net, state, 'checkpoint') == len(net.state_dict()) == len(state)
    net.eval()
    image = np.random.RandomState(0).standard_normal([1, 3, 64, 80]).astype('float32')
    with paddle.no_grad():
        logits = net(tensor(image))[0][0].numpy()
    (mean, deviation), first, last = wanted
    close([logits.mean(), logits.std()], [mean, deviation])
    close(logits[PLACES][[0, -1]], np.array([first, last]), rtol=0, atol=1e-4 * deviation)


@pytest.mark.parametrize('name, file', FILES)
def test_logits_of_unimatch(name, file):
    theirs = {name: shape for name, shape in shapes(file, 'unimatch_resnet50').items()
              if not name.startswith('backbone.') and not name.endswith('tracked')}
    theirs = {**backbone(file), **theirs, 'classifier.weight': [5, 256, 1, 1], 'classifier.bias': [5]}
    state = {f'module.{name}': formula(name, shape, 100 + k) for k, (name, shape) in enumerate(theirs.items())}
    check(network((1, 1, 1)), {'model': state, 'epoch': 3}, UNIMATCH)


@pytest.mark.parametrize('name, file', FILES)
def test_logits_of_cps(name, file):
    aspp = 'head.aspp'
    theirs = {**backbone(file), f'{aspp}.map_convs.0.weight': [256, 2048, 1, 1],
              **{f'{aspp}.map_convs.{k}.weight': [256, 2048, 3, 3] for k in (1, 2, 3)},
              **normalized(f'{aspp}.map_bn', 1024), f'{aspp}.global_pooling_conv.weight': [256, 2048, 1, 1],
              **normalized(f'{aspp}.global_pooling_bn', 256), f'{aspp}.red_conv.weight': [256, 1024, 1, 1],
              f'{aspp}.pool_red_conv.weight': [256, 256, 1, 1], **normalized(f'{aspp}.red_bn', 256),
              'head.reduce.0.weight': [48, 256, 1, 1], **normalized('head.reduce.1', 48),
              'head.last_conv.0.weight': [256, 304, 3, 3], **normalized('head.last_conv.1', 256),
              'head.last_conv.3.weight': [256, 256, 3, 3], **normalized('head.last_conv.4', 256),
              'classifier.weight': [5, 256, 1, 1], 'classifier.bias': [5]}
    state = {f'branch1.{name}': formula(name, shape, 200 + k) for k, (name, shape) in enumerate(theirs.items())}
    other = {name.replace('branch1', 'branch2'): np.zeros_like(array) for name, array in state.items()}
    check(network((2, 2, 4), aspp_slope=0.01), {'model': {**state, **other}, 'iteration': 3}, CPS)
