"""CutMix by hardness, from given draws; and the variants the authors switched off, which differ in size and partner."""

import numpy as np
import pytest
from conftest import golden, tensor

from paddleseg_semi.methods.imas import opposite
from paddleseg_semi.transforms.mixing import centered_boxes, paste


class Replay:
    """A generator that hands out given draws."""

    def __init__(self, uniform, *integers):
        self.draw, self.integers_left = uniform, list(integers)

    def uniform(self, low, high):
        return low + (high - low) * self.draw

    def integers(self, low, high, n):
        draw = self.integers_left.pop(0)
        assert len(draw) == n and np.all((low <= draw) & (draw < high))
        return draw


@pytest.mark.parametrize('case', [pytest.param(case, id=name) for name, case in golden('imas_cutmix_*.npz')])
def test_cutmix(case):
    gamma, share, partner = case['hardness'], case['scale'].tolist(), case['draw_perm']
    if case['variant'] == 'hardness':
        partner = opposite(tensor(gamma)).numpy()
        np.testing.assert_array_equal(partner, case['partner'])
    uniform = case['draw_random'][0] if len(case['draw_random']) else 0
    if case['hardness_scales_box']:
        uniform *= gamma.mean()
    if case['variant'] == 'beta':
        share = [np.sqrt(1 - case['draw_beta'][0])] * 2
    rng = Replay(uniform, case['draw_center_rows'], case['draw_center_cols'])
    mask = centered_boxes(rng, len(gamma), case['image'].shape[2:], share)
    for key in ('image', 'label', 'conf'):
        mixed = paste(mask, tensor(case[key][partner]), tensor(case[key]))
        np.testing.assert_array_equal(mixed.numpy(), case[f'{key}_out'], err_msg=key)
