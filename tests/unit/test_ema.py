import numpy as np
import paddle
import pytest
from paddle import nn

from paddleseg_semi.models.ema import EMA


def network():
    net = nn.Sequential(nn.Conv2D(3, 4, 3), nn.BatchNorm2D(4), nn.Conv2D(4, 2, 1))
    net.register_buffer('seen', paddle.zeros([1], dtype='int64'))
    return net


def shift(net, by):
    """Moves weights and running statistics, as training would."""
    with paddle.no_grad():
        for value in net.state_dict().values():
            value.add_(paddle.full_like(value, by))


def state(net):
    return {name: value.numpy().copy() for name, value in net.state_dict().items()}


@pytest.mark.parametrize('warmup', [True, False])
def test_follows_the_formula(warmup):
    net = network()
    teacher = EMA(net, 0.9, warmup)
    wanted = state(net)
    for step in range(15):
        shift(net, 1)
        teacher.update(net, step)
        decay = min(1 - 1 / (step + 1), 0.9) if warmup else 0.9
        wanted = {name: decay * wanted[name] + (1 - decay) * value for name, value in state(net).items()}
        if warmup and step == 0:
            np.testing.assert_array_equal(teacher.net[0].weight, net[0].weight)
    wanted['seen'] = state(net)['seen']  # a counter has no average
    for name, value in state(teacher.net).items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize('buffers, mean', [('average', 0.5), ('copy', 1.), ('own', 0.)])
def test_running_statistics(buffers, mean):
    net = network()
    teacher = EMA(net, 0.5, warmup=False, buffers=buffers)
    weight = net[1].weight.numpy().copy()
    shift(net, 1)
    teacher.update(net, 7)
    np.testing.assert_allclose(teacher.net[1]._mean, mean)
    np.testing.assert_allclose(teacher.net[1]._variance, 1 + mean)
    np.testing.assert_allclose(teacher.net[1].weight, weight + 0.5)  # scale and shift are weights, not statistics
    assert teacher.net.seen.tolist() == ([0] if buffers == 'own' else [1])


def test_takes_no_gradient_and_predicts_in_eval():
    net = network()
    teacher = EMA(net, 0.9)
    parent = nn.LayerList([net, teacher])
    parent.train()
    assert net[1].training
    x = paddle.randn([2, 3, 6, 6])
    y = teacher(x)
    assert y.stop_gradient and all(param.stop_gradient for param in teacher.parameters())
    assert not net[0].weight.stop_gradient
    np.testing.assert_array_equal(teacher.net[1]._mean, np.zeros(4))
    net.eval()
    np.testing.assert_array_equal(y, net(x))


def test_updates_move_only_the_teacher():
    net = network()
    teacher = EMA(net, 0.5, warmup=False)
    shift(net, 1)
    before = state(net)
    teacher.update(net, 0)
    for name, value in state(net).items():
        np.testing.assert_array_equal(value, before[name])


def test_refuses_nonsense():
    with pytest.raises(ValueError, match='decay'):
        EMA(network(), 1.5)
    with pytest.raises(ValueError, match='average, copy, own'):
        EMA(network(), 0.9, buffers='both')
