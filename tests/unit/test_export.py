"""tools/export.py: which network, in which form, with which facts, and whether it says what the network says."""

import os

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
import yaml
from paddleseg.cvlibs import manager
from paddleseg.deploy.infer import DeployConfig
from PIL import Image
from tiny import NUM_CLASSES, SIZES, TinyNet, call, make_photos, make_recipe, random_net

from paddleseg_semi.core import palette
from paddleseg_semi.core.checkpoint import find_weights
from paddleseg_semi.core.export import export
from paddleseg_semi.core.testing import Testing
from paddleseg_semi.core.verify import compare
from paddleseg_semi.deploy.backends import PaddleBackend
from paddleseg_semi.deploy.bundle import Bundle
from paddleseg_semi.errors import InputError, RunError
from paddleseg_semi.models.weights import load_pretrained, network_of

NORMALIZE = {'type': 'Normalize', 'mean': [0.5, 0.4, 0.3], 'std': [0.2, 0.25, 0.3]}
FIXED = [1, 3, 48, 64]
ANY = [-1, 3, -1, -1]
paddle3 = pytest.mark.skipif(int(paddle.__version__.split('.')[0]) < 3, reason='Paddle 2 has one format')


@manager.MODELS.add_component
class PretrainedNet(TinyNet):
    def __init__(self, num_classes, pretrained=None):
        super().__init__(num_classes)
        load_pretrained(self, pretrained)


@pytest.fixture
def photos(tmp_path):
    make_photos(tmp_path)
    return tmp_path


@pytest.fixture
def run(photos):
    """A training run as a method with a teacher leaves it; flags of its recipe."""
    recipe = make_recipe(photos, class_names=list('abcd'))[:2]
    student, teacher = (random_net() for _ in range(2))
    teacher.head.bias.set_value(paddle.to_tensor([9., 0., 0., 0.]))  # says class 0 everywhere it can
    files = {'best_model/model.pdparams': student.state_dict(), 'iter_8/model.pdparams': student.state_dict(),
             'best_model/model.pdstates': {'mIoU': 0.12345678, 'Acc': 0.5, 'iter': 6},
             'iter_8/model.pdstates': {'mIoU': 0.0, 'Acc': 0.0, 'iter': 8},
             'iter_8/method.pdparams': {**{f'model.{k}': v for k, v in student.state_dict().items()},
                                        **{f'teacher.net.{k}': v for k, v in teacher.state_dict().items()},
                                        'teacher.net.projector.weight': paddle.ones([2]), 'bank': paddle.ones([3])}}
    for name, content in files.items():
        paddle.save(content, str(photos / 'run' / name))
    (photos / 'run/split').mkdir()
    (photos / 'run/split/split.yml').write_text('{labeled: 3, unlabeled: 2}')
    (photos / 'run/config.yml').write_text('{method: {type: MeanTeacher}, iters: 8, semi: {label_ratio: 0.6}}')
    return recipe


def deployed(photos):
    return yaml.safe_load((photos / 'static/deploy.yaml').read_text())['Deploy']


def says(folder, batch):
    return PaddleBackend(Bundle.read(f'{folder}/deploy.yaml')).run(batch)


# which network

def test_networks_are_found_by_their_tensors():
    net = random_net()
    state = {f'{head}.{key}': value.numpy() for head in ('model', 'teacher.net.model') for key, value in
             net.state_dict().items()}
    state['teacher.net.model.head.bias'] += 1
    state['discriminator.head.weight'] = np.ones(3)
    for name, moved in (('model', 0), ('student', 0), ('teacher', 1)):
        found = network_of(state, net, name, 'method.pdparams')
        assert found.keys() == net.state_dict().keys()
        assert np.allclose(found['head.bias'], net.head.bias.numpy() + moved)
    with pytest.raises(InputError, match='teachr: method.pdparams holds model, teacher. Did you mean "teacher"'):
        network_of(state, net, 'teachr', 'method.pdparams')
    with pytest.raises(InputError, match='holds no TinyNet'):
        network_of({'model.other': np.ones(3)}, net, 'model', 'method.pdparams')


@pytest.mark.parametrize('path, whole, wanted', [
    ('run', False, 'run/best_model/model.pdparams'), ('run/iter_8', False, 'run/iter_8/model.pdparams'),
    ('anything.pdparams', False, 'anything.pdparams'), ('run', True, 'run/iter_8/method.pdparams'),
    ('run/iter_8', True, 'run/iter_8/method.pdparams'),
    ('run/iter_8/model.pdparams', True, 'run/iter_8/method.pdparams')])
