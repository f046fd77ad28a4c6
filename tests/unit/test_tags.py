"""Image-level labels: every source gives the same tags, and everything that is wrong its own line."""

import os

import numpy as np
import paddle
import pytest
from paddleseg.datasets import Dataset
from paddleseg.transforms import Normalize
from PIL import Image

from paddleseg_semi.datasets import checks
from paddleseg_semi.datasets.streams.image_level import ImageLevelStream
from paddleseg_semi.datasets.streams.loading import EndlessSampler, batches
from paddleseg_semi.datasets.tags import add_to_report, read_tags
from paddleseg_semi.errors import InputError
from paddleseg_semi.transforms.boundary import RandomPlacedCrop
from paddleseg_semi.transforms.geometry import PadToCrop

NAMES = ['background', 'disc', 'potted plant', 'dog']
TAGS = [[1, 0, 1], [0, 1, 0], [1, 1, 1]]
XML = '<annotation><object><name>{}</name><part><name>head</name></part></object></annotation>'


@pytest.fixture
def base(tmp_path):
    """Three images with masks that show what `TAGS` says, and void."""
    for folder in ('images', 'labels', 'xml'):
        os.makedirs(tmp_path / folder)
    for i, tags in enumerate(TAGS):
        classes = [255, 0, *(1 + c for c, there in enumerate(tags) if there)]
        Image.fromarray(np.full([12, 16 + i, 3], 40 * i, 'uint8')).save(tmp_path / f'images/{i}.jpg')
        Image.fromarray(np.resize(classes, [12, 16 + i]).astype('uint8')).save(tmp_path / f'labels/{i}.png')
        objects = ''.join(f'<object><name> {NAMES[c]}\n</name></object>' for c in classes[2:] * 2)
        (tmp_path / f'xml/{i}.xml').write_text(f'<annotation>{objects}</annotation>')
    (tmp_path / 'train.txt').write_text(''.join(f'images/{i}.jpg labels/{i}.png\n' for i in range(3)))
    return Dataset('train', str(tmp_path), [], len(NAMES), train_path=str(tmp_path / 'train.txt'))


def written(base, text, name='tags.txt'):
    path = os.path.join(base.dataset_root, name)
    with open(path, 'w', encoding='utf-8') as file:
        file.write(text)
    return path


@pytest.mark.parametrize('text', [
    'images/0.jpg 1 3\nimages/1.jpg 2\nimages/2.jpg 1 2 3\n',
    '2 1,2,3\n\n1,2\n0, 3 ,1, 3\n',
    'images/0.jpg\tdisc\tdog\nimages/1.jpg\tpotted plant\nimages/2.jpg\tdog\tpotted plant\t1\n',
    '0.jpg disc dog\n1.jpg potted plant\n2.jpg,potted plant,dog,disc\nimages/3.jpg cat\n'])
def test_list(base, text):
    tags = read_tags(written(base, text), base, NAMES)
    assert tags.dtype == np.float32 and tags.tolist() == TAGS


def test_list_with_images_of_equal_names(base):
    """Of a folder that is there but not trained on."""
    root = base.dataset_root
    os.makedirs(f'{root}/val')
    Image.new('RGB', (4, 4)).save(f'{root}/val/1.jpg')
    lines = 'images/0.jpg 1 3\nval/1.jpg 1 3\nimages/2.jpg 1 2 3\n'
    with pytest.raises(InputError, match=r'tags\.txt: has no line for images/1\.jpg'):
        read_tags(written(base, lines), base)
    assert read_tags(written(base, lines + f'{root}/./images/1.jpg 2\n'), base).tolist() == TAGS


def test_masks_and_xml(base):
    assert read_tags('masks', base).tolist() == TAGS
    assert read_tags(f'{base.dataset_root}/xml', base, NAMES).tolist() == TAGS


def test_xml_beside_images_of_equal_names(base, tmp_path):
    for i, folder in enumerate('ab'):
        os.makedirs(tmp_path / f'xml/{folder}')
        (tmp_path / f'xml/{folder}/0.xml').write_text(XML.format(NAMES[1 + i]))
    base.file_list = [[str(tmp_path / f'{folder}/0.jpg'), None] for folder in 'ab']
    assert read_tags(str(tmp_path / 'xml'), base, NAMES).tolist() == [[1, 0, 0], [0, 1, 0]]
    os.remove(tmp_path / 'xml/b/0.xml')
    os.remove(tmp_path / 'xml/a/0.xml')
    with pytest.raises(InputError, match='0.xml: is meant for a/0.jpg and b/0.jpg. Put'):
        read_tags(str(tmp_path / 'xml'), base, NAMES)


@pytest.mark.parametrize('line, message', [
    ('images/0.jpg dig', ':2: unknown class "dig". Did you mean "dog"?'),
    ('images/0.jpg 4', ':2: unknown class 4: num_classes is 4, so tags are 1 to 3.'),
    ('images/0.jpg -1', ':2: unknown class "-1". Classes are the class_names'),
    ('images/0.jpg 0', ':2: class "0" is the background'),
    ('images/0.jpg 1 background', ':2: class "background" is the background'),
    ('images/0.jpg disc,,dog', ':2: unknown class ""'),
    ('images/0.jpg', ':2: no class for images/0.jpg. Every image needs one'),
    ('images/1.jpg 1', ':2: "images/1.jpg" is listed twice, first in line 1'),
    ('images/9.jpg 1', 'tags.txt: has no line for images/0.jpg. Add')])
