"""Files from strangers: every door through which a pickle could come in stays shut; nothing is executed."""

import os
import pickle
import shutil
from collections import OrderedDict

import numpy as np
import paddle
import pytest

from paddleseg_semi import safe

from .conftest import HALF, ROOT, one_line


class Claim:
    """Pickled, it is an array whose bytes claim to be addresses of objects: dropping it follows them."""

    class DType:
        def __reduce__(self):
            fields = {'a': (np.dtype('O'), 0)}
            return np.dtype, ('V8', False, True), (3, '|', None, ('a',), fields, 8, 8, 0x11)

    def __reduce__(self):
        build, start, _ = np.empty(0).__reduce__()
        return build, start, (1, (1,), self.DType(), False, b'AAAAAAAA')


class Bomb:
    """Pickled, it asks whoever reads it to run a command."""

    def __init__(self, marker):
        self.command = f'touch {marker}'

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture
def marker(toy):
    """The file a bomb would make. It must not be there at the end."""
    path = toy.folder / 'executed'
    yield path
    assert not path.exists()


def bombs(marker):
    """Contents of several disguises: alone, among weights, behind them, in an array of objects, as a method's name."""
    weights = OrderedDict(weight=np.zeros([2, 2], 'float32'))
    array = np.empty(1, object)
    array[0] = Bomb(marker)
    return {'alone': pickle.dumps(Bomb(marker)),
            'among': pickle.dumps({**weights, 'bias': Bomb(marker)}, protocol=2),
            'behind': pickle.dumps([weights, [1, {'x': (Bomb(marker),)}]], protocol=4),
            'array': pickle.dumps({'weight': array}),
            'builtins': b'cbuiltins\nexec\n(S"open(%r, \'w\')"\ntR.' % str(marker).encode(),
            'dotted': b'\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.'}


DISGUISES = sorted(bombs('x'))


def test_the_bombs_are_live(toy):
    path = toy.folder / 'executed'
    for name, content in bombs(path).items():
        if name != 'dotted':
            pickle.loads(content)
            assert path.exists(), name
            path.unlink()


def test_addresses_in_an_array(toy):
    """In a process of its own, for it died."""
    (toy.folder / 'model.pdparams').write_bytes(pickle.dumps({'weight': Claim()}))
    code, _, err = toy.finish('-c', f'import sys; sys.path.insert(0, {str(ROOT)!r})\n'
                              'from paddleseg_semi import safe; safe.load("model.pdparams")')
    assert code == 1 and 'nothing was executed' in err


def test_lists_that_swell(tmp_path):
    """A hundred bytes that would be 2 ** 60 lists if each were copied where it is named."""
    content = [1]
    for _ in range(60):
        content = [content, content]
    (tmp_path / 'ids.pkl').write_bytes(pickle.dumps(content))
    assert safe.load(tmp_path / 'ids.pkl')


@pytest.mark.parametrize('protocol', range(5))
@pytest.mark.parametrize('content', [
    np.arange(6.).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3)), np.arange(3, dtype='>i4'),
    np.float32(2), np.int64(3), np.array(['a', 'bc']), np.array([True]), np.array(5)], ids=repr)
def test_harmless_arrays(tmp_path, content, protocol):
    (tmp_path / 'a.pdparams').write_bytes(pickle.dumps({'a': content, 'b': ('name', content)}, protocol))
    read = safe.load(tmp_path / 'a.pdparams')
    assert type(read['a']) is type(content) and read['a'].dtype.kind == content.dtype.kind
    np.testing.assert_array_equal(read['a'], content)
    assert not isinstance(content, np.ndarray) or type(read['b']) is np.ndarray


@pytest.mark.parametrize('disguise', DISGUISES)
@pytest.mark.parametrize('tool', ['val', 'predict', 'export'])
def test_weights(toy, marker, refused, tool, disguise):
    (toy.folder / 'model.pdparams').write_bytes(bombs(marker)[disguise])
    toy.flags()
    images = ['--image_path', 'data/images'] if tool == 'predict' else []
    refused('--config', 'recipe.yml', '--model_path', 'model.pdparams', '--device', 'cpu', *images, tool=tool,
            says=['model.pdparams', 'refused', 'nothing was executed'])


