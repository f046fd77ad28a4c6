"""SBNet's network: units, correlation module, heads, and the whole with weights given by a formula."""

import numpy as np
import paddle
import pytest
import yaml
from conftest import ROOT, close, golden, tensor
from paddle import nn
from paddleseg.cvlibs import manager
from procedural import Given, procedural

from paddleseg_semi.models.cam import competing, normalized, pixel_correlation
from paddleseg_semi.models.name_rules import LAYOUTS, Layout
from paddleseg_semi.models.resnet38d import BottleneckUnit, PlainUnit, ResNet38d
from paddleseg_semi.models.sbnet import SBNet, canny

LAYOUT = LAYOUTS['SBNet']['seam']
UNITS = {'stride2': lambda: PlainUnit(4, 6, 6, stride=2),
         'same': lambda: PlainUnit(6, 6, 6),
         'dilated': lambda: PlainUnit(6, 5, 8, dilations=(1, 2)),
         'samedil': lambda: PlainUnit(8, 5, 8, dilations=(2, 2)),
         'bottleneck': lambda: BottleneckUnit(8, 16, 4, 0.3)}


def cases(topic):
    return [pytest.param(case, id=name) for name, case in golden(f'sbnet_{topic}*.npz')]


def fill(net, arrays):
    """Gives a network all of its tensors."""
    missing, unexpected = net.set_state_dict(arrays)
    assert not missing and not unexpected


