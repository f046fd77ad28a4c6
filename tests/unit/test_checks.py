"""Checks of lists and files: every typical mistake gives its own line, and masks of the unlabeled part stay closed."""

import os
import re

import numpy as np
import pytest
from paddleseg.datasets import ADE20K, Dataset
from PIL import Image

from paddleseg_semi.datasets import checks
from paddleseg_semi.datasets.split import Split
from paddleseg_semi.errors import InputError


@pytest.fixture
def root(tmp_path):
    """A data set of 8 training and 2 validation images, 3 classes."""
    rng = np.random.default_rng(0)
    for folder in ('images', 'labels'):
        os.makedirs(tmp_path / folder)
    for i in range(10):
        save(tmp_path / f'images/{i}.jpg', rng.integers(0, 256, [12, 16, 3]))
        save(tmp_path / f'labels/{i}.png', rng.choice([0, 1, 2, 255], [12, 16]))
    for name, numbers in (('train', range(8)), ('val', range(8, 10))):
        (tmp_path / f'{name}.txt').write_text(''.join(f'images/{i}.jpg labels/{i}.png\n' for i in numbers))
    return tmp_path


def save(path, array):
    Image.fromarray(np.asarray(array, 'uint8')).save(path)


def section(root, mode='train', **more):
    return {'type': 'Dataset', 'mode': mode, 'dataset_root': str(root), f'{mode}_path': f'{root}/{mode}.txt', **more}


def dataset(root, mode='train'):
    options = section(root, mode)
    options.pop('type')
    return Dataset(transforms=[], num_classes=3, **options)


def check(root, seed=0, **options):
    base, val = dataset(root), dataset(root, 'val')
    checks.quick(base, Split.draw(base, 0.5, seed), val, str(root / 'train.txt'), str(root / 'val.txt'), **options)


def labeled(root):
    base = dataset(root)
    return Split.draw(base, 0.5, 0).labeled


def test_good_data(root):
    check(root)
    checks.quick(dataset(root))
    for mode in ('train', 'val'):
        assert checks.list_files(section(root, mode)) == str(root / f'{mode}.txt')
    assert checks.list_files({'type': 'Cityscapes'}) is None


def test_masks_of_the_unlabeled_part_may_be_missing(root):
    kept = labeled(root)
    for i in set(range(8)) - set(kept):
        os.remove(root / f'labels/{i}.png')
    base = dataset(root)
    check(root)
    report = checks.full(base, Split.draw(base, 0.5, 0), dataset(root, 'val'))
    assert not report.problems
    with pytest.raises(InputError, match=r'labels/\d.png: no such file \(4 missing files'):
        checks.quick(base)


@pytest.mark.parametrize('text, message', [
    ('images/0.jpg labels/0.png\n\nimages/1.jpg labels/1.png', 'train.txt:2: a blank line'),
    ('images/0.jpg labels/0.png\nimages/1.jpg', r'train.txt:2: "images/1.jpg" has 1 columns .* one image and one mask'),
    ('images/0.jpg  labels/0.png', 'train.txt:1: .* has 3 columns'),
    ('images/0.jpg\tlabels/0.png', r"has 1 columns .* Set separator: '\\t'"),
    ('images/0.jpg,labels/0.png', "Set separator: ','"),
    ('', 'train.txt: the list is empty'),
    ('\ufeffimages/0.jpg labels/0.png', 'train.txt:1: begins with a mark of byte order'),
])
def test_bad_list_file(root, text, message):
    (root / 'train.txt').write_text(text)
    with pytest.raises(InputError, match=message):
        checks.list_files(section(root))