@pytest.mark.parametrize('disguise', DISGUISES)
@pytest.mark.parametrize('section', ['model', 'backbone'])
def test_pretrained(toy, marker, refused, section, disguise):
    (toy.folder / 'weights.pdparams').write_bytes(bombs(marker)[disguise])
    model = toy.recipe['model']
    (model if section == 'model' else model['backbone'])['pretrained'] = 'weights.pdparams'
    refused(*HALF, says=['weights.pdparams', 'refused', 'nothing was executed'])


@pytest.mark.parametrize('backbone', ['VisionTransformer', 'CAE'])
def test_pretrained_transformer(toy, marker, refused, backbone):
    """PaddleSeg reads the files of these with a paddle.load of its own."""
    (toy.folder / 'weights.pdparams').write_bytes(bombs(marker)['among'])
    toy.recipe['model'] = {'type': 'SegmentationTransformer', 'num_classes': 3, 'backbone': {
        'type': backbone, 'depth': 1, 'embed_dim': 12, 'num_heads': 2, 'img_size': 32,
        'pretrained': 'weights.pdparams'}}
    refused(says=['weights.pdparams', 'refused', 'nothing was executed'])


@pytest.mark.parametrize('disguise', DISGUISES)
def test_split(toy, marker, refused, disguise):
    for name in ('split.pkl', 'split.txt'):  # a pickle is known by its first byte too
        content = bombs(marker)[disguise]
        if name.endswith('.pkl') or content.startswith(b'\x80'):
            (toy.folder / name).write_bytes(content)
            refused(*HALF, '--split_ids', name, says=[name, 'refused', 'nothing was executed'])


@pytest.fixture(scope='module')
def trained(shared_toy):
    assert shared_toy.train(*HALF, '--iters', 2, '--use_ema') == 0
    return shared_toy.folder / 'run'


@pytest.mark.parametrize('disguise', DISGUISES)
@pytest.mark.parametrize('part', ['model.pdopt', 'model.pdstates', 'method.pdparams', 'ema_model.pdparams'])
def test_checkpoint(toy, trained, marker, refused, part, disguise):
    shutil.copytree(trained, toy.folder / 'run')
    (toy.folder / 'run/iter_2' / part).write_bytes(bombs(marker)[disguise])
    (toy.folder / 'run/iter_2/SHA256SUMS').unlink()  # who makes a file can make its digest
    refused(*HALF, '--iters', 2, '--use_ema', '--resume_model', 'latest',
            says=[part, 'refused', 'nothing was executed'])


def test_recipe_inside_a_checkpoint(toy, trained, marker, refused):
    """model.pdstates holds the recipe as YAML."""
    shutil.copytree(trained, toy.folder / 'run')
    (toy.folder / 'run/iter_2/SHA256SUMS').unlink()
    path = str(toy.folder / 'run/iter_2/model.pdstates')
    paddle.save({**safe.load(path), 'config': f'!!python/object/apply:os.system ["touch {marker}"]'}, path)
    refused(*HALF, '--iters', 2, '--use_ema', '--resume_model', 'latest', says=['model.pdstates', 'does not come from'])


@pytest.mark.parametrize('tag', ['object/apply:os.system ["touch {}"]', 'object/new:os.system ["touch {}"]',
                                 'name:os.system', 'module:os'])
@pytest.mark.parametrize('place', ['recipe', 'base', 'option'])
def test_yaml_tags(toy, marker, refused, tag, place):
    value = '!!python/' + tag.format(marker)
    if place == 'option':  # parsed as a literal: what is none stays text
        refused('--opts', f'batch_size={value}', says=['batch_size', 'whole number'])
        return
    (toy.folder / 'bad.yml').write_text(f'iters: 6\nbatch_size: {value}\n')
    if place == 'base':
        toy.recipe['_base_'] = 'bad.yml'
        refused(says=['bad.yml:2', 'not valid YAML', 'python'])
    else:
        refused('--config', 'bad.yml', says=['bad.yml:2', 'not valid YAML', 'python'])


def test_deploy_yaml(toy, marker):
    (toy.folder / 'deploy.yaml').write_text(f'Deploy:\n  model: !!python/object/apply:os.system ["touch {marker}"]\n')
    code, _, err = toy.finish(ROOT / 'deploy/python/infer.py', '--config', 'deploy.yaml', '--image_path', 'data/images',
                              '--device', 'cpu')
    assert code == 2
    one_line(err, 'deploy.yaml')
