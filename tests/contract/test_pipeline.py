"""tools/pipeline.py with the stages of ST and ST++: what it writes, that it can be killed, and what it says."""

import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml
from paddleseg.datasets import Dataset
from PIL import Image

from paddleseg_semi.cvlibs.stages import read_pipeline
from paddleseg_semi.stages.select_reliable import SelectReliable

from .conftest import ONE_THREAD, ROOT, Toy, communicate, one_line, snapshot

STPP = ROOT / 'configs/stpp/stpp.yml'
STAGES = ['sup', 'reliable', 'label_1', 'retrain_1', 'label_2', 'retrain_2']
# Ends its own process the hard way, at the n-th call of one of the package's functions.
KILLER = '''
import os, signal, sys
sys.path[:0] = [{tools!r}, {root!r}]
import cli, pipeline
import importlib
owner = importlib.import_module({module!r})
for name in {names!r}[:-1]:
    owner = getattr(owner, name)
name, calls, function = {names!r}[-1], [], getattr(owner, {names!r}[-1])
def once_too_often(*args, **kwargs):
    result = function(*args, **kwargs)
    calls.append(args)
    if len(calls) == {count}:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(owner, name, once_too_often)
cli.run(pipeline.main, pipeline.parser)
'''


def flags(toy, *more, config=STPP, ratio=0.5):
    toy.recipe.pop('method', None)
    toy.flags()  # writes the recipe
    return ['--config', config, '--recipe', 'recipe.yml', '--label_ratio', ratio, '--iters', 3, '--save_dir', 'run',
            *ONE_THREAD, '--opts', 'sup.save_interval=1/3', *more]