def test_bad_section(root, monkeypatch):
    with pytest.raises(InputError, match='nowhere": no such folder'):
        checks.list_files(section(root / 'nowhere'))
    with pytest.raises(InputError, match='needs train_path'):
        checks.list_files(section(root, train_path=None))
    with pytest.raises(InputError, match='other.txt: cannot be read'):
        checks.list_files(section(root, train_path=str(root / 'other.txt')))
    with pytest.raises(InputError, match='separator is empty'):
        checks.list_files(section(root, separator=''))
    monkeypatch.chdir(root)
    os.makedirs('sub')
    with pytest.raises(InputError, match='not under dataset_root "sub"'):
        checks.list_files(section('sub', train_path='train.txt'))


def damage_image(root, i):
    data = (root / f'images/{i}.jpg').read_bytes()
    (root / f'images/{i}.jpg').write_bytes(data[:len(data) * 2 // 3])


def no_image(root, i):
    (root / f'images/{i}.jpg').write_text('<html>404</html>')


def no_mask(root, i):
    (root / f'labels/{i}.png').write_text('')


def remove_image(root, i):
    os.remove(root / f'images/{i}.jpg')


def label_38(root, i):
    save(root / f'labels/{i}.png', np.full([12, 16], 38))


def rgb_mask(root, i):
    save(root / f'labels/{i}.png', np.zeros([12, 16, 3]))


def small_mask(root, i):
    save(root / f'labels/{i}.png', np.zeros([6, 8]))


def one_bit_mask(root, i):
    Image.fromarray(np.ones([12, 16], bool)).save(root / f'labels/{i}.png')


@pytest.mark.parametrize('harm, message', [
    (one_bit_mask, 'labels/#.png: has 1 bit per pixel'),
    (damage_image, 'images/#.jpg: cannot be decoded .*[Tt]runcated'),
    (no_image, 'images/#.jpg: cannot be decoded .*cannot identify'),
    (no_mask, 'labels/#.png: cannot be decoded'),
    (remove_image, r'images/#.jpg: no such file \(1 missing'),
    (label_38, 'labels/#.png: has label 38, but num_classes is 3 and ignore_index 255'),
    (rgb_mask, r'labels/#.png: is an RGB mask \(12x16x3\)'),
    (small_mask, r'images/#.jpg is 16x12, but its mask .*labels/#.png is 8x6'),
])
def test_bad_file_is_named_with_its_line(root, harm, message):
    i = labeled(root)[1]
    harm(root, i)
    pattern = rf'train.txt:{i + 1}: .*' + message.replace('#', str(i))
    with pytest.raises(InputError, match=pattern) as caught:
        check(root)
    assert '\n' not in str(caught.value)
    base = dataset(root)
    report = checks.full(base, Split.draw(base, 0.5, 0), train_list=str(root / 'train.txt'))
    assert len(report.problems) == 1 and re.search(pattern.replace(r' \(1 missing', ''), report.problems[0])


def test_mask_of_0_and_255(root):
    base = dataset(root)
    base.ignore_index = -1
    save(root / 'labels/0.png', np.eye(12, 16) * 255)
    with pytest.raises(InputError, match='saved as 0 and 255'):
        checks.quick(base)


def test_masks_of_floats(root):
    for i in range(10):
        mask = Image.fromarray(np.asarray(Image.open(root / f'labels/{i}.png')).astype('float32'))
        mask.save(root / f'labels/{i}.png', 'TIFF')
    check(root)


def test_images_without_masks(root):
    (root / 'val.txt').write_text('images/8.jpg\n')
    val = Dataset('test', str(root), [], 3, test_path=str(root / 'val.txt'))
    with pytest.raises(InputError, match='val.txt: has no mask for .*images/8.jpg'):
        checks.quick(dataset(root), val=val, val_list=str(root / 'val.txt'))


def test_photo_turned_by_exif(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(root / 'images/0.jpg').save(root / 'images/0.jpg', exif=exif)
    with pytest.raises(InputError, match='is 12x16, but its mask'):
        checks.quick(dataset(root))
    save(root / 'labels/0.png', np.zeros([16, 12]))
    checks.quick(dataset(root))


def test_overlap_with_validation(root, caplog):
    os.symlink(root / 'images', root / 'same')  # another spelling of the same files
    kept = labeled(root)
    with open(root / 'val.txt', 'a') as file:
        file.write(f'same/{kept[0]}.jpg labels/{kept[0]}.png\n')
    with pytest.raises(InputError, match=rf'train.txt:{kept[0] + 1}: .* labeled and in the val part as well \(1 such'):
        check(root)
    checks.quick(dataset(root), val=dataset(root, 'val'))  # supervised: a warning only
    base = dataset(root)
    assert len(checks.full(base, val=dataset(root, 'val')).warnings) == 1

    other = (set(range(8)) - set(kept)).pop()
    (root / 'val.txt').write_text(f'images/{other}.jpg labels/{other}.png\n')
    check(root)
    report = checks.full(base, Split.draw(base, 0.5, 0), dataset(root, 'val'))
    assert report.warnings == ['1 unlabeled images are validation images as well, which flatters the score.']


def test_overlap_of_parts(root):
    base = dataset(root)
    split = Split.draw(base, 0.5, 0)
    both = Split(split.labeled, [*split.unlabeled, base.file_list[split.labeled[0]][0]], '', '')
    with pytest.raises(InputError, match='is labeled and in the unlabeled part'):
        checks.quick(base, both)


def test_no_labeled_images(root):
    empty = dataset(root)
    empty.file_list = []
    with pytest.raises(InputError, match='labeled part is empty'):
        checks.quick(empty)
    with pytest.raises(InputError, match='val part is empty'):
        checks.quick(dataset(root), val=empty)


def test_report_counts_classes(root):
    base = dataset(root)
    save(root / 'images/0.jpg', np.zeros([6, 8, 3]))
    save(root / 'labels/0.png', np.full([6, 8], 255))
    for i in range(1, 8):
        save(root / f'labels/{i}.png', np.eye(12, 16) * (i % 2))
    report = checks.full(base, val=dataset(root, 'val'))
    assert report.images == {'labeled': 8, 'val': 2} and report.sizes == {'labeled': '8x6 to 16x12', 'val': '16x12'}
    assert report.pixels['labeled'].tolist() == [7 * 192 - 48, 48, 0]
    assert report.presence['labeled'].tolist() == [7, 4, 0]
    assert 'No labeled image holds class 2' in report.warnings[0]
    assert checks.class_presence(base)[:3].tolist() == [[False] * 3, [True, True, False], [True, False, False]]


def test_dataset_with_its_own_decoding(tmp_path):
    """ADE20K stores its classes plus one."""
    for folder in ('images/training', 'annotations/training'):
        os.makedirs(tmp_path / folder)
    save(tmp_path / 'images/training/a.jpg', np.zeros([12, 16, 3]))
    save(tmp_path / 'annotations/training/a.png', np.arange(192).reshape(12, 16) % 151)
    base = ADE20K(transforms=[], dataset_root=str(tmp_path))
    checks.quick(base)
    assert checks.full(base).presence['labeled'].tolist() == [1] * 150
    save(tmp_path / 'annotations/training/a.png', np.full([12, 16], 151))
    with pytest.raises(InputError, match='has label 150'):
        checks.quick(base)


def test_stops_at_nothing_for_a_million_unlabeled_images(root):
    """Existence of all files is checked by listing folders."""
    base = dataset(root)
    split = Split.draw(base, 0.5, 0)
    many = Split(split.labeled, [f'{root}/images/{i}.jpg' for i in range(1000_000)], '', '')
    with pytest.raises(InputError, match='is labeled and'):
        checks.quick(base, many)
    many = Split(split.labeled, split.unlabeled + [f'{root}/raw/{i}.jpg' for i in range(1000_000)], '', '')
    with pytest.raises(InputError, match=r'raw/0.jpg: no such file \(1000000 missing files'):
        checks.quick(base, many)
