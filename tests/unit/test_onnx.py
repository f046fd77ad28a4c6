"""Exported segmenters as ONNX models and in int8. What needs no library beyond Paddle runs everywhere."""

import os
import sys
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
import yaml
from PIL import Image
from tiny import SIZES, call, make_photos, make_recipe, random_net

from paddleseg_semi.core.export import export
from paddleseg_semi.deploy import convert
from paddleseg_semi.deploy.backends import OnnxBackend, PaddleBackend
from paddleseg_semi.deploy.bundle import Bundle, derived
from paddleseg_semi.deploy.extras import require
from paddleseg_semi.deploy.quantize import quantize
from paddleseg_semi.errors import InputError, RunError
from paddleseg_semi.models.pooling import portable_pooling

NORMALIZE = [{'type': 'Normalize'}]


@pytest.fixture
def photos(tmp_path):
    make_photos(tmp_path)
    return tmp_path


@pytest.fixture
def needs_onnx():
    pytest.importorskip('onnxruntime')
    pytest.importorskip('paddle2onnx')


def exported(folder, *flags, **recipe):
    assert call('tools/export.py', *make_recipe(folder, **recipe), '--save_dir', folder / 'static', *flags) == 0
    return folder / 'static/deploy.yaml'


def onnx(folder, *flags, config='static/deploy.yaml'):
    return call('tools/export_onnx.py', '--config', folder / config, '--save_dir', folder / 'onnx', *flags, settings=())


def quantized(folder, config, *flags):
    return call('tools/quantize.py', '--config', config, '--image_path', folder / 'images', '--num_images', 3,
                '--save_dir', folder / 'int8', *flags, settings=())


def masks(folder, tool, config, *flags, settings=()):
    assert call(f'deploy/python/{tool}.py', '--config', config, '--image_path', folder / 'images', '--save_dir',
                folder / tool, *flags, settings=settings) == 0
    return {name: np.array(Image.open(folder / tool / f'{name}.png')) for name in SIZES}


# ---- ONNX
@pytest.mark.parametrize('flags', [[], ['--output_op', 'none'], ['--output_op', 'softmax', '--fuse_preprocess'],
                                   ['--old_ir', '--output_op', 'none']], ids=' '.join)
def test_onnx_runtime_says_what_paddle_says(photos, needs_onnx, flags, capfd):
    config = exported(photos, *flags)
    assert onnx(photos, '--image_path', photos / 'images') == 0
    assert sorted(os.listdir(photos / 'onnx')) == ['deploy.yaml', 'model.onnx']
    block, before = (yaml.safe_load(path.read_text())['Deploy'] for path in (photos / 'onnx/deploy.yaml', config))
    del before['params']
    assert block == {**before, 'model': 'model.onnx'}

    theirs = masks(photos, 'infer', config, settings=('--device', 'cpu'))
    ours = masks(photos, 'infer_onnx', photos / 'onnx/deploy.yaml', '--batch_size', 2)
    assert all(np.array_equal(ours[name], theirs[name]) for name in SIZES)
    assert 'Compared with Paddle Inference: 100 % of the pixels have the same class' in ''.join(capfd.readouterr())


def test_a_batch_that_the_export_fixed(photos, needs_onnx):
    exported(photos, '--input_shape', '3', '3', '37', '53', '--output_op', 'none')
    assert onnx(photos) == 0
    bundle = Bundle.read(str(photos / 'onnx/deploy.yaml'))
    batch = np.random.default_rng(0).normal(size=(2, 3, 37, 53)).astype('float32')
    theirs = PaddleBackend(Bundle.read(str(photos / 'static/deploy.yaml'))).run(batch)
    ours = OnnxBackend(bundle).run(batch)
    assert ours.shape == theirs.shape == (2, 4, 37, 53)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_another_output_is_not_kept(photos, needs_onnx, monkeypatch):
    config = str(exported(photos, '--output_op', 'none'))
    monkeypatch.setattr(OnnxBackend, 'run', lambda self, batch: np.roll(
        self.session.run(None, {'x': batch})[0], 1, axis=1))
    with pytest.raises(RunError, match='says something else'):
        convert.to_onnx(config, str(photos / 'onnx'))
    assert not os.listdir(photos / 'onnx')


