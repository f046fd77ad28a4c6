"""What CutOut erases."""

import random

import numpy as np
import pytest

from paddleseg_semi.transforms.cutout import CutOut


def erased(height, width, seed, **options):
    random.seed(seed)
    np.random.seed(seed)
    img, label = np.full([height, width, 3], -1, 'float32'), np.zeros([height, width], 'uint8')
    label.setflags(write=False)
    data = CutOut(prob=1, **options)({'img': img, 'label': label, 'gt_fields': ['label']})
    assert (img == -1).all() and data['img'].dtype == 'float32' and data['label'].dtype == 'uint8'
    return data['img'], data['label']


@pytest.mark.parametrize('seed', range(20))
def test_a_rectangle_of_noise_without_label(seed):
    img, label = erased(60, 90, seed)
    rows, columns = np.nonzero(label == 255)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert len(rows) == height * width
    assert 0.02 - 0.02 < height * width / (60 * 90) <= 0.4 and 0.25 < height / width < 4
    np.testing.assert_array_equal((img >= 0).all(2), label == 255)
    assert len(np.unique(img[label == 255])) > height * width and img.max() < 255


def test_never_and_without_masks():
    data = {'img': np.zeros([8, 8, 3], 'uint8')}
    assert CutOut(prob=0)(data)['img'] is data['img']
    assert CutOut(prob=1)({**data})['img'].any()


@pytest.mark.parametrize('options', [{'area': [0, 0.4]}, {'area': [0.1, 0.9]}, {'aspect': [0, 3]}])
def test_a_rectangle_that_may_never_fit(options):
    with pytest.raises(ValueError):
        CutOut(**options)
