"""tools/compare.py on results that are known: the truth itself, and nothing but background."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
SIZE, PHOTOS = (48, 32), 5  # width and height; more photos than rows


@pytest.fixture
def recipe(tmp_path):
    """A recipe with its val_dataset, and results of two models below tmp_path."""
    make = [sys.executable, REPOSITORY / 'tools/make_demo_data.py', '--save_dir', tmp_path / 'data', '--num_train', '1',
            '--num_val', str(PHOTOS), '--size', *map(str, SIZE)]
    subprocess.run(make, check=True, capture_output=True)
    shutil.copytree(tmp_path / 'data/labels', tmp_path / 'right/images')
    for path in (tmp_path / 'right/images').glob('*.png'):
        mask = Image.open(path)
        empty = Image.fromarray(np.zeros_like(np.array(mask)), 'P')
        empty.putpalette(mask.getpalette())
        (tmp_path / 'empty/images').mkdir(parents=True, exist_ok=True)
        empty.save(tmp_path / 'empty/images' / path.name)
    dic = yaml.safe_load((REPOSITORY / 'configs/_base_/datasets/demo.yml').read_text())
    for part in ('train', 'val'):
        dic[f'{part}_dataset'].update({'dataset_root': str(tmp_path / 'data'),
                                       f'{part}_path': str(tmp_path / f'data/{part}.txt')})
    dic.update(model={'type': 'FastSCNN'}, optimizer={'type': 'SGD'}, loss={'types': [{'type': 'CrossEntropyLoss'}],
               'coef': [1]}, lr_scheduler={'type': 'PolynomialDecay', 'learning_rate': 0.1})
    (tmp_path / 'recipe.yml').write_text(yaml.safe_dump(dic))
    return tmp_path / 'recipe.yml'


def compare(recipe, *folders):
    return subprocess.run([sys.executable, REPOSITORY / 'tools/compare.py', '--config', recipe, '--save_dir', 'out',
                           '--rows', '2', '--results', *folders], cwd=recipe.parent, capture_output=True, text=True)


@pytest.mark.parametrize('order, verdict', [(('empty', 'right'), 'Higher, by one run.'),
                                            (('right', 'empty'), 'did NOT help.')])
def test_table_and_picture(recipe, order, verdict):
    done = compare(recipe, *order)
    assert done.returncode == 0, done.stderr
    assert verdict in done.stdout
    table = (recipe.parent / 'out/compare.md').read_text().splitlines()
    assert table[0] == f'|  | {order[0]} | {order[1]} |'
    assert table[-1].split(' | ')[1 + order.index('right')].rstrip(' |') == '1.0000'
    picture = Image.open(recipe.parent / 'out/compare.png')
    assert picture.width == 4 * 5 * SIZE[0] and picture.height > 2 * 5 * SIZE[1]  # large enough to be seen


def test_missing_result_is_one_line(recipe):
    (recipe.parent / 'right/images/val_00003.png').unlink()
    done = compare(recipe, 'right')
    assert done.returncode == 2
    assert 'right/images/val_00003.png' in done.stderr.splitlines()[-1]
    assert not (recipe.parent / 'out').exists()


@pytest.mark.parametrize('kind', ['size', 'class', 'truncated', 'colors'])
def test_result_of_another_kind_is_one_line(recipe, kind):
    path = recipe.parent / 'right/images/val_00003.png'
    mask = np.array(Image.open(path))
    if kind == 'truncated':
        path.write_bytes(path.read_bytes()[:-20])
    else:
        Image.fromarray({'size': mask[:20], 'class': mask + 6, 'colors': np.dstack([mask] * 3)}[kind]).save(path)
    done = compare(recipe, 'right')
    assert done.returncode == 2 and 'Traceback' not in done.stderr
    assert 'right/images/val_00003.png' in done.stderr.splitlines()[-1]
    assert not (recipe.parent / 'out').exists()


def test_gray_masks(recipe):
    for folder in ('data/labels', 'right/images'):
        for path in (recipe.parent / folder).glob('*.png'):
            Image.fromarray(np.array(Image.open(path))).save(path)
    assert compare(recipe, 'right').returncode == 0
