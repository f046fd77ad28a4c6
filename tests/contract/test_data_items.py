"""Data that look right and are not: each kind is refused, warned of, or trained on as meant."""

import copy
import io
import itertools
import os
import struct
import zlib

import cv2
import numpy as np
import paddle
import pytest
import yaml
from paddleseg.cvlibs import manager
from paddleseg.datasets import Dataset
from paddleseg.models.losses import LovaszSoftmaxLoss
from paddleseg.transforms import Compose, Normalize, RandomHorizontalFlip, RandomPaddingCrop
from PIL import Image

from paddleseg_semi import images
from paddleseg_semi.core.cams import label_of
from paddleseg_semi.core.common import check_class_count, list_images, save_mask
from paddleseg_semi.core.palette import Classes, default
from paddleseg_semi.core.predict import label, predict
from paddleseg_semi.datasets import checks, lists, tags
from paddleseg_semi.datasets.extra import ExtraLabeled
from paddleseg_semi.datasets.looks import Part
from paddleseg_semi.datasets.split import Split
from paddleseg_semi.datasets.streams.loading import EndlessSampler, batches
from paddleseg_semi.datasets.streams.unlabeled import UnlabeledStream
from paddleseg_semi.datasets.tags import read_tags
from paddleseg_semi.datasets.twins import twins
from paddleseg_semi.deploy import photos
from paddleseg_semi.deploy.bundle import Bundle
from paddleseg_semi.deploy.segment import to_classes
from paddleseg_semi.errors import InputError
from paddleseg_semi.methods.supervised import Supervised
from paddleseg_semi.registries import METHODS
from paddleseg_semi.transforms.geometry import RandomResizedCrop, RandomSmoothScale

from . import test_pipeline, test_weak_pipeline
from .conftest import HALF, RECIPE, one_line
from .test_sbnet import tagged  # noqa: F401  a fixture

RNG = np.random.default_rng(0)
SIZE = 24, 32  # height, width


class Data:
    """8 training and 3 validation images with masks of 3 classes, to be changed at will."""

    def __init__(self, root):
        self.root = root
        for folder in ('images', 'labels'):
            os.makedirs(root / folder)
        for i in range(11):
            Image.fromarray(self.photo()).save(self.image(i))
            self.draw(i, RNG.choice([0, 1, 2, 255], SIZE))
        for name, numbers in (('train', range(8)), ('val', range(8, 11))):
            self.write_list(name, numbers)

    def photo(self):
        return cv2.resize(RNG.integers(0, 256, (5, 6, 3), 'uint8'), SIZE[::-1])

    def image(self, i, suffix='.jpg'):
        return self.root / f'images/{i}{suffix}'

    def mask(self, i, suffix='.png'):
        return self.root / f'labels/{i}{suffix}'

    def draw(self, i, mask):
        Image.fromarray(np.asarray(mask, 'uint8')).save(self.mask(i))

    def write_list(self, name, numbers, image='.jpg', mask='.png'):
        lines = [f'{self.image(i, image)} {self.mask(i, mask)}\n' for i in numbers]
        (self.root / f'{name}.txt').write_text(''.join(lines))

    def base(self, mode='train', num_classes=3, **options):
        return Dataset(mode, str(self.root), [], num_classes, **{f'{mode}_path': f'{self.root}/{mode}.txt'}, **options)

    def report(self, **options):
        return checks.full(self.base(**options), val=self.base('val', **options))


@pytest.fixture
def data(tmp_path):
    return Data(tmp_path)


@pytest.fixture
def warned(monkeypatch):
    """What was logged as a warning."""
    lines = []
    monkeypatch.setattr(checks.logger, 'warning', lines.append)
    return lines


def one(lines, *words):
    """The only line that has all of the words."""
    found = [line for line in lines if all(word in line for word in words)]
    assert len(found) == 1 and '\n' not in found[0], lines
    return found[0]


# 2. Photos that are turned when they are read

