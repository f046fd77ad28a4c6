"""Weights saved by MXNet, read without MXNet."""

import os
import struct

import numpy as np

from paddleseg_semi.errors import InputError

_LIST = 0x112                                           # begins a file
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA      # begin an array; in the oldest files its rank does
_DTYPES = ['f4', 'f8', 'f2', 'u1', 'i4', 'i1', 'i8']


def is_one(head):
    """bool: whether a file that begins with these bytes, at least 16, is one of MXNet."""
    return head[:16] == struct.pack('<QQ', _LIST, 0)


def read(path):
    """Reads a `.params` file.

    Args:
        path (str): the file.

    Returns:
        dict[str, numpy.ndarray]: name, with 'arg:' or 'aux:' before it, to array.

    Raises:
        InputError: the file is missing, damaged or of another format.
    """
    try:
        with open(path, 'rb') as file:
            if _number(file, 'Q') != _LIST:
                raise ValueError('it does not begin as MXNet begins a file')
            _number(file, 'Q')  # reserved
            arrays = [_array(file) for _ in range(_number(file, 'Q'))]
            names = [_bytes(file, _number(file, 'Q')).decode() for _ in range(_number(file, 'Q'))]
        if len(names) != len(arrays):
            raise ValueError(f'{len(arrays)} arrays, but {len(names)} names')
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror}).') from None
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f'{path}: not a whole MXNet file ({error}). Is it truncated, or of another format?') from None
    return dict(zip(names, arrays))


def _array(file):
    version = _number(file, 'I')
    if version in (_V2, _V3) and _number(file, 'i') != 0:
        raise ValueError('it holds a sparse array')
    rank = _number(file, 'I') if version in (_V1, _V2, _V3) else version
    if rank > 8:
        raise ValueError(f'an array of {rank} dimensions')
    shape = [_number(file, 'q' if version in (_V1, _V2, _V3) else 'I') for _ in range(rank)]
    _bytes(file, 8)  # device
    code = _number(file, 'i')
    if not 0 <= code < len(_DTYPES) or min(shape, default=0) < 0:
        raise ValueError(f'an array of shape {shape} and type {code}')
    dtype = np.dtype(_DTYPES[code]).newbyteorder('<')
    content = _bytes(file, int(np.prod(shape, dtype=object)) * dtype.itemsize)
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder('='))


def _number(file, kind):
    return struct.unpack('<' + kind, _bytes(file, struct.calcsize(kind)))[0]


def _bytes(file, count):
    left = os.fstat(file.fileno()).st_size - file.tell()
    if count > left:  # before a damaged length asks for more memory than there is
        raise ValueError(f'{count} bytes are wanted where {left} are left')
    return file.read(count)