@pytest.mark.parametrize('code, said, message', [
    (0, '', r'it ended with code 0'),
    (-6, '[ERROR][Paddle2ONNX] [OP: pd_op.x] Adaptive only support static input shape.', r'\[OP: pd_op.x\] Adaptive'),
    (1, 'noise\nAssertionError: no such operator', r'AssertionError: no such operator'),
])
def test_a_converter_that_fails(photos, monkeypatch, code, said, message):
    config = str(exported(photos))
    monkeypatch.setattr(convert, 'require', lambda *names: None)
    monkeypatch.setattr(convert.subprocess, 'run', lambda *args, **kwargs: SimpleNamespace(
        returncode=code, stdout=said, stderr=''))
    with pytest.raises(RunError, match=f'paddle2onnx cannot convert it .*{message}.*--input_shape'):
        convert.to_onnx(config, str(photos / 'onnx'))
    assert not os.listdir(photos / 'onnx')


def test_agreement():
    scores = np.zeros([1, 2, 2, 2], 'float32')
    scores[0, 0] = 4
    other = scores.copy()
    other[0, :, 0, 0] = 2, 3
    found = convert.compare(lambda batch: scores, lambda batch: other, [None])
    assert (found.difference, found.equal, found.holds) == (0.75, 0.75, False)
    found = convert.compare(lambda batch: scores, lambda batch: scores * 1.0005, [None, None])
    assert found.equal == 1 and found.holds
    classes = convert.compare(lambda batch: scores.argmax(1), lambda batch: other.argmax(1), [None])
    assert (classes.difference, classes.equal, classes.holds) == (None, 0.75, False)
    assert not convert.compare(lambda batch: scores, lambda batch: scores * np.nan, [None]).holds


# ---- wrong ways
def test_formats_are_not_mixed_up(photos, capsys):
    config = exported(photos)
    with derived(str(config), str(photos / 'onnx'), model='model.onnx', params=None) as folder:
        open(os.path.join(folder, 'model.onnx'), 'w').close()
    bundle = Bundle.read(str(photos / 'onnx/deploy.yaml'))
    assert bundle.params is None
    with pytest.raises(InputError, match='infer_onnx.py'):
        PaddleBackend(bundle)
    with pytest.raises(InputError, match='export_onnx.py'):
        OnnxBackend(Bundle.read(str(config)))
    assert quantized(photos, config) == 2
    assert '--old_ir' in capsys.readouterr().err
    assert not os.path.exists(photos / 'int8')


def test_a_photo_of_another_size_is_named(photos):
    bundle = Bundle.read(str(exported(photos, '--input_shape', '1', '3', '32', '48')))
    with pytest.raises(InputError, match=r'three.png: is \[3, 37, 53\]'):
        list(convert.sample_batches(bundle, [str(photos / 'images/three.png')]))


def test_a_damaged_onnx_model(photos):
    pytest.importorskip('onnxruntime')
    with derived(str(exported(photos)), str(photos / 'onnx'), model='model.onnx', params=None) as folder:
        with open(os.path.join(folder, 'model.onnx'), 'wb') as file:
            file.write(b'nothing')
    with pytest.raises(RunError, match='cannot load it'):
        OnnxBackend(Bundle.read(str(photos / 'onnx/deploy.yaml')))


def test_the_model_to_begin_with_stays(photos):
    config = exported(photos)
    before = config.read_bytes()
    for make in (lambda: derived(str(config), str(photos / 'static'), model='x'),
                 lambda: derived(str(photos / 'none.yaml'), str(photos / 'new'))):
        with pytest.raises(InputError), make():
            pass
    assert config.read_bytes() == before


def test_a_library_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(InputError, match=r"onnxruntime is not installed. .*: pip install '\.\[onnx\]'"):
        require('onnxruntime', 'onnx')


