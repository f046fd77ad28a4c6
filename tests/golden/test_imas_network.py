"""The network of iMAS with weights given by a formula, and the groups of its optimizer."""

import numpy as np
import paddle
import pytest
from conftest import close, golden, tensor
from paddleseg.cvlibs import manager

from paddleseg_semi.methods.base import Task
from paddleseg_semi.methods.imas import IMAS
from paddleseg_semi.models.deeplabv3p_semi import SemiDeepLabV3P
from paddleseg_semi.models.resnet_deepstem import ResNet50_deepstem, ResNet101_deepstem
from paddleseg_semi.models.weight_files import Weights
from paddleseg_semi.models.weights import assign, find

BACKBONES = {50: ResNet50_deepstem, 101: ResNet101_deepstem}


def network(case, aspp_ratios=(6, 12, 18), low_channels=48, **backbone):
    return SemiDeepLabV3P(int(case['num_classes']), BACKBONES[int(case['depth'])](**backbone), aspp_ratios,
                          low_channels, aux=bool(case['aux']))


def formula(name, shape, seed):
    """The k-th tensor of the authors' network; k is part of the seed."""
    rng = np.random.RandomState(seed)
    if name.endswith('running_var'):
        value = 0.8 + 0.4 * rng.random_sample(shape)
    elif len(shape) == 4:
        value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith('weight'):
        value = (1 + 0.1 * rng.standard_normal(shape)) * (0.2 if name.endswith('bn3.weight') else 1)
    else:
        value = (0.1 if name.endswith('running_mean') else 0.05) * rng.standard_normal(shape)
    return value.astype('float32')


def checkpoint(case):
    """The authors' network as a training of theirs leaves it: student and teacher, here of other weights."""
    seed = int(case['weight_seed'])
    teacher = {f'module.{name}': formula(name, [int(side) for side in shape.split('x')], seed + k)
               for k, (name, shape) in enumerate(zip(case['names'].tolist(), case['shapes'].tolist()))}
    student = {name: np.zeros_like(array) for name, array in teacher.items()}
    return Weights({'epoch': 3, 'model_state': student, 'teacher_state': teacher}, True)


def fill(net, case):
    """Puts the teacher's weights into a network.

    Returns:
        dict[str, np.ndarray]: what it has no use for.
    """
    state = find(net, checkpoint(case), 'checkpoint')
    assert assign(net, state, 'checkpoint') == len(net.state_dict())
    return {name: array for name, array in state.items() if name not in net.state_dict()}


@pytest.mark.parametrize('case', [pytest.param(case, id=name) for name, case in golden('imas_network_*.npz')])
@paddle.no_grad()
def test_forward(case):
    grid = {} if case['multi_grid'] else {'multi_grid': (1, 1, 1)}
    net = network(case, case['dilations'].tolist(), int(case['low_conv_planes']),
                  output_stride=int(case['output_stride']), **grid)
    assert not fill(net, case)
    (net.train if case['train_mode'] else net.eval)()
    outputs = net(tensor(case['image']))
    assert list(outputs[0].shape) == case['pred_shape'].tolist()
    assert len(outputs) == 1 + bool(case['aux'] and case['train_mode'])
    for output, key in zip(outputs, ('pred', 'aux_pred')):
        close(output[:, :, ::2, ::2], case[key], rtol=1e-3, atol=2e-4)
    if case['train_mode']:
        close(net.backbone.bn1._mean, case['stem_running_mean'], rtol=2e-3, atol=1e-5)
        close(net.backbone.bn1._variance, case['stem_running_var'], rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize('case', [pytest.param(case, id=name) for name, case in golden('imas_param_groups_*.npz')])
def test_groups_of_the_optimizer(case):
    """As a recipe's optimizer section makes them: the heads ten times as fast on VOC, decay on everything."""
    losses = {'types': [], 'coef': []}
    method = IMAS(Task(lambda: network(case), losses, int(case['num_classes'])))
    player, = method.players().values()
    names = ['backbone', 'aux', 'decoder'] if case['aux'] else ['backbone', 'decoder']
    assert len(case['lr']) == len(names)
    base = float(case['base_lr'])
    settings = [{'name': name, 'lr_mult': float(rate) / base} for name, rate in zip(names, case['lr'])]
    decay, = set(case['weight_decay'].tolist())
    momentum, = set(case['momentum'].tolist())
    optimizer = manager.OPTIMIZERS['Momentum'](momentum=momentum, use_nesterov=bool(case['nesterov'].any()),
                                               weight_decay=decay, custom_cfg=settings)(player, base)
    groups = [group['params'] for group in optimizer._param_groups if group['params']]
    assert [len(group) for group in groups] == case['n_tensors'].tolist()
    assert [sum(int(param.size) for param in group) for group in groups] == case['n_elements'].tolist()
    assert sum(map(len, groups)) == int(case['n_parameters'])
    close([base * param.optimize_attr['learning_rate'] for param, *_ in groups], case['lr'], rtol=1e-9, atol=0)

    teacher = method.deployed
    assert all(param.stop_gradient for param in teacher.parameters()) != bool(case['teacher_requires_grad'])
    same = all((mine == theirs).all().item() for mine, theirs in
               zip(teacher.state_dict().values(), method.model.state_dict().values()))
    assert same == bool(case['teacher_equals_student_at_start'])
