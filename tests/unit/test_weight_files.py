"""Weights of every kind of file, nested and named as trainings leave them, and what is refused as another network's.

tests/data/torch_training_*.pth hold what trainings with PyTorch save: two networks beside an optimizer, a Namespace, a
defaultdict, sets, dates, paths, types of numbers and an enum of a script."""

import pickle
import pickletools

import numpy as np
import paddle
import pytest
from conftest import ROOT
from paddle import nn
from safetensors.numpy import save_file

from paddleseg_semi import safe
from paddleseg_semi.errors import InputError
from paddleseg_semi.models import torch_file, weight_files
from paddleseg_semi.models.deeplabv2 import DeepLabV2
from paddleseg_semi.models.deeplabv3p_semi import SemiDeepLabV3P
from paddleseg_semi.models.dinov2 import DINOv2
from paddleseg_semi.models.resnet_caffe import CaffeResNet
from paddleseg_semi.models.resnet_deepstem import DeepStemResNet
from paddleseg_semi.models.resnet_plain import PlainResNet
from paddleseg_semi.models.weights import assign, find, load_weights

TRAININGS = [str(ROOT / 'tests' / 'data' / f'torch_training_{kind}.pth') for kind in ('zip', 'legacy', 'protocol_4')]
MATRIX = np.arange(6, dtype='float32').reshape(3, 2)


def small():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1D(3))


def state_of(net):
    return {name: value.numpy() for name, value in net.state_dict().items()}


@pytest.mark.parametrize('path', TRAININGS)
def test_other_objects_do_not_matter(path):
    net = nn.Sequential(nn.Linear(2, 3))
    assert load_weights(net, path) == 2
    np.testing.assert_array_equal(net[0].weight, (MATRIX + 1).T)  # of the average
    state = find(net, weight_files.read(path), path, 'student')
    np.testing.assert_array_equal(state['0.weight'], MATRIX.T)
    assert isinstance(weight_files.read(path).content['args'], safe.Opaque)


def test_a_teacher_that_is_not_there():
    net = small()
    with pytest.raises(InputError, match='--net teacher: x.pth holds model'):
        find(net, weight_files.Weights({'model': state_of(net)}, False), 'x.pth', 'teacher')


@pytest.mark.parametrize('nest', [
    lambda state: state, lambda state: {'model': state}, lambda state: {'state_dict': state, 'epoch': 3},
    lambda state: {'module.' + name: array for name, array in state.items()},
    lambda state: {'a': {'b': {'net.module.' + name: array for name, array in state.items()}}},
    lambda state: {**{f'student.{name}': array * 0 for name, array in state.items()},
                   **{f'teacher.{name}': array for name, array in state.items()}}])
def test_nested_and_prefixed(tmp_path, nest):
    source, net = small(), small()
    path = str(tmp_path / 'x.pdparams')
    paddle.save(nest(state_of(source)), path)
    assert load_weights(net, path) == 6
    np.testing.assert_array_equal(net[0].weight, source[0].weight)


def test_safetensors(tmp_path):
    path, net = str(tmp_path / 'x.safetensors'), nn.Linear(2, 3)
    tensors = {'weight': MATRIX, 'bias': np.ones(3, 'float16')}
    save_file(tensors, path, {'format': 'pt'})
    assert load_weights(net, path) == 2
    np.testing.assert_array_equal(net.weight, MATRIX.T)
    save_file({**tensors, 'weight': np.ascontiguousarray(MATRIX.T)}, path, {'format': 'pd'})
    assert load_weights(net, path) == 2
    np.testing.assert_array_equal(net.weight, MATRIX.T)
    with open(path, 'rb') as file:
        content = file.read()
    for part in (content[:-3], content[:30], content[:8] + b'{' * 40 + content[48:]):
        (tmp_path / 'x.safetensors').write_bytes(part)
        with pytest.raises(InputError, match='x.safetensors: not a whole') as error:
            load_weights(net, path)
        assert '\n' not in str(error.value)


