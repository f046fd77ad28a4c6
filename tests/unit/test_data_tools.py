"""The data tools as a user starts them."""

import os
import pathlib
import subprocess
import sys

import check_data
import make_demo_data
import numpy as np
import prepare_voc
import pytest
import split_dataset
from PIL import Image

from paddleseg_semi.datasets.demo import CLASSES, scene
from paddleseg_semi.errors import InputError

TOOLS = pathlib.Path(__file__).resolve().parents[2] / 'tools'
RECIPE = '''
batch_size: 1
iters: 1
train_dataset: {{type: Dataset, dataset_root: {0}, train_path: {0}/train.txt, num_classes: 6, mode: train,
                 transforms: [{{type: Normalize}}]}}
val_dataset: {{type: Dataset, dataset_root: {0}, val_path: {0}/val.txt, num_classes: 6, mode: val,
               transforms: [{{type: Normalize}}]}}
optimizer: {{type: sgd}}
lr_scheduler: {{type: PolynomialDecay, learning_rate: 0.01}}
loss: {{types: [{{type: CrossEntropyLoss}}], coef: [1]}}
model: {{type: FastSCNN, num_classes: 6, enable_auxiliary_loss: False}}
'''


@pytest.fixture
def demo(tmp_path):
    """A demo set of 8 + 2 images, and its recipe."""
    start(make_demo_data, '--save_dir', tmp_path, '--num_train', 8, '--num_val', 2, '--size', 48, 32)
    (tmp_path / 'recipe.yml').write_text(RECIPE.format(tmp_path))
    return tmp_path


def start(tool, *args):
    return tool.main(tool.parser.parse_args([str(arg) for arg in args]))


def test_scenes_repeat_and_vary():
    image, mask = scene(np.random.default_rng(1), 64, 48)
    again = scene(np.random.default_rng(1), 64, 48)
    assert image.shape == (48, 64, 3) and mask.shape == (48, 64) and image.dtype == mask.dtype == 'uint8'
    assert (image == again[0]).all() and (mask == again[1]).all()
    masks = [scene(np.random.default_rng(i), 64, 48)[1] for i in range(12)]
    assert set(np.unique(masks)) == set(range(len(CLASSES)))


def test_demo_data(demo):
    for name, count in (('train', 8), ('val', 2)):
        lines = (demo / f'{name}.txt').read_text().splitlines()
        assert len(lines) == count
        for line in lines:
            image, label = (Image.open(demo / path) for path in line.split(' '))
            assert image.size == label.size == (48, 32) and label.mode == 'P'
    tags = dict(line.split(' ', 1) for line in (demo / 'tags.txt').read_text().splitlines() if ' ' in line)
    label = np.asarray(Image.open(demo / 'labels/train_00003.png'))
    assert tags['images/train_00003.jpg'] == ' '.join(str(c) for c in np.unique(label) if c)
    assert (demo / 'classes.txt').read_text().split() == list(CLASSES)


def test_demo_data_has_the_same_bytes_for_the_same_seed(demo, tmp_path_factory):
    names = [path.relative_to(demo) for path in sorted(demo.rglob('*')) if path.is_file() and path.suffix != '.yml']
    for seed, equal in ((0, True), (1, False)):
        other = tmp_path_factory.mktemp('other')
        start(make_demo_data, '--save_dir', other, '--num_train', 8, '--num_val', 2, '--size', 48, 32, '--seed', seed)
        assert all((demo / name).read_bytes() == (other / name).read_bytes() for name in names) == equal


@pytest.mark.parametrize('flags', [('--num_train', 0), ('--size', 16, 96), ('--seed', -1)])
def test_bad_demo_flags(tmp_path, flags):
    with pytest.raises(InputError, match=f'{flags[0]} .*give at least'):
        start(make_demo_data, '--save_dir', tmp_path / 'new', *flags)
    assert not (tmp_path / 'new').exists()


