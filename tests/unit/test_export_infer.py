"""Export and deploy/python/infer.py: the static model says what the network says, on photos of any size."""

import os

import numpy as np
import paddle
import pytest
import yaml
from PIL import Image
from test_predict import CASES, damage
from tiny import SIZES, call, make_photos, make_recipe, random_net

from paddleseg_semi.core.export import export
from paddleseg_semi.errors import InputError, RunError

MODEL = 'model.json' if int(paddle.__version__.split('.')[0]) >= 3 else 'model.pdmodel'
RESIZE = {'type': 'ResizeByLong', 'long_size': 48}
PADDING = {'type': 'Padding', 'target_size': [64, 64]}


@pytest.fixture
def photos(tmp_path):
    make_photos(tmp_path)
    return tmp_path


def exported(photos, *flags, transforms=()):
    """Exports the random network. Returns the flags of the recipe and the path of deploy.yaml."""
    recipe = make_recipe(photos, transforms)
    assert call('tools/export.py', *recipe, '--save_dir', photos / 'static', *flags) == 0
    return recipe, photos / 'static/deploy.yaml'


def infer(photos, deploy, *flags, images=None):
    return call('deploy/python/infer.py', f'--config={deploy.parent}//{deploy.name}',
                f'--image_path={images or photos / "images"}', f'--save_dir={photos / "inferred"}', *flags)


def results(folder):
    return {name: np.array(Image.open(folder / f'{name}.png')) for name in SIZES}


@pytest.mark.parametrize('output_op', ['argmax', 'softmax', 'none'])
def test_static_equals_dynamic(tmp_path, output_op):
    net = random_net()
    net.train()
    net.norm.eval()
    before = {key: value.numpy() for key, value in net.state_dict().items()}
    files = export(net, str(tmp_path), [{'type': 'Normalize'}], output_op=output_op)
    assert [os.path.basename(file) for file in files] == [MODEL, 'model.pdiparams', 'deploy.yaml']
    assert sorted(os.listdir(tmp_path)) == sorted(os.path.basename(file) for file in files)
    assert (net.training, net.norm.training, net.drop.training) == (True, False, True)
    assert before.keys() == net.state_dict().keys()
    assert all(np.array_equal(before[key], value) for key, value in net.state_dict().items())

    static = paddle.jit.load(str(tmp_path / 'model'))
    net.eval()
    for shape in ([1, 3, 37, 53], [3, 3, 64, 40]):
        x = paddle.rand(shape)
        logit = net(x)[0]
        expected = {'argmax': logit.argmax(1, dtype='int32'), 'none': logit,
                    'softmax': paddle.nn.functional.softmax(logit, 1)}[output_op]
        actual = static(x)
        assert actual.dtype == expected.dtype
        np.testing.assert_allclose(actual.numpy(), expected.numpy(), atol=1e-5)


def test_deploy_yaml(photos):
    _, deploy = exported(photos, '--output_op', 'none', '--input_shape', '1', '3', '64', '96',
                         transforms=[{'type': 'Resize', 'target_size': [96, 64]}])
    block = yaml.safe_load(deploy.read_text())['Deploy']
    known = {key: block.pop(key) for key in ('palette', 'labels', 'summary')}  # see test_export.py
    assert set(known['summary']) > {'net', 'paddle'}
    assert block == {'model': MODEL, 'params': 'model.pdiparams', 'input_shape': [1, 3, 64, 96], 'output_op': 'none',
                     'input_dtype': 'float32', 'output_dtype': 'float32',
                     'transforms': [{'type': 'Resize', 'target_size': [96, 64]}, {'type': 'Normalize'}]}
    assert all((deploy.parent / block[key]).is_file() for key in ('model', 'params'))


def test_older_spellings_and_fastdeploy(photos):
    _, deploy = exported(photos, '--with_softmax', '--for_fd')
    block = yaml.safe_load((deploy.parent / 'inference.yml').read_text())['Deploy']
    assert block['output_op'] == 'softmax'
    assert (deploy.parent / block['model']).name.startswith('inference.')
    _, deploy = exported(photos, '--without_argmax')
    assert yaml.safe_load(deploy.read_text())['Deploy']['output_op'] == 'none'


def test_no_data_set_is_needed(photos):
    recipe = make_recipe(photos)
    (photos / 'val.txt').unlink()
    assert call('tools/export.py', *recipe, '--save_dir', photos / 'static') == 0
    assert call('tools/predict.py', *recipe, '--image_path', photos / 'images', '--save_dir', photos / 'result') == 0
    assert call('tools/val.py', *recipe, '--report_dir', photos / 'results') == 2


def test_a_recipe_without_transforms_is_refused(photos, capsys):
    assert call('tools/export.py', *make_recipe(photos, val_dataset={}), '--save_dir', photos / 'static') == 2
    assert 'val_dataset' in capsys.readouterr().err
    assert not (photos / 'static').exists()


def test_an_export_that_fails_leaves_the_old_one(tmp_path):
    class Odd(paddle.nn.Layer):
        def forward(self, x):
            raise NotImplementedError('not this one')

    export(random_net(), str(tmp_path), [])
    before = {file: (tmp_path / file).read_bytes() for file in os.listdir(tmp_path)}
    with pytest.raises(RunError, match='Odd cannot be exported'):
        export(Odd(), str(tmp_path), [])
    assert {file: (tmp_path / file).read_bytes() for file in os.listdir(tmp_path)} == before


