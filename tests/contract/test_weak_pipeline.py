"""From tags to masks by tools/pipeline.py: what stages write, that they go on where they stopped, what they refuse."""

import copy
import csv
import shutil
import subprocess

import numpy as np
import pytest
import yaml
from paddleseg.datasets import Dataset
from PIL import Image

from paddleseg_semi.core import cams, crf, walk
from paddleseg_semi.datasets.extra import read_list
from paddleseg_semi.datasets.maps import read_maps, write_maps
from paddleseg_semi.errors import InputError
from paddleseg_semi.stages import images, make_cam
from paddleseg_semi.stages.make_cam import MakeCam
from paddleseg_semi.stages.score import Score
from paddleseg_semi.stages.train import Train

from .conftest import ONE_THREAD, RECIPE, Toy, communicate, one_line, snapshot

BACKBONE = {'type': 'MobileNetV3_small_x0_35'}
STAGES = {
    'localizer': {'type': 'Train', 'config': 'localizer.yml'},
    'cam': {'type': 'MakeCam', 'model': '@localizer', 'scales': [1.0, 1.5]},
    'crf': {'type': 'Refine', 'maps': '@cam/list.txt', 'iters': 2},
    'affinity': {'type': 'Train', 'config': 'affinity.yml', 'opts': {
        'model.pretrained': '@localizer/model.pdparams', 'semi.scores.low': '@crf/crf_4',
        'semi.scores.high': '@crf/crf_24'}},
    'walk': {'type': 'RandomWalk', 'model': '@affinity', 'maps': '@cam/list.txt', 'crf': 1},
    'score': {'type': 'Score', 'config': 'localizer.yml', 'of': {
        'cam': '@cam/list.txt', 'crf': '@crf/list.txt', 'walk': '@walk/list.txt'}},
}


def flags(toy, stages=STAGES, *more):
    """Writes the recipes and the pipeline."""
    recipe = {key: value for key, value in copy.deepcopy(RECIPE).items() if key not in ('loss', 'method')}
    recipe.update(iters=2, model={'type': 'CAMNet', 'backbone': BACKBONE}, method={'type': 'EADER'},
                  semi={'tags': 'data/tags.txt'})
    write(toy, 'localizer', recipe)
    recipe.pop('val_dataset')
    write(toy, 'affinity', {**recipe, 'method': {'type': 'Affinity', 'radius': 2}, 'semi': {'scores': {
        'low': 'none', 'high': 'none'}}, 'model': {
            'type': 'AffinityNet', 'backbone': BACKBONE, 'backbone_indices': [1], 'channels': [8]}})
    write(toy, 'pipeline', {'stages': stages})
    toy.recipe.pop('method', None)
    toy.flags()
    return ['--config', 'pipeline.yml', '--save_dir', 'run', *ONE_THREAD, *more]


def write(toy, name, content):
    (toy.folder / f'{name}.yml').write_text(yaml.safe_dump(content, sort_keys=False))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    toy = Toy(tmp_path_factory.mktemp('weak'))
    tags = (f'images/{i:02d}.jpg {"1 2" if i % 3 else 1 + i % 2}\n' for i in range(15))
    (toy.folder / 'data/tags.txt').write_text(''.join(tags))
    assert toy.call('pipeline', *flags(toy)) == 0
    return toy


@pytest.fixture
def copied(finished):
    """The same, to be damaged."""
    shutil.copytree(finished.folder / 'run', finished.folder / 'copy')
    yield finished
    shutil.rmtree(finished.folder / 'run')
    (finished.folder / 'copy').rename(finished.folder / 'run')


