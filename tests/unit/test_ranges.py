"""Ranges of keywords, and that every knob of a method has one."""

import inspect

import numpy as np
import pytest

from paddleseg_semi import ranges
from paddleseg_semi.errors import InputError
from paddleseg_semi.registries import METHODS

NAMES = sorted(METHODS.components_dict)
NEVER = [float('nan'), float('inf'), 'abc', [None], {}, object()]


@pytest.mark.parametrize('range_, taken, refused, says', [
    (ranges.SHARE, [0, 0.5, 1, np.float32(1)], [-0.1, 1.1, True, '0.5', [0.5]], 'a number of at least 0 and at most 1'),
    (ranges.DECAY, [0, 0.999], [1, 1.0, -1], 'a number of at least 0 and below 1'),
    (ranges.POSITIVE, [1e-9, 5], [0, -1], 'a number above 0'),
    (ranges.AT_LEAST_ONE, [1, 80, np.int64(3)], [0, 1.0, True], 'a whole number of at least 1'),
    (ranges.START, [0, 5000, 0.25, 0.0], [1.0, 1.5, -1, -0.1, True, '5'], 'a whole number of updates, or a share'),
    (ranges.SHARES, [[0.1, 1], (0.5, 0.5)], [0.3, [0.5, 0.1], [0, 1], [0.1], [0.1, 0.2, 0.3]], 'the smaller first'),
    (ranges.OneOf(('a', 'b')), ['a'], ['c', None, 0], 'one of a, b'),
    (ranges.SWITCH, [True, False], [0, 1, 'True'], 'True or False')])
def test_what_is_in_a_range(range_, taken, refused, says):
    assert all(map(range_.accepts, taken))
    assert not any(map(range_.accepts, refused + NEVER))
    assert says in str(range_)


@pytest.mark.parametrize('name', NAMES)
def test_every_knob_has_a_range_that_its_default_is_in(name):
    method = METHODS[name]
    knobs = {key: knob.default for key, knob in [*inspect.signature(method).parameters.items()][1:]}
    assert {*method.ranges} == {*knobs}
    ranges.check(method, knobs, 'method')
    for key in knobs:
        if method.ranges[key] is not ranges.LAYER:
            for wrong in NEVER[:2] + NEVER[3:]:
                with pytest.raises(InputError, match=f'^method.{key}: .*: give '):
                    ranges.check(method, {key: wrong}, 'method')


def test_a_method_itself_refuses_too():
    with pytest.raises(InputError, match='method.conf_thresh: 1.5: give a number of at least 0 and at most 1.'):
        METHODS['FixMatch'](None, conf_thresh=1.5)
