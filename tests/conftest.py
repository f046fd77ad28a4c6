"""Shared by all tests."""

import contextlib
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

import paddleseg_semi

paddleseg_semi.register()

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


@contextlib.contextmanager
def float16_sums():
    """Adds tensors as mixed precision with PaddleSeg's lists does on a GPU: in float16, which ends at 65504. On a CPU
    Paddle leaves all in float32."""
    import paddle
    from paddle.base.core import AmpLevel
    from paddle.base.framework import _dygraph_tracer
    tracer, add = _dygraph_tracer(), paddle.Tensor.__add__
    before = tracer._amp_dtype, tracer._amp_level

    def rounded(x):
        return x.astype('float16').astype('float32')

    def mixed(a, b):
        if tracer._amp_level == AmpLevel.O1 and isinstance(b, paddle.Tensor) and a.dtype == b.dtype == paddle.float32:
            return rounded(add(rounded(a), rounded(b)))
        return add(a, b)

    try:
        paddle.Tensor.__add__ = mixed
        tracer._amp_dtype, tracer._amp_level = 'float16', AmpLevel.O1
        yield
    finally:
        tracer._amp_dtype, tracer._amp_level = before
        paddle.Tensor.__add__ = add
