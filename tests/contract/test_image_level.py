"""Training from tags: without any mask, resumed with the same tags only, refused in one line when they are wrong."""

import numpy as np
import paddle.nn.functional as F
import pytest
from PIL import Image

from paddleseg_semi.datasets.streams import ImageLevel
from paddleseg_semi.methods.base import Method
from paddleseg_semi.registries import METHODS


class PooledCam(Method):
    """The mean logit of a class says whether the image shows it."""

    streams = {'tagged': ImageLevel()}

    def step(self, batch, clock):
        logits, tags = self.model(batch['tagged']['img'])[0], batch['tagged']['tags']
        return {'cls': F.binary_cross_entropy_with_logits(logits.mean([2, 3])[:, 1:], tags)}, {'tags': tags.sum()}


@pytest.fixture(autouse=True)
def pooled_cam(monkeypatch):
    monkeypatch.setitem(METHODS.components_dict, 'PooledCam', PooledCam)


@pytest.fixture
def tagged(toy):
    """A toy whose training images have tags and no masks."""
    (toy.folder / 'data/train.txt').write_text(''.join(f'images/{i:02d}.jpg\n' for i in range(12)))
    for i in range(12):
        toy.mask(i).unlink()
    write_tags(toy)
    toy.recipe.update(method={'type': 'PooledCam'}, semi={'tags': 'data/tags.txt'}, class_names=['none', 'cat', 'dog'])
    toy.recipe.pop('loss')
    return toy


def write_tags(toy, line='02.jpg cat 2'):
    """The tags of image 2, and of all others."""
    lines = [f'{i:02d}.jpg {"cat" if i % 2 else "dog"}' if i != 2 else line for i in range(15)]
    (toy.folder / 'data/tags.txt').write_text('\n'.join(lines))


def test_trains_without_masks(tagged, capfd):
    assert tagged.train('--do_eval', '--log_iters', 1, '--repeats', 2) == 0
    out = capfd.readouterr().out
    assert 'tagged 24 images, batch 2' in out and 'epoch: 1, iter: 6/6' in out and ' tags: ' in out
    assert (tagged.folder / 'run/best_model').exists() and not (tagged.folder / 'run/split').exists()
    assert Image.open(tagged.folder / 'run/pictures/iter_6.png').size == (2 * 8 * 32, 18 + 8 * 32 + 22)


def test_resumes_with_the_same_tags_only(tagged, capfd):
    assert tagged.train() == 0 and tagged.train('--resume_model', 'latest') == 0
    write_tags(tagged, '02.jpg dog')
    capfd.readouterr()
    assert tagged.train('--resume_model', 'latest') == 2
    assert 'it was trained with tags ' in capfd.readouterr().err


def test_masks_as_tags(toy, capfd):
    toy.recipe.update(method={'type': 'PooledCam'}, semi={'tags': 'masks'})
    toy.write_list('train', [i for i in range(12) if i % 3])  # the others may show nothing but class 0
    assert toy.train() == 0
    toy.flags()
    assert toy.call('check_data', '--config', 'recipe.yml') == 0
    assert 'tagged: 8 images, 48x40' in capfd.readouterr().out


def test_check_data(tagged, capfd):
    tagged.flags()
    assert tagged.call('check_data', '--config', 'recipe.yml') == 0
    out = capfd.readouterr().out
    assert 'tagged: 12 images, 48x40' in out and 'tagged: images' in out and '0 problems, 0 warnings' in out
    write_tags(tagged, '02.jpg 7 cow')
    tagged.image(3).unlink()
    tagged.image(4).write_bytes(b'')
    assert tagged.call('check_data', '--config', 'recipe.yml') == 2
    out = capfd.readouterr().out
    assert all(words in out for words in ('unknown class 7', 'unknown class "cow"', '03.jpg: no such file',
                                          '04.jpg: cannot be decoded', '4 problems'))


