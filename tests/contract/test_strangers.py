"""What strangers send executes nothing: no string of a recipe, of a run's config.yml or of weights is code."""

import ast
import importlib
import io
import pickle
import shutil
from pathlib import Path

import paddle
import paddleseg
import pytest
import yaml
from paddle import nn
from paddleseg.models import layers
from paddleseg.models.backbones import cae, vision_transformer

from paddleseg_semi import compat, safe
from paddleseg_semi.deploy.bundle import Bundle
from paddleseg_semi.errors import InputError

from .conftest import HALF

PADDLESEG = Path(paddleseg.__file__).parent
CODE = ('eval', 'exec', 'compile', '__import__', 'import_module', 'system', 'popen', 'check_output', 'Popen',
        'run_path', 'load', 'loads', 'unsafe_load', 'full_load', 'extract', 'extractall', 'unpack_archive')
FINE = {  # (file, call): why nothing of a stranger gets there; what is named eval is tested by itself
    ('deploy/infer.py', 'yaml.load'): 'FullLoader makes plain values; deploy.yaml is read by our own reader',
    ('cvlibs/config.py', 'yaml.load'): 'SemiConfig reads recipes by safe_load',
    ('datasets/pssl.py', 'np.load'): 'NumPy refuses pickled arrays by default',
    ('models/backbones/vision_transformer.py', 'paddle.load'): 'replaced in compat.py',
    ('models/backbones/cae.py', 'paddle.load'): 'replaced in compat.py',
    ('utils/utils.py', 'paddle.load'): 'of load_pretrained_model, which is replaced; resume is not called',
    ('utils/download.py', 'files.extract'): 'download_pretrained_model and download_file_and_uncompress are replaced',
    ('utils/env/sys_env.py', 'subprocess.check_output'): 'fixed commands',
}