def test_products(finished, monkeypatch):
    monkeypatch.chdir(finished.folder)
    assert not list((finished.folder / 'run').rglob('*.tmp'))
    items = read_list('run/cam/list.txt')
    assert [maps for _, maps in items] == [f'run/cam/cam/images/{i:02d}.npz' for i in range(12)]
    for i, (_, maps) in enumerate(items):
        classes, maps = read_maps(maps)
        assert classes.tolist() == ([1, 2] if i % 3 else [1 + i % 2]) and maps.shape == (len(classes), 40, 48)
        assert maps.min() >= 0 and maps.max() <= 1
        for alpha in (4, 24):
            refined = read_maps(f'run/crf/crf_{alpha}/images/{i:02d}.npz')
            assert refined[0].tolist() == [0, *classes]
            np.testing.assert_allclose(refined[1].sum(0), 1, atol=1e-5)
    for stage in ('crf', 'walk'):
        data = Dataset('train', f'run/{stage}', [], 3, train_path=f'run/{stage}/list.txt')
        assert len(data) == 12
        for i, (_, mask) in enumerate(data.file_list):
            found = np.unique(Image.open(mask))
            assert Image.open(mask).size == (48, 40) and set(found) <= ({0, 1, 2} if i % 3 else {0, 1 + i % 2})
    for stage in ('cam', 'crf', 'walk', 'score'):
        assert Image.open(f'run/{stage}/contact_sheet.png').size[0] % 240 == 0


def test_masks_are_those_of_the_functions(finished, monkeypatch):
    monkeypatch.chdir(finished.folder)
    classes, maps = cams.with_background(*read_maps('run/cam/cam/images/01.npz'), 4)
    image = np.asarray(Image.open('data/images/01.jpg'))
    scores = crf.dense_crf(maps, image, iters=2)
    assert np.array_equal(read_maps('run/crf/crf_4/images/01.npz')[1], scores)
    assert np.array_equal(Image.open('run/crf/masks/images/01.png'), np.array(classes)[scores.argmax(0)])


def test_scores(finished):
    """The true masks of the training list say how good every stage is."""
    folder = finished.folder / 'run/score'
    with open(folder / 'scores.csv') as file:
        rows = list(csv.reader(file))
    assert rows[0] == ['list', 'images', 'mIoU', 'Acc', '0', '1', '2']
    assert [row[:2] for row in rows[1:]] == [['cam', '12'], ['crf', '12'], ['walk', '12']]
    truth, masks = (np.stack([np.asarray(Image.open(finished.folder / folder / f'{i:02d}.png')) for i in range(12)])
                    for folder in ('data/labels', 'run/walk/masks/images'))
    known = truth != 255
    assert float(rows[3][3]) == pytest.approx(100 * (truth == masks)[known].mean(), abs=1e-3)
    with open(folder / 'cam_curve.csv') as file:
        curve = list(csv.reader(file))[1:]
    assert float(rows[1][2]) == pytest.approx(max(float(row[1]) for row in curve), abs=1e-3)
    assert (folder / 'cam_curve.png').is_file()


class Stopped(BaseException):
    """As a kill, it is expected by nobody."""


@pytest.mark.parametrize('stage, place, count', [
    ('cam', 'make_cam.write_maps', 5), ('crf', 'refine.write_maps', 6), ('walk', 'random_walk.save_mask', 7)])
def test_stopped_and_run_again(copied, monkeypatch, stage, place, count):
    run, names = copied.folder / 'run', list(STAGES)
    for name in names[names.index(stage):]:
        shutil.rmtree(run / name)
    module, function = place.split('.')
    module = f'paddleseg_semi.stages.{module}.{function}'
    original, calls = getattr(__import__(module.rpartition('.')[0], fromlist='_'), function), []

    def once_too_often(*args):
        calls.append(args)
        if len(calls) >= count:
            raise Stopped
        original(*args)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(module, once_too_often)
        copied.call('pipeline', *flags(copied))
    assert (run / stage / 'started.json').exists() and not (run / stage / 'done.json').exists()
    left = {path: path.stat().st_mtime_ns for path in (run / stage).rglob('*.*g')}
    assert copied.call('pipeline', *flags(copied)) == 0
    kept = [path for path, time in left.items() if path.stat().st_mtime_ns == time]
    assert len(kept) >= len(left) - 2 * images.cores(), 'images that were done are not done again'
    wanted = {path.relative_to(copied.folder / 'copy'): content
              for path, content in snapshot(copied.folder / 'copy').items() if path.name != 'train.log'}
    assert {path.relative_to(run): content for path, content in snapshot(run).items()
            if path.name != 'train.log'} == wanted


