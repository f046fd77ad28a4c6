"""Split: drawing, reading every list format, refusing bad ones, writing."""

import os
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from paddleseg_semi.datasets.lists import raw_images
from paddleseg_semi.datasets.split import Split
from paddleseg_semi.errors import InputError


def dataset(names, root='data/set', image='images/{}.jpg', label='labels/{}.png'):
    return SimpleNamespace(dataset_root=root, file_list=[[f'{root}/{image.format(n)}', f'{root}/{label.format(n)}']
                                                         for n in names])


BASE = dataset([f'2007_{i:06d}' for i in range(16)])
VOC = dataset(['2007_000032', '2008_000008', '2009_000001', '2010_000002'], 'data/VOCdevkit',
              'VOC2012/JPEGImages/{}.jpg', 'VOC2012/SegmentationClassAug/{}.png')
CITY = dataset(['jena_000078_000019', 'ulm_000061_000019', 'ulm_000062_000019'], 'data/cityscapes',
               'leftImg8bit/train/jena/{}_leftImg8bit.png', 'gtFine/train/jena/{}_gtFine_labelTrainIds.png')


def write(path, *lines):
    path.write_text('\n'.join(lines))  # no line break at the end, as in many published lists
    return str(path)


def test_draw_is_a_partition_and_repeatable():
    split, again = Split.draw(BASE, 0.25, 3), Split.draw(BASE, 0.25, 3)
    assert split == again and len(split.labeled) == 4
    assert sorted([BASE.file_list[i][0] for i in split.labeled] + split.unlabeled) == [i for i, _ in BASE.file_list]
    assert Split.draw(BASE, 0.25, 4).digest != split.digest


def test_larger_splits_contain_smaller_ones():
    assert set(Split.draw(BASE, 0.25, 7).labeled) < set(Split.draw(BASE, 0.5, 7).labeled)


def test_stratified_draw_covers_all_classes():
    presence = np.zeros([16, 5], bool)
    presence[:, 0] = True
    presence[3, 1] = presence[9, 2] = presence[9, 3] = presence[12, 3] = True  # class 4 is nowhere
    for seed in range(5):
        labeled = Split.draw_count(BASE, 2, seed, presence).labeled
        assert labeled == [3, 9]


@pytest.mark.parametrize('ratio', [0, 1, 1.5, -0.1, 'many', '', float('nan'), float('inf'), None, True])
def test_ratio_must_lie_between_0_and_1(ratio):
    with pytest.raises(InputError, match='above 0 and below 1.*leave --label_ratio out'):
        Split.draw(BASE, ratio, 0)


def test_ratio_too_small():
    with pytest.raises(InputError, match='no labeled image of 16. Give at least 0.0625'):
        Split.draw(BASE, 0.05, 0)


@pytest.mark.parametrize('count', [0, 16, -1])
def test_count_out_of_range(count):
    with pytest.raises(InputError, match='give 1 to 15'):
        Split.draw_count(BASE, count, 0)


@pytest.mark.parametrize('base, lines', [
    (VOC, ['2008_000008', '', '2010_000002  ']),
    (VOC, ['JPEGImages/2008_000008.jpg SegmentationClass/2008_000008.png', 'JPEGImages/2010_000002.jpg x.png']),
    (VOC, ['VOC2012/JPEGImages/2008_000008.jpg', 'VOC2012/JPEGImages/2010_000002.jpg']),
    (CITY, ['leftImg8bit/train/ulm/ulm_000061_000019_leftImg8bit.png']),
    (CITY, ['/images/train/ulm_000061_000019.png\t/segmentation/train/ulm_000061_000019_gtFine.png']),
    (CITY, ['ulm_000061_000019']),
    (dataset(['a 1', 'b 1', 'c 1']), ['images/b 1.jpg labels/b 1.png']),
    (dataset(['a', 'b', 'c']), ['images/b.jpg,labels/b.png']),
    (dataset(['x/1', 'y/1', 'z/1']), ['y/1.jpg']),  # one name in several folders
    (dataset(['a', 'b', 'c'], root=''), ['b']),
])
def test_read_all_line_formats(tmp_path, base, lines):
    split = Split.read(write(tmp_path / 'list.txt', *lines), base)
    assert split.labeled == ([1, 3] if base is VOC else [1])
    assert split.unlabeled == [image for i, (image, _) in enumerate(base.file_list) if i not in split.labeled]


@pytest.mark.parametrize('base, line', [
    (VOC, '{}'),                                                                                # U2PL, CPS
    (VOC, 'JPEGImages/{}.jpg SegmentationClass/{}.png'),                                        # UniMatch, ST++
    (CITY, 'leftImg8bit/train/jena/{}_leftImg8bit.png'),                                        # U2PL
    (CITY, 'leftImg8bit/train/jena/{}_leftImg8bit.png gtFine/train/jena/{}_gtFine_labelTrainIds.png'),  # UniMatch, ST++
    (CITY, '/images/train/{}.png\t/segmentation/train/{}_gtFine.png'),                          # CPS
])
def test_published_folders(tmp_path, base, line):
    """Labeled and unlabeled list together are the split that the labeled one makes alone."""
    names = [os.path.basename(image).rsplit('.', 1)[0].removesuffix('_leftImg8bit') for image, _ in base.file_list]
    lines = [line.format(name, name) for name in names]
    labeled = write(tmp_path / 'labeled.txt', lines[1])
    write(tmp_path / 'unlabeled.txt', *lines[2:], lines[0])
    folder, alone = Split.read(str(tmp_path), base), Split.read(labeled, base)
    assert folder.labeled == alone.labeled == [1] and folder.digest == alone.digest
    assert sorted(folder.unlabeled) == sorted(image for i, (image, _) in enumerate(base.file_list) if i != 1)


