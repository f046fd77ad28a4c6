import pickle

import numpy as np
import paddle
import pytest
from paddle import nn

from paddleseg_semi.errors import InputError
from paddleseg_semi.models.weights import load_weights


def network(num_classes=3):
    return nn.Sequential(nn.Conv2D(3, 4, 3), nn.BatchNorm2D(4), nn.Conv2D(4, num_classes, 1))


@pytest.fixture
def saved(tmp_path):
    net, path = network(), str(tmp_path / 'model.pdparams')
    paddle.save(net.state_dict(), path)
    return net, path


def same(a, b, names):
    return all(np.array_equal(a.state_dict()[name], b.state_dict()[name]) for name in names)


def test_everything_loads(saved):
    source, path = saved
    net = network()
    assert not same(net, source, ['0.weight'])
    assert load_weights(net, path) == len(net.state_dict())
    assert same(net, source, net.state_dict())


@pytest.mark.parametrize('protocol', [2, 3, 4])
def test_every_protocol_of_paddle(tmp_path, protocol):
    source, net, path = network(), network(), str(tmp_path / 'model.pdparams')
    paddle.save(source.state_dict(), path, protocol=protocol)
    assert load_weights(net, path) == len(net.state_dict())
    assert same(net, source, net.state_dict())


def test_other_num_classes(saved):
    source, path = saved
    net = network(5)
    with pytest.raises(InputError, match=r'2\.weight is \[3, 4, 1, 1\] in the file and \[5, 4, 1, 1\].*num_classes'):
        load_weights(net, path)
    assert not same(net, source, ['0.weight']), 'refused, yet loaded'
    assert load_weights(net, path, partial=True) == len(net.state_dict()) - 2
    assert same(net, source, ['0.weight', '1._mean'])


def test_missing_tensors(saved, tmp_path):
    source, _ = saved
    path = str(tmp_path / 'part.pdparams')
    paddle.save({'0.weight': source[0].weight}, path)
    with pytest.raises(InputError, match=r'0\.bias \[4\] is not in the file and 6 more'):
        load_weights(network(), path)
    assert load_weights(network(), path, partial=True) == 1


@pytest.mark.parametrize('partial', [True, False])
def test_nothing_fits(tmp_path, partial):
    path = str(tmp_path / 'other.pdparams')
    paddle.save(nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(InputError, match='no tensor fits Sequential'):
        load_weights(network(), path, partial)


@pytest.mark.parametrize('content', [[1, 2], {'iter': 3}, {}])
def test_no_weights_in_it(tmp_path, content):
    path = tmp_path / 'list.pdparams'
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match='holds no weights'):
        load_weights(network(), str(path))


def test_missing_and_truncated(saved, tmp_path):
    _, path = saved
    with pytest.raises(InputError, match='nowhere'):
        load_weights(network(), str(tmp_path / 'nowhere.pdparams'))
    with open(path, 'r+b') as file:
        file.truncate(200)
    with pytest.raises(InputError, match='truncated'):
        load_weights(network(), path)


def test_bfloat16_is_not_read_as_integers(saved, tmp_path):
    path = str(tmp_path / 'half.pdparams')
    paddle.save({name: value.astype('bfloat16') for name, value in saved[0].state_dict().items()}, path)
    with pytest.raises(InputError, match='no tensor fits'):
        load_weights(network(), path)


def test_half_precision_is_widened(saved, tmp_path):
    source, _ = saved
    path = str(tmp_path / 'half.pdparams')
    paddle.save({name: value.astype('float16') for name, value in source.state_dict().items()}, path)
    net = network()
    load_weights(net, path)
    assert net[0].weight.dtype == paddle.float32
    np.testing.assert_allclose(net[0].weight, source[0].weight, rtol=1e-3, atol=1e-4)