def test_split_from_recipe_and_from_list(demo, capsys):
    start(split_dataset, '--config', demo / 'recipe.yml', '--label_ratio', 0.25, '--save_dir', demo / 'a')
    start(split_dataset, '--dataset_root', demo, '--train_path', demo / 'train.txt', '--num_labeled', 2, '--save_dir',
          demo / 'b')
    assert (demo / 'a/labeled.txt').read_text() == (demo / 'b/labeled.txt').read_text()
    assert len((demo / 'a/unlabeled.txt').read_text().splitlines()) == 6
    start(split_dataset, '--config', demo / 'recipe.yml', '--num_labeled', 4, '--stratified', '--save_dir', demo / 'c')
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = [row for row in rows if len(row) == 3 and row[0].isdigit()]
    assert len(rows) == 6 and all(int(labeled) > 0 for _, images, labeled in rows if int(images))


@pytest.mark.parametrize('flags, message', [
    (('--label_ratio', '2'), 'Give --config, or both'),
    (('--label_ratio', '2', '--config', 'recipe.yml'), 'label_ratio 2: give a number above 0'),
    (('--num_labeled', '99', '--config', 'recipe.yml'), '99 labeled images of 8'),
    (('--num_labeled', '2', '--stratified', '--dataset_root', '.', '--train_path', 'train.txt'), 'needs --num_classes'),
    (('--num_labeled', '2', '--dataset_root', '.', '--train_path', 'labels/train_00000.png'), 'not a text file'),
    (('--num_labeled', '2', '--stratified', '--dataset_root', '.', '--train_path', 'train.txt', '--num_classes', '-3'),
     'needs --num_classes'),
    (('--num_labeled', '2', '--config', 'recipe.yml', '--seed', '-1'), '--seed -1'),
])
def test_bad_split_flags(demo, monkeypatch, flags, message):
    monkeypatch.chdir(demo)
    with pytest.raises(InputError, match=message):
        start(split_dataset, *flags, '--save_dir', 'new')
    assert not os.path.exists('new')


@pytest.mark.parametrize('flags', [(split_dataset, '--config', 'recipe.yml', '--num_labeled', 2),
                                   (make_demo_data, '--num_train', 1, '--num_val', 1)])
def test_folder_that_cannot_be_written(demo, monkeypatch, flags):
    monkeypatch.chdir(demo)
    with pytest.raises(InputError, match='--save_dir train.txt.*: cannot be written'):
        start(*flags, '--save_dir', 'train.txt/new')


def test_check_data(demo, capsys):
    assert start(check_data, '--config', demo / 'recipe.yml', '--label_ratio', 0.5) == 0
    out = capsys.readouterr().out
    assert 'labeled: 4 images, 48x32' in out and 'unlabeled: 4 images' in out and 'val: 2 images' in out
    Image.fromarray(np.full([32, 48], 77, 'uint8')).save(demo / 'labels/train_00002.png')
    os.remove(demo / 'images/val_00001.jpg')
    assert start(check_data, '--config', demo / 'recipe.yml') == 2
    out = capsys.readouterr().out
    assert 'train.txt:3: ' in out and 'has label 77' in out and 'val_00001.jpg: no such file' in out
    assert '2 problems' in out


