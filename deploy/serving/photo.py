"""Photos as strangers send them: what they are is found out before anything of their size is allocated."""

from paddleseg_semi import images
from paddleseg_semi.deploy import photos
from paddleseg_semi.errors import InputError

FORMATS = {'JPEG': b'\xff\xd8\xff', 'PNG': b'\x89PNG\r\n\x1a\n', 'BMP': b'BM'}  # and how their files begin


class Refused(Exception):
    """A request that gets an answer other than 200: its HTTP status, one line that says why, and headers."""

    def __init__(self, status, message, **headers):
        super().__init__(message)
        self.status, self.headers = status, headers


def decode(body, channels, max_pixels):
    """Decodes a photo; see `paddleseg_semi.deploy.photos.decode`.

    Args:
        body (bytes): the file.
        channels (int): 1 or 3.
        max_pixels (int): width times height that is still decoded.

    Returns:
        ndarray: uint8 [h, w, 3] BGR, or [h, w] gray.

    Raises:
        Refused: 415 no image file, 413 too many pixels, 422 damaged.
    """
    if not body.startswith(tuple(FORMATS.values())):
        raise Refused(415, f'The file is not a {" or ".join(FORMATS)} image.')
    try:
        width, height = images.size_of(body, FORMATS)
        if width * height > max_pixels:
            raise Refused(413, f'The photo has {width} x {height} pixels; up to {max_pixels} are accepted.')
        return photos.decode(body, channels, max_pixels)
    except InputError as error:
        raise Refused(422, f'The photo is damaged ({error}).') from None
