"""Weak and strong views of unlabeled images, from given draws."""

import random

import numpy as np
import pytest
from conftest import close, golden
from paddleseg import transforms as T

from paddleseg_semi.transforms.geometry import PadToCrop, RandomSmoothScale
from paddleseg_semi.transforms.intensity import OPS, RandomIntensity, intensity

WITHOUT_STRENGTH = ('identity', 'autocontrast', 'equalize', 'invert')
PICTURES = [pytest.param(case, id=name) for name, case in golden('imas_transforms_*.npz')]


def strength(name, modifier, uniforms, signs):
    """What the authors make of their draws: of several the last one counts; small sign draws mean minus."""
    size = modifier * uniforms[-1] if len(uniforms) else 0
    return -size if name == 'hue' and signs[-1] < 0.5 else size


@pytest.mark.parametrize('file, case', golden('imas_strong_ops_*.npz'))
def test_each_operation(file, case):
    assert [str(name) for name in case['names']] == list(OPS)
    for name in OPS:
        drawn = strength(name, float(case['modifier']), case[f'random_{name}'], case[f'uniform_{name}'])
        np.testing.assert_array_equal(intensity(case['image'], name, drawn), case[f'out_{name}'], err_msg=name)


@pytest.mark.parametrize('file, case', golden('imas_strong_chain_*.npz'))
def test_chain(file, case):
    uniforms, signs, img = list(case['draw_random']), list(case['draw_uniform']), case['image']
    for name in (str(name) for name in case['chosen_names']):
        draws = 0 if name in WITHOUT_STRENGTH else 2 if name == 'posterize' else 1
        drawn = [uniforms.pop(0) for _ in range(draws)]
        img = intensity(img, name, strength(name, float(case['modifier']), drawn,
                                            [signs.pop(0)] if name == 'hue' else []))
    assert not uniforms + signs
    np.testing.assert_array_equal(img, case['out'])


@pytest.mark.parametrize('case', PICTURES)
def test_weak_view(case, monkeypatch):
    base, crop, draws = case['base_size'].tolist(), int(case['crop']), case['draws'].tolist()
    weak = [RandomSmoothScale(base, case['scale'].tolist()), *[T.RandomHorizontalFlip()] * int(case['flip']),
            PadToCrop([crop, crop]), T.RandomPaddingCrop([crop, crop])]
    size, coin, column, row = draws if case['flip'] else [draws[0], None, *draws[1:]]
    monkeypatch.setattr(random, 'randint', lambda low, high: int(size))
    monkeypatch.setattr(random, 'uniform', lambda low, high: low + (high - low) * size)
    monkeypatch.setattr(random, 'random', lambda: coin)
    offsets = [int(row), int(column)]  # PaddleSeg asks for the row first
    monkeypatch.setattr(np.random, 'randint', lambda low, high: offsets.pop(0))

    data = {'img': case['image'].astype('float32'), 'label': case['label'], 'gt_fields': ['label']}
    for op in weak:
        data = op(data)
    np.testing.assert_array_equal(data['img'], case['picture_out'])
    np.testing.assert_array_equal(data['label'], case['label_out'])
    data = T.Normalize(case['mean'].tolist(), case['std'].tolist())(data)
    close(data['img'].transpose(2, 0, 1), case['tensor_out'], atol=2e-4)
    np.testing.assert_array_equal(data['label'], case['tensor_label'])


def test_draws_follow_the_seed():
    """PaddleSeg's transforms draw from process-wide generators, which the stream seeds per sample."""
    data = {'img': np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype('float32')}
    views = []
    for seed in (1, 1, 2, 3, 4):
        random.seed(seed)
        views.append(RandomIntensity()(dict(data))['img'])
    np.testing.assert_array_equal(views[0], views[1])
    assert len({view.tobytes() for view in views}) > 2
    assert all(view.dtype == 'float32' and view.shape == (9, 7, 3) for view in views)


@pytest.mark.parametrize('name', OPS)
def test_gray_images_stay_gray(name):
    assert intensity(np.arange(63, dtype='uint8').reshape(9, 7), name, 0.5).shape == (9, 7)


@pytest.mark.parametrize('knobs', [{'ops': ['blurr']}, {'ops': []}, {'num_ops': -1}, {'num_ops': [2, 1]},
                                   {'num_ops': [1, 2, 3]}, {'num_ops': 1.5}, {'strength': 1.5}, {'least': 1.0}])
def test_bad_knobs(knobs):
    with pytest.raises(ValueError):
        RandomIntensity(**knobs)