def test_weights_of_a_run(run, photos, path, whole, wanted):
    assert find_weights(str(photos / path), whole) == str(photos / wanted)


@pytest.mark.parametrize('path, whole, word', [
    ('run/best_model/model.pdparams', True, 'newest iter_N'), ('images', False, 'has no model.pdparams')])
def test_no_weights(run, photos, path, whole, word):
    with pytest.raises(InputError, match=word):
        find_weights(str(photos / path), whole)


def test_teacher_and_student(run, photos):
    x = np.random.default_rng(0).random((1, 3, 40, 56)).astype('float32')
    masks = {}
    for flags in ([], ['--export_net', 'student'], ['--export_net', 'teacher']):
        assert call('tools/export.py', *run, '--model_path', photos / 'run', *flags,
                    '--save_dir', photos / 'static') == 0
        masks[flags[-1] if flags else 'deployed'] = says(photos / 'static', x)
        assert deployed(photos)['summary']['net'] == (flags[-1] if flags else 'deployed')
    assert np.array_equal(masks['deployed'], masks['student'])
    assert (masks['teacher'] == 0).mean() > (masks['student'] == 0).mean()


@pytest.mark.parametrize('flags, word', [
    (['--export_net', 'model_2', '--model_path', 'run'], 'holds model, teacher'),
    (['--export_net', 'teacher', '--model_path', 'run/best_model'], 'newest iter_N'),
    (['--export_net', 'teacher'], '--model_path'), (['--model_path', 'images'], 'has no model.pdparams'),
    (['--verify', 'maybe'], 'True|False'), (['--input_shape', '1', '4', '64', '64'], '3 channels'),
    (['--input_shape', '64', '64'], '3 channels'), (['--opts', 'export=3'], 'expected a section'),
    (['--opts', "export={'transform': []}"], 'Did you mean "transforms"?'),
    (['--opts', "export={'transforms': ['Normalize']}"], 'expected a section with a "type"'),
    (['--opts', "export={'transforms': [{'type': 'Normalise'}]}"], 'Did you mean "Normalize"?')])
def test_bad_flags_are_one_line(run, photos, capsys, monkeypatch, flags, word):
    monkeypatch.chdir(photos)
    assert call('tools/export.py', *run, '--save_dir', 'static', *flags) == 2
    error = capsys.readouterr().err
    assert word in error
    assert len(error.splitlines()) == 1
    assert not (photos / 'static').exists()


def test_what_training_started_from_is_not_needed(photos):
    recipe = make_recipe(photos, model={'type': 'PretrainedNet', 'pretrained': 'gone.pdparams'})
    for tool in ('export', 'predict'):
        flags = ['--image_path', photos / 'images'] if tool == 'predict' else []
        assert call(f'tools/{tool}.py', *recipe, *flags, '--save_dir', photos / tool) == 0
        assert call(f'tools/{tool}.py', *recipe[:2], *flags, '--save_dir', photos / f'{tool}_start') == 2


# what deploy.yaml says

def test_facts(run, photos):
    assert call('tools/export.py', *run, '--model_path', photos / 'run', '--save_dir', photos / 'static') == 0
    block = deployed(photos)
    summary = block['summary']
    assert {summary.pop(key) for key in ('paddle', 'paddleseg', 'paddleseg_semi')} >= {paddle.__version__}
    assert summary == {'method': 'MeanTeacher', 'net': 'deployed', 'label_ratio': 0.6, 'labeled': 3, 'unlabeled': 2,
                       'iters': 8, 'iter': 6, 'mIoU': 0.1235, 'Acc': 0.5}
    assert block['class_names'] == list('abcd')
    assert block['palette'] == palette.default(list('abcd'))[:12]
    assert len(block['palette']) == 3 * NUM_CLASSES
    assert block['labels'] == {'num_classes': NUM_CLASSES, 'ignore_index': 255}
    bundle = Bundle.read(str(photos / 'static/deploy.yaml'))
    assert (bundle.class_names, bundle.palette[:12]) == (block['class_names'], block['palette'])
    assert summary.items() < bundle.summary.items()
    assert DeployConfig(str(photos / 'static/deploy.yaml')).model.endswith(block['model'])  # as PaddleSeg reads it