@pytest.mark.parametrize('orientation', range(2, 9))
@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.tif', '.webp'])
def test_2_turned_photos(data, warned, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for i in (1, 2, 9):
        square = cv2.resize(data.photo(), (24, 24))
        Image.fromarray(square).save(data.image(i, suffix), exif=exif)
        data.draw(i, RNG.choice([0, 1, 2], (24, 24)))
        os.replace(data.image(i, suffix), data.image(i))  # whatever its name
    report = data.report()
    assert not report.problems
    one(report.warnings, '2 labeled photos are turned', str(data.image(1)), 'upright')
    one(report.warnings, '1 val photo is turned', str(data.image(9)))
    checks.quick(data.base(), val=data.base('val'))
    one(warned, '2 labeled photos are turned')


def test_2_says_nothing_of_others(data):
    exif = Image.Exif()
    exif[0x0112] = 1
    Image.fromarray(data.photo()).save(data.image(0), exif=exif)
    exif[0x0112] = 3
    Image.fromarray(data.photo()).save(data.image(5), exif=exif)  # unlabeled: no mask to be upside down
    base = data.base()
    report = checks.full(base, Split([0, 1, 2], [base.file_list[i][0] for i in range(3, 8)], '', ''))
    assert not any('turned' in line for line in report.warnings)


# 3. Masks that were stored with loss

@pytest.mark.parametrize('suffix, options', [('.jpg', {'quality': 90}), ('.jpg', {'quality': 100}),
                                             ('.webp', {'quality': 90}), ('.tif', {'compression': 'jpeg'})])
@pytest.mark.parametrize('values', [[0, 1], [0, 1, 2]])
def test_3_lossy_masks(data, suffix, options, values):
    for i in range(11):
        mask = Image.fromarray(RNG.choice(values, SIZE).astype('uint8'))
        mask.save(data.mask(i, suffix), **options)
        os.replace(data.mask(i, suffix), data.mask(i))
    with pytest.raises(InputError, match=r'labels/0\.png: .*with loss.* as PNG'):
        checks.quick(data.base())
    report = data.report(num_classes=256)
    assert len(report.problems) == 11 and all('with loss' in line for line in report.problems)
    with pytest.raises(InputError, match='with loss'):
        images.read_mask(data.mask(0))


@pytest.mark.parametrize('suffix, options', [('.png', {}), ('.bmp', {}), ('.tif', {}),
                                             ('.tif', {'compression': 'tiff_lzw'}),
                                             ('.tif', {'compression': 'tiff_adobe_deflate'})])
def test_3_others_are_read(data, suffix, options):
    mask = RNG.choice([0, 1, 2, 255], SIZE).astype('uint8')
    Image.fromarray(mask).save(data.mask(0, suffix), **options)
    np.testing.assert_array_equal(images.read_mask(data.mask(0, suffix)), mask)


# 7. Masks of 0 and 255

@pytest.mark.parametrize('num_classes', [2, 3, 21])
def test_7_masks_of_0_and_255(data, warned, num_classes):
    for i in range(11):
        data.draw(i, RNG.choice([0, 255], SIZE))
    with pytest.raises(InputError, match='0 and 255 instead of 0 and 1'):
        checks.quick(data.base(num_classes=num_classes))
    report = data.report(num_classes=num_classes)
    one(report.problems, '0 and 255 instead of 0 and 1', '(8, the labeled part)')
    one(report.warnings, '0 and 255 instead of 0 and 1', '(3, the val part)')


def test_7_one_object_is_enough(tmp_path, warned):
    """The dozen that is opened at first shows none: others are looked at before anything is refused."""
    data = Data(tmp_path)
    for i in range(11, 40):
        Image.fromarray(data.photo()).save(data.image(i))
    for i in range(40):
        data.draw(i, RNG.choice([0, 255], SIZE))
    data.write_list('train', [*range(8), *range(11, 40)])
    with pytest.raises(InputError, match=r'\(37, the labeled part\)'):
        checks.quick(data.base(num_classes=2))
    data.draw(35, np.ones(SIZE))
    checks.quick(data.base(num_classes=2))
    assert not warned


# 8. Photos of 16 bits, of which only the lower ones are used

@pytest.mark.parametrize('shape', [SIZE, (*SIZE, 3)])
@pytest.mark.parametrize('bits', [8, 10, 12, 14, 16])
@pytest.mark.parametrize('suffix', ['.png', '.tif'])
def test_8_bits_of_photos(data, warned, shape, bits, suffix):
    for i in range(8):
        cv2.imwrite(str(data.image(i, suffix)), RNG.integers(0, 2**bits, shape).astype('uint16'))
    data.write_list('train', range(8), suffix)
    report = data.report()
    assert not report.problems
    if bits == 16:
        assert not any('16 bits' in line for line in report.warnings)
    else:
        one(report.warnings, '8 labeled photos of 16 bits', str(data.image(0, suffix)), 'Save them with 8 bits')
        checks.quick(data.base())
        one(warned, '8 labeled photos of 16 bits')


# 9. Masks that say nothing

def test_9_all_void(data, warned):
    for i in range(8):
        data.draw(i, np.full(SIZE, 255))
    report = data.report()
    assert not report.problems
    one(report.warnings, 'All 8 masks', 'labeled part', 'ignore_index (255) alone')
    checks.quick(data.base())
    one(warned, 'All 8 masks')
    data.draw(3, np.ones(SIZE))
    assert not any('alone' in line for line in data.report().warnings)


LOVASZ = {'type': 'LovaszSoftmaxLoss'}


@pytest.mark.parametrize('loss', [LOVASZ, {'type': 'MixedLoss', 'coef': [0.8, 0.2],
                                           'losses': [{'type': 'CrossEntropyLoss'}, LOVASZ]}], ids=['alone', 'mixed'])
def test_9_lovasz_loss_of_nothing(toy, loss, capfd):
    """Is 0; other terms are trained all the same."""
    for i in range(12):
        Image.fromarray(np.full([40, 48], 255, 'uint8')).save(toy.mask(i))
    toy.recipe['loss']['types'] = [loss]
    toy.recipe['method'] = {'type': 'CutMixSeg'}
    assert toy.train(*HALF, '--log_iters', 1, '--iters', 2) == 0
    assert 'sup: 0.0000' in capfd.readouterr().out


def test_9_gradients(toy):
    """None where nothing is known; as ever where something is."""
    logits = paddle.randn([1, 3, 4, 4])
    logits.stop_gradient = False
    label = paddle.full([1, 4, 4], 255, 'int64')
    loss = LovaszSoftmaxLoss()(logits, label)
    assert loss.shape == [] and loss.item() == 0
    (loss + logits.sum()).backward()
    assert (logits.grad == 1).all()
    label[0, 0, 0] = 1
    assert LovaszSoftmaxLoss()(logits, label).item() > 0


class Maps(paddle.nn.Layer):
    """A loss that somebody forgot to average."""

    def __init__(self, ignore_index=255):
        super().__init__()

    def forward(self, logits, label):
        return logits.mean(1)


def test_9_a_loss_that_is_no_number(toy, capfd, monkeypatch):
    monkeypatch.setitem(manager.LOSSES.components_dict, 'Maps', Maps)
    toy.recipe['loss']['types'] = [{'type': 'Maps'}]
    assert toy.train() == 2
    one_line(capfd.readouterr().err, ['loss: Maps gives [2, 32, 32] numbers, not one'])


def test_9_a_term_that_is_no_number(toy, capfd, monkeypatch):
    monkeypatch.setattr(Supervised, 'supervised', lambda self, batch: self.model(batch['img'])[0].mean([1, 2]))
    toy.recipe['method'] = {'type': 'Supervised'}
    assert toy.train() == 2
    one_line(capfd.readouterr().err, ['Supervised: the loss term "sup" is [2, 32] numbers, not one'])


# Near-duplicates

def test_twins(data):
    photo = Image.open(data.image(2))
    photo.resize((64, 48)).save(data.image(9), quality=40)
    data.draw(9, np.zeros((48, 64)))
    one(data.report().warnings, '1 of 3 validation photos look nearly the same as labeled', str(data.image(9)),
        str(data.image(2)))


def test_twins_among_many():
    photos = RNG.integers(0, 256, (9000, 16, 16), 'uint8')
    others = RNG.integers(0, 256, (5000, 16, 16), 'uint8')
    others[4999], others[7], others[8] = photos[8990] // 2 + 20, photos[3], 77
    photos[11] = 77  # flat ones are not alike
    assert twins(others, photos) == {4999: 8990, 7: 3}
    assert twins(photos, others) == {8990: 4999, 3: 7}
    assert twins(photos[:0], others) == twins(photos, others[:0]) == {}


# 5. Gray images

def gray(recipe):
    """The recipe for images of one channel."""
    for name in ('train_dataset', 'val_dataset'):
        if recipe.get(name):
            recipe[name]['img_channels'] = 1
    for op in recipe['train_dataset']['transforms']:
        if op['type'] == 'RandomDistort':
            op.update(saturation_prob=0, hue_prob=0)
    recipe['model']['backbone']['in_channels'] = 1


@pytest.mark.parametrize('method', sorted(
    name for name, method in METHODS.components_dict.items() if 'labeled' in method.streams))
def test_5_gray_images(shared_toy, method, capfd):
    toy = shared_toy
    toy.recipe = copy.deepcopy(RECIPE)
    toy.recipe.pop('method')
    toy.recipe.update(iters=2)
    gray(toy.recipe)
    flags = ['--method', method, '--do_eval', '--save_dir', f'run_{method}']
    assert toy.train(*flags, *([] if method == 'Supervised' else HALF)) == 0, capfd.readouterr().err


def test_5_channels_that_do_not_fit(toy, refused):
    gray(toy.recipe)
    toy.recipe['model']['backbone']['in_channels'] = 3
    refused(says=['in_channels'])
    toy.recipe['model']['backbone']['in_channels'] = 1
    for name in ('train_dataset', 'val_dataset'):
        toy.recipe[name].pop('img_channels')
    refused(says=['in_channels'])


def test_5_gray_images_with_tags(toy):
    """From tags over maps and random walks to masks."""
    tags = (f'images/{i:02d}.jpg {1 + i % 2}\n' for i in range(15))
    (toy.folder / 'data/tags.txt').write_text(''.join(tags))
    flags = test_weak_pipeline.flags(toy)
    for name in ('localizer', 'affinity'):
        recipe = yaml.safe_load((toy.folder / f'{name}.yml').read_text())
        gray(recipe)
        test_weak_pipeline.write(toy, name, recipe)
    assert toy.call('pipeline', *flags) == 0
    assert len(list((toy.folder / 'run/walk/masks').rglob('*.png'))) == 12


def test_5_gray_images_with_boundaries(tagged):  # noqa: F811
    tagged.recipe['semi']['boundary'] = 'maps'
    tagged.recipe['model'] = copy.deepcopy(tagged.recipe['model'])
    gray(tagged.recipe)
    assert tagged.train('--do_eval', '--learning_rate', 0.01) == 0


# 6. Any ignore_index

FILLING = [({'type': 'RandomPaddingCrop', 'crop_size': [64, 64]}, 'label_padding_value'),
           ({'type': 'Padding', 'target_size': [64, 64]}, 'label_padding_value'),
           ({'type': 'PaddingByAspectRatio', 'aspect_ratio': 2}, 'label_padding_value'),
           ({'type': 'ScalePadding', 'target_size': [64, 64]}, 'label_padding_value'),
           ({'type': 'RandomRotation'}, 'label_padding_value'), ({'type': 'RandomAffine'}, 'label_padding_value'),
           ({'type': 'PadToCrop', 'crop_size': [64, 64]}, 'label_padding_value'),
           ({'type': 'RandomPlacedCrop', 'crop_size': [64, 64]}, 'label_padding_value'),
           ({'type': 'CutOut'}, 'ignore_index')]


def ignore(toy, value, stored=None):
    """The same data with another ignore_index (and what stands for it in the masks)."""
    for name in ('train_dataset', 'val_dataset'):
        toy.recipe[name]['ignore_index'] = value
    for i in range(15):
        mask = np.asarray(Image.open(toy.mask(i)))
        Image.fromarray(np.where(mask == 255, value if stored is None else stored, mask).astype('uint8')) \
            .save(toy.mask(i))


@pytest.mark.parametrize('op, key', FILLING, ids=[op['type'] for op, _ in FILLING])
def test_6_transforms_that_fill_with_another(toy, refused, op, key):
    ignore(toy, 200)
    toy.recipe['train_dataset']['transforms'][0] = op
    refused(says=['train_dataset.transforms', op['type'], f'{key} 255', 'ignore_index 200', f'Set {key}: 200'])


@pytest.mark.parametrize('value', [0, 3, 200, 254, 255])
def test_6_any_value(toy, value, capfd):
    ignore(toy, value)
    toy.recipe['train_dataset']['transforms'][0].update(crop_size=[64, 64], label_padding_value=value)
    assert toy.train('--do_eval', '--iters', 2) == 0, capfd.readouterr().err
    toy.flags()
    assert toy.call('check_data', '--config', 'recipe.yml') == 0


@pytest.mark.parametrize('value', [-1, -100])
def test_6_negative_values(toy, refused, value):
    ignore(toy, value, stored=0)
    refused(says=['RandomPaddingCrop', 'label_padding_value 255', f'ignore_index {value}', 'from 3 to 255'])
    toy.recipe['train_dataset']['transforms'][0]['label_padding_value'] = value
    refused(says=['RandomPaddingCrop', 'no negative number'])
    toy.recipe['train_dataset']['transforms'][0] = {'type': 'Resize', 'target_size': [32, 32]}
    assert toy.train('--iters', 1) == 0


def test_6_extra_labels_pass_other_transforms(toy, refused):
    ignore(toy, 200)
    toy.recipe.pop('method')
    toy.recipe['train_dataset']['transforms'][0]['label_padding_value'] = 200
    toy.recipe['semi'] = {'extra_labeled': 'data/train.txt', 'unlabeled': {
        'weak': [{'type': 'RandomPaddingCrop', 'crop_size': [32, 32]}, {'type': 'Normalize'}]}}
    refused(*HALF, '--method', 'FixMatch', says=['semi.unlabeled', 'extra_labeled', 'RandomPaddingCrop',
                                                 'label_padding_value'])


def test_6_an_ignored_class_is_not_counted(data):
    report = data.report(num_classes=256, ignore_index=0)
    assert report.pixels['labeled'][0] == report.presence['labeled'][0] == 0 < report.pixels['labeled'][1]
    assert not any(' class 0' in line for line in report.warnings)


def test_6_padding_with_class_0_is_seen(toy):
    photo = str(toy.image(0))
    crop = RandomPaddingCrop([64, 64], label_padding_value=0)
    stream = UnlabeledStream([photo], [crop, Normalize()])
    valid = stream[0, 0]['valid']
    assert valid[:40, :48].all() and valid.sum() == 40 * 48


def test_6_who_has_put_it_there(toy, capfd, monkeypatch):
    """A transform of another package that nobody could ask."""
    flip = RandomHorizontalFlip.__call__
    monkeypatch.setattr(RandomHorizontalFlip, '__call__',
                        lambda self, data: {**flip(self, data), 'label': np.full([32, 32], 7, 'uint8')})
    assert toy.train() == 2
    one_line(capfd.readouterr().err, ['labels/', 'label 7', 'not in the file', 'transform'])


@pytest.mark.parametrize('transform', [RandomSmoothScale(scale=(0.5, 0.6)), RandomResizedCrop([20, 20])])
@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'int32'])
def test_1_masks_of_16_bits_are_resized(transform, dtype):
    label = RNG.choice([3, 99 if dtype == 'uint8' else 280], SIZE).astype(dtype)
    data = {'img': np.zeros([*SIZE, 3], 'float32'), 'label': label, 'gt_fields': ['label']}
    assert set(np.unique(transform(data)['label'])) == set(np.unique(label))


