"""tests/data/torch_*.pth hold one state dict in both formats of PyTorch: shapes, strides and types of all kinds."""

import pickle
import shutil
import zipfile

import convert_weights
import numpy as np
import paddle
import pytest
from conftest import ROOT

from paddleseg_semi.errors import InputError
from paddleseg_semi.models.deeplabv2 import DeepLabV2
from paddleseg_semi.models.resnet_caffe import CaffeResNet
from paddleseg_semi.models.resnet_deepstem import DeepStemResNet
from paddleseg_semi.models.torch_file import read
from paddleseg_semi.models.weight_files import Weights
from paddleseg_semi.models.weights import load_weights

FILES = [str(ROOT / 'tests' / 'data' / f'torch_{kind}.pth') for kind in ('zip', 'legacy')]
CUBE = np.arange(24, dtype='float32').reshape(2, 3, 4)
EIGHTHS = np.arange(6) / 8
WANTED = {
    'conv1.weight': CUBE,
    'conv1.transposed': CUBE.transpose(2, 1, 0),
    'conv1.slice': CUBE[1, 1:],
    'bn1.running_mean': np.arange(5) / 3,
    'bn1.num_batches_tracked': np.array(7),
    'half': EIGHTHS.astype('float16'),
    'bfloat': EIGHTHS.astype('float32'),
    'int': np.arange(-3, 3, dtype='int32'),
    'byte': np.arange(3, dtype='uint8'),
    'bool': np.array([True, False, True]),
    'param': np.full((2, 2), 0.5, 'float32'),
    'empty': np.zeros((0, 3), 'float32'),
}


@pytest.mark.parametrize('path', FILES)
def test_all_kinds_of_tensors(path):
    state = read(path)['state_dict']
    assert list(state) == list(WANTED)
    for name, wanted in WANTED.items():
        assert state[name].dtype == wanted.dtype and state[name].flags.c_contiguous, name
        np.testing.assert_array_equal(state[name], wanted, err_msg=name)


@pytest.mark.parametrize('path', FILES)
def test_truncated(path, tmp_path):
    with open(path, 'rb') as file:
        content = file.read()
    for share in (0.1, 0.5, 0.98):
        part = tmp_path / 'part.pth'
        part.write_bytes(content[:int(share * len(content))])
        with pytest.raises(InputError, match='part.pth'):
            read(str(part))


def rewrite(path, edit):
    """Passes the pickle of a zip file through `edit`."""
    with zipfile.ZipFile(FILES[0]) as old, zipfile.ZipFile(path, 'w') as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, edit(content) if name.endswith('data.pkl') else content)


def test_code_is_refused(tmp_path):
    path, proof = tmp_path / 'hostile.pth', tmp_path / 'executed'
    hostile = b'cos\nmkdir\n(V' + str(proof).encode() + b'\ntR.'
    rewrite(path, lambda content: hostile)
    with pytest.raises(InputError, match='os.mkdir.*nothing was executed'):
        read(str(path))
    path.write_bytes(hostile)
    with pytest.raises(InputError, match='nothing was executed'):
        read(str(path))
    assert not proof.exists()


@pytest.mark.parametrize('size, stride', [((9, 9, 9), (81, 9, 1)), ((2, 3, 4), (12, 4, 2)), ((2, 3, 4), (-12, 4, 1)),
                                          ((10**6, 10**6, 1), (0, 0, 0))])
def test_a_tensor_cannot_reach_beyond_its_storage(tmp_path, size, stride):
    path = tmp_path / 'wide.pth'

    def ints(values):  # the opcodes of a tuple of three
        return b'(' + b''.join(b'J' + int(value).to_bytes(4, 'little', signed=True) for value in values) + b't'

    def edit(content):
        at = content.index(b'K\x02K\x03K\x04\x87')  # the first size, (2, 3, 4); its strides follow
        end = content.find(b'\x87', content.find(b'\x87', at) + 1) + 1
        return content[:at] + ints(size) + ints(stride) + content[end:]

    rewrite(path, edit)
    with pytest.raises(InputError, match='beyond its storage'):
        read(str(path))


def test_other_files(tmp_path):
    path = tmp_path / 'other.pth'
    with pytest.raises(InputError, match='cannot be read'):
        read(str(path))
    for content in (b'', b'weights', pickle.dumps({'epoch': 3})):
        path.write_bytes(content)
        with pytest.raises(InputError, match='other.pth'):
            read(str(path))
    rewrite(path, lambda content: pickle.dumps({'epoch': 3}))
    with pytest.raises(InputError, match='holds no weights'):
        load_weights(tiny(2), str(path))


def tiny(num_classes, _=False):
    return DeepLabV2(num_classes, CaffeResNet((1, 1, 1, 1)))


