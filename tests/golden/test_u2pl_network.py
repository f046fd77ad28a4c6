"""The published network of U2PL with weights given by a formula, its optimizer groups, and what a run begins with."""

import numpy as np
import paddle
import pytest
from conftest import close, golden, tensor
from paddleseg.cvlibs import manager
from test_imas_network import BACKBONES, fill

from paddleseg_semi.methods.base import Task
from paddleseg_semi.methods.u2pl import U2PL
from paddleseg_semi.models.deeplabv3p_semi import SemiDeepLabV3P
from paddleseg_semi.models.projector import Projector
from paddleseg_semi.models.tap import Tap

FEATURE = 'decoder.classifier'


def cases(topic):
    return [pytest.param(case, id=name) for name, case in golden(f'u2pl_{topic}_*.npz')]


def network(case, aspp_ratios=(12, 24, 36), dropout=0.1, **backbone):
    return SemiDeepLabV3P(int(case['num_classes']), BACKBONES[int(case['depth'])](**backbone), aspp_ratios,
                          low_channels=256, head_kernel=3, conv_bias=True, dropout=dropout, aux=bool(case['aux']))


@pytest.mark.parametrize('case', cases('network'))
@paddle.no_grad()
def test_forward(case):
    grid = {} if case['multi_grid'] else {'multi_grid': (1, 1, 1)}
    net = network(case, case['dilations'].tolist(), 0., output_stride=int(case['output_stride']), **grid)
    projector = Projector(512, int(case['rep_shape'][1]), dropout=0.)
    left = fill(net, case)  # the representation head, which is not of the segmenter
    assert [list(array.shape) for array in left.values()] == [list(v.shape) for v in projector.state_dict().values()]
    projector.set_state_dict(dict(zip(projector.state_dict(), left.values())))
    for part in (net, projector):
        (part.train if case['train_mode'] else part.eval)()

    image = tensor(case['image'])
    with Tap(net, FEATURE) as feature, Tap(net, FEATURE, 'output') as score:
        outputs = net(image)
    close(score.value, case['pred'], rtol=1e-3, atol=2e-4)
    rep = projector(feature.value)
    assert list(rep.shape) == case['rep_shape'].tolist()
    close(rep[:, ::4], case['rep'], rtol=1e-3, atol=2e-4)
    assert all(output.shape[2:] == image.shape[2:] for output in outputs)
    if 'stem_running_mean' in case:
        close(net.backbone.bn1._mean, case['stem_running_mean'], rtol=2e-3, atol=1e-5)
        close(net.backbone.bn1._variance, case['stem_running_var'], rtol=2e-3, atol=1e-5)
    if 'aux_pred' in case:
        close(net.aux(net.backbone(image)[-2]), case['aux_pred'], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize('case', cases('param_groups'))
def test_groups_of_the_optimizer(case):
    """As a recipe's optimizer section makes them: everything but backbone and auxiliary head at the rate of the heads,
    decay on all of it."""
    task = Task(lambda: network(case), {'types': [], 'coef': []}, int(case['num_classes']))
    method = U2PL(task, feature_layer=FEATURE)
    player, = method.players().values()
    names, base = ['backbone', 'aux'][:len(case['lr']) - 1], float(case['lr'][-1])
    settings = [{'name': name, 'lr_mult': float(rate) / base} for name, rate in zip(names, case['lr'])]
    decay, = set(case['weight_decay'].tolist())
    momentum, = set(case['momentum'].tolist())
    optimizer = manager.OPTIMIZERS['Momentum'](momentum=momentum, use_nesterov=bool(case['nesterov'].any()),
                                               weight_decay=decay, custom_cfg=settings)(player, base)
    groups = [group['params'] for group in optimizer._param_groups if group['params']]
    assert [len(group) for group in groups] == case['n_tensors'].tolist()
    assert [sum(param.size for param in group) for group in groups] == case['n_elements'].tolist()
    assert sum(map(len, groups)) == int(case['n_parameters'])
    close([base * param.optimize_attr['learning_rate'] for param, *_ in groups], case['lr'], rtol=1e-9, atol=0)

    assert all(param.stop_gradient for param in method.teacher.parameters()) != bool(case['teacher_requires_grad'])
    assert method.bank.table.shape[1] == case['bank_shape_init'][0, 1]
    assert method.bank.size.tolist() == case['bank_shape_init'][:, 0].tolist()
    assert (np.diff([*method.bank._start.tolist(), len(method.bank.table) - 1]) == case['queue_size']).all()
