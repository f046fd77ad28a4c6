"""Where a step waits for the device.

A GPU works off a queue. Whoever reads a number from it, asks for a result whose size depends on the data, or copies
more than a little to it, waits until the queue is empty; meanwhile nothing is put into it. This module counts such
places. It watches the calls, not the device, so that a CPU answers as a GPU would.
"""

import contextlib
import functools
import os
import sys
from typing import NamedTuple

import numpy as np
import paddle
from paddle import _C_ops

SMALL = 64 * 1024  # bytes; CUDA takes so many along with the command to copy them, and nobody waits
_PACKAGE = os.path.dirname(os.path.dirname(__file__))
_READS = ('numpy', 'item', 'tolist', 'cpu', '__array__', '__bool__', '__float__', '__int__', '__index__', '__format__')
_ARITHMETIC = [f'__{reflected}{name}__' for name in ('add', 'sub', 'mul', 'truediv', 'pow') for reflected in ('', 'r')]
_SIZED_BY_DATA = ('nonzero', 'masked_select', 'unique', 'unique_consecutive', 'repeat_interleave_with_tensor_index',
                  'bincount', 'index_put', 'index_put_')
# What must be a number on the host: given as a tensor, it is read. Position among the arguments.
_NUMBERS = {'clip': (1, 2), 'clip_': (1, 2), 'cumsum': (1,), 'expand': (1,), 'full': (0, 1),
            'full_': (1, 2), 'full_like': (1,), 'pow': (1,), 'pow_': (1,), 'reshape': (1,), 'roll': (1, 2),
            'scale': (1, 2), 'scale_': (1, 2), 'slice': (2, 3), 'split': (1, 2), 'tile': (1,), 'topk': (1,)}


class Sync(NamedTuple):
    """One wait.

    Attributes:
        kind (str): 'read', 'upload' or 'size'.
        call (str): what waits.
        where (str): file and line of the suite or of PaddleSeg that calls it.
    """

    kind: str
    call: str
    where: str


@contextlib.contextmanager
def watched():
    """Collects the waits of the block.

    Tensors on the host cost nothing to read: `paddle.shape` makes such, and they are told apart. What compiled code
    reads without a word to Python, given a tensor for a number, is not seen but in the operators listed above.

    Yields:
        list[Sync]: grows while the block runs.
    """
    watch = _Watch()
    with contextlib.ExitStack() as patches:
        for owner, name, make in watch.patches():
            if hasattr(owner, name):
                original = getattr(owner, name)
                setattr(owner, name, functools.wraps(original)(make(original)))
                patches.callback(setattr, owner, name, original)
        yield watch.syncs


class _Watch:
    def __init__(self):
        self.syncs, self._inside = [], False

    def patches(self):
        """Yields (owner, name, original → replacement)."""
        tensor = paddle.Tensor
        for name in _READS:
            yield tensor, name, self._calls('read', name, lambda args: not _on_host(args[0]))
        for name in _ARITHMETIC:
            yield tensor, name, self._calculates
        for name in _SIZED_BY_DATA:
            yield _C_ops, name, self._calls('size', name, lambda args: True)
        for name, places in _NUMBERS.items():
            yield _C_ops, name, self._calls('read', name, functools.partial(_has_tensor, places=places))
        yield paddle, 'arange', self._calls('read', 'arange', functools.partial(_has_tensor, places=(0, 1, 2)))
        for name in ('__getitem__', '__setitem__'):
            yield tensor, name, self._indexes
        yield paddle, 'to_tensor', self._calls('upload', 'to_tensor', lambda args: not isinstance(args[0], tensor))
        yield tensor, 'set_value', self._calls('upload', 'set_value', lambda args: True)
        yield paddle, 'assign', self._calls('upload', 'assign', _is_large)
        yield paddle, 'shape', lambda original: lambda x: _mark(original(x))
        for name in ('astype', 'cast'):
            yield tensor, name, _keeps_mark

    def _calls(self, kind, name, waits):
        def make(original):
            def call(*args, **kwargs):
                if self._inside or not waits([*args, *kwargs.values()]):
                    return original(*args, **kwargs)
                self.syncs.append(Sync(kind, name, _caller()))
                return self._quietly(original, *args, **kwargs)
            return call
        return make

    def _calculates(self, original):
        upload = self._calls('upload', original.__name__, lambda args: isinstance(args[1], np.ndarray))(original)
        return lambda x, y: _mark(upload(x, y)) if _on_host(x) and isinstance(y, (int, float)) else upload(x, y)

    def _indexes(self, original):
        def call(x, index, *value):
            kind = None if self._inside or _on_host(x) else _index_kind(index)
            if kind:
                self.syncs.append(Sync(kind, original.__name__, _caller()))
            result = self._quietly(original, x, index, *value) if kind else original(x, index, *value)
            return _mark(result) if _on_host(x) and result is not None else result
        return call

    def _quietly(self, original, *args, **kwargs):
        """Paddle's own functions call one another: only the outermost counts."""
        self._inside = True
        try:
            return original(*args, **kwargs)
        finally:
            self._inside = False


def _mark(tensor):
    tensor.on_host = True
    return tensor


def _keeps_mark(original):
    def call(tensor, dtype):
        return _mark(original(tensor, dtype)) if _on_host(tensor) else original(tensor, dtype)
    return call


def _on_host(tensor):
    elsewhere = 'cpu' not in paddle.get_device() and tensor.place.is_cpu_place()
    return elsewhere or getattr(tensor, 'on_host', False)


def _has_tensor(args, places):
    numbers = [number for place in places if place < len(args)
               for number in (args[place] if isinstance(args[place], (list, tuple)) else [args[place]])]
    return any(isinstance(number, paddle.Tensor) and not _on_host(number) for number in numbers)


def _is_large(args):
    return not isinstance(args[0], paddle.Tensor) and np.asarray(args[0]).nbytes > SMALL


def _index_kind(index):
    parts = index if isinstance(index, tuple) else [index]
    if any(isinstance(part, (list, np.ndarray)) for part in parts):
        return 'upload'
    tensors = [part for part in parts if isinstance(part, paddle.Tensor) and not _on_host(part)]
    if any(part.dtype == paddle.bool for part in tensors):
        return 'size'
    return 'read' if any(part.ndim == 0 for part in tensors) else None


def _caller():
    frame = sys._getframe(1)
    while frame.f_back and (frame.f_code.co_filename == __file__ or not _is_ours(frame.f_code.co_filename)):
        frame = frame.f_back
    return f'{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}'


def _is_ours(path):
    return path.startswith(_PACKAGE + os.sep) or f'{os.sep}paddleseg{os.sep}' in path
