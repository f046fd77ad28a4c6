"""Strong views."""

import random

import cv2
import numpy as np
import pytest
from paddleseg import transforms as T
from PIL import Image, ImageEnhance

from paddleseg_semi.datasets.streams.unlabeled import UnlabeledStream
from paddleseg_semi.transforms import strong
from paddleseg_semi.transforms.strong import ColorJitter, GaussianBlur, RandomGrayscale

DTYPES = ('uint8', 'float32')
IMG = np.random.default_rng(0).integers(0, 256, (13, 17, 3)).astype('uint8')


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('factor', [0, 0.3, 1, 1.4])
@pytest.mark.parametrize('adjust, enhancer', [(strong.adjust_brightness, ImageEnhance.Brightness),
                                              (strong.adjust_contrast, ImageEnhance.Contrast),
                                              (strong.adjust_saturation, ImageEnhance.Color)])
def test_factors_as_pillow(adjust, enhancer, factor, dtype):
    wanted = np.asarray(enhancer(Image.fromarray(IMG)).enhance(factor), 'int64')
    mine = adjust(IMG.astype(dtype), factor)
    assert mine.dtype == dtype
    assert np.abs(mine - wanted).max() <= 1.5  # Pillow rounds gray to whole numbers and truncates the sum


@pytest.mark.parametrize('dtype', DTYPES)
def test_hue(dtype):
    red = np.zeros((2, 2, 3), dtype)
    red[..., 0] = 200
    for turns, wanted in ((0, [200, 0, 0]), (1 / 3, [0, 200, 0]), (-1 / 3, [0, 0, 200]), (0.5, [0, 200, 200])):
        shifted = strong.adjust_hue(red, turns)
        assert shifted.dtype == dtype
        assert np.abs(shifted[0, 0].astype('float32') - wanted).max() <= 1
    there_and_back = strong.adjust_hue(strong.adjust_hue(IMG.astype('float32'), 0.2), -0.2)
    assert np.abs(there_and_back - IMG).max() < 0.1


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('gray', [False, True])
@pytest.mark.parametrize('transform', [ColorJitter(prob=1), RandomGrayscale(1), GaussianBlur(prob=1)])
def test_every_kind_of_image(transform, gray, dtype):
    img = (IMG[..., 0] if gray else IMG).astype(dtype)
    before = img.copy()
    for seed in range(5):
        random.seed(seed)
        out = transform({'img': img})['img']
        assert out.shape == img.shape and out.dtype == dtype
        assert out.min() >= 0 and out.max() <= 255
    assert (img == before).all()


def test_probabilities_and_ranges():
    random.seed(0)
    changed = [(GaussianBlur([1, 2], 0.25)({'img': IMG})['img'] != IMG).any() for _ in range(400)]
    assert 0.18 < np.mean(changed) < 0.32
    gray = RandomGrayscale(1)({'img': IMG})['img']
    assert (gray == gray[..., :1]).all()
    jitter = ColorJitter(brightness=0.5, contrast=0, saturation=0, hue=0, prob=1)
    brightness = [jitter({'img': np.full((1, 1, 3), 100, 'float32')})['img'][0, 0, 0] for _ in range(300)]
    assert 50 <= min(brightness) < 55 and 145 < max(brightness) <= 150


def test_wrong_ranges_are_refused():
    with pytest.raises(ValueError, match='hue'):
        ColorJitter(hue=0.6)
    with pytest.raises(ValueError, match='sigma'):
        GaussianBlur(sigma=[0, 2])


def test_in_a_stream(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), IMG)
    weak = [T.RandomHorizontalFlip(), T.RandomPaddingCrop([24, 16]), T.Normalize()]
    views = [ColorJitter(prob=1), RandomGrayscale(), GaussianBlur()]
    stream = UnlabeledStream([str(tmp_path / 'a.png')], weak, views, 2)
    sample, again = stream[0, 7], stream[0, 7]
    assert all((sample[key] == again[key]).all() for key in sample)
    assert not sample['valid'].all()
    padding = UnlabeledStream([str(tmp_path / 'a.png')], weak, padding=True)[0, 7]
    assert padding['valid'].all() and padding['valid'].dtype == bool
    np.testing.assert_array_equal(padding['weak'], sample['weak'])
    assert (sample['strong'] != sample['strong_2']).any()
    assert sample['strong'].dtype == 'float32' and sample['strong'].shape == sample['weak'].shape