def test_bad_export_arguments(tmp_path):
    net = random_net()
    for shape in ([1, 3], [1, 3, 0, 5]):
        with pytest.raises(InputError, match='--input_shape'):
            export(net, str(tmp_path / 'x'), [], shape)
    with pytest.raises(InputError, match='--output_op'):
        export(net, str(tmp_path / 'x'), [], output_op='sigmoid')
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='--save_dir'):
        export(net, str(tmp_path / 'file'), [])
    assert os.listdir(tmp_path) == ['file']


@pytest.mark.parametrize('output_op, transforms, batch, onednn', [
    ('argmax', [], 2, True), ('none', [], 1, False), ('none', [RESIZE, PADDING], 2, True),
    ('softmax', [RESIZE], 3, True), ('softmax', [PADDING], 2, False)])
def test_infer_equals_predict(photos, output_op, transforms, batch, onednn):
    recipe, deploy = exported(photos, '--output_op', output_op, transforms=transforms)
    assert infer(photos, deploy, '--batch_size', batch, '--enable_mkldnn', onednn, '--cpu_threads=1') == 0
    call('tools/predict.py', *recipe, '--image_path', photos / 'images', '--save_dir', photos / 'predicted')
    predicted, inferred = results(photos / 'predicted/pseudo_color_prediction'), results(photos / 'inferred')
    assert len({value for mask in predicted.values() for value in np.unique(mask)}) > 1
    for name, size in SIZES.items():
        assert inferred[name].shape == size
        assert (inferred[name] == predicted[name]).mean() > 0.999, name


def test_resized_classes_keep_the_photos_size(photos, capsys):
    _, deploy = exported(photos, transforms=[RESIZE])
    assert infer(photos, deploy) == 0
    assert 'nearest neighbor' in capsys.readouterr().out
    assert {name: mask.shape for name, mask in results(photos / 'inferred').items()} == SIZES


def test_fixed_batch_is_filled_up(photos):
    transforms = [{'type': 'Resize', 'target_size': [64, 48]}]
    _, deploy = exported(photos, '--output_op', 'none', '--input_shape', '2', '3', '48', '64', transforms=transforms)
    assert infer(photos, deploy, '--batch_size=2') == 0
    fixed = results(photos / 'inferred')
    _, deploy = exported(photos, '--output_op', 'none', transforms=transforms)
    infer(photos, deploy)
    for name, mask in results(photos / 'inferred').items():
        assert (mask == fixed[name]).mean() > 0.999
    _, deploy = exported(photos, '--input_shape', '1', '3', '48', '64')
    assert infer(photos, deploy, '--batch_size=2') == 2


def test_benchmark_report(photos, capsys):
    _, deploy = exported(photos)
    (photos / 'list.txt').write_text('images/three.png some/mask.png\nimages/five.png\n')
    assert infer(photos, deploy, '--benchmark=True', '--precision=fp32', '--use_trt=False', '--model_name=tiny',
                 '--cpu_threads=2', '--print_detail=False', '--with_argmax', images=photos / 'list.txt') == 0
    out = capsys.readouterr().out
    for field in ('OS_version', 'CUDA_version', 'CUDNN_version', 'drivier_version', 'paddle_version', 'paddle_commit',
                  'log_api_version: 1.0', 'runtime_device: cpu', 'ir_optim', 'enable_memory_optim', 'enable_tensorrt',
                  'enable_mkldnn: False', 'cpu_math_library_num_threads: 2', 'model_name: tiny', 'precision: fp32',
                  'batch_size: 1', 'input_shape: dynamic', 'data_num: 2', 'cpu_rss(MB): ', 'total time spent(s): ',
                  'preprocess_time(ms): ', 'inference_time(ms): ', 'postprocess_time(ms): ',
                  f'Written: {photos / "inferred"}'):
        assert field in out, field


@pytest.mark.parametrize('case', [case for case in CASES if case not in ('truncated', 'missing in list')])
def test_bad_images_are_one_line_and_nothing_is_written(photos, capsys, case):
    _, deploy = exported(photos)
    path, word = damage(photos, case)
    capsys.readouterr()
    assert infer(photos, deploy, images=path) == 2
    error = capsys.readouterr().err
    assert word in error
    assert len(error.splitlines()) == 1
    assert not (photos / 'inferred').exists()


@pytest.mark.parametrize('text, word', [
    (None, 'No such file'), ('a: [', 'Deploy'), ('Deploy: 3', 'Deploy'), ('', 'Deploy'),
    ('Deploy: {model: m, params: p}', '"transforms"'),
    ('Deploy: {model: m.json, params: p, transforms: []}', 'm.json'),
    (f'Deploy: {{model: {MODEL}, params: model.pdiparams, transforms: [{{type: Normalise}}]}}', 'Normalize'),
    (f'Deploy: {{model: {MODEL}, params: model.pdiparams, transforms: [{{type: Resize, width: 3}}]}}', 'width')])
def test_bad_deploy_yaml_is_one_line(photos, capsys, text, word):
    _, deploy = exported(photos)
    deploy.unlink()
    if text is not None:
        deploy.write_text(text)
    capsys.readouterr()
    assert infer(photos, deploy) == 2
    error = capsys.readouterr().err
    assert word in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize('flags, word', [
    (['--batch_size=0'], '--batch_size'), (['--use_trt=yes'], 'True|False'), (['--use_trt=True'], '--use_trt'),
    (['--cpu_threads=0'], '--cpu_threads')])
def test_bad_flags_are_one_line(photos, capsys, flags, word):
    _, deploy = exported(photos)
    capsys.readouterr()
    assert infer(photos, deploy, *flags) == 2
    error = capsys.readouterr().err
    assert word in error
    assert len(error.splitlines()) == 1
