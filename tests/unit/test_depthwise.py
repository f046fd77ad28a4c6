"""Depthwise convolutions by Numba: the numbers of Paddle's, gradients included; what is exported stays Paddle's."""

import copy

import numpy as np
import paddle
import pytest
from conftest import close
from paddle import nn

depthwise = pytest.importorskip('paddleseg_semi.models.depthwise')
RNG = np.random.default_rng(0)


def values(*shape):
    return paddle.to_tensor(RNG.standard_normal(shape).astype('float32'), stop_gradient=False)


@pytest.mark.parametrize('kernel, stride, padding, dilation', [
    (3, 1, 1, 1), (3, 2, 1, 1), (5, 1, 2, 1), (5, 2, 2, 1), (5, 1, 4, 2), (3, 1, 3, 3), (3, 3, 0, 1), (3, 2, 'SAME', 1),
    (5, 2, 'SAME', 1), (3, 1, 'SAME', 1), (3, 2, 'VALID', 1), (1, 1, 0, 1), (3, 2, [0, 1, 2, 3], 1), (3, 2, 4, 2),
    ([3, 5], 1, [1, 2], 1), (2, 2, 0, 1)])
@pytest.mark.parametrize('size', [(12, 12), (9, 14), (11, 7)])
def test_numbers_are_those_of_paddle(kernel, stride, padding, dilation, size):
    conv = nn.Conv2D(6, 6, kernel, stride, padding, dilation, 6, bias_attr=None if stride == 1 else False)
    found = []
    for threads in (None, 1, 2):
        if threads:
            assert depthwise.use(conv, threads) == (threads == 1)
        x = values(3, 6, *size) if not found else paddle.to_tensor(found[0][0], stop_gradient=False)
        y = conv(x)
        grad = values(*y.shape) if not found else paddle.to_tensor(found[0][1])
        (y * y.detach() * grad).sum().backward()  # the upstream gradient is no constant
        found.append([x.numpy(), grad.numpy(), y.numpy(), x.grad.numpy(), conv.weight.grad.numpy()])
        conv.clear_gradients()
    for numbers in found[1:]:
        for ours, wanted in zip(numbers, found[0]):
            close(ours, wanted, rtol=1e-5, atol=1e-5)


class Net(nn.Layer):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2D(3, 8, 1), nn.Conv2D(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2D(8),
                                    nn.ReLU(), nn.Conv2D(8, 8, 3, 2, 'SAME', groups=8), nn.Conv2D(8, 8, 3, groups=4))

    def forward(self, x):
        return self.layers(x)


def test_which_layers_of_a_network():
    net = Net()
    names = list(net.state_dict())
    assert depthwise.use(net) == 2
    assert depthwise.use(net) == 0
    assert list(net.state_dict()) == names
    assert {type(layer).__name__ for layer in net.sublayers()} == {'Sequential', 'Conv2D', 'BatchNorm2D', 'ReLU'}
    assert isinstance(net.layers[1], nn.Conv2D)


def test_repeats_itself_to_the_bit_and_through_a_copy():
    net = Net()
    depthwise.use(net)
    twin, x, found = copy.deepcopy(net), values(2, 3, 16, 16), []
    for model in (net, net, twin):
        model.eval()
        y = model(x)
        y.sum().backward()
        found.append([y.numpy(), x.grad.numpy(), model.layers[1].weight.grad.numpy()])
        x.clear_gradient()
        model.clear_gradients()
    for numbers in found[1:]:
        for ours, first in zip(numbers, found[0]):
            np.testing.assert_array_equal(ours, first)
    assert twin.layers[1].weight is not net.layers[1].weight


def test_two_passes_before_one_backward():
    net, plain = Net(), Net()
    plain.set_state_dict(net.state_dict())
    depthwise.use(net)
    a, b = values(2, 3, 8, 8), values(2, 3, 8, 8)
    for model in (net, plain):
        model.eval()
        (model(a).sum() + (model(b) ** 2).sum()).backward()
    close(net.layers[1].weight.grad.numpy(), plain.layers[1].weight.grad.numpy(), rtol=1e-4, atol=1e-4)


def test_what_is_exported_is_paddles(tmp_path):
    net = Net()
    net.eval()
    x = values(1, 3, 12, 10).detach()
    wanted = net(x).numpy()
    depthwise.use(net)
    close(net(x).numpy(), wanted, rtol=1e-5, atol=1e-5)
    static = paddle.jit.to_static(net, input_spec=[paddle.static.InputSpec([None, 3, None, None], 'float32')])
    paddle.jit.save(static, str(tmp_path / 'net'))
    assert 'depthwise_conv2d' in (tmp_path / 'net.json').read_text()
    close(paddle.jit.load(str(tmp_path / 'net'))(x).numpy(), wanted, rtol=1e-5, atol=1e-5)


def test_other_types_are_left_to_paddle():
    conv = nn.Conv2D(4, 4, 3, groups=4)
    depthwise.use(conv)
    conv.to(dtype='float64')
    assert conv(values(1, 4, 5, 5).astype('float64')).dtype == paddle.float64