def test_a_reader_that_has_gone(demo):
    """As with `| head`."""
    with subprocess.Popen([sys.executable, TOOLS / 'check_data.py', '--config', demo / 'recipe.yml'], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode == 1
    assert 'nobody reads the output' in error
    assert 'Traceback' not in error


def test_exit_codes_and_no_traceback(demo):
    def tool(name, *args):
        return subprocess.run([sys.executable, TOOLS / f'{name}.py', *map(str, args)], capture_output=True, text=True)

    bad = tool('split_dataset', '--config', demo / 'recipe.yml', '--label_ratio=nan')
    assert bad.returncode == 2 and bad.stderr.splitlines()[-1].startswith('split_dataset.py: label_ratio nan: give')
    assert 'Traceback' not in bad.stderr


@pytest.fixture
def voc(tmp_path, monkeypatch):
    """VOC with 3 + 2 images; 6 with masks of SBD, one of them in train and one in val."""
    monkeypatch.setattr(prepare_voc, 'TRAIN', 3)
    monkeypatch.setattr(prepare_voc, 'VAL', 2)
    monkeypatch.setattr(prepare_voc, 'TRAIN_AUG', 7)
    root = tmp_path / 'VOC2012'
    for folder in ('JPEGImages', 'SegmentationClass', 'SegmentationClassAug', 'ImageSets/Segmentation'):
        (root / folder).mkdir(parents=True)
    (root / 'ImageSets/Segmentation/train.txt').write_text('t1\nt2\nt3')
    (root / 'ImageSets/Segmentation/val.txt').write_text('v1\nv2\n')
    for name in ('t1', 't2', 't3', 'v1', 'v2', 's1', 's2', 's3', 's4'):
        (root / f'JPEGImages/{name}.jpg').touch()
    for name in ('t1', 'v1', 's1', 's2', 's3', 's4'):
        (root / f'SegmentationClassAug/{name}.png').touch()
    return tmp_path


def test_voc_lists(voc):
    for _ in range(2):  # a second run changes nothing
        start(prepare_voc, '--voc_dir', voc)
        assert (voc / 'VOC2012/ImageSets/Segmentation/aug.txt').read_text().split() == ['s1', 's2', 's3', 's4']
        lines = (voc / 'train_aug.txt').read_text().splitlines()
        assert len(lines) == len(set(lines)) == 7
        assert lines[0] == 'VOC2012/JPEGImages/t1.jpg VOC2012/SegmentationClass/t1.png'
        assert lines[6] == 'VOC2012/JPEGImages/s4.jpg VOC2012/SegmentationClassAug/s4.png'


def test_voc_from_sbd(voc):
    from scipy.io import savemat
    for path in (voc / 'VOC2012/SegmentationClassAug').iterdir():
        path.unlink()
    (voc / 'sbd/cls').mkdir(parents=True)
    mask = np.arange(12, dtype='uint8').reshape(3, 4)
    for name in ('t1', 'v1', 's1', 's2', 's3', 's4'):
        savemat(voc / f'sbd/cls/{name}.mat', {'GTcls': {'Segmentation': mask}})
    start(prepare_voc, '--voc_dir', voc, '--sbd_dir', voc / 'sbd')
    made = voc / 'VOC2012/SegmentationClassAug'
    assert sorted(os.listdir(made)) == ['s1.png', 's2.png', 's3.png', 's4.png']
    assert (np.asarray(Image.open(made / 's1.png')) == mask).all()
    (made / 's2.png').unlink()
    (voc / 'sbd/cls/s2.mat').write_bytes(b'not whole')
    with pytest.raises(InputError, match='cls/s2.mat: holds no mask'):
        start(prepare_voc, '--voc_dir', voc, '--sbd_dir', voc / 'sbd')


def test_voc_incomplete(voc, capsys):
    sets = voc / 'VOC2012/ImageSets/Segmentation'
    with pytest.raises(InputError, match='no such folder. Follow the steps'):
        start(prepare_voc, '--voc_dir', voc / 'nowhere')
    assert 'VOCtrainval_11-May-2012.tar' in capsys.readouterr().out
    (voc / 'VOC2012/JPEGImages/s2.jpg').unlink()
    with pytest.raises(InputError, match='s2.jpg: no such file'):
        start(prepare_voc, '--voc_dir', voc)
    (voc / 'VOC2012/SegmentationClassAug/s2.png').unlink()
    with pytest.raises(InputError, match='3 images of train.txt and 3 others with masks are 6, expected 7'):
        start(prepare_voc, '--voc_dir', voc)
    (sets / 'train.txt').write_text('t1\nt2\nt2')
    with pytest.raises(InputError, match='2 different names in 3 lines'):
        start(prepare_voc, '--voc_dir', voc)
    (sets / 'train.txt').write_text('t1\nt2\nv2')
    with pytest.raises(InputError, match='v2 is in train.txt and in val.txt'):
        start(prepare_voc, '--voc_dir', voc)
    assert not (sets / 'aug.txt').exists()
