"""SBNet on any backbone: what it computes, learns and says; and what a batch without anything does to it."""

import numpy as np
import paddle
import pytest
from conftest import close
from paddleseg.cvlibs import manager

from paddleseg_semi.core.clock import Clock
from paddleseg_semi.core.export import export
from paddleseg_semi.errors import InputError
from paddleseg_semi.methods.base import Task
from paddleseg_semi.methods.sbnet import SBNet as Method
from paddleseg_semi.models.cam import pixel_correlation
from paddleseg_semi.models.resnet38d import ResNet38d
from paddleseg_semi.models.sbnet import SBNet

BACKBONES = {
    'ResNet38d': (lambda: ResNet38d(width=1 / 64), {}),
    'ResNet18_vd': (lambda: manager.BACKBONES['ResNet18_vd'](output_stride=8),
                    {'affinity_indices': (1, 2), 'affinity_channels': (8, 16), 'boundary_indices': (0, 1, 2, 3)}),
    'MixVisionTransformer_B0': (lambda: manager.BACKBONES['MixVisionTransformer_B0'](),
                                {'affinity_indices': (0, 1), 'affinity_channels': (8, 8),
                                 'boundary_indices': (0, 2), 'boundary_channels': 8}),
}


def method(name, num_classes=4):
    backbone, settings = BACKBONES[name]
    return Method(Task(lambda: SBNet(num_classes, backbone(), **settings), {}, num_classes))


def batch(boundary=True, num_classes=4, size=32, seed=0):
    rng = np.random.default_rng(seed)
    found = {'boundary': (rng.random([2, num_classes, size, size]) < 0.1).astype('float32')} if boundary else {}
    arrays = {'img': rng.normal(size=[2, 3, size, size]).astype('float32'),
              'tags': np.eye(num_classes - 1, dtype='float32')[:2], **found}
    return {'tagged': {key: paddle.to_tensor(value) for key, value in arrays.items()}}


@pytest.mark.parametrize('boundary', [True, False])
@pytest.mark.parametrize('name', BACKBONES)
def test_a_step(name, boundary):
    learner = method(name)
    learner.train()
    losses, stats = learner.step(batch(boundary), Clock(10))
    assert list(losses) == ['cls', 'er', 'ecr', 'ct', 'smooth'][:5 if boundary else 3]
    assert list(stats) == ['tags_right']
    assert all(value.shape == [] and np.isfinite(value.item()) for value in losses.values())
    assert all(losses[term].item() > 0 for term in ('ct', 'smooth') if term in losses)
    sum(losses.values()).backward()
    for part, moves in (('seam', True), ('boundary', boundary), ('backbone', True)):
        params = [param for key, param in learner.named_parameters()
                  if key.startswith(f'model.{part}.') and not param.stop_gradient]
        assert any(param.grad is not None and param.grad.abs().sum().item() > 0 for param in params) == moves
    assert all(np.isfinite(param.grad.numpy()).all() for param in learner.parameters() if param.grad is not None)


def test_frozen_parts_stay():
    learner = method('ResNet38d')
    learner.train()
    before = {key: value.numpy() for key, value in learner.state_dict().items()}
    optimizer = paddle.optimizer.SGD(0.01, learner.parameters(), weight_decay=0.1)
    losses, _ = learner.step(batch(), Clock(10))
    sum(losses.values()).backward()
    optimizer.step()
    frozen = ('conv1a', '.b2.', '.b2_1.', '.b2_2.', 'bn_', 'bn7')
    for key, value in learner.state_dict().items():
        if 'backbone' in key:
            assert np.array_equal(value.numpy(), before[key]) == any(part in key for part in frozen), key


def test_black_image_without_tags():
    """Nothing to see, nothing to name: no division by zero, in either direction."""
    learner = method('ResNet38d')
    data = {key: paddle.zeros_like(value) for key, value in batch()['tagged'].items()}
    losses, _ = learner.step({'tagged': data}, Clock(10))
    sum(losses.values()).backward()
    assert all(np.isfinite(value.item()) for value in losses.values())
    assert all(np.isfinite(param.grad.numpy()).all() for param in learner.parameters() if param.grad is not None)


def test_correlation_of_equal_features_is_a_mean():
    maps = paddle.randn([2, 3, 4, 5])
    found = pixel_correlation(maps, paddle.ones([2, 6, 4, 5]))
    close(found, np.broadcast_to(maps.mean([2, 3], keepdim=True).numpy(), found.shape), atol=1e-4)


def test_segments(tmp_path):
    net = method('ResNet38d').deployed
    net.eval()
    x = batch(size=40)['tagged']['img']
    with paddle.no_grad():
        scores, = net(x)
    assert scores.shape == [2, 4, 40, 40] and scores.min().item() >= 0 and scores.max().item() <= 1
    assert (scores[:, 0] == paddle.full_like(scores[:, 0], net.background)).all().item()
    export(net, str(tmp_path), [{'type': 'Normalize'}], output_op='none')
    static = paddle.jit.load(str(tmp_path / 'model'))
    static.eval()
    close(static(x).numpy(), scores.numpy(), atol=1e-4)


@pytest.mark.parametrize('settings, says', [
    ({'affinity_indices': (3, 7)}, r'model.affinity_indices: \[3, 7\]: ResNet38d has the features 0 to 6'),
    ({'boundary_indices': ()}, 'model.boundary_indices'),
    ({'affinity_channels': (8,)}, r'model.affinity_channels: \[8\]: give one number')])
def test_wrong_settings(settings, says):
    with pytest.raises(InputError, match=says):
        SBNet(3, ResNet38d(width=1 / 64), **settings)


@pytest.mark.parametrize('knob', ['scale', 'pool_share', 'hard_share'])
def test_wrong_shares(knob):
    with pytest.raises(InputError, match=f'method.{knob}: 0: give a number above 0'):
        Method(Task(lambda: SBNet(3, ResNet38d(width=1 / 64)), {}, 3), **{knob: 0})


def test_wrong_model():
    with pytest.raises(InputError, match='Conv2D: the method SBNet trains the model SBNet'):
        Method(Task(lambda: paddle.nn.Conv2D(3, 3, 1), {}, 3))