def test_bad_list(base, line, message):
    path = written(base, f'images/1.jpg 2\n{line}\nimages/2.jpg 3\n')
    with pytest.raises(InputError, match='^[^\n]*$') as error:
        read_tags(path, base, NAMES)
    assert message in str(error.value) and str(error.value).startswith(path)


def test_all_problems_at_once(base):
    path = written(base, 'images/0.jpg cow 4 dog\nimages/1.jpg\n')
    problems = []
    tags = read_tags(path, base, NAMES, problems)
    assert len(problems) == 4 and tags.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    report = checks.Report()
    add_to_report(report, path, base, NAMES)
    assert report.problems == problems and report.presence['tagged'].tolist() == [0, 0, 0, 1]
    assert 'No image has the tag 1, 2' in report.warnings[0]
    add_to_report(report, 'nowhere.txt', base, NAMES)
    assert 'nowhere.txt: cannot be read' in report.problems[-1]


def test_names(base):
    path = written(base, 'images/0.jpg dog\n')
    with pytest.raises(InputError, match='has no class_names: add'):
        read_tags(path, base)
    with pytest.raises(InputError, match='class_names: 3 different names, but num_classes is 4'):
        read_tags(path, base, ['background', 'dog', 'disc', 'dog'])


@pytest.mark.parametrize('content, message', [
    (None, '1.xml: no such file, so images/1.jpg has no tags'),
    (b'', '1.xml: cannot be read'), (b'\x80\x04', '1.xml: cannot be read'), (b'<a>', '1.xml: cannot be read'),
    (b'<?xml version="1.0" encoding="x"?><a/>', '1.xml: cannot be read'),
    (b'<annotation/>', '1.xml: no class for images/1.jpg'),
    (XML.format('').encode(), '1.xml: unknown class ""'),
    (XML.format('cat').encode(), '1.xml: unknown class "cat"')])
def test_bad_xml(base, tmp_path, content, message):
    os.remove(tmp_path / 'xml/1.xml')
    if content is not None:
        (tmp_path / 'xml/1.xml').write_bytes(content)
    with pytest.raises(InputError, match='^[^\n]*$') as error:
        read_tags(str(tmp_path / 'xml'), base, NAMES)
    assert message in str(error.value)


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-16'])
@pytest.mark.parametrize('entity', ['SYSTEM "file:///etc/hostname"', '"dog"'])
def test_xml_declares_no_entities(base, tmp_path, entity, encoding):
    text = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE a [<!ENTITY e {entity}>]>' + XML.format('&e;')
    (tmp_path / 'xml/1.xml').write_bytes(text.encode(encoding))
    with pytest.raises(InputError, match='1.xml: cannot be read .it declares a document type'):
        read_tags(str(tmp_path / 'xml'), base, NAMES)


def test_masks_that_say_nothing(base, tmp_path):
    Image.fromarray(np.zeros([12, 17], 'uint8')).save(tmp_path / 'labels/1.png')
    with pytest.raises(InputError, match='labels/1.png: no class for images/1.jpg'):
        read_tags('masks', base)
    base.file_list[2][1] = None
    with pytest.raises(InputError, match='has no mask for images/2.jpg. Give a list'):
        read_tags('masks', base)


def test_stream(base, tmp_path):
    files, tags = [item[0] for item in base.file_list], np.array(TAGS, 'float32')
    stream = ImageLevelStream(files, tags, [PadToCrop([20, 14]), Normalize()])
    batch = next(batches(stream, EndlessSampler(3, 2, 0)))
    assert sorted(batch) == ['img', 'index', 'present', 'tags']
    assert batch['present'].tolist() == np.argwhere(batch['tags'].numpy()).tolist()
    assert batch['img'].shape == [2, 3, 14, 20] and batch['img'].dtype == paddle.float32
    assert batch['tags'].tolist() == tags[batch['index'].numpy()].tolist()
    label = np.zeros([12, 16], 'uint8')
    label[:, 8:], label[:2] = 3, 255
    Image.fromarray(label).save(tmp_path / 'map.png')
    maps = [str(tmp_path / 'map.png')] * 3
    stream = ImageLevelStream(files, tags, [RandomPlacedCrop([20, 14]), Normalize()], boundary=maps)
    batch = next(batches(stream, [[(0, 0)]]))
    assert batch['boundary'].shape == [1, 4, 14, 20] and batch['boundary'].sum([0, 2, 3]).tolist() == [18, 0, 0, 18]
    with pytest.raises(InputError, match=r'map.png: is \[12, 16\], but its image \[12, 17\] .height, width.. Make it'):
        list(batches(stream, [[(1, 0)]]))
    files[1] = 'nowhere.jpg'
    with pytest.raises(InputError, match='nowhere.jpg: cannot be read as an image'):
        list(batches(stream, [[(1, 0)]]))
