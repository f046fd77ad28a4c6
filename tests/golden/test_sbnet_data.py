"""The boundary maps of SBNet and its geometry."""

import random

import numpy as np
import pytest
from conftest import golden, golden_cases

from paddleseg_semi.transforms.boundary import RandomLongSide, RandomPlacedCrop, boundary_maps


@pytest.mark.parametrize('case', [pytest.param(case, id=name) for name, case in golden('sbnet_boundary*.npz')])
def test_boundary_maps(case):
    wanted = case['boundary'].transpose(1, 2, 0)
    assert np.array_equal(boundary_maps(case['label'], wanted.shape[2]), wanted)


@pytest.mark.parametrize('case', golden_cases('sbnet_geometry*.npz', 'crop', 'crop_count'))
def test_crop(case, monkeypatch):
    draws = iter(zip(case['draw_limits'].tolist(), case['draws_x_y'].tolist()))

    def randrange(limit):
        wanted, drawn = next(draws)
        assert limit == wanted
        return drawn
    monkeypatch.setattr(random, 'randrange', randrange)
    boundary = case['boundary'].transpose(1, 2, 0)
    data = RandomPlacedCrop([int(case['crop_size'])] * 2, im_padding_value=0)(
        {'img': case['image'], 'boundary': boundary, 'label': boundary[..., 0], 'gt_fields': ['label']})
    assert np.array_equal(data['img'], case['out_image'])
    assert np.array_equal(data['boundary'].transpose(2, 0, 1), case['out_boundary'])
    outside = (case['out_image'] == 0).all(2)
    assert (data['label'][outside] == 255).all()
    assert np.array_equal(data['label'][~outside], case['out_boundary'][0][~outside])


@pytest.mark.parametrize('case', [pytest.param(case, id=name) for name, case in golden('sbnet_geometry*.npz')])
def test_resize(case, monkeypatch):
    for (width, height), long_side, size, shape in zip(case['resize_in_wh'], case['resize_long'], case['resize_out_wh'],
                                                       case['resize_boundary_shape']):
        monkeypatch.setattr(random, 'randint', lambda low, high, side=int(long_side): side)
        maps = np.zeros([height, width, shape[0]], 'float32')
        maps[:, width // 2:] = 1
        data = RandomLongSide()({'img': np.zeros([height, width, 3], 'float32'), 'boundary': maps})
        assert data['img'].shape == (size[1], size[0], 3)
        assert data['boundary'].transpose(2, 0, 1).shape == tuple(shape)
        assert data['boundary'].min() == 0 and data['boundary'].max() == 1
