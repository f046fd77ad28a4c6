"""The losses of SBNet, a whole step, and its optimizer."""

import numpy as np
import paddle
import pytest
from conftest import close, golden, tensor
from paddle import nn
from paddleseg.cvlibs import manager
from scripted import CLOCK, compare, leaf

from paddleseg_semi.losses.boundary import derivatives, smoothness
from paddleseg_semi.losses.seam import least_response
from paddleseg_semi.methods.base import Task
from paddleseg_semi.methods.sbnet import SBNet


def cases(topic):
    return [pytest.param(case, id=name) for name, case in golden(f'sbnet_{topic}*.npz')]


@pytest.mark.parametrize('kind', ['minpool', 'minpool_pos'])
@pytest.mark.parametrize('case', cases('norms'))
def test_least_response(case, kind):
    maps = leaf(case[f'{kind}_in'])
    loss = least_response(maps)
    compare({'pool': loss}, {'pool': float(case[f'{kind}_loss'])}, [(maps, case[f'{kind}_grad'])])


@pytest.mark.parametrize('case', cases('norms'))
def test_laplace(case):
    close(derivatives(tensor(case['cam']))[2], case['laplacian_map'], atol=1e-5 * np.abs(case['laplacian_map']).max())


@pytest.mark.parametrize('case', cases('smoothness'))
def test_smoothness(case):
    prob = leaf(case['pred'])
    for channels, suffix in ((prob, ''), (prob[:, :1], '_1ch')):
        for found, key in zip(derivatives(channels), ('sobel_x', 'sobel_y', 'laplacian')):
            close(found, case[key + suffix])
    loss = smoothness(prob, tensor(case['boundary']), tensor(case['label']))
    compare({'smooth': loss}, {'smooth': float(case['loss'])}, [(prob, case['grad_pred'])])


class Says(nn.Layer):
    """Returns the given maps, one entry per view, and remembers what it was shown."""

    def __init__(self, *says):
        super().__init__()
        self.says, self.shown = list(says), []

    def maps(self, x, edges=None):
        self.shown.append((x, edges))
        return self.says.pop(0)


def method(case, **knobs):
    views = [[leaf(case[f'{name}{view}']) for name in ('cam', 'cam_rv', 'edge')] for view in (1, 2)]
    model = Says(*views)
    task = Task(lambda: model, {}, case['cam1'].shape[1], mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    return SBNet(task, scale=float(case['scale_factor']), **knobs), model, views


def tagged(case, **more):
    return {'tagged': {'img': tensor(case['image']), 'tags': tensor(case['label']), **more}}


@pytest.mark.parametrize('quirks', [False, True])
@pytest.mark.parametrize('case', cases('step'))
def test_step(case, quirks):
    step, model, views = method(case, reference_quirks=quirks)
    losses, stats = step.step(tagged(case, boundary=tensor(case['boundary'])), CLOCK)
    names = {name: float(case[f'loss_{name}']) for name in ('cls', 'er', 'ecr', 'ct', 'smooth')}
    assert list(losses) == list(names)
    grads = [(leaf, case[f'grad_{name}{view}']) for view, leaves in enumerate(views, 1)
             for name, leaf in zip(('cam', 'cam_rv', 'edge'), leaves)]
    compare(losses, {**names, None: float(case['loss'])}, grads)
    close(model.shown[1][0], case['image_small'])
    for (image, edges), highest in zip(model.shown, [255 if quirks else 1] * 2):
        assert edges.shape == [len(image), 1, *image.shape[2:]] and set(np.unique(edges)) <= {0, highest}
    assert 0 <= stats['tags_right'].item() <= 1


@pytest.mark.parametrize('case', cases('step'))
def test_step_without_boundary_maps(case):
    """It is SEAM: no edges are looked for, and nothing reaches the boundary branch."""
    step, model, views = method(case)
    losses, _ = step.step(tagged(case), CLOCK)
    close(sum(losses.values()).item(), sum(float(case[f'loss_{name}']) for name in ('cls', 'er', 'ecr')), rtol=1e-5)
    sum(losses.values()).backward()
    assert [edges for _, edges in model.shown] == [None, None]
    assert all(edge.grad is None and cam.grad is not None for cam, _, edge in views)


@pytest.mark.parametrize('case', cases('optim'))
def test_optimizer(case):
    """SGD with the tiny momentum that the published programs have; the schedule ends where theirs stands still."""
    mults = case['lrs'][0] / case['base_lr']
    decays = case['weight_decay_in_effect'] / float(case['weight_decay'])
    momentum, = set(case['momentum_in_effect'].tolist())
    net = nn.Layer()
    for k, start in enumerate(case['init']):
        net.add_parameter(f'group{k}', net.create_parameter(
            [len(start)], default_initializer=nn.initializer.Assign(start)))
    groups = [{'name': f'group{k}', 'lr_mult': float(lr), 'weight_decay_mult': float(decay)}
              for k, (lr, decay) in enumerate(zip(mults, decays))]
    steps = int(case['max_step'])
    schedule = paddle.optimizer.lr.PolynomialDecay(float(case['base_lr']), steps, end_lr=0, power=0.9)
    optimizer = manager.OPTIMIZERS['Momentum'](momentum=momentum, weight_decay=float(case['weight_decay']),
                                               custom_cfg=groups)(net, schedule)
    for grads, lrs, after in list(zip(case['grads'], case['lrs'], case['params_after']))[:steps]:
        close(optimizer.get_lr() * mults, lrs, rtol=1e-6)
        for param, grad in zip(net.parameters(), grads):
            param.grad = tensor(grad)
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
        schedule.step()
        close(np.stack([param.numpy() for param in net.parameters()]), after, atol=1e-6)
