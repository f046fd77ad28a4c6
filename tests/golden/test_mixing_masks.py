"""Masks of CPS / CutMix-Seg and of UniMatch from given draws."""

import numpy as np
import pytest
from conftest import golden, golden_cases

from paddleseg_semi.transforms.mixing import gated_boxes, toggled_boxes


class Replay:
    """A generator that hands out given draws, and checks that it was asked for their shapes."""

    def __init__(self, *draws):
        self.draws = list(draws)

    def uniform(self, low, high, size=()):
        draw = self.draws.pop(0)
        assert np.shape(draw) == size
        assert np.all((low <= draw) & (draw <= high))
        return draw

    def integers(self, low, high):
        return self.uniform(low, high)


@pytest.mark.parametrize('case', golden_cases('cps_boxmask*.npz', 'case', 'n_cases'))
def test_toggled_boxes(case):
    boxes, random_aspect, by_area, within, invert = case['flags'].tolist()
    draws = [case[key] for key in sorted(key for key in case if key.startswith('draw'))]
    rng = Replay(*draws)
    mask = toggled_boxes(rng, len(case['mask']), case['shape'], case['prop_range'], boxes, bool(random_aspect),
                         bool(by_area), bool(within), bool(invert), reference_quirks=True)
    assert not rng.draws
    np.testing.assert_array_equal(mask.numpy(), case['mask'][:, 0] == 1)


@pytest.mark.parametrize('name, data', golden('unimatch_cutmix_box*.npz'))
def test_gated_boxes(name, data):
    for row in data['rows']:
        case = dict(zip(data['columns'].tolist(), row))
        size, wanted = int(case['size']), np.zeros([1, int(case['size'])] + [int(case['size'])], bool)
        rng = Replay(case['gate'], *(case[key] for key in ('area_frac', 'ratio', 'x', 'y')))
        if case['gate'] <= 0.5:
            y0, y1, x0, x1 = (int(case[key]) for key in ('y0', 'y1', 'x0', 'x1'))
            wanted[0, y0:y1, x0:x1] = True
        np.testing.assert_array_equal(gated_boxes(rng, 1, (size, size)).numpy(), wanted)