def calls(path):
    """Yields the dotted names of all calls of a file whose last part may run or unpack something."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            own = name.startswith('self.') or name.rpartition('.')[0] in ('re', 'json')
            if name.rpartition('.')[2] in CODE and not own and not (name.endswith('.eval') and not node.args):
                yield name


def test_every_place_in_paddleseg_that_could_run_something_is_known():
    """13. A newer PaddleSeg cannot bring one unseen."""
    found = {(str(path.relative_to(PADDLESEG)), name) for path in PADDLESEG.rglob('*.py') for name in calls(path)}
    evaluated = {key for key in found if key[1] in ('eval', 'exec')}
    assert len(evaluated) >= 4
    assert found - evaluated == set(FINE)
    for file, name in evaluated:
        module = importlib.import_module('paddleseg.' + file.removesuffix('.py').replace('/', '.'))
        assert vars(module)[name] in (compat.named_layer, compat._refuse), f'{file} calls {name} of its own'


def test_layers_by_name():
    assert compat.named_layer('nn.LayerNorm') is nn.LayerNorm
    assert compat.named_layer('layers.ConvBNReLU') is layers.ConvBNReLU
    assert isinstance(compat.named_layer('nn.layer.activation.ReLU()'), nn.ReLU)
    assert isinstance(layers.Activation('relu6').act_func, nn.ReLU6)
    block = vision_transformer.Block(8, 2, norm_layer='nn.LayerNorm')
    assert isinstance(block.norm1, nn.LayerNorm)


HOSTILE = ["(__import__('os').system('touch X'), nn.LayerNorm)[1]", "nn.LayerNorm if open('X', 'w') else 0",
           'nn.LayerNorm()()', "nn.__dict__['LayerNorm']", 'nn.functional', 'paddle.nn.LayerNorm', 'nn.initializer',
           'nn.LayerNorm\n', 'open', '', 'layers.__builtins__', None, 3]


@pytest.mark.parametrize('text', HOSTILE)
def test_no_other_text_is_evaluated(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match='nothing was executed'):
        compat.named_layer(text)
    for network in (vision_transformer.Block, cae.Block):
        with pytest.raises(InputError):
            network(8, 2, norm_layer=text)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('model', [
    {'type': 'LinearSegmenter', 'backbone': {'type': 'ViT_small_patch16_224', 'norm_layer': HOSTILE[0]}},
    {'type': 'PPLiteSeg', 'backbone': {'type': 'STDC1'}, 'arm_type': 'UAFM, open("X", "w")'},
    {'type': 'MobileSeg', 'backbone': {'type': 'MobileNetV3_small_x0_35'}, 'arm_type': '__builtins__'}],
    ids=lambda model: model['type'] + '-' + model['backbone']['type'])
def test_a_recipe_executes_nothing(model, toy, refused):
    """13. Neither train.py nor, of another run, what a pipeline reads of its config.yml."""
    toy.recipe['model'] = {**model, 'num_classes': 3}
    refused(*HALF, says='Not support arm_type' if model['type'] == 'PPLiteSeg' else 'is not the name of a layer')
    assert not list(toy.folder.rglob('X'))


def test_weights_of_vision_transformers_execute_nothing(tmp_path):
    """13. PaddleSeg reads them a second time."""
    class Harm:
        def __reduce__(self):
            return Path.touch, (tmp_path / 'X',)

    (tmp_path / 'net.pdparams').write_bytes(pickle.dumps({'pos_embed': Harm()}))
    for backbone in (vision_transformer.VisionTransformer, cae.CAE):
        with paddle.LazyGuard(), pytest.raises(InputError, match='nothing was executed'):
            backbone(pretrained=str(tmp_path / 'net.pdparams'))
    assert not (tmp_path / 'X').exists()
    with pytest.raises(InputError):
        vision_transformer.VisionTransformer.init_weight.__globals__['read_weights'](str(tmp_path / 'net.pdparams'))


GROWING = {
    'bytes': b'\x80\x04\x8e' + (2 ** 40).to_bytes(8, 'little') + b'.',
    'bytearray': b'\x80\x05\x96' + (2 ** 32).to_bytes(8, 'little') + b'.',
    'frame': b'\x80\x04\x95' + (2 ** 40).to_bytes(8, 'little') + b'N.',
    'tuples': b'\x80\x02}K\x01\x85' + b''.join(b'q%ch%c\x86' % (n, n) for n in range(60)) + b'K\x01s.',
    'copies': b'\x80\x02](c_codecs\nencode\nq\x01X\x00\x00\x10\x00' + b'a' * 2 ** 20
              + b'q\x02X\x06\x00\x00\x00latin1\x86q\x04R' + b'h\x01h\x04R' * 20 + b'e.',
}


@pytest.mark.parametrize('content', GROWING.values(), ids=GROWING)
def test_a_small_pickle_stays_small(content, tmp_path):
    """15. Whatever lengths and copies it names."""
    (tmp_path / 'net.pdparams').write_bytes(content)
    with pytest.raises(InputError):
        safe.load(str(tmp_path / 'net.pdparams'))


def test_a_memo_is_no_larger_than_its_pickle(tmp_path):
    """15. The unpickler in C makes room for two billion entries here."""
    (tmp_path / 'net.pdparams').write_bytes(b'\x80\x02Nr\xff\xff\xff\x7f.')
    assert safe.load(str(tmp_path / 'net.pdparams')) is None


BOMBS = {'deep': '[' * 5000, 'deep block': ''.join('\n' + ' ' * n + 'a:' for n in range(100)), 'itself': 'a: &a [*a]',
         'aliases': 'a0: &a0 [1, 1]' + ''.join(f'\na{n + 1}: &a{n + 1} [*a{n}, *a{n}]' for n in range(40)),
         'long': '#' * (2 ** 24 + 1), 'number': 'a: ' + '9' * 5000, 'date': 'a: 2001-13-45'}


@pytest.mark.parametrize('text', BOMBS.values(), ids=BOMBS)
def test_yaml_has_limits(text):
    """16. Of depth, of length, and of what aliases repeat."""
    with pytest.raises(yaml.YAMLError):
        safe.read_yaml(io.StringIO(text))


@pytest.mark.parametrize('model', ['/etc/passwd', '../model.json', 'deploy.yaml', 'a\0.json', 3, ['model.json']])
def test_a_bundle_names_files_beside_it_only(model, tmp_path):
    """16. Paddle Inference ends the process at files that are no model."""
    path = tmp_path / 'deploy.yaml'
    path.write_text(yaml.safe_dump({'Deploy': {'model': model, 'params': 'model.pdiparams', 'transforms': []}}))
    with pytest.raises(InputError, match='model'):
        Bundle.read(str(path))


@pytest.mark.parametrize('kind', ['PascalVOC', 'ADE20K', 'OpticDiscSeg', 'DRIVE'])
@pytest.mark.parametrize('root', ['data/none', None])
def test_no_data_set_is_fetched(kind, root, toy, refused):
    """PaddleSeg would, over http too, and unpack it wherever its names lead."""
    toy.recipe['train_dataset'] = {'type': kind, 'dataset_root': root, 'transforms': [{'type': 'Normalize'}]}
    toy.recipe['model']['num_classes'] = toy.recipe['val_dataset']['num_classes'] = {
        'PascalVOC': 21, 'ADE20K': 150}.get(kind, 2)
    refused(says=['dataset_root', 'Download http'])
    assert not (toy.folder / 'data/none').exists()


@pytest.mark.parametrize('name', ['lock', 'split', 'pictures', 'train.log', 'vdlrecords.1.log'])
def test_a_run_folder_does_not_lead_elsewhere(name, toy, refused):
    """16. What a training writes to would be the file or folder that a link names."""
    (toy.folder / 'run').mkdir()
    mine = toy.folder / 'mine'
    if name in ('split', 'pictures'):
        mine.mkdir()
        mine = mine / 'labeled.txt'
    mine.write_text('of the user')
    (toy.folder / 'run' / name).symlink_to(toy.folder / 'mine')
    refused('--label_ratio', 0.5, says=['--save_dir run', 'link'])
    assert mine.read_text() == 'of the user'


def test_checkpoints_elsewhere_stay(toy):
    """16. Those that a link names are no older ones of this run."""
    assert toy.train('--label_ratio', 0.5, '--iters', 3, '--save_interval', 1) == 0
    (toy.folder / 'mine').mkdir()
    (toy.folder / 'mine/method.pdparams').touch()
    shutil.rmtree(toy.folder / 'run/iter_3')
    shutil.rmtree(toy.folder / 'run/iter_1')
    (toy.folder / 'run/iter_1').symlink_to(toy.folder / 'mine')
    assert toy.train('--label_ratio', 0.5, '--iters', 3, '--save_interval', 1, '--keep_checkpoint_max', 1,
                     '--resume_model', 'run/iter_2') == 0
    assert (toy.folder / 'mine/method.pdparams').exists()