def near(actual, wanted):
    close(actual, wanted, rtol=0, atol=1e-6 + 1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize('unit', UNITS)
@pytest.mark.parametrize('case', cases('blocks'))
def test_units(case, unit):
    net, start = UNITS[unit](), f'{unit}_w_'
    fill(net, Layout().ours({key[len(start):]: array for key, array in case.items() if key.startswith(start)}))
    net.eval()
    x = tensor(case[f'{unit}_in'])
    active = net.activate(x)
    near(active, case[f'{unit}_pre'])
    near(net(x, active), case[f'{unit}_out'])


@pytest.mark.parametrize('case', cases('norms'))
def test_norms(case):
    near(normalized(tensor(case['cam'])), case['max_norm_torch'])
    near(normalized(tensor(case['cam'][:1]))[0], case['max_norm_torch3'])
    found, given = competing(tensor(case['onehot_in'])).numpy(), case['onehot_in']
    assert np.array_equal(found[:, 1:], case['onehot_out'][:, 1:])
    close(found[:, 0], 1 - given[:, 1:].max(1), rtol=1e-6)


@pytest.mark.parametrize('case', cases('pcm'))
def test_pixel_correlation(case):
    feature, weight = tensor(case['feature'], grad=True), tensor(case['f9_weight'], grad=True)
    found = pixel_correlation(tensor(case['cam']), nn.functional.conv2d(feature, weight))
    near(found, case['out'])
    (found ** 2).sum().backward()
    near(feature.grad, case['grad_feature_of_sum_sq'])
    near(weight.grad, case['grad_f9_of_sum_sq'])
    near(pixel_correlation(tensor(case['cam_same_size']), nn.functional.conv2d(feature, weight)), case['out_same_size'])


@pytest.mark.parametrize('case', cases('head'))
def test_heads(case):
    features = [tensor(case[f'feat_conv{k}']) for k in range(1, 8)]
    widths = [len(case[f'w_{name}.weight']) for name in ('f8_3', 'f8_4', 'edge_layer.conv1')]
    net = SBNet(case['cam'].shape[1], Given(features), affinity_channels=widths[:2], boundary_channels=widths[2])
    fill(net, LAYOUT.ours({key[2:]: array for key, array in case.items() if key.startswith('w_')}))
    net.eval()
    edges = tensor(case['canny'][:, None].astype('float32'))
    for actual, key in zip(net.maps(tensor(case['image']), edges), ('cam', 'cam_rv', 'edge')):
        near(actual, case[key])
    branch, fused = net.boundary, []
    branch.fuse.register_forward_pre_hook(lambda _, inputs: fused.append(inputs[0]))
    branch([features[i] for i in net.boundary_indices], edges)
    near(fused[0][:, :case['cam'].shape[1]], case['edge_before_fusion'])


@pytest.mark.parametrize('case', cases('head'))
def test_edges(case):
    """The published code takes normalised numbers for bytes; the bytes given here are edges of the case."""
    assert case['canny_thresholds'].tolist() == [10, 100]
    images = case['canny_input_u8'].transpose(0, 3, 1, 2)
    found = canny(tensor((images / 255).astype('float32')), (0., 0., 0.), (1., 1., 1.))
    assert np.array_equal(found.numpy()[:, 0] * 255, case['canny'])
    quirky = canny(tensor(case['image']), (0., 0., 0.), (1., 1., 1.), reference_quirks=True).numpy()
    assert quirky.shape == (*case['canny'].shape[:1], 1, *case['canny'].shape[1:])
    assert (quirky[:, 0] == case['canny']).mean() > 0.99, 'the cast of negative numbers depends on the platform'


@pytest.fixture(scope='module')
def network():
    """The network of the paper. Its start from random weights would take longest."""
    nn.initializer.set_global_initializer(nn.initializer.Constant(0.))
    try:
        return SBNet(21, ResNet38d())
    finally:
        nn.initializer.set_global_initializer(None)


@pytest.mark.parametrize('case', cases('net'))
@paddle.no_grad()
def test_whole_network(case, network):
    fill(network, LAYOUT.ours({str(name): procedural(str(name), [int(side) for side in shape if side])
                          for name, shape in zip(case['tensor_names'], case['tensor_shapes'])}))
    network.eval()
    x = tensor(case['image'])
    for k, feature in enumerate(network.backbone(x), 1):
        assert list(feature.shape) == case[f'conv{k}_shape'].tolist()
        near(feature.mean([0, 2, 3]), case[f'conv{k}_mean'])
        near(feature[0, :, feature.shape[2] // 2, feature.shape[3] // 2], case[f'conv{k}_centre'])
    edges = tensor(case['canny'][:, None].astype('float32'))
    for actual, key in zip(network.maps(x, edges), ('cam', 'cam_rv', 'edge')):
        near(actual, case[key])


@pytest.mark.parametrize('case', cases('net'))
def test_what_is_trained(case, network):
    trained = {name for name, param in network.named_parameters() if not param.stop_gradient}
    assert trained == set(LAYOUT.ours(dict.fromkeys(case['trainable_names'].tolist())))
    sizes = [value.size for name, value in network.state_dict().items() if not name.endswith(('_mean', '_variance'))]
    assert sum(sizes) == int(case['total_parameters'])


@pytest.mark.parametrize('case', cases('net'))
def test_groups_of_the_optimizer(case, network):
    """As the recipe makes them. The published program also lists convolutions it has frozen, in the first group."""
    recipe = yaml.safe_load((ROOT / 'configs/_base_/models/sbnet_resnet38d.yml').read_text())['optimizer']
    assert recipe.pop('type') == 'SGD'
    optimizer = manager.OPTIMIZERS['Momentum'](**recipe)(network, 0.01)
    seam, biases, others = (group['params'] for group in optimizer._param_groups)
    frozen = [shape[shape > 0].prod() for name, shape in zip(case['tensor_names'].tolist(), case['tensor_shapes'])
              if '.conv_' in f'.{name}' and name not in case['trainable_names'].tolist() or name == 'conv1a.weight']
    counts = [len(others) + len(frozen), len(biases), len(seam), 0]
    sizes = [sum(param.size for param in group) for group in (others, biases, seam)]
    assert counts == case['group_tensor_counts'].tolist()
    assert [sizes[0] + sum(frozen), *sizes[1:], 0] == case['group_element_counts'].tolist()
    rates = [{param.optimize_attr['learning_rate'] for param in group} for group in (others, biases, seam)]
    assert rates == [{1.0}, {2.0}, {10.0}]
