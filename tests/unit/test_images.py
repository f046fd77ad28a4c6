"""Photos and masks from files: pixels as OpenCV had them, upright by one rule, refused by content and limits."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from paddleseg.transforms import Compose
from PIL import Image

from paddleseg_semi import images
from paddleseg_semi.errors import InputError

RNG = np.random.default_rng(0)
PIXELS = cv2.resize(RNG.integers(0, 256, (6, 8, 3), 'uint8'), (40, 30))  # smooth, as JPEG wants it


def encoded(form='PNG', pixels=PIXELS, mode=None, **options):
    data = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(data, form, **options)
    return data.getvalue()


def by_opencv(data, channels=3):
    pixels = cv2.imdecode(np.frombuffer(data, 'uint8'), cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE)
    return pixels[..., ::-1] if channels == 3 else pixels


@pytest.mark.parametrize('form, options', [
    ('PNG', {}), ('PNG', {'mode': 'L'}), ('PNG', {'mode': 'P'}), ('PNG', {'mode': 'RGBA'}), ('PNG', {'mode': 'LA'}),
    ('PNG', {'mode': '1'}), ('BMP', {}), ('TIFF', {}), ('JPEG', {}), ('JPEG', {'quality': 30, 'subsampling': 2}),
    ('JPEG', {'progressive': True}), ('JPEG', {'mode': 'L'}), ('WEBP', {'lossless': True})])
@pytest.mark.parametrize('channels', [3, 1])
def test_pixels_are_those_of_opencv(form, options, channels):
    data = encoded(form, **options)
    found, wanted = images.decode(data, channels), by_opencv(data, channels)
    assert found.dtype == 'uint8' and found.flags.writeable
    # Without JPEG's own brightness, that of RGB is rounded by each library in its own way.
    assert np.abs(found.astype(int) - wanted).max() <= (channels == 1 and form != 'JPEG')


@pytest.mark.parametrize('shape', [(30, 40), (30, 40, 3)])
@pytest.mark.parametrize('suffix', ['.png', '.tif'])
def test_of_16_bits_the_upper_8_are_taken(shape, suffix):
    deep = RNG.integers(0, 2**16, shape).astype('uint16')
    data = cv2.imencode(suffix, deep)[1].tobytes()
    found = images.decode(data, 1 if len(shape) == 2 else 3)
    np.testing.assert_array_equal(found, (deep >> 8)[..., ::-1] if len(shape) == 3 else deep >> 8)


def with_exif(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(form, exif=exif, **({'lossless': True} if form == 'WEBP' else {}))


@pytest.mark.parametrize('form', ['JPEG', 'PNG', 'WEBP', 'TIFF'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation(form, orientation, tmp_path):
    upright = images.decode(with_exif(form, 1))
    turn = {1: lambda x: x, 2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud, 5: lambda x: x.transpose(1, 0, 2),
            6: lambda x: np.rot90(x, -1), 7: lambda x: np.rot90(x, 2).transpose(1, 0, 2), 8: np.rot90}[orientation]
    data = with_exif(form, orientation)
    np.testing.assert_array_equal(images.decode(data), turn(upright))
    if form == 'JPEG':  # of others OpenCV does not look at it
        np.testing.assert_array_equal(images.decode(data), by_opencv(data))
    (tmp_path / 'photo').write_bytes(data)
    assert images.inspect(tmp_path / 'photo').turned == (orientation > 1)


def chunk(kind, body=b''):
    return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))


def many_chunks(count):
    png = encoded()
    return png[:33] + chunk(b'tEXt', b'k\0v') * count + png[33:]


def many_segments(count, segment=b'\xff\xfe\0\2'):
    jpeg = encoded('JPEG')
    return jpeg[:2] + segment * count + jpeg[2:]


def many_fields(count, values=1):
    field = struct.pack('<HHII', 700, 2, values, 0)
    return b'II*\0' + struct.pack('<IH', 8, count) + field * count + b'\0' * 4


def of_size(width, height):
    png = bytearray(encoded())
    png[16:24] = struct.pack('>II', width, height)
    png[29:33] = struct.pack('>I', zlib.crc32(png[12:29]))
    return bytes(png)


@pytest.mark.parametrize('data, says', [
    (many_chunks(600_000), 'more than 1000 chunks'), (many_segments(600_000), 'more than 1000 chunks'),
    (many_segments(600_000, b'\xff'), 'more than 1000 chunks'), (many_fields(65_000), 'more than 1000 chunks'),
    (many_fields(900, 10**6), 'more than 1000 chunks'), (of_size(20000, 20000), '20000x20000 pixels are more than'),
    (encoded('GIF'), 'is not an image: cannot identify'), (encoded('TGA'), 'cannot identify'), (b'', 'is empty'),
    (b'hello', 'cannot identify'), (encoded('JPEG')[:500], 'runcated'), (encoded()[:-40], 'runcated'),
    (encoded('TIFF', RNG.random((4, 4)).astype('float32')), 'pixels of 32 bits')])
def test_refused(data, says, tmp_path):
    with pytest.raises(InputError, match=says):
        images.decode(data)
    (tmp_path / 'a.jpg').write_bytes(data)
    with pytest.raises(InputError, match=rf'a\.jpg: cannot be decoded as an image \(.*{says}') as caught:
        images.read(tmp_path / 'a.jpg')
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('data', [many_chunks(900), many_segments(900), encoded('WEBP'), encoded('TIFF')])
def test_ordinary_extras_are_let_pass(data):
    assert images.decode(data).shape == (30, 40, 3)
    assert images.size_of(data) == (40, 30)


def test_the_limit_is_of_the_caller():
    assert images.decode(encoded(), max_pixels=1200).shape == (30, 40, 3)
    with pytest.raises(InputError, match='40x30 pixels are more than 1199'):
        images.decode(encoded(), max_pixels=1199)


def test_neither_missing_nor_no_file(tmp_path):
    for path, says in ((tmp_path / 'no.jpg', 'No such file'), (tmp_path, 'is no file')):
        with pytest.raises(InputError, match=f'cannot be read as an image .{says}'):
            images.read(path)


@pytest.mark.parametrize('mode, dtype', [('P', 'uint8'), ('L', 'uint8'), ('I;16', 'uint16'), ('1', 'bool')])
def test_masks_are_read_as_they_are_stored(mode, dtype, tmp_path):
    classes = RNG.integers(0, 2, (5, 7)).astype('uint16' if mode == 'I;16' else 'uint8') * (1 if mode == '1' else 200)
    if mode == 'I;16':
        cv2.imwrite(str(tmp_path / 'mask.png'), classes)
    else:
        image = Image.fromarray(classes * (255 if mode == '1' else 1))
        image = image.convert('1') if mode == '1' else image
        if mode == 'P':
            image.putpalette(list(range(256)) * 3)
        image.save(tmp_path / 'mask.png')
    found = images.read_mask(tmp_path / 'mask.png')
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, classes.astype(dtype))


@pytest.mark.parametrize('channels', [3, 1])
def test_paddleseg_reads_by_it(channels, tmp_path, monkeypatch):
    """Its data sets, whatever the suffix says, and never by OpenCV."""
    monkeypatch.setattr(cv2, 'imread', None)
    (tmp_path / 'photo.jpg').write_bytes(with_exif('PNG', 6))
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / 'mask.png')
    files = {'img': str(tmp_path / 'photo.jpg'), 'label': str(tmp_path / 'mask.png')}
    sample = Compose([], img_channels=channels)(files)
    wanted = images.read(tmp_path / 'photo.jpg', channels).astype('float32')
    np.testing.assert_array_equal(sample['img'], np.atleast_3d(wanted).transpose(2, 0, 1))
    np.testing.assert_array_equal(sample['label'], PIXELS[..., 0])
