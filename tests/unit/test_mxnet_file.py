"""Weights of MXNet: files of all three formats, damaged ones, and the ResNet-38 they hold."""

import functools
import struct

import convert_weights
import numpy as np
import pytest

from paddleseg_semi.errors import InputError
from paddleseg_semi.models import mxnet_file
from paddleseg_semi.models.name_rules import LAYOUTS
from paddleseg_semi.models.resnet38d import ResNet38d
from paddleseg_semi.models.weights import load_weights

CODES = {'float32': 0, 'float64': 1, 'float16': 2, 'uint8': 3, 'int32': 4, 'int8': 5, 'int64': 6}
MAGIC = {1: 0xF993FAC8, 2: 0xF993FAC9, 3: 0xF993FACA}


def write(path, arrays, version=2, **changes):
    """A file as MXNet writes it; version 0 is before version numbers."""
    out = struct.pack('<QQQ', changes.get('magic', 0x112), 0, len(arrays))
    for array in arrays.values():
        if version:
            out += struct.pack('<I', MAGIC[version])
        if version >= 2:
            out += struct.pack('<i', changes.get('storage', 0))
        out += struct.pack('<I', array.ndim)
        out += struct.pack(f'<{array.ndim}' + ('q' if version else 'I'), *array.shape)
        out += struct.pack('<iii', 1, 0, changes.get('code', CODES[array.dtype.name]))
        out += array.tobytes()
    names = list(arrays)[changes.get('names_left_out', 0):]
    out += struct.pack('<Q', len(names))
    for name in names:
        out += struct.pack('<Q', len(name)) + name.encode()
    path.write_bytes(out[:changes.get('keep')])


@pytest.mark.parametrize('version', range(4))
def test_read(tmp_path, version):
    rng = np.random.default_rng(0)
    arrays = {f'arg:{name}': (100 * rng.random([3, 2, 1][:rank])).astype(name)
              for rank, name in zip((1, 2, 3, 1, 2, 3, 1), CODES)}
    write(tmp_path / 'a.params', arrays, version)
    found = mxnet_file.read(str(tmp_path / 'a.params'))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array)


@pytest.mark.parametrize('changes', [{'magic': 7}, {'storage': 1}, {'code': 12}, {'names_left_out': 1}, {'keep': 70},
                                     {'keep': -3}, {'keep': 5}], ids=str)
def test_damaged_files_are_refused(tmp_path, changes):
    write(tmp_path / 'a.params', {'arg:a': np.ones([4, 3], 'float32')}, **changes)
    with pytest.raises(InputError, match='not a whole MXNet file') as error:
        mxnet_file.read(str(tmp_path / 'a.params'))
    assert '\n' not in str(error.value)


def test_absurd_sizes_are_refused(tmp_path):
    header = struct.pack('<QQQIiIqqiii', 0x112, 0, 1, MAGIC[2], 0, 2, 2**40, 2**40, 1, 0, 0)
    (tmp_path / 'a.params').write_bytes(header)
    with pytest.raises(InputError, match='are wanted'):
        mxnet_file.read(str(tmp_path / 'a.params'))
    with pytest.raises(InputError, match='cannot be read'):
        mxnet_file.read(str(tmp_path / 'b.params'))


def mxnet_name(name):
    """What the published ResNet-38 calls a tensor of ours."""
    layer, kind = name.rsplit('.', 1)
    new = {'weight': 'gamma', 'bias': 'beta', '_mean': 'moving_mean', '_variance': 'moving_var'}[kind]
    if '.' not in layer:
        return 'arg:conv1a_weight' if layer == 'conv1a' else f'{"aux" if kind[0] == "_" else "arg"}:bn7_{new}'
    unit, branch = layer.split('.')
    stage = unit[1] + (f'b{unit[3:]}' if '_' in unit else 'a')
    norm = branch.startswith('bn_')
    prefix = 'aux' if kind[0] == '_' else 'arg'
    return f'{prefix}:{"bn" if norm else "res"}{stage}_{branch.split("_")[1]}_{new if norm else "weight"}'


def test_names_of_resnet38():
    assert mxnet_name('b2_1.bn_branch2b1._mean') == 'aux:bn2b1_branch2b1_moving_mean'
    assert mxnet_name('b4.conv_branch1.weight') == 'arg:res4a_branch1_weight'
    ours = list(ResNet38d(width=1 / 64).state_dict())
    theirs = [mxnet_name(name) for name in ours]
    assert len(set(theirs)) == len(ours)
    found = LAYOUTS['ResNet38d']['mxnet'].ours({**dict.fromkeys(theirs), 'arg:linear1000_weight': None})
    assert list(found) == [*ours, 'linear1000.weight']


def convert(arch, source, target):
    args = ['--arch', arch, '--model_path', str(source), '--save_path', str(target)]
    convert_weights.main(convert_weights.parser.parse_args(args))


def test_convert(tmp_path, monkeypatch, capsys):
    narrow = functools.partial(ResNet38d, width=1 / 64)
    entry = convert_weights.ARCHITECTURES['resnet38d']
    monkeypatch.setitem(convert_weights.ARCHITECTURES, 'resnet38d', entry._replace(build=lambda *_: narrow()))
    net, source, target = narrow(), tmp_path / 'a.params', tmp_path / 'a.pdparams'
    rng = np.random.default_rng(0)
    for value in net.state_dict().values():
        value.set_value(rng.random(value.shape).astype('float32'))
    arrays = {mxnet_name(name): value.numpy() for name, value in net.state_dict().items()}
    write(source, {**arrays, 'arg:linear1000_weight': np.ones([7, 4], 'float32')})
    convert('resnet38d', source, target)
    assert f'{len(arrays)} tensors converted; 1 not used, the first is linear1000.weight' in capsys.readouterr().out
    copy = narrow()
    load_weights(copy, str(target))
    for name, value in net.state_dict().items():
        assert np.array_equal(copy.state_dict()[name].numpy(), value.numpy()), name

    write(source, {name: array for name, array in arrays.items() if ':bn7_' not in name})
    with pytest.raises(InputError, match=r'a.params: bn7.weight .*is not in the file and 3 more'):
        convert('resnet38d', source, tmp_path / 'b.pdparams')
    assert not (tmp_path / 'b.pdparams').exists()