def test_facts_that_are_not_known_are_left_out(run, photos):
    (photos / 'run/config.yml').write_text('method: [')
    (photos / 'run/split/split.yml').write_text('3')
    (photos / 'run/iter_8/model.pdstates').write_bytes(b'nothing')
    (photos / 'run/iter_9').mkdir()
    assert call('tools/export.py', *run, '--model_path', photos / 'run/iter_8', '--save_dir', photos / 'static') == 0
    assert set(deployed(photos)['summary']) == {'net', 'paddle', 'paddleseg', 'paddleseg_semi'}


def test_names_must_fit(run, photos, capsys):
    assert call('tools/export.py', *run, '--opts', 'class_names=[1]', '--save_dir', photos / 'static') == 2
    assert 'class_names: 1 names for 4 classes' in capsys.readouterr().err


# in which form

@pytest.mark.parametrize('old_ir', [False, pytest.param(True, marks=paddle3)])
@pytest.mark.parametrize('shape', [ANY, FIXED])
@pytest.mark.parametrize('output_op', ['argmax', 'softmax', 'none'])
def test_forms(tmp_path, output_op, shape, old_ir):
    """Of both kinds of input."""
    net, normalize = random_net(), manager.TRANSFORMS['Normalize'](NORMALIZE['mean'], NORMALIZE['std'])
    net.eval()
    rgb = np.random.default_rng(0).integers(0, 256, (1, *FIXED[2:], 3)).astype('uint8')
    seen = normalize({'img': rgb[0].astype('float32')})['img'].transpose(2, 0, 1)[None]
    logit = net(paddle.to_tensor(seen))[0]
    wanted = {'argmax': logit.argmax(1), 'softmax': F.softmax(logit, 1), 'none': logit}[output_op]
    for fused in (False, True):
        files = export(net, str(tmp_path), [dict(NORMALIZE)], shape, output_op, old_ir=old_ir, fuse_preprocess=fused)
        assert files[0].endswith('model.pdiparams' if old_ir else 'model.json')
        block = yaml.safe_load((tmp_path / 'deploy.yaml').read_text())['Deploy']
        assert block['model'] == ('model.pdmodel' if old_ir else 'model.json')
        assert block['transforms'] == ([] if fused else [NORMALIZE])
        assert (block['input_dtype'], block['input_shape']) == ('uint8' if fused else 'float32', shape)
        np.testing.assert_allclose(says(tmp_path, rgb if fused else seen), wanted.numpy(), atol=1e-4)


@pytest.mark.parametrize('transforms, word', [([], 'nothing'), ([NORMALIZE, {'type': 'Padding'}], 'Padding')])
def test_only_a_last_normalize_is_fused(tmp_path, transforms, word):
    with pytest.raises(InputError, match=f'end with {word}'):
        export(random_net(), str(tmp_path), transforms, fuse_preprocess=True)


@paddle3
def test_no_model_is_left_to_other_weights(tmp_path):
    for old_ir in (False, True, False):
        files = export(random_net(), str(tmp_path), [], old_ir=old_ir)
        assert sorted(os.listdir(tmp_path)) == sorted(map(os.path.basename, files))


@paddle3
def test_a_network_that_is_no_pdmodel(tmp_path, monkeypatch):
    def fails(*args, **kwargs):
        raise TypeError('summary\n\nargmax(): argument must be Value')

    monkeypatch.setattr(paddle.jit, 'save', fails)
    with pytest.raises(RunError, match=r'TinyNet cannot be exported as .pdmodel .* must be Value Leave --old_ir out'):
        export(random_net(), str(tmp_path), [], old_ir=True)
    assert paddle.in_dynamic_mode()
    assert os.listdir(tmp_path) == []


def test_size_divisor_as_tested(tmp_path):
    net = random_net()
    net.eval()
    export(net, str(tmp_path), [], output_op='none', size_divisor=8)
    for size in ((37, 53), (44, 3), (64, 40)):
        x = paddle.rand([2, 3, *size])
        wanted = Testing(size_divisor=8).network(net)(x)[0].numpy()
        np.testing.assert_allclose(says(tmp_path, x.numpy()), wanted, atol=1e-5)


@pytest.mark.parametrize('flags, export', [
    (['--fuse_preprocess'],
     {'transforms': [{'type': 'Normalize'}, {'type': 'GenerateInstanceTargets', 'num_classes': NUM_CLASSES}]}),
    (['--fuse_preprocess'], None), pytest.param(['--old_ir', '--fuse_preprocess'], None, marks=paddle3)])
