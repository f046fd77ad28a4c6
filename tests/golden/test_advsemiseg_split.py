"""How many images of a data set the reference labels."""

import pytest
from conftest import golden

from paddleseg_semi.datasets.split import labeled_count


@pytest.mark.parametrize('name, case', golden('advsemiseg_split*.npz'))
def test_labeled_count(name, case):
    counts = [[labeled_count(int(total), float(ratio)) for ratio in case['ratios']] for total in case['totals']]
    assert counts == case['labelled'].tolist()