def test_read_folder_with_images_of_both_kinds(tmp_path):
    base = dataset(['a', 'b', 'c'], root=str(tmp_path))
    os.makedirs(tmp_path / 'extra')
    for name in ('a.jpg', 'new one.jpg'):  # the first shares its name with an image of the data set
        (tmp_path / 'extra' / name).touch()
    write(tmp_path / 'labeled.txt', 'a')
    write(tmp_path / 'unlabeled.txt', 'c', 'extra/a.jpg', 'extra/new one.jpg')
    split = Split.read(str(tmp_path), base)
    assert split.labeled == [0]
    assert split.unlabeled == [f'{tmp_path}/images/c.jpg', f'{tmp_path}/extra/a.jpg', f'{tmp_path}/extra/new one.jpg']


def test_write_and_read_back(tmp_path):
    for base in (BASE, dataset(['a 1', 'b,2', 'c 3'])):
        split = Split.draw(base, 0.5, 3)
        split.write(str(tmp_path / 'split'), base)
        again = Split.read(str(tmp_path / 'split'), base)
        assert (again.labeled, again.unlabeled, again.digest) == (split.labeled, split.unlabeled, split.digest)
        about = yaml.safe_load((tmp_path / 'split' / 'split.yml').read_text())
        assert about['sha256'] == split.digest and about['seed'] == 3 and about['labeled'] == len(split.labeled)
        assert sorted(os.listdir(tmp_path / 'split')) == ['labeled.txt', 'split.yml', 'unlabeled.txt']


def test_digest_does_not_depend_on_root_nor_order(tmp_path):
    moved = dataset([f'2007_{i:06d}' for i in range(16)], root='/elsewhere/set')
    one = Split.read(write(tmp_path / '1.txt', '2007_000003', '2007_000001'), BASE)
    two = Split.read(write(tmp_path / '2.txt', '2007_000001', '2007_000003'), moved)
    assert one.digest == two.digest != Split.read(write(tmp_path / '3.txt', '2007_000003'), BASE).digest


def test_pickled_permutation(tmp_path):
    ids = np.random.default_rng(0).permutation(16)
    for content in (ids, ids.tolist(), list(ids)):
        (tmp_path / 'train_id.pkl').write_bytes(pickle.dumps(content))
        assert Split.read(str(tmp_path / 'train_id.pkl'), BASE, 0.25).labeled == sorted(ids[:4])


@pytest.mark.parametrize('content, message', [
    (list(range(15)), '15 numbers, from 0 to 14; expected every number of 0..15'),
    ([0] * 16, 'expected every number'),
    (['a'] * 16, 'no list of whole numbers'),
    ([[1], [2, 3]], 'no list of whole numbers'),
    ({'a': 1}, 'no list of whole numbers'),
    (os.getcwd, 'refused'),
])
def test_foreign_pickle(tmp_path, content, message):
    (tmp_path / 'ids').write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=message):
        Split.read(str(tmp_path / 'ids'), BASE, 0.25)


def test_pickle_needs_a_ratio(tmp_path):
    (tmp_path / 'train_id.pkl').write_bytes(pickle.dumps(list(range(16))))
    with pytest.raises(InputError, match='give --label_ratio'):
        Split.read(str(tmp_path / 'train_id.pkl'), BASE)


@pytest.mark.parametrize('lines, message', [
    (['2007_000001', '2007_00000x'], r'list.txt:2: "2007_00000x" is not one of the 16 .*Did you mean "2007_0000'),
    (['2007_000001', '', 'images/2007_000001.jpg'], 'list.txt:3: .* is listed twice, first in line 1'),
    (['', ' '], 'empty'),
    ([f'2007_{i:06d}' for i in range(16)], 'no unlabeled image'),
])
def test_bad_labeled_list(tmp_path, lines, message):
    with pytest.raises(InputError, match=message):
        Split.read(write(tmp_path / 'list.txt', *lines), BASE)


def test_ambiguous_name(tmp_path):
    with pytest.raises(InputError, match='"1" can mean 2 images'):
        Split.read(write(tmp_path / 'list.txt', '1'), dataset(['x/1', 'y/1']))


