"""Weights saved by PyTorch, read without PyTorch and without executing what the file says."""

import os
import pickle
import zipfile

import numpy as np

from paddleseg_semi.errors import InputError
from paddleseg_semi.safe import Carrier, Unpickler

_MAGIC = 0x1950a86a20f9469cfc6c  # begins a file of PyTorch before 1.6
_DTYPES = {'Float': 'f4', 'Double': 'f8', 'Half': 'f2', 'BFloat16': 'u2', 'Long': 'i8', 'Int': 'i4', 'Short': 'i2',
           'Char': 'i1', 'Byte': 'u1', 'Bool': '?'}


def is_one(path):
    """bool: whether a file begins as PyTorch's do, of either format; False for one that cannot be read."""
    try:
        with open(path, 'rb') as file:
            head = file.read(32)
    except OSError:
        return False
    return head.startswith(b'PK\3\4') or head.startswith(b'\x80') and _MAGIC.to_bytes(10, 'little') in head


def read(path):
    """Reads a `.pth` file, of the zip format or of the one before PyTorch 1.6.

    Args:
        path (str): the file.

    Returns:
        dict: what was saved: names to arrays, or to dicts of them ('state_dict', 'model', ...). Other objects are
        `safe.Opaque`.

    Raises:
        InputError: the file is missing, damaged, of another format, holds no dict, or would execute code.
    """
    try:
        with open(path, 'rb') as file:
            zipped = zipfile.is_zipfile(file)
            file.seek(0)
            content, storages = (_read_zip if zipped else _read_legacy)(file)
            # a storage may be seen by several tensors, but not by any number of them
            content = _Arrays(storages, 4 * os.fstat(file.fileno()).st_size + 2 ** 20).of(content)
    except InputError as error:
        raise InputError(f'{path}: refused: {error}. Use a file that holds weights only.') from None
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror}).') from None
    except Exception as error:  # a damaged pickle can raise almost anything
        raise InputError(f'{path}: not a whole PyTorch file ({type(error).__name__}: {error}). '
                         'Is it truncated, or of another format?') from None
    if not isinstance(content, dict):
        raise InputError(f'{path}: holds no weights. Give the .pth file of a state dict.')
    return content


def _read_zip(file):
    archive = zipfile.ZipFile(file)
    if sum(entry.file_size for entry in archive.infolist()) > os.fstat(file.fileno()).st_size:
        raise ValueError('its parts are larger than the file')
    index = next(name for name in archive.namelist() if name.endswith('/data.pkl'))
    folder = index[:-len('data.pkl')]
    unpickler = _TorchUnpickler(archive.open(index))
    content = unpickler.load()
    order = archive.read(folder + 'byteorder').decode() if folder + 'byteorder' in archive.namelist() else 'little'
    storages = {}
    for key, (dtype, count) in unpickler.storages.items():
        entry = archive.getinfo(f'{folder}data/{key}')
        dtype = np.dtype(dtype).newbyteorder(order)
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size < count * dtype.itemsize:
            raise ValueError(f'storage {key} has {entry.file_size} bytes for {count} numbers')
        storages[key] = np.frombuffer(archive.read(entry), dtype)
    return content, storages


def _read_legacy(file):
    if Unpickler(file).load() != _MAGIC:
        raise ValueError('it does not begin as PyTorch begins a file')
    Unpickler(file).load()  # version of the protocol
    order = 'little' if Unpickler(file).load()['little_endian'] else 'big'
    unpickler = _TorchUnpickler(file)
    content = unpickler.load()
    storages = {}
    for key in Unpickler(file).load():
        dtype, count = unpickler.storages[key]
        dtype = np.dtype(dtype).newbyteorder(order)
        if np.frombuffer(file.read(8), np.dtype('i8').newbyteorder(order)) != count:
            raise ValueError(f'storage {key} has not the {count} numbers it should have')
        storages[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype, count)
    return content, storages


class _Tensor:
    """A tensor before its numbers are read: a view of a storage."""

    def __init__(self, storage, offset, size, stride, *_):
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def array(self, storages):
        key, name = self.storage
        numbers = storages[key][self.offset:]
        last = sum((n - 1) * step for n, step in zip(self.size, self.stride))
        if min((*self.size, *self.stride, self.offset), default=0) < 0 or np.prod(self.size) > numbers.size \
                or 0 not in self.size and last >= numbers.size:
            raise ValueError(f'a tensor of {list(self.size)} reaches beyond its storage')
        view = np.lib.stride_tricks.as_strided(
            numbers, self.size, [step * numbers.itemsize for step in self.stride], writeable=False)
        array = view.astype(view.dtype.newbyteorder('='), order='C')
        return from_bfloat16(array) if name == 'BFloat16' else array


def from_bfloat16(array):
    """np.ndarray: float32 of the uint16 that are their upper halves."""
    return (array.astype('u4') << 16).view('f4')


class _Arrays:
    """Makes arrays of the tensors in dicts, as long as they do not exceed a number of bytes."""

    def __init__(self, storages, left):
        self.storages, self.left, self.done = storages, left, {}

    def of(self, value):
        if id(value) not in self.done:
            self.done[id(value)] = value, self._of(value)  # the value too, lest another one gets its id
        return self.done[id(value)][1]

    def _of(self, value):
        if isinstance(value, dict):
            return {key: self.of(item) for key, item in value.items()}
        if not isinstance(value, _Tensor):
            return value
        array = value.array(self.storages)
        self.left -= array.nbytes
        if self.left < 0:
            raise ValueError('its tensors are far larger than the file')
        return array


class _TorchUnpickler(Carrier):
    """Knows, besides plain arrays, tensors and storages. `storages` collects key to (dtype, number count)."""

    def __init__(self, file):
        super().__init__(file, encoding='latin1')
        self.storages = {}

    def find_class(self, module, name):
        if module == 'torch._utils' and name in ('_rebuild_tensor', '_rebuild_tensor_v2'):
            return _Tensor
        if module == 'torch._utils' and name == '_rebuild_parameter':
            return _data_of_parameter
        if module == 'torch' and name == 'Size':
            return tuple
        if module == 'torch' and name.endswith('Storage') and name[:-len('Storage')] in _DTYPES:
            return name[:-len('Storage')]
        return super().find_class(module, name)

    def persistent_load(self, pid):
        kind, name, key, _, count, *view = pid
        if kind != 'storage' or name not in _DTYPES or any(view):
            raise pickle.UnpicklingError(f'unknown object {pid!r}')
        self.storages[key] = _DTYPES[name], count
        return key, name


def _data_of_parameter(data, *_):
    return data
