import re

import numpy as np
import pytest
from conftest import close, golden_cases

from paddleseg_semi.core import crf

CASES = golden_cases('sbnet_crf*.npz', 'c', 'count')


@pytest.fixture(params=['own', 'library'], autouse=True)
def implementation(request, monkeypatch):
    if request.param == 'own':
        monkeypatch.setattr(crf, 'densecrf', None)
    elif crf.densecrf is None:
        pytest.skip('pydensecrf is not installed')


def settings(key):
    """'q_t10_s12' → the keywords of dense_crf."""
    iters, scale = map(int, re.fullmatch(r'\w+_t(\d+)_s(\d+)', key).groups())
    return {'iters': iters, 'gaussian': (3 / scale, 3), 'bilateral': (80 / scale, 13, 10)}


@pytest.mark.parametrize('case', CASES)
def test_marginals_and_labels(case):
    keys = [key for key in case if re.fullmatch(r'q_t\d+_s\d+', key)]
    assert keys
    for key in keys:
        q = crf.dense_crf(case['probs'], case['image'], **settings(key))
        close(q, case[key], rtol=0, atol=5e-4)
        assert q.dtype == np.float32
        assert (q.argmax(0) == case[key].argmax(0)).all()
        exact = case[key.replace('q_', 'exact_', 1)]
        assert (q.argmax(0) == exact.argmax(0)).mean() > 0.97


@pytest.mark.parametrize('case', CASES)
def test_no_iteration_normalizes(case):
    probs = case['probs'].clip(1e-5, 1)
    close(crf.dense_crf(case['probs'], case['image'], iters=0), probs / probs.sum(0))


@pytest.mark.parametrize('image', [np.zeros([5, 4, 3], 'uint8'), np.zeros([4, 5, 3], 'float32'),
                                   np.zeros([4, 5], 'uint8')], ids=['turned', 'float', 'gray'])
def test_unfit_images(image):
    with pytest.raises(ValueError, match='needs an image of'):
        crf.dense_crf(np.full([2, 4, 5], 0.5, 'float32'), image)


@pytest.mark.parametrize('case', CASES)
def test_several_scores_of_one_image(case):
    probs = [case['probs'], case['probs'][::-1] ** 2, case['probs'][:2]]
    for prob, found in zip(probs, crf.dense_crfs(probs, case['image'], 3), strict=True):
        assert np.array_equal(found, crf.dense_crf(prob, case['image'], 3))