# ---- int8
def test_paddle_in_int8(photos, capfd):
    config = exported(photos, '--old_ir', '--output_op', 'none')
    assert quantized(photos, config) == 0
    assert sorted(os.listdir(photos / 'int8')) == ['deploy.yaml', 'model.pdiparams', 'model.pdmodel']
    assert paddle.in_dynamic_mode()
    deploy = photos / 'int8/deploy.yaml'
    assert yaml.safe_load(deploy.read_text())['Deploy']['quantized'] is True
    assert 'on these 3 photos' in ''.join(capfd.readouterr())

    theirs = masks(photos, 'infer', config, settings=('--device', 'cpu'))
    ours = masks(photos, 'infer', deploy, '--enable_mkldnn', 'True', '--precision', 'int8', '--benchmark', 'True',
                 settings=('--device', 'cpu'))
    said = ''.join(capfd.readouterr())
    assert 'precision: int8' in said and 'no effect' not in said
    assert np.mean([(ours[name] == theirs[name]).mean() for name in SIZES]) > 0.9
    batch = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype('float32')
    difference = np.abs(PaddleBackend(Bundle.read(str(deploy)), engine='onednn').run(batch)
                        - PaddleBackend(Bundle.read(str(config))).run(batch)).max()
    assert difference > 1e-3  # it does compute in fewer bits

    assert quantized(photos, deploy) == 2
    assert 'quantized already' in capfd.readouterr().err
    with pytest.raises(InputError, match='OpenVINO'):
        PaddleBackend(Bundle.read(str(deploy)), engine='openvino')
    with pytest.raises(InputError, match='tools/quantize.py'):
        PaddleBackend(Bundle.read(str(config)), engine='onednn', precision='int8')


def test_onnx_in_int8(photos, needs_onnx):
    exported(photos, '--output_op', 'none')
    assert onnx(photos) == 0
    assert quantized(photos, photos / 'onnx/deploy.yaml') == 0
    assert sorted(os.listdir(photos / 'int8')) == ['deploy.yaml', 'model.onnx']
    theirs = masks(photos, 'infer_onnx', photos / 'onnx/deploy.yaml')
    ours = masks(photos, 'infer_onnx', photos / 'int8/deploy.yaml')
    assert np.mean([(ours[name] == theirs[name]).mean() for name in SIZES]) > 0.9


# ---- pooling
class Pools(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.pools = paddle.nn.LayerList([paddle.nn.AdaptiveAvgPool2D(size) for size in (1, 2, (3, 6), (None, 2))])
        self.net = paddle.nn.Sequential(paddle.nn.AdaptiveAvgPool2D(6), random_net().body)

    def forward(self, x):
        return [pool(x) for pool in self.pools] + [self.net(x)]


@pytest.mark.parametrize('size', [(4, 5), (6, 8), (17, 23), (3, 2)])
def test_portable_pooling(size):
    net, x = Pools(), paddle.rand([2, 3, *size])
    expected, layers = net(x), net.sublayers()
    with portable_pooling(net):
        actual = net(x)
        kept = [layer for layer in net.sublayers() if isinstance(layer, paddle.nn.AdaptiveAvgPool2D)]
        assert kept == [net.pools[0], net.pools[3]]
    assert all(before is after for before, after in zip(layers, net.sublayers()))
    for ours, theirs in zip(actual, expected):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-5)


class PooledNet(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.pool, self.head = paddle.nn.AdaptiveAvgPool2D(3), paddle.nn.Conv2D(3, 4, 1)

    def forward(self, x):
        return [paddle.nn.functional.interpolate(self.head(self.pool(x)), paddle.shape(x)[2:], mode='bilinear')]


def test_pooling_in_int8(photos):
    config = str(photos / 'static/deploy.yaml')
    export(PooledNet(), str(photos / 'static'), NORMALIZE, output_op='none', old_ir=True)
    assert quantize(config, str(photos / 'int8'), [str(photos / 'images/three.png')]).equal > 0.8


def test_pooling_in_an_export_converts(tmp_path, needs_onnx):
    export(PooledNet(), str(tmp_path / 'static'), NORMALIZE, output_op='none')
    assert convert.to_onnx(str(tmp_path / 'static/deploy.yaml'), str(tmp_path / 'onnx')).holds
