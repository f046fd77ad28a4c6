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


_ALLOWED = {
    ('_codecs', 'encode'): _encode,
    ('collections', 'OrderedDict'): OrderedDict,
    ('builtins', 'tuple'): tuple,
    ('numpy', 'ndarray'): np.ndarray,
    ('numpy', 'dtype'): np.dtype,
}
for _module in ('numpy.core.multiarray', 'numpy._core.multiarray'):  # the spelling of NumPy 1 and of NumPy 2
    _ALLOWED[_module, '_reconstruct'] = np.empty(0).__reduce__()[0]
    _ALLOWED[_module, 'scalar'] = np.float64(0).__reduce__()[0]


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
            return _plain(Unpickler(file, encoding='latin1').load())
    except InputError as error:
        raise InputError(f'{path}: refused: {error}. Use a file written by Paddle or by this suite.') from None
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror}).') from None
    except Exception as error:  # a damaged pickle can raise almost anything
        raise InputError(f'{path}: not a whole Paddle file ({type(error).__name__}: {error}). '
                         'Is it truncated, or of another format?') from None


def _plain(value):
    if isinstance(value, dict):
        value.pop('StructuredToParameterName@@', None)
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], np.ndarray):
        return value[1]
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return value
