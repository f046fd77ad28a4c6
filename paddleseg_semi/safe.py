"""Reading pickled files from strangers without executing them.

`paddle.load` and `pickle.load` run whatever code a file names. The unpickler here knows only the few
constructors that tensors, optimizer states and index lists are made of and refuses everything else.
"""

import pickle
from collections import OrderedDict

import numpy as np

from paddleseg_semi.errors import InputError


def _encode(text, encoding):
    """Bytes, in the spelling of `paddle.save(..., protocol=2)`."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'bytes as {encoding!r}')
    return text.encode(encoding)


class _DType:
    """A type of numbers or text. NumPy's own believes whatever a file says of it, such as that the bytes of an array
    are addresses of objects, and would follow them."""

    def __init__(self, name, *_):
        self.plain = np.dtype(name if isinstance(name, str) else object)
        if self.plain.kind not in 'biufcSU':
            raise InputError(f'it has an array of {self.plain}, not of numbers; nothing was executed')

    def __setstate__(self, state):
        self.plain = self.plain.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array that takes its numbers from a file."""

    def __setstate__(self, state):
        version, shape, dtype, *data = state
        super().__setstate__((version, shape, dtype.plain, *data))


def _reconstruct(*_):
    return _Array(0)


def _scalar(dtype, data):
    return np.float64(0).__reduce__()[0](dtype.plain, data)


_ALLOWED = {
    ('_codecs', 'encode'): _encode,
    ('collections', 'OrderedDict'): OrderedDict,
    ('builtins', 'tuple'): tuple,
    ('numpy', 'ndarray'): 'ndarray',  # an argument of _reconstruct, never called
    ('numpy', 'dtype'): _DType,
}
for _module in ('numpy.core.multiarray', 'numpy._core.multiarray'):  # the spelling of NumPy 1 and of NumPy 2
    _ALLOWED[_module, '_reconstruct'] = _reconstruct
    _ALLOWED[_module, 'scalar'] = _scalar


class Unpickler(pickle.Unpickler):
    """Knows what arrays are made of, and refuses every other name."""

    def find_class(self, module, name):
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise InputError(f'it asks for {module}.{name}, which is neither a number nor an array; nothing was executed')


def load(path):
    """Reads a `.pdparams`, `.pdopt`, `.pdstates` or pickled index file.

    Args:
        path (str): the file.

    Returns:
        what was saved, with tensors as NumPy arrays ('(name, array)' tuples, the way Paddle writes nested
        tensors, come out as the array).

    Raises:
        InputError: no such file, truncated, not a pickle, or a pickle that would execute code.
    """
    try:
        with open(path, 'rb') as file:
            return _plain(Unpickler(file, encoding='latin1').load(), {})
    except InputError as error:
        raise InputError(f'{path}: refused: {error}. Use a file written by Paddle or by this suite.') from None
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror}).') from None
    except Exception as error:  # a damaged pickle can raise almost anything
        raise InputError(f'{path}: not a whole Paddle file ({type(error).__name__}: {error}). '
                         'Is it truncated, or of another format?') from None


def _plain(value, done):
    """`done` holds what was seen before, by its id: a small file may name the same list a billion times."""
    if id(value) not in done:
        done[id(value)] = _plain_once(value, done)
    return done[id(value)]


def _plain_once(value, done):
    if isinstance(value, dict):
        value.pop('StructuredToParameterName@@', None)
        return {key: _plain(item, done) for key, item in value.items()}
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], np.ndarray):
        return np.asarray(value[1])
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item, done) for item in value)
    return np.asarray(value) if isinstance(value, np.ndarray) else value