@pytest.fixture
def tool(monkeypatch):
    """The tool, with a shallow network instead of a deep one and a state dict instead of the file."""
    def convert(state, save_path, build=tiny, arch='deeplabv2_resnet101_caffe'):
        monkeypatch.setitem(convert_weights.ARCHITECTURES, 'tiny',
                            convert_weights.ARCHITECTURES[arch]._replace(build=build))
        monkeypatch.setattr('paddleseg_semi.models.weight_files.read', lambda path: Weights(state, True))
        args = convert_weights.parser.parse_args(
            ['--arch', arch, '--model-path', 'x.pth', '--save_path', save_path])
        args.arch = 'tiny'
        return convert_weights.main(args)
    return convert


def published(net):
    """A network's weights by the authors' names, with what PyTorch and DataParallel add."""
    state = {'module.bn1.num_batches_tracked': np.array(5)}
    for name, value in net.state_dict().items():
        name = name.replace('backbone.', '').replace('head.branches', 'layer5.conv2d_list')
        state['module.' + name.replace('_mean', 'running_mean').replace('_variance', 'running_var')] = value.numpy()
    return state


def test_convert_and_load(tool, tmp_path, capsys):
    source, path = tiny(4), str(tmp_path / 'new' / 'model.pdparams')
    tool(published(source), path)
    out = capsys.readouterr().out
    assert path in out.splitlines()[-1] and 'not used' not in out
    net = tiny(4)
    assert load_weights(net, path) == len(source.state_dict())
    x = paddle.randn([1, 3, 33, 33])
    source.eval()
    net.eval()
    np.testing.assert_array_equal(net(x)[0], source(x)[0])


@pytest.mark.parametrize('arch, says', [
    ('resnet50_deepstem', 'ResNet50_deepstem'), ('resnet101_deepstem', 'ResNet101_deepstem'),
    ('resnet18', 'ResNet18_plain'), ('resnet50', 'ResNet50_plain'), ('resnet101', 'ResNet101_plain'),
    ('wide_resnet50_2', 'WideResNet50_plain'), ('vgg16', 'VGG16 or VGG16_LargeFOV')])
def test_names_the_backbone(arch, says):
    entry = convert_weights.ARCHITECTURES[arch]
    with paddle.LazyGuard():  # no numbers are drawn
        assert entry.build().feat_channels[-1] in (512, 2048)
    assert entry.hint.endswith(f'is {says}.')


@pytest.mark.parametrize('arch', [
    arch for arch, entry in convert_weights.ARCHITECTURES.items() if entry.classifier])
def test_whole_networks_have_a_classifier(arch):
    entry = convert_weights.ARCHITECTURES[arch]
    with paddle.LazyGuard():
        state = entry.build(7, True).state_dict()
    assert state[entry.classifier].shape[0] == 7
    assert ('aux.0.weight' in state) == arch.startswith(('u2pl', 'imas', 'unimatch_r', 'cps'))


def test_convert_a_backbone(tool, tmp_path, capsys):
    def shallow(*_, pretrained=None):
        return DeepStemResNet((1, 1, 1, 1), multi_grid=(2,), pretrained=pretrained)

    source, path = shallow(), str(tmp_path / 'backbone.pdparams')
    state = {**published(source), 'fc.weight': np.zeros([1000, 2048], 'float32')}
    tool(state, path, shallow, 'resnet50_deepstem')
    out = capsys.readouterr().out
    assert 'classes' not in out and '1 not used, the first is fc.weight' in out and 'ResNet50_deepstem' in out
    net = shallow(pretrained=path)
    assert all(np.array_equal(value, source.state_dict()[name]) for name, value in net.state_dict().items())


def test_convert_refuses(tool, tmp_path):
    state = published(tiny(4))
    with pytest.raises(InputError, match='no classifier'):
        tool({name: value for name, value in state.items() if 'layer5' not in name}, str(tmp_path / 'x.pdparams'))
    state.pop('module.layer2.0.conv2.weight')
    with pytest.raises(InputError, match=r'backbone\.layer2\.0\.conv2\.weight .* is not in the file'):
        tool(state, str(tmp_path / 'x.pdparams'))
    for classifier in (np.float32(3), np.zeros([0, 8, 3, 3], 'float32')):
        with pytest.raises(InputError, match='no classifier'):
            tool({**state, 'module.layer5.conv2d_list.0.weight': np.asarray(classifier)}, str(tmp_path / 'x.pdparams'))
    assert list(tmp_path.iterdir()) == [], 'something half-written'


def test_convert_says_when_it_cannot_write(tool, tmp_path):
    shutil.copy(FILES[0], tmp_path / 'file')
    with pytest.raises(InputError, match='--save_path'):
        tool(published(tiny(4)), str(tmp_path / 'file' / 'x.pdparams'))
    (tmp_path / 'folder').mkdir()
    with pytest.raises(InputError, match='folder: is a folder'):
        tool(published(tiny(4)), str(tmp_path / 'folder'))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['file', 'folder'], 'something half-written'
