"""Shared by all tests."""

import os
import pathlib
import sys
import zlib  # noqa: F401  before Paddle, see paddleseg_semi/__init__.py

os.environ.setdefault('OMP_NUM_THREADS', '2')
ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]

import cli  # noqa: F401  quietens OpenCV, as in every tool; loader threads of an ended test may still be reading
import numpy as np
import pytest

import paddleseg_semi  # noqa: F401

GOLDEN = pathlib.Path(os.environ.get('PADDLESEG_SEMI_GOLDEN', ROOT / 'tests' / 'golden' / 'data'))


def golden(pattern):
    """Golden files, for `pytest.mark.parametrize`.

    Args:
        pattern (str): glob in the folder that PADDLESEG_SEMI_GOLDEN names (default tests/golden/data).

    Returns:
        list[tuple[str, dict[str, numpy.ndarray]]]: name without suffix, and content, in order of the names.

    Raises:
        FileNotFoundError: nothing fits. A test without its data fails.
    """
    paths = sorted(GOLDEN.glob(pattern))
    if not paths:
        raise FileNotFoundError(f'no golden file {GOLDEN / pattern}')
    files = []
    for path in paths:
        with np.load(path, allow_pickle=False) as file:
            files.append((path.stem, dict(file)))
    return files


def golden_cases(pattern, prefix='c', count='num_cases'):
    """The numbered cases of golden files, for `pytest.mark.parametrize`.

    Args:
        pattern (str): see :func:`golden`.
        prefix (str, optional): the keys of case k begin with `<prefix><k>_`. Default: 'c'.
        count (str, optional): the key that holds the number of cases. Default: 'num_cases'.

    Returns:
        list[pytest.param]: one dict per case: its own keys without prefix, and the keys common to the file.
    """
    cases = []
    for name, file in golden(pattern):
        for k in range(int(file[count])):
            start = f'{prefix}{k}_'
            own = {key[len(start):]: array for key, array in file.items() if key.startswith(start)}
            cases.append(pytest.param({**file, **own}, id=f'{name}-{prefix}{k}'))
    return cases


def tensor(array, grad=False):
    """A Paddle tensor; with `grad`, a leaf that collects its gradient."""
    import paddle
    return paddle.to_tensor(np.asarray(array), stop_gradient=not grad)


def close(actual, wanted, rtol=1e-4, atol=1e-5):
    """Compares at the tolerance of the golden data (made in float64, computed here in float32)."""
    np.testing.assert_allclose(np.asarray(actual), wanted, rtol=rtol, atol=atol)
