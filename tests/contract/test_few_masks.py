"""Few masks just work: fewer photos than a batch are repeated, some are held out where no validation list is, and the
lists are made by a tool."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from paddleseg_semi.datasets.holdout import positions

SEMI = ['--method', 'FixMatch', '--do_eval', '--save_interval', 2, '--iters', 4]


def few(toy, labeled, raw=True):
    """Leaves the first masks only, and no validation list."""
    lines = (toy.folder / 'data/train.txt').read_text().splitlines()
    (toy.folder / 'data/train.txt').write_text('\n'.join(lines[:labeled]) + '\n')
    toy.recipe['val_dataset'] = None
    toy.recipe.pop('method', None)
    if raw:
        toy.recipe['semi'] = {'unlabeled': 'data/images'}


def test_fewer_masks_than_a_batch(toy, capfd):
    few(toy, 3)
    toy.recipe['batch_size'] = 7
    assert toy.train(*SEMI) == 0
    out = capfd.readouterr().out
    assert '3 labeled photos are fewer than the 7 of a step: each is in it 2.3 times on average' in out
    assert '3 labeled photos are too few to hold some out (10): the last checkpoint is the model' in out
    whole = toy.files('iter_4')
    assert toy.train(*SEMI[:-2], '--iters', 4, '--num_workers', 2) == 0
    assert toy.files('iter_4') == whole
    assert not (toy.folder / 'run/best_model').exists()


def test_repeating_is_said_once(toy, capfd):
    """By a method whose batches have labeled photos twice, too."""
    few(toy, 3)
    toy.recipe['batch_size'] = 4
    assert toy.train('--method', 'AdvSemiSeg', '--iters', 1) == 0
    assert capfd.readouterr().out.count('3 labeled photos are fewer than the 4 of a step') == 1


def test_fewer_raw_photos_than_a_batch(toy, capfd):
    few(toy, 10)
    toy.recipe['batch_size'] = 8
    assert toy.train(*SEMI) == 0
    assert '5 unlabeled photos are fewer than the 8 of a step' in capfd.readouterr().out


@pytest.mark.parametrize('raw', [True, False])
def test_some_are_held_out(toy, capfd, raw):
    few(toy, 12, raw)
    flags = [*(SEMI if raw else SEMI[2:])]
    assert toy.train(*flags) == 0
    out = capfd.readouterr().out
    assert '3 of 12 labeled photos are held out for validation' in out and '[EVAL] #Images: 3 ' in out
    assert '3 validation photos are too few to tell two models apart' in out
    assert 'labeled 9 images' in out
    held = [line.split('\t')[0] for line in (toy.folder / 'run/split/val.txt').read_text().splitlines()]
    if raw:
        split = (toy.folder / 'run/split/labeled.txt').read_text(), (toy.folder / 'run/split/unlabeled.txt').read_text()
        assert all(name not in part for name in held for part in split)
    whole, record = toy.files('iter_4', 'best_model', 'split'), (toy.folder / 'run/eval.csv').read_text()
    assert [line.split(',')[0] for line in record.splitlines()] == ['iter', '2', '4']
    assert toy.train(*flags, '--resume_model', 'run/iter_2') == 0
    assert toy.files('iter_4', 'best_model', 'split') == whole
    assert (toy.folder / 'run/eval.csv').read_text() == record
    assert toy.call('val', '--config', 'run/config.yml', '--model_path', 'run/best_model') == 0
    assert '[EVAL] #Images: 3 ' in capfd.readouterr().out


def test_holding_out_is_part_of_a_run(toy, refused):
    """Without --do_eval nothing is held out: that is another training set."""
    few(toy, 12, raw=False)
    assert toy.train(*SEMI[2:]) == 0
    refused('--iters', 4, '--resume_model', 'latest', says='all labeled but')


@pytest.mark.parametrize('count, wanted', [(10, 3), (12, 3), (25, 5), (40, 8)])
def test_every_class_stays_labeled(count, wanted, tmp_path):
    class Base:
        num_classes, ignore_index, dataset_root, file_list = 4, 255, str(tmp_path), []

    for i in range(count):
        mask = np.zeros([6, 6], 'uint8')
        mask[0, 0] = 3 if i == 4 else i % 3  # one image alone has class 3
        Image.fromarray(mask).save(tmp_path / f'{i}.png')
        Base.file_list = [*Base.file_list, [str(tmp_path / f'{i}.png')] * 2]
    labeled = list(range(count))
    held = positions(Base, labeled, 0)
    assert held == positions(Base, labeled, 0) != positions(Base, labeled, 1)
    assert len(held) == wanted and 4 not in held
    shown = {int(np.asarray(Image.open(Base.file_list[k][1]))[0, 0]) for k in held}
    assert shown >= {1, 2}


def test_lists(toy, capfd):
    folder = toy.folder / 'mine'
    for name in ('a b', 'sub/one', 'sub/two', 'four', 'five', 'six'):
        path = folder / 'photos' / f'{name}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (48, 40), (9, 99, 200)).save(path)
        if name not in ('five', 'six'):
            path = folder / 'masks' / f'{name}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new('L', (48, 40), len(name) % 3).save(path)
    Image.new('L', (4, 4)).save(folder / 'masks/lost.png')
    flags = ['--images', 'mine/photos', '--masks', 'mine/masks', '--save_dir', 'mine']
    assert toy.call('make_lists', *flags, '--val_ratio', 0.5) == 0
    out = capfd.readouterr().out
    assert '2 photos with masks for training, 2 for validation, 2 without' in out and 'lost.png' in out
    assert (folder / 'unlabeled.txt').read_text() == 'photos/five.jpg\nphotos/six.jpg\n'
    assert 'photos/a b.jpg\tmasks/a b.png\n' in (folder / 'train.txt').read_text()
    toy.recipe.pop('method')
    told = yaml.safe_load(out[out.index('For your recipe:') + len('For your recipe:'):])
    for key, section in told.items():
        toy.recipe[key] = {**toy.recipe.get(key, {}), **section}
    assert toy.train(*SEMI) == 0
    assert toy.call('make_lists', *flags) == 0
    out = capfd.readouterr().out
    assert '4 photos with masks for training, 0 for validation' in out and 'val_dataset: null' in out
    assert json.dumps(yaml.safe_load(out[out.index('For your recipe:') + len('For your recipe:'):]))


@pytest.mark.parametrize('flags, says', [
    (['--images', 'data/images', '--masks', 'nowhere'], '--masks nowhere: no such folder'),
    (['--images', 'data/images', '--masks', 'data/labels', '--val_ratio', 0.7], '--val_ratio 0.7'),
    (['--images', 'data/images', '--masks', 'other'], 'no mask is called like a photo')])
def test_lists_are_refused(toy, refused, flags, says):
    (toy.folder / 'other').mkdir()
    refused(*flags, '--save_dir', 'run', tool='make_lists', says=says)