# 12. Unlabeled photos that cannot be read

def damage(path, how='truncated'):
    data = path.read_bytes()
    path.unlink()
    if how == 'gif':
        Image.fromarray(np.zeros(SIZE, 'uint8')).save(path, 'GIF')
    elif how != 'gone':
        path.write_bytes({'truncated': data[:len(data) // 2], 'empty': b'', 'text': b'<html>404'}[how])


def indices(stream, count, **options):
    sampler = EndlessSampler(len(stream), 3, (0, 1), order_seed=7, spares=64, **options)
    return [batch['index'].tolist() for batch in itertools.islice(batches(stream, sampler, 0), count)]


def test_12_the_next_of_the_order_takes_the_place(data):
    files = [str(data.image(i)) for i in range(11)]
    whole = UnlabeledStream(files, [Normalize()])
    wanted = indices(whole, 11)
    order = [index for batch in wanted for index in batch]                                  # three epochs
    bad = {order[2], order[3], order[10]}
    for k, how in zip(bad, ('truncated', 'gif', 'gone')):
        damage(data.image(k), how)
    stream = UnlabeledStream(files, [Normalize()])
    found = [index for batch in indices(stream, 11) for index in batch]
    for epoch in range(3):
        part = order[11 * epoch:11 * epoch + 11] * 2
        assert found[11 * epoch:11 * epoch + 11] == [
            next(index for index in part[k:] if index not in bad) for k in range(11)]
    assert set(stream.unreadable) == {files[k] for k in bad} and not whole.unreadable
    assert all('cannot be' in why and '\n' not in why for why in stream.unreadable.values())
    part = [index for batch in indices(UnlabeledStream(files, [Normalize()]), 4, start=5) for index in batch]
    assert part == found[15:27], 'a batch is the same whenever the run was begun'


def test_12_none_is_left(data):
    files = [str(data.image(i)) for i in range(3)]
    for i in range(3):
        damage(data.image(i))
    with pytest.raises(InputError, match='cannot be decoded.*Nor can the 2 photos'):
        indices(UnlabeledStream(files, [Normalize()]), 1)


@pytest.mark.parametrize('method', ['FixMatch', 'CutMixSeg'])
def test_12_a_run_goes_on(toy, method, capfd):
    """And ends the same with any number of workers, and when it is resumed."""
    (toy.folder / 'raw').mkdir()
    for i in range(8):
        Image.open(toy.image(i)).transpose(Image.FLIP_LEFT_RIGHT).save(toy.folder / f'raw/{i}.jpg')
    for i, how in ((1, 'truncated'), (2, 'gif'), (5, 'text')):
        damage(toy.folder / f'raw/{i}.jpg', how)
    toy.recipe.pop('method')
    toy.recipe['semi'] = {'unlabeled': 'raw'}
    ends = []
    for flags in (['--num_workers', 0], ['--num_workers', 2], ['--resume_model', 'run/iter_4']):
        capfd.readouterr()
        assert toy.train('--method', method, '--save_interval', 2, '--iters', 6, *flags) == 0
        out = capfd.readouterr().out
        assert '3 unlabeled photos could not be read' in out
        assert all(f'raw/{i}.jpg: cannot be decoded' in out for i in (1, 2, 5))
        ends.append(toy.files('iter_6'))
    assert ends[0] == ends[1] == ends[2]
    assert '3 unlabeled photos could not be read' in (toy.folder / 'run/train.log').read_text()
    toy.flags()
    assert toy.call('check_data', '--config', 'recipe.yml') == 0
    assert '0 problems, 3 warnings' in capfd.readouterr().out


def test_12_a_pipeline_goes_on(toy, capfd):
    """Stages leave such photos out, and say so."""
    toy.write_list('train', range(12))
    flags = test_pipeline.flags(toy)
    assert toy.call('split_dataset', '--config', 'recipe.yml', '--label_ratio', 0.5, '--save_dir', 'split') == 0
    photo = (toy.folder / 'split/unlabeled.txt').read_text().split()[2]
    damage(toy.folder / 'data' / photo)
    flags[flags.index('--label_ratio'):flags.index('--label_ratio') + 2] = ['--split_ids', 'split']
    capfd.readouterr()
    assert toy.call('pipeline', *flags) == 0
    out = capfd.readouterr().out
    assert '1 unlabeled photo could not be read; they are left out' in out and f'{photo}: cannot be decoded' in out
    parts = [(toy.folder / f'run/reliable/{name}.txt').read_text().split() for name in ('reliable', 'unreliable')]
    assert len(parts[0] + parts[1]) == 5 and photo not in parts[0] + parts[1]


@pytest.mark.parametrize('how', ['truncated', 'gif', 'empty', 'text'])
def test_4_and_12_labeled_ones_are_refused(toy, refused, how, capfd):
    """By the same reader in the checks, in training (whose checks open some only) and in validation."""
    damage(toy.image(4), how)
    refused(says=['data/train.txt:5', '04.jpg', 'cannot be decoded'])
    assert toy.call('check_data', '--config', 'recipe.yml') == 2
    assert 'data/train.txt:5: data/images/04.jpg: cannot be decoded' in capfd.readouterr().out
    toy.write_list('val', range(8))
    toy.recipe['train_dataset']['train_path'] = 'data/val.txt'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, 'quick', lambda *args, **options: None)
        assert toy.train('--batch_size', 8, '--iters', 1) == 2
    one_line(capfd.readouterr().err, ['04.jpg: cannot be decoded'])


def test_4_large_photos(data):
    """One limit for all readers, and no other."""
    def header(side):
        png = encoded_png(np.zeros([1, 1], 'uint8'))
        start = png[12:16] + struct.pack('>II', side, side) + png[24:29]
        data.mask(0).write_bytes(png[:12] + start + struct.pack('>I', zlib.crc32(start)) + png[33:])
        return data.mask(0)

    images.check_size(*images.size_of(header(14000).read_bytes()))                          # 196 million pixels
    path = str(header(20000))
    for reads in (images.read, images.inspect, images.read_mask, list_images):
        with pytest.raises(InputError, match='20000x20000 pixels are more than 268435456'):
            reads(path)
    assert '20000x20000' in Part('unlabeled', data.base(), [path]).look(0)[0][0]


def encoded_png(pixels):
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, 'PNG')
    return data.getvalue()


# 10. Folders of links

@pytest.mark.parametrize('of', ['files', 'folder'])
def test_10_linked_photos_are_found_by_all(data, tmp_path, of):
    linked = tmp_path / 'linked'
    if of == 'folder':
        linked.symlink_to(data.root / 'images')
    else:
        (linked / 'deep').mkdir(parents=True)
        (linked / 'deep/same').symlink_to(data.root / 'images')
        (linked / 'deep/circle').symlink_to(linked)
        (linked / 'one.jpg').symlink_to(data.image(3))
    found = lists.raw_images(str(linked))
    assert len(found) == 11 + (of == 'files')
    assert sorted(path for path, _ in list_images(str(linked))) == found
    assert sorted(path for path, _ in photos.Images(str(linked)).found) == found


# 11. What is said of lists, tags and transforms

@pytest.mark.parametrize('separator, line, says', [
    (' ', 'images\\0.jpg labels\\0.png', 'write / for'), (' ', 'images/0.jpg, labels/0.png', "Set separator: ', '"),
    (',', 'images/0.jpg, labels/0.png', "Set separator: ', '"), (' ', 'images/0.jpg; labels/0.png', "separator: '; '"),
    (' ', '"images/0.jpg" "labels/0.png"', 'take the blanks, commas or quotes'),
    (' ', 'images/0.JPG labels/0.png', 'There is "#/images/0.jpg"'),
    (' ', 'images/0.jpg labels/0.jpg', 'There is "#/labels/0.png"'),
    (' ', 'C:\\mine\\0.jpg labels/0.png', 'Write / for \\ in paths')])
def test_11_lists(data, separator, line, says):
    (data.root / 'train.txt').write_text(line + '\n')
    section = {'type': 'Dataset', 'mode': 'train', 'dataset_root': str(data.root),
               'train_path': str(data.root / 'train.txt'), 'separator': separator}
    with pytest.raises(InputError) as caught:
        path = checks.list_files(section)
        checks.quick(data.base(separator=separator), train_list=path)
    one([str(caught.value)], 'train.txt:1: ', says.replace('#', str(data.root)))


@pytest.mark.parametrize('read', [lists.raw_images, list_images])
@pytest.mark.parametrize('line, says', [('images\\0.jpg', 'write / for'), ('images/0.JPG', '0.jpg"')])
def test_11_lists_of_photos(data, read, line, says):
    (data.root / 'raw.txt').write_text(line + '\n')
    with pytest.raises(InputError) as caught:
        read(str(data.root / 'raw.txt'))
    one([str(caught.value)], says)


@pytest.mark.parametrize('separator', [' ', '\t', ',', ', ', ';'])
def test_11_extra_labeled(data, separator):
    data.base()
    path = data.root / 'extra.txt'
    path.write_text(''.join(f'images/{i}.jpg{separator}labels/{i}.png\n' for i in range(3)))
    assert ExtraLabeled(str(path), data.base(), []).file_list[2] == [str(data.image(2)), str(data.mask(2))]
    path.write_text(path.read_text() + 'images/4.jpg')
    with pytest.raises(InputError, match=r'extra.txt:4: ') as caught:
        ExtraLabeled(str(path), data.base(), [])
    assert 'recipe' not in str(caught.value)


def test_11_extra_labeled_names_no_key(data):
    path = data.root / 'extra.txt'
    path.write_text('images/0.jpg labels/0.png\nimages/1.jpg,labels/1.png\n')
    with pytest.raises(InputError, match='extra.txt:2: .* by a blank or a TAB'):
        ExtraLabeled(str(path), data.base(), [])


@pytest.mark.parametrize('half', [[], HALF])
@pytest.mark.parametrize('kind', ['flip', 'normalize'])
def test_11_a_transform_that_fails(toy, capfd, monkeypatch, kind, half):
    if kind == 'flip':
        monkeypatch.setattr(RandomHorizontalFlip, '__call__', lambda self, data: 1 / 0)
    else:
        toy.recipe['train_dataset']['transforms'][3].update(mean=[0.5, 0.5], std=[0.5, 0.5, 0.5])
    toy.recipe.pop('method')
    assert toy.train(*half) == 2
    name, err = {'flip': 'RandomHorizontalFlip', 'normalize': 'Normalize'}[kind], capfd.readouterr().err
    one_line(err, [f'{name} of its transforms fails', '.jpg'])
    assert 'same size' not in err


def test_11_sizes_that_differ(toy, capfd, monkeypatch):
    """In files that the checks did not open: seen before a transform fails on them, or after."""
    monkeypatch.setattr(checks, 'quick', lambda *args, **options: None)
    for i in range(12):
        Image.fromarray(np.zeros([20, 20], 'uint8')).save(toy.mask(i))
    assert toy.train() == 2
    one_line(capfd.readouterr().err, ['.jpg', '[15, 17]', 'same size'])
    monkeypatch.setattr(RandomHorizontalFlip, '__call__', lambda self, data: 1 / 0)
    assert toy.train() == 2
    one_line(capfd.readouterr().err, ['.jpg is [40, 48]', '[20, 20]', 'same size'])


@pytest.mark.parametrize('row', ['1,1', '1,1,1'])
def test_11_a_table_is_no_list_of_tags(data, row):
    path = data.root / 'tags.csv'
    path.write_text(''.join(f'images/{i}.jpg,{row}\n' for i in range(8)))
    with pytest.raises(InputError, match='tags.csv:1: every line holds ones alone, as a table'):
        read_tags(str(path), data.base())
    path.write_text(path.read_text().replace(f'images/3.jpg,{row}', 'images/3.jpg,2,2'))  # of every object one
    assert read_tags(str(path), data.base())[3].tolist() == [0, 1]


def test_11_tags_of_masks_are_announced(data, monkeypatch):
    said = []
    monkeypatch.setattr(tags.logger, 'info', said.append)
    read_tags('masks', data.base())
    one(said, 'semi.tags: masks', 'the masks of all 8 training images are opened')


# check_data and train say the same

def found_by_both(toy, capfd, *words):
    """Both tools refuse, with the same words."""
    assert toy.train(*HALF) == 2
    one_line(capfd.readouterr().err, words)
    assert toy.call('check_data', '--config', 'recipe.yml', *map(str, HALF)) == 2
    one([line for line in capfd.readouterr().out.splitlines() if line.startswith('problem: ')], *words)


def test_both_look_at_transforms(toy, capfd):
    toy.recipe.pop('method')
    ignore(toy, 200)
    found_by_both(toy, capfd, 'train_dataset.transforms: RandomPaddingCrop', 'label_padding_value 255')


def test_both_look_at_channels(toy, capfd):
    toy.recipe.pop('method')
    toy.recipe['model']['backbone']['in_channels'] = 1
    found_by_both(toy, capfd, 'in_channels is 1')


@pytest.mark.parametrize('how', ['damaged', 'label'])
def test_both_look_at_extra_labels(toy, capfd, how):
    toy.recipe.pop('method')
    (toy.folder / 'more').mkdir()
    for i in range(3):
        Image.open(toy.image(i)).transpose(Image.FLIP_LEFT_RIGHT).save(toy.folder / f'more/{i}.jpg')
        Image.new('L', (48, 40), 1).save(toy.folder / f'more/{i}.png')
    (toy.folder / 'more/list.txt').write_text(''.join(f'{i}.jpg {i}.png\n' for i in range(3)))
    toy.recipe['semi'] = {'extra_labeled': 'more/list.txt'}
    toy.flags()
    assert toy.call('check_data', '--config', 'recipe.yml') == 0
    assert 'extra 1: 3 images, 48x40' in capfd.readouterr().out
    if how == 'damaged':
        damage(toy.folder / 'more/1.jpg')
        found_by_both(toy, capfd, 'more/list.txt:2: more/1.jpg: cannot be decoded')
    else:
        Image.new('L', (48, 40), 9).save(toy.folder / 'more/1.png')
        found_by_both(toy, capfd, 'more/list.txt:2: more/1.png: has label 9')


# 1. More classes than 8 bits can hold

class Says(paddle.nn.Layer):
    """Sees one class everywhere."""

    def __init__(self, number, num_classes=300):
        super().__init__()
        self.number, self.num_classes = number, num_classes

    def forward(self, x):
        number = paddle.full([len(x), *x.shape[2:]], self.number, 'int64')
        return [paddle.nn.functional.one_hot(number, self.num_classes).transpose([0, 3, 1, 2])]


COLORS = Classes([f'class {c}' for c in range(300)], default())
TOO_MANY = 'num_classes: 300: masks are written with 8 bits'


def test_1_predictions(data, tmp_path):
    photos = [(str(data.image(0)), 'zero')]
    with pytest.raises(InputError, match=TOO_MANY):
        predict(Says(3), Compose([Normalize()]), photos, str(tmp_path / 'out'), COLORS)
    with pytest.raises(InputError, match=TOO_MANY):
        label(Says(3), Compose([Normalize()]), [(photos[0][0], str(tmp_path / 'out/0.png'))])
    assert not (tmp_path / 'out').exists()
    predict(Says(255, 256), Compose([Normalize()]), photos, str(tmp_path / 'out'), COLORS)
    assert set(np.unique(Image.open(tmp_path / 'out/pseudo_color_prediction/zero.png'))) == {255}


def test_1_how_many():
    check_class_count(256)
    with pytest.raises(InputError, match='num_classes: 257'):
        check_class_count(257)


def test_1_a_mask(tmp_path):
    with pytest.raises(InputError, match='num_classes: 281: masks'):
        save_mask(np.full(SIZE, 280), str(tmp_path / 'mask.png'), default())
    assert not os.listdir(tmp_path)
    save_mask(np.full(SIZE, 255), str(tmp_path / 'mask.png'), default())


@pytest.mark.parametrize('output_op', ['none', 'softmax', 'argmax'])
def test_1_deployment(output_op):
    scores = Says(280)(paddle.zeros([1, 3, *SIZE]))[0][0].numpy()
    with pytest.raises(InputError, match='8 bits'):
        to_classes(scores.argmax(0) if output_op == 'argmax' else scores, [], output_op)


def test_1_score_maps():
    maps = np.stack([np.zeros(SIZE), np.ones(SIZE)])
    assert (label_of([0, 280], maps, 300) == 280).all()


@pytest.mark.parametrize('tool', ['predict', 'export'])
def test_1_tools(toy, refused, tool):
    for section in ('model', 'train_dataset', 'val_dataset'):
        toy.recipe[section]['num_classes'] = 300
    toy.recipe.pop('method')
    toy.flags()
    more = ['--image_path', 'data/images'] if tool == 'predict' else []
    refused('--config', 'recipe.yml', '--save_dir', 'run', '--device', 'cpu', *more, tool=tool, says=TOO_MANY)


def test_1_a_bundle(tmp_path):
    for name in ('model.json', 'model.pdiparams'):
        (tmp_path / name).write_text('{}')
    (tmp_path / 'deploy.yaml').write_text(yaml.safe_dump({'Deploy': {
        'model': 'model.json', 'params': 'model.pdiparams', 'transforms': [{'type': 'Normalize'}],
        'labels': {'num_classes': 300}}}))
    with pytest.raises(InputError, match='labels: .*300.* masks of 8 bits'):
        Bundle.read(str(tmp_path / 'deploy.yaml'))