def test_bfloat16_of_safetensors(tmp_path):
    path, net = tmp_path / 'x.safetensors', nn.Linear(2, 3, bias_attr=False)
    header = b'{"weight":{"dtype":"BF16","shape":[3,2],"data_offsets":[0,12]}}'
    path.write_bytes(len(header).to_bytes(8, 'little') + header + (MATRIX.view('u4') >> 16).astype('u2').tobytes())
    load_weights(net, str(path))
    np.testing.assert_array_equal(net.weight, MATRIX.T)


@pytest.mark.parametrize('head, says', [(b'\x89HDF\r\n', 'HDF5'), (b'<!DOCTYPE html>', 'web page'),
                                        (b'version https://git-lfs', 'Git LFS'), (b'\x1f\x8b\x08', 'compressed')])
def test_files_that_are_something_else(tmp_path, head, says):
    path = tmp_path / 'x.pth'
    path.write_bytes(head + b' ' * 100)
    with pytest.raises(InputError, match=f'x.pth: is .*{says}.*safetensors'):
        load_weights(small(), str(path))


def test_numpy_archives_are_named(tmp_path):
    np.savez(tmp_path / 'x.npz', a=MATRIX)
    with pytest.raises(InputError, match='NumPy'):
        load_weights(small(), str(tmp_path / 'x.npz'))


def pickled(module, name, argument=b'(t'):
    return pickle.PROTO + b'\x02c' + module + b'\n' + name + b'\n' + argument + b'R.'


@pytest.mark.parametrize('module, name', [
    (b'os', b'system'), (b'posix', b'system'), (b'builtins', b'eval'), (b'__builtin__', b'eval'),
    (b'runpy', b'run_path'), (b'subprocess', b'Popen'), (b'types', b'CodeType'), (b'functools', b'reduce'),
    (b'copyreg', b'add_extension'), (b'pathlib', b'Path.touch'), (b'numpy', b'ndarray.__class__')])
def test_what_does_something_is_refused(tmp_path, module, name):
    path = tmp_path / 'x.pdparams'
    path.write_bytes(pickled(module, name))
    with pytest.raises(InputError, match='nothing was executed'):
        load_weights(small(), str(path))


def test_objects_of_packages_are_not_imported(tmp_path):
    (tmp_path / 'evil.py').write_text('raise AssertionError')
    path = tmp_path / 'x.pdparams'
    path.write_bytes(pickled(b'evil', b'Config', b'X\x03\x00\x00\x00abc\x85'))
    assert isinstance(safe.load(str(path), safe.Carrier), safe.Opaque)
    with pytest.raises(InputError, match='refused'):
        safe.load(str(path))  # where no weights are wanted, not even this


def test_sets_of_a_later_protocol(tmp_path):
    path = tmp_path / 'x.pdparams'
    path.write_bytes(pickle.dumps({'names': {'a', 'b'}, 'fixed': frozenset('c'), 'weight': MATRIX}, 4))
    assert {'EMPTY_SET', 'FROZENSET'} <= {code.name for code, *_ in pickletools.genops(path.read_bytes())}
    np.testing.assert_array_equal(safe.load(str(path), safe.Carrier)['weight'], MATRIX)


def test_many_tensors_of_one_storage(tmp_path):
    """A small file may not ask for a thousand copies of its only storage."""
    tensor = torch_file._Tensor(('0', 'Float'), 0, (1000,), (1,))
    storages = {'0': np.zeros(1000, 'float32')}
    content = {str(k): torch_file._Tensor(*vars(tensor).values()) for k in range(1000)}
    assert len(torch_file._Arrays(storages, 5_000_000).of(content)) == 1000
    with pytest.raises(ValueError, match='larger than the file'):
        torch_file._Arrays(storages, 100_000).of(content)


def deep_stem(*layers):
    return DeepStemResNet(layers, multi_grid=(1,) * layers[3])


def plain(*layers, **settings):
    return PlainResNet(layers, **settings)


def refused(net, state, says, partial=True):
    before = {name: value.numpy().copy() for name, value in net.state_dict().items()}
    with pytest.raises(InputError, match=says) as error:
        assign(net, find(net, weight_files.Weights(state, False), 'x.pth'), 'x.pth', partial)
    assert '\n' not in str(error.value)
    assert all(np.array_equal(before[name], value) for name, value in net.state_dict().items())