def products(toy):
    """{path: content} of all stages, without what holds times of day."""
    return {path.relative_to(toy.folder): content for path, content in snapshot(toy.folder / 'run').items()
            if path.name != 'train.log'}


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A toy on which ST++ ran to its end."""
    toy = Toy(tmp_path_factory.mktemp('finished'))
    assert toy.call('pipeline', *flags(toy)) == 0
    return toy


@pytest.fixture
def copied(finished, tmp_path):
    """The same, to be damaged. Paths in lists and recipes stay those of the finished one."""
    shutil.rmtree(finished.folder / 'copy', ignore_errors=True)
    shutil.copytree(finished.folder / 'run', finished.folder / 'copy')
    yield finished
    shutil.rmtree(finished.folder / 'run')
    (finished.folder / 'copy').rename(finished.folder / 'run')


def test_every_stage_is_done(finished):
    run = finished.folder / 'run'
    assert all((run / stage / 'done.json').is_file() for stage in STAGES)
    assert sorted(path.name for path in (run / 'sup').glob('iter_*')) == ['iter_1', 'iter_2', 'iter_3']
    reliable, unreliable = ((run / f'reliable/{name}.txt').read_text().split() for name in ('reliable', 'unreliable'))
    assert len(reliable) == 3 and sorted(reliable + unreliable) == sorted(
        (run / 'sup/split/unlabeled.txt').read_text().split())
    assert not list(run.rglob('*.tmp'))


def test_products_are_ordinary_data_sets(finished, monkeypatch):
    monkeypatch.chdir(finished.folder)
    data = Dataset('train', 'run/label_2', [], 3, train_path='run/label_2/list.txt')
    assert len(data) == 3
    for sample, (image, mask) in zip(data, data.file_list):
        assert sample['img'].shape[1:] == sample['label'].shape and sample['label'].max() < 3
        assert Path(mask).is_relative_to('run/label_2/masks') and Image.open(mask).mode == 'P'
        assert Path(image).samefile(finished.folder / 'data/images' / Path(mask).with_suffix('.jpg').name)


def test_oracle(copied, capfd):
    """True masks are opened when asked for, and change nothing."""
    masks = snapshot(copied.folder / 'run/label_2/masks')
    assert copied.call('pipeline', *flags(copied), '--from', 'label_2', '--oracle') == 0
    line = next(line for line in capfd.readouterr().out.splitlines() if '[ORACLE]' in line)
    pairs = [(np.array(Image.open(copied.folder / 'data/labels' / path.name)), np.array(Image.open(path)))
             for path in masks]
    hits, known = (sum(counts) for counts in zip(*(((a == b).sum(), (a < 3).sum()) for a, b in pairs)))
    assert '3 of 3' in line and f'Acc: {hits / known:.4f}' in line
    assert snapshot(copied.folder / 'run/label_2/masks') == masks


def test_a_second_run_does_nothing(finished, capfd):
    before = {path: path.stat().st_mtime_ns for path in (finished.folder / 'run').rglob('*')}
    assert finished.call('pipeline', *flags(finished)) == 0
    assert capfd.readouterr().out.count('is complete') == len(STAGES)
    assert {path: path.stat().st_mtime_ns for path in (finished.folder / 'run').rglob('*')} == before


@pytest.mark.parametrize('stage, function, count', [
    ('sup', 'paddleseg_semi.core.checkpoint:Checkpoints.save', 2),
    ('reliable', 'paddleseg_semi.core.predict:save_mask', 8),  # in the second of three checkpoints
    ('label_1', 'paddleseg_semi.core.predict:save_mask', 20),
    ('retrain_2', 'paddleseg_semi.core.checkpoint:Checkpoints.save', 8)])
def test_killed_and_run_again(finished, tmp_path, stage, function, count):
    module, names = function.split(':')
    toy = Toy(tmp_path)
    script = KILLER.format(tools=str(ROOT / 'tools'), root=str(ROOT), module=module, names=names.split('.'),
                           count=count)
    code, _, err = communicate(toy.start('-c', script, *flags(toy)))
    assert code == -signal.SIGKILL, err
    assert (tmp_path / f'run/{stage}/started.json').exists() and not (tmp_path / f'run/{stage}/done.json').exists()
    assert toy.call('pipeline', *flags(toy)) == 0
    wanted = {path: content.replace(str(finished.folder).encode(), str(tmp_path).encode())
              for path, content in products(finished).items()}
    ours = products(toy)
    assert ours.keys() == wanted.keys()
    for path in wanted:
        assert ours[path] == wanted[path] or path.name in ('started.json', 'done.json'), path


def test_other_inputs_make_a_stage_and_those_after_it_again(copied):
    run = copied.folder / 'run'
    sup = snapshot(run / 'sup')
    assert copied.call('pipeline', *flags(copied, 'reliable.keep=0.34')) == 0
    assert snapshot(run / 'sup') == sup
    assert {path.name for path in run.glob('*.earlier_1')} == {f'{stage}.earlier_1' for stage in STAGES[1:]}
    assert len((run / 'label_1/list.txt').read_text().splitlines()) == 2


def test_from(copied):
    run = copied.folder / 'run'
    masks = snapshot(run / 'label_2/masks')
    assert copied.call('pipeline', *flags(copied), '--from', 'label_2') == 0
    assert sorted(path.name for path in run.glob('*.earlier_1')) == ['label_2.earlier_1', 'retrain_2.earlier_1']
    assert snapshot(run / 'label_2/masks') == masks


def test_checkpoints_of_a_folder_whose_name_looks_like_a_pattern(copied, monkeypatch):
    monkeypatch.chdir(copied.folder)
    shutil.copytree('run/sup', 'sup[1]')
    assert SelectReliable('sup[1]/iter_*/', 'sup[1]/split/unlabeled.txt').inputs()[1:] == \
        SelectReliable('run/sup/iter_*', 'run/sup/split/unlabeled.txt').inputs()[1:]
    shutil.rmtree('sup[1]')


def refused(toy, capfd, says, *args):
    before = snapshot(toy.folder / 'run')
    capfd.readouterr()
    assert toy.call('pipeline', *args) == 2
    one_line(capfd.readouterr().err, says)
    assert snapshot(toy.folder / 'run') == before


@pytest.mark.parametrize('product, says', [
    ('sup/best_model', ['label_1', 'sup/best_model', '--from sup']),
    ('sup/config.yml', ['sup/config.yml', 'no such file']),
    ('sup/split/unlabeled.txt', ['label', 'unlabeled.txt', '--from sup']),
    ('sup/iter_1', ['reliable', '2 iter_N folders', 'count is 3'])])
def test_a_missing_product_is_one_line(copied, capfd, product, says):
    path = copied.folder / 'run' / product
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    refused(copied, capfd, says, *flags(copied), '--from', 'label_1' if 'best' in product else 'reliable')


def test_from_needs_the_stages_before(toy, capfd):
    refused(toy, capfd, ['sup', 'not complete', '--from label_1'], *flags(toy), '--from', 'label_1')
    refused(toy, capfd, ['no such stage', 'Did you mean "label_1"?'], *flags(toy), '--from', 'labels_1')


@pytest.mark.parametrize('option, says', [
    ('sup.save_interval=4/3', ['stage "sup"', 'save_interval', '1/3']),
    ('sup.itres=4', ['sup', 'itres', 'Did you mean "iters"?']),
    ('spu.iters=4', ['spu', 'Did you mean "sup"?']),
    ('sup.type=Trane', ['sup', 'Trane', 'Did you mean "Train"?']),
    ('reliable.count=1', ['reliable', 'count', '2']),
    ('reliable.keep=2', ['reliable', 'keep', '0 to 1']),
    ('label_1.scales=[0]', ['label_1', 'scales', 'above 0']),
    ('label_1.model=@retrain_1/best_model', ['stages label_1, retrain_1, label_1', 'waits']),
    ('label_1.model=@supp/best_model', ['label_1', 'no stage "supp"', 'Did you mean "sup"?']),
    ('sup.opts=iters=3', ['sup', 'opts: iters=3', 'section']),
    ('sup.config=none.yml', ['sup', 'none.yml', 'no such file']),
    ('sup.method=Advsemiseg2', ['sup', 'Advsemiseg2'])])
def test_a_bad_setting_is_one_line(toy, capfd, option, says):
    refused(toy, capfd, says, *flags(toy, option))


@pytest.mark.parametrize('pipeline, says', [
    ({'stage': {}}, ['stage', '"stages"']), ({'stages': ['sup']}, ['"stages"']),
    ({'stages': {}, 'defaults': 3}, ['"defaults"']),
    ({'stages': {'sup': 'Train'}}, ['sup', 'type']), ({'stages': {'../sup': {'type': 'Train'}}}, ['../sup', 'letters']),
    ({'stages': {'sup': {'type': 'PseudoLabel', 'files': 'data'}}}, ['sup', '"model" is missing']),
    ({'stages': {'sup': {'type': 'Train'}}, 'defaults': {'scale': 1}}, ['defaults.scale', 'no stage'])])
def test_a_bad_pipeline_is_one_line(toy, capfd, pipeline, says):
    (toy.folder / 'pipeline.yml').write_text(yaml.safe_dump(pipeline))
    args = flags(toy, config='pipeline.yml')
    refused(toy, capfd, says, *args[:args.index('--opts')])


def test_stages_wait_for_those_they_name(toy, monkeypatch):
    flags(toy)
    monkeypatch.chdir(toy.folder)
    stages = yaml.safe_load(STPP.read_text())['stages']
    backwards = {'stages': dict(reversed(stages.items()))}
    (toy.folder / 'backwards.yml').write_text(yaml.safe_dump(backwards, sort_keys=False))
    order = list(read_pipeline('backwards.yml', 'run', config='recipe.yml', label_ratio=0.5).steps)
    for name, settings in stages.items():
        for owner in re.findall('@([^/]*)/', str(settings)):
            assert order.index(owner) < order.index(name)


def test_raw_images_of_any_folder(toy, monkeypatch):
    """Images outside dataset_root keep their names apart, and blanks in them do no harm."""
    for folder in ('raw a', 'raw b'):
        (toy.folder / folder).mkdir()
        shutil.copy(toy.image(0), toy.folder / folder / 'photo 1.jpg')
    (toy.folder / 'raw.txt').write_text(f'{toy.folder}/raw a/photo 1.jpg\n{toy.folder}/raw b/photo 1.jpg\n')
    stages = {'sup': {'type': 'Train'}, 'label': {'type': 'PseudoLabel', 'model': '@sup/best_model', 'scales': [1.0],
                                                  'files': 'raw.txt'},
              'retrain': {'type': 'Train', 'extra_labeled': '@label/list.txt'}}
    (toy.folder / 'pipeline.yml').write_text(yaml.safe_dump({'stages': stages}, sort_keys=False))
    before = snapshot(toy.folder / 'raw a')
    assert toy.call('pipeline', *flags(toy, config='pipeline.yml')) == 0
    assert snapshot(toy.folder / 'raw a') == before and len(list((toy.folder / 'run/label/masks').rglob('*.png'))) == 2
    monkeypatch.chdir(toy.folder)
    data = Dataset('train', 'run/label', [], 3, train_path='run/label/list.txt', separator='\t')
    assert len({mask for _, mask in data.file_list}) == 2
    np.testing.assert_array_equal(data[0]['label'], data[1]['label'])


def test_two_ranks_label_as_one_does(toy):
    stages = {'sup': {'type': 'Train'}, 'label': {'type': 'PseudoLabel', 'model': '@sup/best_model',
                                                  'files': '@sup/split/unlabeled.txt'}}
    (toy.folder / 'pipeline.yml').write_text(yaml.safe_dump({'stages': stages}, sort_keys=False))
    args = flags(toy, config='pipeline.yml')
    code, out, err = toy.finish('-m', 'paddle.distributed.launch', '--nproc_per_node', 2, '--log_dir', 'log',
                                ROOT / 'tools/pipeline.py', *args, start_new_session=True)
    assert code == 0, out + err + ''.join(path.read_text() for path in (toy.folder / 'log').glob('workerlog.*'))
    masks = snapshot(toy.folder / 'run/label')
    assert sum(path.suffix == '.png' for path in masks) == 6
    assert toy.call('pipeline', *args, '--from', 'label') == 0
    assert snapshot(toy.folder / 'run/label') == masks