@pytest.fixture
def mapped(tagged):
    """A toy with label maps, whose class boundaries are learned; they end in the first and the last column."""
    (tagged.folder / 'maps/images').mkdir(parents=True)
    for i in range(12):
        label = np.ones([40, 48], 'uint8')
        label[:, 0], label[:, -1] = 0, 2
        Image.fromarray(label).save(tagged.folder / f'maps/images/{i:02d}.png')
    tagged.recipe['semi']['boundary'] = 'maps'
    tagged.recipe['train_dataset']['transforms'] = [{'type': 'RandomLongSide', 'sides': [32, 64]}, {
        'type': 'RandomPlacedCrop', 'crop_size': [32, 32]}, {'type': 'RandomHorizontalFlip'}, {'type': 'Normalize'}]
    return tagged


def test_boundary(mapped, capfd, monkeypatch):
    shapes = []
    step = PooledCam.step
    monkeypatch.setattr(PooledCam, 'step', lambda self, batch, clock: (
        shapes.append(batch['tagged']['boundary'].shape), step(self, batch, clock))[1])
    assert mapped.train() == 0 and shapes == [[2, 3, 32, 32]] * (1 + 6)  # one is tried before
    assert mapped.call('check_data', '--config', 'recipe.yml') == 0
    assert 'boundary: 12 images, 48x40' in capfd.readouterr().out


def test_wrong_boundary(mapped, refused):
    path = mapped.folder / 'maps/images/03.png'
    Image.fromarray(np.full([40, 48], 3, 'uint8')).save(path)
    refused(says=['data/train.txt:4: maps/images/03.png: has label 3', 'ignore_index 255'])
    Image.fromarray(np.zeros([40, 47], 'uint8')).save(path)
    refused(says=['03.jpg is 48x40, but its mask maps/images/03.png is 47x40'])
    path.unlink()
    refused(says=['data/train.txt:4: maps/images/03.png: no such file (1 missing files in the boundary part)'])
    mapped.recipe['semi']['boundary'] = 'nowhere'
    refused(says='semi.boundary: nowhere: no such folder')


@pytest.fixture
def wrong(tagged, refused):
    """Checks that training is refused. `refused` uses the same toy."""
    return refused


@pytest.mark.parametrize('line, says', [
    ('02.jpg cow', 'data/tags.txt:3: unknown class "cow"'), ('02.jpg 3', 'data/tags.txt:3: unknown class 3'),
    ('02.jpg', 'data/tags.txt:3: no class for images/02.jpg'), ('20.jpg cat', 'has no line for images/02.jpg')])
def test_wrong_tags(tagged, wrong, line, says):
    write_tags(tagged, line)
    wrong(says=says)


@pytest.mark.parametrize('section, says', [
    ({}, 'PooledCam needs image-level labels: set semi.tags'), ({'tags': 'none.txt'}, 'none.txt: cannot be read'),
    ({'tags': 'data/images'}, 'data/images/00.xml: no such file'), ({'tags': 'masks'}, 'has no mask for images/00.jpg'),
    ({'tags': 'data/tags.txt', 'label_ratio': 0.5}, 'PooledCam has no labeled images'),
    ({'tags': 'data/tags.txt', 'extra_labeled': 'x.txt'}, 'PooledCam has no labeled images')])
def test_wrong_section(tagged, wrong, section, says):
    tagged.recipe['semi'] = section
    wrong(says=says)


def test_missing_image(tagged, wrong):
    tagged.image(5).unlink()
    wrong(says=['data/train.txt:6', '05.jpg: no such file (1 missing files in the tagged part)'])


def test_list_of_images(tagged, wrong):
    (tagged.folder / 'data/train.txt').write_text('images/00.jpg\n\nimages/01.jpg\n')
    wrong(says='train.txt:2: a blank line')
    (tagged.folder / 'data/train.txt').write_text('images/00.jpg a b\n')
    wrong(says='train.txt:1: "images/00.jpg a b" has 3 columns')