def test_infer_equals_predict(photos, flags, export):
    recipe = make_recipe(photos, export=export)
    assert call('tools/export.py', *recipe, '--save_dir', photos / 'static', *flags) == 0
    call('tools/predict.py', *recipe, '--image_path', photos / 'images', '--save_dir', photos / 'predicted')
    call('deploy/python/infer.py', '--config', photos / 'static/deploy.yaml', '--image_path', photos / 'images',
         '--save_dir', photos / 'inferred', '--enable_mkldnn', 'True', '--cpu_threads', 1)
    for name in SIZES:
        wanted, found = (np.array(Image.open(photos / folder / f'{name}.png'))
                         for folder in ('predicted/pseudo_color_prediction', 'inferred'))
        assert (wanted == found).mean() > 0.999


# whether it says the same

def compared(change, shape=ANY, output_op='none'):
    """Agreement of the random network with a changed one, and the shapes it was asked for."""
    net, asked = random_net(), []

    def run(batch):
        asked.append(batch.shape)
        net.eval()
        logit = net(paddle.to_tensor(batch))[0]
        return change({'argmax': logit.argmax(1), 'softmax': F.softmax(logit, 1), 'none': logit}[output_op].numpy())

    photo = np.random.default_rng(0).random((40, 56, 3)).astype('float32')
    return compare(net, lambda: run, photo, shape, output_op), asked


@pytest.mark.parametrize('shape, asked', [
    (ANY, [(1, 3, 40, 56), (2, 3, 104, 88)]), (FIXED, [tuple(FIXED)]),
    ([4, 3, -1, 64], [(4, 3, 40, 64), (4, 3, 104, 64)]), ([-1, 3, 24, 24], [(1, 3, 24, 24), (2, 3, 24, 24)])])
def test_what_is_compared(shape, asked):
    found, shapes = compared(lambda output: output, shape)
    assert shapes == asked
    assert found.holds
    assert (found.difference, found.equal) == (0, 1)


@pytest.mark.parametrize('output_op, change, equal', [
    ('none', lambda logit: logit + 1, 1), ('none', lambda logit: logit * np.nan, 1),
    ('none', lambda logit: -logit, 0.5),
    ('softmax', lambda prob: prob[:, ::-1], 0.9), ('argmax', lambda classes: (classes + 1) % NUM_CLASSES, 0.01),
    ('argmax', lambda classes: classes + NUM_CLASSES, 0.01)])
def test_differences_are_found(output_op, change, equal):
    found, _ = compared(change, output_op=output_op)
    assert not found.holds
    assert found.equal <= equal
    assert 'have the same class' in str(found)


def test_classes_may_differ_where_logits_hardly_do():
    net = random_net()
    net.head.weight.set_value(paddle.zeros(net.head.weight.shape))
    net.head.bias.set_value(paddle.to_tensor([1., 1 + 1e-5, 0., 0.]))
    found = compare(net, lambda: lambda batch: np.zeros([len(batch), *batch.shape[2:]], 'int32'),
                    np.zeros((8, 8, 3), 'float32'), FIXED, 'argmax')
    assert found.equal == 0
    assert found.holds
    assert found.difference == pytest.approx(1e-5, rel=0.1)


def test_another_answer_is_not_written(photos, capsys, monkeypatch):
    recipe, run = make_recipe(photos), PaddleBackend.run
    monkeypatch.setattr(PaddleBackend, 'run', lambda self, batch: run(self, batch) * 1.01)
    flags = [*recipe, '--output_op', 'none', '--save_dir', photos / 'static']
    assert call('tools/export.py', *flags) == 1
    assert 'largest difference of logits' in capsys.readouterr().err
    assert os.listdir(photos / 'static') == []
    assert call('tools/export.py', *flags, '--verify', 'False') == 0
    assert 'Verified' not in capsys.readouterr().out
    assert 'deploy.yaml' in os.listdir(photos / 'static')


def test_a_model_that_does_not_run_is_not_written(photos, capsys, monkeypatch):
    def fails(self, batch):
        raise ValueError('\n----\nError Message Summary:\n----\nNotFoundError: no kernel\n  [operator < x > error]')

    monkeypatch.setattr(PaddleBackend, 'run', fails)
    assert call('tools/export.py', *make_recipe(photos), '--save_dir', photos / 'static') == 1
    error = capsys.readouterr().err
    assert 'NotFoundError: no kernel' in error
    assert len(error.splitlines()) == 1
    assert os.listdir(photos / 'static') == []