@pytest.mark.parametrize('lines, message', [
    (['2007_000002', '2007_000001'], r'unlabeled.txt:2: "2007_000001" is labeled as well \(.*labeled.txt:1\)'),
    (['2007_000002', '2007_000002'], 'unlabeled.txt:2: .* twice, first in line 1'),
    (['nowhere/x.jpg'], 'unlabeled.txt:1: no file "nowhere/x.jpg"'),
    ([], 'unlabeled.txt: the list is empty'),
])
def test_bad_unlabeled_list(tmp_path, lines, message):
    write(tmp_path / 'labeled.txt', '2007_000001')
    write(tmp_path / 'unlabeled.txt', *lines)
    with pytest.raises(InputError, match=message):
        Split.read(str(tmp_path), BASE)


def test_no_such_list(tmp_path):
    with pytest.raises(InputError, match='cannot be read'):
        Split.read(str(tmp_path / 'no.txt'), BASE)
    with pytest.raises(InputError, match='needs labeled.txt'):
        Split.read(str(tmp_path), BASE)
    (tmp_path / 'photo.jpg').write_bytes(b'\xff\xd8\xff')
    with pytest.raises(InputError, match='not a text file'):
        Split.read(str(tmp_path / 'photo.jpg'), BASE)


def test_base_that_lists_an_image_twice():
    with pytest.raises(InputError, match=r'lists data/set/images/a.jpg twice \(images 1 and 3 of 3\)'):
        Split.draw(dataset(['a', 'b', 'a']), 0.5, 0)
    with pytest.raises(InputError, match='is empty'):
        Split.draw(dataset([]), 0.5, 0)


def test_raw_folder_and_list(tmp_path):
    base = dataset(['a', 'b'], root=str(tmp_path / 'set'))
    for name in ('set/images/a.jpg', 'set/images/b.jpg', 'raw/deep/er/x.PNG', 'raw/y.jpg', 'raw/notes.md'):
        os.makedirs((tmp_path / name).parent, exist_ok=True)
        (tmp_path / name).touch()
    raw = str(tmp_path / 'raw')
    split = Split.with_raw(base, raw)
    assert split.labeled == [0, 1] and split.unlabeled == [f'{raw}/deep/er/x.PNG', f'{raw}/y.jpg']
    split.write(str(tmp_path / 'split'), base)
    assert Split.read(str(tmp_path / 'split'), base).digest == split.digest

    whole = Split.with_raw(base, str(tmp_path))  # holds the labeled images as well: they are left out
    assert whole.unlabeled == split.unlabeled
    listed = Split.with_raw(base, write(tmp_path / 'raw' / 'list.txt', 'y.jpg'), Split.draw(base, 0.5, 0))
    assert listed.unlabeled == [f'{raw}/y.jpg'] and len(listed.labeled) == 1 and listed.label_ratio == 0.5

    with pytest.raises(InputError, match='b.jpg is labeled as well'):
        Split.with_raw(base, write(tmp_path / 'list.txt', 'raw/y.jpg', 'set/images/b.jpg'))
    with pytest.raises(InputError, match='twice, first in line 1'):
        Split.with_raw(base, write(tmp_path / 'list.txt', 'raw/y.jpg', 'raw/y.jpg'))
    with pytest.raises(InputError, match='no images in this folder'):
        Split.with_raw(base, str(tmp_path / 'split'))
    with pytest.raises(InputError, match='every image in this folder is labeled'):
        Split.with_raw(base, str(tmp_path / 'set' / 'images'))


def test_raw_folder_elsewhere_is_read_back(tmp_path, monkeypatch):
    """Also where its images are called like those of the data set."""
    monkeypatch.chdir(tmp_path)
    base = dataset(['a', 'b'], root='set')
    for name in ('set/images/a.jpg', 'set/images/b.jpg', 'raw/a.jpg', 'raw/new one.jpg'):
        os.makedirs((tmp_path / name).parent, exist_ok=True)
        (tmp_path / name).touch()
    Split.with_raw(base, 'raw').write('run/split', base)
    again = Split.read('run/split', base)
    assert again.labeled == [0, 1] and again.unlabeled == [f'{tmp_path}/raw/a.jpg', f'{tmp_path}/raw/new one.jpg']


def test_a_million_unlabeled_images_are_no_burden(tmp_path):
    """Seconds, not minutes; nothing but the lists is opened."""
    (tmp_path / 'raw').mkdir()
    (tmp_path / 'raw' / '0.jpg').touch()
    write(tmp_path / 'list.txt', *(f'raw/{i}.jpg' for i in range(1000_000)))
    base = dataset(['a', 'b'], root=str(tmp_path))
    assert len(Split.with_raw(base, str(tmp_path / 'list.txt')).unlabeled) == 1000_000


def test_folders_that_links_lead_to_again(tmp_path):
    (tmp_path / 'a/b').mkdir(parents=True)
    for name in ('a/1.jpg', 'a/b/2.jpg'):
        (tmp_path / name).touch()
    (tmp_path / 'a/b/up').symlink_to(tmp_path)
    (tmp_path / 'c').symlink_to(tmp_path / 'a')
    assert raw_images(str(tmp_path)) == [f'{tmp_path}/a/1.jpg', f'{tmp_path}/a/b/2.jpg']
    assert raw_images(f'{tmp_path}/c') == [f'{tmp_path}/c/1.jpg', f'{tmp_path}/c/b/2.jpg']