@pytest.mark.parametrize('size, height', [((1, 600), 1), ((5000, 1), 960), ((40, 48), 200)])
def test_contact_sheet_of_images_of_any_shape(tmp_path, size, height):
    images.contact_sheet(str(tmp_path), [('a',)] * 2, ['image'], lambda _: [np.zeros([*size, 3], 'uint8')])
    assert Image.open(tmp_path / 'contact_sheet.png').size == (240, 18 + 2 * height)


def test_killed_when_made_anew(copied, monkeypatch):
    """What comes after the stage is not taken from before, though nothing that is asked for has changed."""
    content = copied.image(1).read_bytes()
    copied.image(1).write_bytes(copied.image(2).read_bytes())
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr('paddleseg_semi.stages.make_cam.finish', lambda *args: (_ for _ in ()).throw(Stopped))
        copied.call('pipeline', *flags(copied), '--from', 'cam')
    assert copied.call('pipeline', *flags(copied)) == 0
    copied.image(1).write_bytes(content)
    run = copied.folder / 'run'
    for product in ('cam/cam/images/{}.npz', 'crf/crf_24/images/{}.npz', 'walk/masks/images/{}.png'):
        assert (run / product.format('01')).read_bytes() == (run / product.format('02')).read_bytes()


def test_ranks_share_the_images(tmp_path, monkeypatch):
    """Also when one has made products before another looks what there is to do."""
    paths = [tmp_path / str(i) for i in range(9)]
    paths[4].touch()
    monkeypatch.setattr(images.dist, 'get_world_size', lambda: 2)
    monkeypatch.setattr(images.parallel, 'barrier', lambda: None)
    done = []
    for rank in (1, 0):
        monkeypatch.setattr(images.dist, 'get_rank', lambda rank=rank: rank)
        images.each(lambda item: done.append(item[0]) or item[2].touch(), [('name', 'image', path) for path in paths])
    assert all(path.exists() for path in paths) and len(done) == 8


def test_other_maps_make_the_stages_after_them_again(copied):
    stages = {**STAGES, 'cam': {**STAGES['cam'], 'flip': False}}
    assert copied.call('pipeline', *flags(copied, stages)) == 0
    assert {path.name.partition('.')[0] for path in (copied.folder / 'run').glob('*.earlier_1')} == {*STAGES} - {
        'localizer'}


def test_all_that_a_training_depends_on_is_its_input(copied, monkeypatch):
    monkeypatch.chdir(copied.folder)
    flags(copied)
    train, weights = copied.folder / 'data/train.txt', copied.folder / 'run/localizer/model.pdparams'
    tags = copied.folder / 'data/tags.txt'

    def inputs(**settings):
        return Train('localizer.yml', **settings).inputs()

    def inputs_after(path, change):
        before = path.read_bytes()
        path.write_bytes(change(before))
        found = inputs()
        path.write_bytes(before)
        return found

    opts = ['model.pretrained=run/localizer/model.pdparams']
    before, pretrained = inputs(), inputs(opts=opts)
    assert inputs() == before
    assert inputs_after(tags, lambda text: text.replace(b'01.jpg 1 2', b'01.jpg 2')) != before
    assert inputs_after(train, lambda text: text[text.index(b'\n') + 1:]) != before
    assert inputs_after(train, lambda text: b''.join(line.split()[0] + b'\n' for line in text.splitlines())) == before
    assert inputs(precision='bf16') != before and inputs(keep_checkpoint_max=3) != before
    weights.write_bytes(weights.read_bytes() + b'.')
    assert inputs(opts=opts) != pretrained and inputs() == before


