"""Any file of weights, by its content: of Paddle, PyTorch, safetensors or MXNet. Nothing in it is executed."""

import os
import struct
import zipfile

import numpy as np
import safetensors

from paddleseg_semi import files, safe
from paddleseg_semi.errors import InputError
from paddleseg_semi.models import mxnet_file, torch_file

_TYPES = {'F64': 'f8', 'F32': 'f4', 'F16': 'f2', 'BF16': 'u2', 'I64': 'i8', 'I32': 'i4', 'I16': 'i2', 'I8': 'i1',
          'U8': 'u1', 'BOOL': '?'}
_ELSE = {b'\x89HDF': 'an HDF5 file, as Keras writes them', b'\x1f\x8b': 'a compressed archive', b'<': 'a web page',
         b'version https:': 'a pointer of Git LFS, not the file it stands for'}


class Weights:
    """What a file of weights holds.

    Attributes:
        content (dict): names to arrays; or to dicts of them, and to what else a training writes down.
        turned (bool): Linear layers have [out, in], as PyTorch's, where Paddle's have [in, out].
    """

    def __init__(self, content, turned):
        self.content, self.turned = content, turned


def read(path):
    """
    Args:
        path (str): the file, of whatever name.

    Returns:
        Weights: what it holds.

    Raises:
        InputError: the file is missing, damaged, of another format, or would execute code.
    """
    try:
        with files.opened(path, 'rb') as file:
            head = file.read(16)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror}).') from None
    for magic, kind in _ELSE.items():
        if head.startswith(magic):
            raise InputError(f'{path}: is {kind}. Give a .pdparams, .pth or .safetensors file.')
    if torch_file.is_one(path):
        if _is_numpy(path):
            raise InputError(f'{path}: is an archive of NumPy arrays. Give a .pdparams, .pth or .safetensors file.')
        return Weights(torch_file.read(path), True)
    if mxnet_file.is_one(head):
        return Weights(mxnet_file.read(path), False)
    if len(head) > 8 and head[8:9] == b'{' and struct.unpack('<Q', head[:8])[0] < size:
        return _safetensors(path)
    content = safe.load(path, safe.Carrier)
    return Weights(content if isinstance(content, dict) else {}, False)


def _is_numpy(path):
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith('.npy') for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def _safetensors(path):
    try:
        with safetensors.safe_open(path, 'numpy') as file:
            turned = (file.metadata() or {}).get('format') not in ('pd', 'paddle')
        with open(path, 'rb') as file:
            tensors = safetensors.deserialize(file.read())
        content = {}
        for name, tensor in tensors:
            array = np.frombuffer(tensor['data'], _TYPES[tensor['dtype']]).reshape(tensor['shape'])
            content[name] = torch_file.from_bfloat16(array) if tensor['dtype'] == 'BF16' else array
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror}).') from None
    except KeyError as error:
        raise InputError(f'{path}: has numbers of the type {error}. Give weights of plain numbers.') from None
    except (safetensors.SafetensorError, ValueError) as error:
        raise InputError(f'{path}: not a whole .safetensors file ({error}). Is it truncated?') from None
    return Weights(content, turned)