@pytest.fixture(scope='module')
def shallow():
    return state_of(plain(1, 2))


def test_another_depth_is_refused(shallow):
    deeper = state_of(plain(1, 3))
    for partial in (True, False):
        refused(plain(1, 2), deeper, r'another network than PlainResNet: it has layer2\.2, the model has not',
                partial)
    refused(plain(1, 3), shallow, r'the model has layer2\.2, it has not')
    refused(plain(1, 3), shallow, r'layer2\.2\.conv1\.weight .* is not in the file', partial=False)
    net = DeepLabV2(3, CaffeResNet((1, 2)))
    refused(net, state_of(CaffeResNet((1, 3))), r'it has backbone\.layer2\.2')


def test_another_depth_of_a_network_that_is_not_ours():
    def net(depth):
        return nn.Sequential(nn.Linear(4, 4), nn.LayerList([nn.Linear(4, 4) for _ in range(depth)]), nn.Linear(4, 2))

    for mine, theirs, says in ((2, 3, r'it has 1\.2'), (3, 2, r'the model has 1\.2')):
        refused(net(mine), state_of(net(theirs)), says)
    state = {**state_of(net(2)), 'fc.weight': np.zeros([5, 4], 'float32')}
    assert assign(net(2), state, 'x', partial=True) == 8


def test_another_width_is_refused(shallow):
    refused(plain(1, 2), state_of(plain(1, 2, width=128)), r'\.conv1\.weight is \[128, .* in the file and')
    with_registers = state_of(DINOv2(8, 1, 1, (0,), registers=2, img_size=28))
    refused(DINOv2(8, 1, 1, (0,), img_size=28), with_registers, 'register_tokens is in the file, and neither')
    refused(DINOv2(8, 1, 1, (0,), img_size=42), state_of(DINOv2(8, 1, 1, (0,), img_size=28)), 'pos_embed is')


def test_another_width_of_a_network_that_is_not_ours():
    def net(width):
        return nn.Sequential(nn.Linear(4, width), nn.Linear(width, width), nn.Linear(width, 2))

    refused(net(3), state_of(net(5)), r'another network than Sequential: 0\.weight is \[4, 5\] .* and 4 more')


def test_a_known_classifier_may_be_too_much(shallow):
    state = {**shallow, 'fc.weight': np.zeros([7, 512], 'float32'), 'fc.bias': np.zeros(7, 'float32')}
    assert assign(plain(1, 2), state, 'x') == len(shallow)
    assert assign(plain(1), state, 'x') < len(shallow), 'a network may end earlier'
    refused(plain(1, 2), {**shallow, 'other.weight': np.zeros(7)}, 'other.weight is in the file, and neither in')


def test_other_images_may_have_other_channels(shallow):
    net = plain(1, 2, in_channels=1)
    assert assign(net, shallow, 'x', partial=True) == len(shallow) - 1
    refused(net, shallow, r'conv1\.weight is \[64, 3, 7, 7\]', partial=False)


def test_the_backbone_of_a_whole_network():
    source = SemiDeepLabV3P(3, deep_stem(1, 1, 1, 1), channels=8)
    net = deep_stem(1, 1, 1, 1)
    content = {'model': {f'module.{name}': array for name, array in state_of(source).items()}}
    state = find(net, weight_files.Weights(content, False), 'x')
    assert assign(net, state, 'x') == len(state) == len(net.state_dict())
    np.testing.assert_array_equal(net.bn1.weight, source.backbone.bn1.weight)


def test_fewer_branches_than_the_file():
    """As the published AdvSemiSeg weights want it."""
    source, net = (DeepLabV2(3, CaffeResNet((1, 1)), dilations) for dilations in ((6, 12, 18, 24), (6, 12)))
    assert assign(net, state_of(source), 'x') == len(net.state_dict())


def test_dropout_moves_no_weights():
    source, net = (SemiDeepLabV3P(3, deep_stem(1, 1, 1, 1), channels=8, dropout=dropout) for dropout in (0.1, 0.))
    state = find(net, weight_files.Weights(state_of(source), False), 'x')
    assert assign(net, state, 'x') == len(state) == len(net.state_dict())