def test_tags_of_one_image_are_not_those_of_the_next(finished, monkeypatch):
    monkeypatch.chdir(finished.folder)
    found = []
    for rows in ([[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]):
        monkeypatch.setattr(make_cam, 'read_tags', lambda *args, rows=rows: np.array(rows))
        found.append(MakeCam('run/localizer').inputs())
    assert found[0] != found[1]


def test_an_image_listed_twice_has_its_maps_once(copied, monkeypatch):
    train = copied.folder / 'data/train.txt'
    text = train.read_text()
    train.write_text(text.replace('02', '00'))
    args = flags(copied, {name: STAGES[name] for name in ('localizer', 'cam')})
    recipe = yaml.safe_load((copied.folder / 'localizer.yml').read_text())
    write(copied, 'localizer', {**recipe, 'semi': {'tags': 'masks'}})
    assert copied.call('pipeline', *args) == 0
    train.write_text(text)
    monkeypatch.chdir(copied.folder)
    items = read_list('run/cam/list.txt')
    assert [image[-6:-4] for image, _ in items] == [maps[-6:-4] for _, maps in items] == [
        f'{i:02d}' for i in range(12) if i != 2]


def test_true_masks_that_came_later_are_scored(copied, capfd):
    train = copied.folder / 'data/train.txt'
    text = train.read_text()
    train.write_text(''.join(line.split()[0] + '\n' for line in text.splitlines()))
    assert copied.call('pipeline', *flags(copied)) == 0
    assert capfd.readouterr().out.count('none of the 12 images has a true mask') == 3
    train.write_text(text)
    assert copied.call('pipeline', *flags(copied)) == 0
    assert capfd.readouterr().out.count('#Images: 12') == 3


def test_masks_beside_a_few_true_ones(finished):
    """The bridge: masks made of tags are labels of any method; images that have a true mask keep it."""
    assert finished.train('--label_ratio', 0.25, '--method', 'FixMatch', '--extra_labeled', 'run/walk/list.txt',
                          '--iters', 2, '--save_dir', 'bridge') == 0
    log = (finished.folder / 'bridge/train.log').read_text()
    assert 'iter: 2/2' in log or (finished.folder / 'bridge/iter_2').exists()
    assert len((finished.folder / 'bridge/split/labeled.txt').read_text().splitlines()) == 3


def test_a_folder_whose_name_looks_like_a_pattern(finished):
    shutil.copytree(finished.folder / 'run', finished.folder / 'run[1]')
    args = flags(finished, STAGES, '--from', 'score')
    args[args.index('run')] = 'run[1]'
    assert finished.call('pipeline', *args) == 0
    shutil.rmtree(finished.folder / 'run[1]')


def test_two_pipelines_in_one_folder(finished, capfd):
    holder = finished.start('-c', 'from filelock import FileLock; lock = FileLock("run/lock").acquire(); '
                            'print(flush=True); input()', stdin=subprocess.PIPE)
    holder.stdout.readline()
    before = snapshot(finished.folder / 'run')
    capfd.readouterr()
    assert finished.call('pipeline', *flags(finished, STAGES, '--from', 'cam')) == 2
    one_line(capfd.readouterr().err, ['--save_dir run', 'another pipeline is running there'])
    assert snapshot(finished.folder / 'run') == before
    communicate(holder)


@pytest.fixture
def refused(copied, capfd):
    def check(says, stages=STAGES, start='cam'):
        args = flags(copied, stages, '--from', start)
        capfd.readouterr()
        assert copied.call('pipeline', *args) == 2
        one_line(capfd.readouterr().err, says)
    return check


def changed(stage, **settings):
    return {**STAGES, stage: {**STAGES[stage], **settings}}


@pytest.mark.parametrize('stage, settings, says', [
    ('cam', {'scales': [0]}, 'scales: [0]: give a list'), ('cam', {'model': 'none'}, 'none/model.pdparams: no'),
    ('crf', {'alphas': 4}, 'alphas: 4: give some'), ('crf', {'iters': -1}, 'iters: -1'),
    ('crf', {'gaussian': [3]}, 'gaussian: [3]: give 2'), ('walk', {'maps': 'none.txt'}, 'none.txt: cannot be read'),
    ('walk', {'beta': 0}, 'beta: 0'), ('walk', {'log_steps': 0.5}, 'log_steps: 0.5'), ('score', {'of': []}, 'of: []'),
    ('score', {'of': {'a/b': '@cam/list.txt'}}, 'names without "/"'), ('score', {'of': {'cam': None}}, 'None'),
    ('walk', {'maps': None}, '"maps" is missing'), ('cam', {'model': 3}, 'model: 3: expected a path'),
    ('walk', {'alpha': float('nan')}, 'alpha: nan'), ('cam', {'scales': [float('inf')]}, 'scales: [inf]')])
def test_wrong_settings(refused, stage, settings, says):
    refused([f'stage "{stage}"', says], changed(stage, **settings), start=stage)


def test_a_trained_network_does_without_the_weights_it_began_with(copied):
    (copied.folder / 'run/localizer/model.pdparams').unlink()
    assert copied.call('pipeline', *flags(copied), '--from', 'walk') == 0


def test_missing_products(copied, refused):
    run = copied.folder / 'run'
    write_maps(str(run / 'cam/cam/images/03.npz'), [1], np.zeros([1, 4, 4]))
    refused(['stage "walk"', '03.npz: 1 maps of [4, 4] for an image of [40, 48]'], start='walk')
    (run / 'cam/cam/images/03.npz').unlink()
    refused(['stage "walk"', '03.npz: no such file'], start='walk')
    (run / 'cam/cam/images/03.npz').write_bytes(b'PK')
    refused(['stage "crf"', '03.npz: holds no score maps'], start='crf')
    (run / 'cam/list.txt').write_text('images/00.jpg\n')
    refused(['stage "crf"', 'cam/list.txt:1: "images/00.jpg" has 1 columns'], start='crf')
    (run / 'cam/list.txt').unlink()
    refused(['stage "crf"', 'cam/list.txt: no such file. It is a product of stage "cam"'], start='crf')
    (run / 'localizer/config.yml').unlink()
    refused(['stage "cam"', 'localizer/config.yml: no such file'])


@pytest.mark.parametrize('mask, says', [
    (None, 'No such file'), (np.zeros([4, 4]), 'is [4, 4], not [40, 48]'),
    (np.zeros([40, 48, 3]), 'is [40, 48, 3], not [40, 48]')])
@pytest.mark.parametrize('of', ['cam', 'walk'])
def test_wrong_true_masks(copied, refused, mask, says, of):
    content = copied.mask(3).read_bytes()
    copied.mask(3).unlink()
    if mask is not None:
        Image.fromarray(mask.astype('uint8')).save(copied.mask(3))
    refused(['stage "score"', '03.png: ', says], changed('score', of={of: f'@{of}/list.txt'}), start='score')
    copied.mask(3).write_bytes(content)


def test_nothing_to_compare(copied, capfd):
    for i in range(12):
        copied.mask(i).rename(copied.mask(i).with_suffix('.gone'))
    text = (copied.folder / 'data/train.txt').read_text()
    (copied.folder / 'data/train.txt').write_text(''.join(f'images/{i:02d}.jpg\n' for i in range(12)))
    assert copied.call('pipeline', *flags(copied), '--from', 'score') == 0
    assert capfd.readouterr().out.count('none of the 12 images has a true mask') == 3
    (copied.folder / 'data/train.txt').write_text(text)
    for i in range(12):
        copied.mask(i).with_suffix('.gone').rename(copied.mask(i))


def test_walk_runs_on_scores(finished, monkeypatch):
    """What the stage asks of the library."""
    seen = []
    monkeypatch.setattr(walk, 'refine', lambda net, img, maps, **options: seen.append((img, options)) or maps)
    stages = {'walk': {**STAGES['walk'], 'model': 'run/affinity', 'maps': 'run/cam/list.txt', 'crf': False}}
    with monkeypatch.context() as patch:
        patch.chdir(finished.folder)
    args = flags(finished, stages)
    args[args.index('run')] = 'other'
    finished.call('pipeline', *args)
    assert seen and seen[0][0].shape == (3, 40, 48) and abs(seen[0][0]).max() <= 1
    assert seen[0][1] == {'alpha': 6, 'beta': 8, 'log_steps': 6, 'radius': 2}
    shutil.rmtree(finished.folder / 'other')


def test_images_of_any_list_are_mapped_walked_and_scored(copied, capfd):
    """Those of val have no part in the training; those of train, by their ids, have masks in its list."""
    (copied.folder / 'part.txt').write_text('03\n05\n')
    stages = {**STAGES, 'cam_val': {'type': 'MakeCam', 'model': '@localizer', 'scales': [1.0], 'files': 'data/val.txt'},
              'walk_val': {'type': 'RandomWalk', 'model': '@affinity', 'maps': '@cam_val/list.txt'},
              'score_val': {'type': 'Score', 'config': 'localizer.yml', 'files': 'data/val.txt', 'of': {
                  'cam': '@cam_val/list.txt', 'walk': '@walk_val/list.txt', 'train': '@walk/list.txt'}},
              'score_part': {'type': 'Score', 'config': 'localizer.yml', 'files': 'part.txt', 'of': {
                  'walk': '@walk/list.txt'}}}
    assert copied.call('pipeline', *flags(copied, stages)) == 0
    out = capfd.readouterr().out
    assert 'train: none of the 12 images has a true mask' in out
    assert (copied.folder / 'run/cam_val/list.txt').read_text().count('\n') == 3
    for stage, numbers in (('score_val', [12, 13, 14]), ('score_part', [3, 5])):
        with open(copied.folder / f'run/{stage}/scores.csv') as file:
            rows = {row['list']: row for row in csv.DictReader(file)}
        source = 'walk_val' if stage == 'score_val' else 'walk'
        truth, masks = (np.stack([np.asarray(Image.open(copied.folder / folder / f'{i:02d}.png')) for i in numbers])
                        for folder in ('data/labels', f'run/{source}/masks/images'))
        assert int(rows['walk']['images']) == len(numbers)
        assert float(rows['walk']['Acc']) == pytest.approx(100 * (truth == masks)[truth != 255].mean(), abs=1e-3)


@pytest.mark.parametrize('text, words', [
    ('images/12.jpg labels/99.png\n', ['part.txt:1', 'labels/99.png']), ('77\n', ['part.txt:1', '"77"']),
    ('', ['part.txt', 'empty']), ('03\n03\n', ['twice'])])
def test_lists_of_images_that_cannot_be_used(finished, monkeypatch, text, words):
    monkeypatch.chdir(finished.folder)
    flags(finished)
    (finished.folder / 'part.txt').write_text(text)
    for stage in (Score('localizer.yml', {'walk': 'run/walk/list.txt'}, 'part.txt'),
                  MakeCam('run/localizer', files='part.txt')):
        with pytest.raises(InputError) as error:
            stage.inputs()
        assert all(word in str(error.value) for word in words)


def test_tags_of_a_list_may_be_elsewhere(finished, monkeypatch):
    monkeypatch.chdir(finished.folder)
    found = [MakeCam('run/localizer', files='data/val.txt', tags=tags).inputs()[1] for tags in (None, 'masks')]
    assert [[image for image, _ in items] for items in found] == [[f'data/images/{i}.jpg' for i in (12, 13, 14)]] * 2
    assert found[0] != found[1]
