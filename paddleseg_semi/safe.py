"""Reading pickled files from strangers without executing them.

`paddle.load` and `pickle.load` run whatever code a file names. The unpickler here knows only the few
constructors that tensors, optimizer states and index lists are made of and refuses everything else. What it makes costs
time and memory in proportion to its file. So does what `yaml` makes of text.
"""

import os
import pickle
import sys
from collections import OrderedDict

import numpy as np
import yaml

from paddleseg_semi import files
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


_NESTED = 100_000  # values in a tuple of tuples
_DEEP, _MANY, _TEXT = 50, 1_000_000, 2 ** 24  # of YAML: levels, values, characters
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


class Unpickler(pickle._Unpickler):
    """Knows what arrays are made of, and refuses every other name, and what would grow beyond its file.

    The one in C makes room for any index and any length that a file names. This one takes as long, but for lists of
    millions of numbers: tensors are one instruction each.

    Args:
        file (BinaryIO): open for reading.
        encoding (str): of the text of Python 2.
    """

    dispatch = dict(pickle._Unpickler.dispatch)
    for _code in (pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.DUP, pickle.FROZENSET, pickle.EMPTY_SET,
                  pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4):
        del dispatch[_code[0]]  # no tensor is written with them

    def __init__(self, file, encoding='latin1'):
        super().__init__(file, encoding=encoding)
        self._left = 4 * _size(file) + 2 ** 20
        self._sizes = {}  # of tuples, counting what they hold as often as they hold it, by id

    def find_class(self, module, name):
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise InputError(f'it asks for {module}.{name}, which is neither a number nor an array; nothing was executed')

    def _spend(self, value):
        """Counts what an instruction copies: a file may ask for copies of one long text a million times."""
        for item in value if isinstance(value, tuple) else (value,):
            self._left -= len(item) if hasattr(item, '__len__') else 1
        if self._left < 0:
            raise InputError('it grows far beyond the size of its file')

    def load_reduce(self):
        self._spend(self.stack[-1])
        super().load_reduce()

    def load_newobj(self):
        self._spend(self.stack[-1])
        super().load_newobj()

    def load_build(self):
        self._spend(self.stack[-1])
        super().load_build()

    def _load_tuple(self, code):
        pickle._Unpickler.dispatch[code](self)
        made = self.stack[-1]
        size = 1 + sum(self._sizes.get(id(item), (1,))[0] for item in made)
        if size > _NESTED:  # to hash it, as a key, takes as long
            raise InputError('it nests tuples without end')
        self._sizes[id(made)] = size, made  # kept, lest another gets its id

    dispatch.update({pickle.REDUCE[0]: load_reduce, pickle.NEWOBJ[0]: load_newobj, pickle.BUILD[0]: load_build,
                     pickle.TUPLE[0]: lambda self: self._load_tuple(pickle.TUPLE[0]),
                     pickle.TUPLE1[0]: lambda self: self._load_tuple(pickle.TUPLE1[0]),
                     pickle.TUPLE2[0]: lambda self: self._load_tuple(pickle.TUPLE2[0]),
                     pickle.TUPLE3[0]: lambda self: self._load_tuple(pickle.TUPLE3[0])})


class Opaque:
    """An object of which nothing is known but that a file holds it."""

    def __new__(cls, *_, **__):
        return object.__new__(cls)

    def _forget(self, *_):
        pass

    __init__ = __setstate__ = __setitem__ = append = extend = add = _forget


_OLD_NAMES = {'__builtin__': 'builtins', 'copy_reg': 'copyreg'}  # of Python 2, in which PyTorch still writes
_DATA = {  # of Python's own modules those, and of some those names, that hold data and do nothing
    'argparse': (), 'collections': (), 'datetime': (), 'decimal': (), 'enum': (), 'fractions': (), 'pathlib': (),
    'uuid': (), 'types': ('SimpleNamespace',), 'copyreg': ('_reconstructor', '__newobj__', '__newobj_ex__'),
    'builtins': ('bool', 'bytearray', 'bytes', 'complex', 'dict', 'float', 'frozenset', 'int', 'list', 'object',
                 'range', 'set', 'slice', 'str', 'tuple')}


class Carrier(Unpickler):
    """Knows what a training writes beside its weights, as :class:`Opaque`: objects of any package, none of which is
    imported, and of Python itself what holds data. What of Python does something is refused still."""

    dispatch = dict(Unpickler.dispatch)

    def find_class(self, module, name):
        root = _OLD_NAMES.get(module, module).partition('.')[0]
        names = _DATA.get(root)
        if root in sys.stdlib_module_names:
            carried = names is not None and (name in names or not names) and '.' not in name  # no method of a class
        else:
            carried = '.__' not in name
        return Opaque if carried and (module, name) not in _ALLOWED else super().find_class(module, name)

    def load_empty_set(self):
        self.append(Opaque())

    def load_frozenset(self):
        self.pop_mark()
        self.append(Opaque())

    def load_newobj_ex(self):
        del self.stack[-3:]
        self.append(Opaque())

    dispatch.update({pickle.EMPTY_SET[0]: load_empty_set, pickle.FROZENSET[0]: load_frozenset,
                     pickle.NEWOBJ_EX[0]: load_newobj_ex})


def _size(file):
    """int: bytes of an open file, of a member of an archive too."""
    here = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(here)
    return size


class _Loader(yaml.SafeLoader):
    """Plain values, no deeper and no more of them than a recipe has; aliases count as often as they are used."""

    def __init__(self, text):
        super().__init__(text)
        self._depth = self._count = 0
        self._counts = {}

    def compose_node(self, parent, index):
        alias = self.check_event(yaml.AliasEvent)
        before = self._count
        self._depth += 1
        if self._depth > _DEEP:
            raise yaml.YAMLError(f'it is nested deeper than {_DEEP} levels')
        node = super().compose_node(parent, index)
        self._depth -= 1
        if alias and id(node) not in self._counts:
            raise yaml.YAMLError('a part of it contains itself')
        self._count += self._counts[id(node)] if alias else 1
        if self._count > _MANY:
            raise yaml.YAMLError(f'it has more than {_MANY} values')
        if not alias:
            self._counts[id(node)] = self._count - before
        return node


def read_yaml(source):
    """`yaml.safe_load` with limits: 16 MB, 50 levels, a million values.

    Args:
        source (str|TextIO): the text, or a file of it.

    Returns:
        plain Python values.

    Raises:
        yaml.YAMLError: not YAML, or beyond the limits; one that says why.
    """
    text = source if isinstance(source, str) else source.read(_TEXT + 1)
    if len(text) > _TEXT:
        raise yaml.YAMLError(f'it is longer than {_TEXT >> 20} MB')
    try:
        return yaml.load(text, _Loader)
    except (ValueError, OverflowError) as error:  # a date in the 13th month, an integer of 5,000 digits
        raise yaml.YAMLError(str(error)) from None


def load(path, unpickler=Unpickler):
    """Reads a `.pdparams`, `.pdopt`, `.pdstates` or pickled index file.

    Args:
        path (str): the file.
        unpickler (type, optional): :class:`Carrier` for weights with other objects beside them. Default: those are
            refused.

    Returns:
        what was saved, with tensors as NumPy arrays ('(name, array)' tuples, the way Paddle writes nested
        tensors, come out as the array).

    Raises:
        InputError: no such file, truncated, not a pickle, or a pickle that would execute code.
    """
    try:
        with files.opened(path, 'rb') as file:
            return _plain(unpickler(file, encoding='latin1').load(), {})
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
