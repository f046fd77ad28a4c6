"""U2PL's ways of mixing a batch, against the authors' code."""

import numpy as np
import pytest
from conftest import golden, tensor
from u2pl_draws import Dice

from paddleseg_semi.transforms.mixing import class_masks, half_boxes, partners, paste

IGNORE = 255


class Order:
    """Scores under which the classes of an image stay in the order of a permutation."""

    def __init__(self, case):
        self.case = case

    def random(self, shape):
        score = np.ones(shape)
        for image, label in enumerate(self.case['label']):
            shown = np.unique(np.minimum(label, shape[1] - 1))
            perm = self.case[f'perm_{image:02d}']
            score[image, shown[perm]] = np.arange(len(perm)) / len(perm)
        return score


@pytest.mark.parametrize('case', [pytest.param(case, id=name) for name, case in golden('u2pl_mix_*.npz')])
def test_mix(case):
    image, label, conf = (tensor(case[name]) for name in ('image', 'label', 'conf'))
    if case['mode'] == 'classmix':
        mask = class_masks(Order(case), label, int(case['label'][case['label'] != IGNORE].max()) + 1)
    else:
        dice = Dice(case['draws'])
        mask = half_boxes(dice, len(label), label.shape[1:])
        ranges = np.stack([case['draw_low'], case['draw_high']], -1).reshape(-1, 2)
        assert (np.array(dice.asked) == np.floor(ranges)).all()
    assert (mask.numpy() == (case['keep_mask'] == 0)).all()
    inside = (0., IGNORE, 0.) if case['mode'] == 'cutout' else [partners(value) for value in (image, label, conf)]
    for value, other, name in zip((image, label, conf), inside, ('image', 'label', 'conf')):
        assert (paste(mask, other, value).numpy() == case[f'{name}_out']).all()
