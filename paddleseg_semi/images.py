"""Photos and masks from files, for checks, training, prediction, deployment and service alike: what a file is says its
content, not its name, and nothing of its size is allocated before it is known.

Pillow decodes them, not OpenCV. PaddleSeg 2.8 allows no OpenCV above 4.6, whose wheels carry libwebp, libpng, libtiff
and libjpeg of 2021 and 2022, with holes known since (CVE-2023-4863 in libwebp is one that a picture can use). Pillow's
wheels are made anew with each fix of these libraries, and fit beside PaddleSeg's OpenCV.
"""

import io
import os
import struct
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from paddleseg_semi.errors import InputError

FORMATS = ('JPEG', 'PNG', 'BMP', 'TIFF', 'WEBP')
MAX_PIXELS = 2**28  # 800 MB as RGB

_MAX_PARTS = 1000  # of a file, besides its pixels: photos have a few dozen
_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258  # of TIFF
Image.MAX_IMAGE_PIXELS = None  # `_checked` has the limit it is given


class Unreadable(InputError):
    """A file that cannot be read as what it should be: missing, damaged, of another format, or too large."""


class Decoded(NamedTuple):
    """A photo, and what its file says of it.

    Attributes:
        pixels (np.ndarray): uint8 [h, w, 3] RGB, or [h, w] gray; see :func:`decode`.
        turned (bool): it is stored another way up: turned or mirrored here.
        deep (bool): it is stored with 16 bits, of which these are the upper eight.
    """

    pixels: np.ndarray
    turned: bool
    deep: bool


def read(path, channels=3, max_pixels=MAX_PIXELS):
    """Decodes a photo.

    Args:
        path (str): a JPEG, PNG, BMP, TIFF or WebP file; a pipe or a device is refused, and not waited for.
        channels (int): 1 or 3.
        max_pixels (int): a photo of more is refused before anything is decoded.

    Returns:
        np.ndarray: uint8 [h, w, 3] RGB, or [h, w] gray; see :func:`decode`.

    Raises:
        Unreadable: what is wrong with it, behind its path.
    """
    return inspect(path, channels, max_pixels).pixels


def inspect(path, channels=3, max_pixels=MAX_PIXELS):
    """Decodes a photo, and says how it is stored.

    Args: as :func:`read`.

    Returns:
        Decoded: its pixels, and what else is known.
    """
    return _named(path, lambda data: _decoded(data, channels, max_pixels, FORMATS), 'an image')


def read_mask(path, max_pixels=MAX_PIXELS):
    """Decodes a mask: class ids as they are stored, of a palette PNG the indices.

    Returns:
        np.ndarray: [h, w] uint8, uint16, int32 or bool; [h, w, channels] of a file that is no mask.

    Raises:
        Unreadable: as :func:`read`; or its compression has changed the ids.
    """
    def decoded(data):
        with _opened(data, FORMATS) as image:
            check_size(*image.size, max_pixels)
            if _is_lossy(image, data):
                raise InputError(f'is stored as {image.format} with loss, which changes class ids along edges: export '
                                 'it again from its source, as PNG')
            return np.asarray(image)

    return _named(path, decoded, 'a mask')


def decode(data, channels=3, max_pixels=MAX_PIXELS, formats=FORMATS):
    """Decodes a photo, whole or not at all.

    It is upright, as its EXIF or XMP data say. Of 16 bits the upper eight are taken, transparency is dropped, as OpenCV
    does.

    Args:
        data (bytes): of the file.
        channels (int): 1 or 3.
        max_pixels (int): a photo of more is refused before anything is decoded.
        formats (Sequence[str]): what it may be, see `FORMATS`.

    Returns:
        np.ndarray: uint8 [h, w, 3] RGB, or [h, w] gray.

    Raises:
        InputError: what is wrong with it; the file is not named.
    """
    return _decoded(data, channels, max_pixels, formats).pixels


def _decoded(data, channels, max_pixels, formats):
    try:
        with _opened(data, formats) as image:
            check_size(*image.size, max_pixels)
            if channels == 1:
                image.draft('L', image.size)  # of a JPEG the brightness as it is stored; of others nothing changes
            turned = image.getexif().get(_ORIENTATION, 1) in range(2, 9)  # first: Pillow turns a TIFF when it loads it
            image.load()
            upright = _eight_bits(ImageOps.exif_transpose(image)).convert('L' if channels == 1 else 'RGB')
            return Decoded(np.array(upright), turned, _is_deep(image, data))
    except Exception as error:  # a damaged file can raise almost anything
        raise InputError(reason(error) if data else 'is empty') from None


def size_of(data, formats=FORMATS):
    """(width, height) by the header of a photo, as stored; nothing is decoded. Raises InputError as :func:`decode`."""
    try:
        with _opened(data, formats) as image:
            return image.size
    except Exception as error:
        raise InputError(reason(error)) from None


def reason(error):
    """str: an exception of a decoder in one line, as it stands behind the name of a file."""
    if isinstance(error, UnidentifiedImageError):
        return f'is not an image: cannot identify it as one of {", ".join(FORMATS)}'
    text = getattr(error, 'strerror', None) or ' '.join(str(error).split()) or type(error).__name__
    return text if isinstance(error, (InputError, OSError)) else f'{type(error).__name__}: {text}'


def _named(path, decoded, what):
    verb = 'read'
    try:
        if not os.path.isfile(path) and os.path.exists(path):
            raise InputError('is no file')
        with open(path, 'rb') as file:
            data = file.read()
        verb = 'decoded'
        return decoded(data)
    except Exception as error:
        raise Unreadable(f'{path}: cannot be {verb} as {what} ({reason(error)}). Is it missing, truncated or of '
                         'another format?') from None


def _opened(data, formats):
    """A PIL image of which only the header has been read."""
    _check_parts(data)
    return Image.open(io.BytesIO(data), formats=list(formats))


def check_size(width, height, max_pixels=MAX_PIXELS):
    """InputError for a photo of more than `max_pixels`."""
    if width * height > max_pixels:
        raise InputError(f'{width}x{height} pixels are more than {max_pixels}')


def _eight_bits(image):
    if image.mode.startswith('I;16'):
        return Image.fromarray((np.asarray(image) >> 8).astype('uint8'))
    if image.mode in ('I', 'F'):
        raise InputError(f'has pixels of 32 bits ({image.mode}): save it with 8')
    return image


def _is_deep(image, data):
    if image.format == 'PNG':
        return data[24] == 16
    return image.format == 'TIFF' and max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,))) == 16


def _is_lossy(image, data):
    if image.format == 'WEBP':
        return _has_lossy_frame(data)
    return image.format in ('JPEG', 'MPO') or image.info.get('compression') in ('jpeg', 'tiff_jpeg', 'webp')


def _has_lossy_frame(data):
    """Whether a WebP has a chunk of pixels that is not of the lossless kind, or is an animation, which is no mask."""
    position = 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from('<4sI', data, position)
        if kind in (b'VP8 ', b'ANMF'):
            return True
        position += 8 + length + length % 2
    return False


def _check_parts(data):
    """Refuses a file of very many chunks or fields: decoders read them one by one, which can take minutes."""
    if data[:8] == b'\x89PNG\r\n\x1a\n':
        count = _count(data, 8, _next_chunk)
    elif data[:2] == b'\xff\xd8':
        count = _count(data, 2, _next_segment)
    elif data[:4] in (b'II*\0', b'MM\0*'):
        count = _tiff_fields(data)
    else:
        return
    if count > _MAX_PARTS:
        raise InputError(f'has more than {_MAX_PARTS} chunks besides its pixels')


def _count(data, position, following):
    count = 0
    while count <= _MAX_PARTS and position + 8 <= len(data):
        position, counts = following(data, position)
        if position is None:
            break
        count += counts
    return count


def _next_chunk(data, position):
    """Where the next chunk of a PNG begins, and whether this one is besides the pixels."""
    length, kind = struct.unpack_from('>I4s', data, position)
    return (None, False) if kind == b'IEND' else (position + 12 + length, kind != b'IDAT')


def _next_segment(data, position):
    """The same of a JPEG, up to its pixels; fill bytes in between count as well."""
    if data[position] != 0xFF or data[position + 1] == 0xDA:
        return None, False
    if data[position + 1] == 0xFF:
        return position + 1, True
    return position + 2 + max(struct.unpack_from('>H', data, position + 2)[0], 2), True


def _tiff_fields(data):
    """How many fields the first image of a TIFF has; too many where their values are larger than the file."""
    order = '<' if data[:1] == b'I' else '>'
    start, = struct.unpack_from(order + 'I', data, 4)
    count, = struct.unpack_from(order + 'H', data, start)
    fields = [struct.unpack_from(order + 'HHI', data, start + 2 + 12 * k) for k in range(min(count, _MAX_PARTS + 1))]
    return _MAX_PARTS + 1 if sum(number for _, _, number in fields) > 2 * len(data) else count
