"""Photos from files and videos, decoded with care: a damaged one is a reason to skip it, never a crash."""

import os
from dataclasses import dataclass

import cv2
import numpy as np

from paddleseg_semi import images
from paddleseg_semi.core import common
from paddleseg_semi.errors import InputError

VIDEOS = ('.mp4', '.avi', '.mov', '.mkv')


@dataclass
class Photo:
    """A photo on its way from a file to its results.

    Attributes:
        index (int): its place in the list, or in the video.
        name (str): what its results are called.
        path (str): its file.
        pixels (ndarray, optional): uint8 [h, w, 3] BGR, or [h, w] gray.
        sample (Sample, optional): the same as the network takes it.
        output (ndarray, optional): what the network says.
        classes (ndarray, optional): uint8 [h, w].
        conf (ndarray, optional): float32 [h, w] of 0..1.
        made (list): what the writers have prepared.
        error (str, optional): why it is skipped.
    """

    index: int
    name: str
    path: str
    pixels: np.ndarray = None
    sample: object = None
    output: np.ndarray = None
    classes: np.ndarray = None
    conf: np.ndarray = None
    made: list = ()
    error: str = None


class Images:
    """The photos that `list_images` finds. They are not read before their turn."""

    def __init__(self, image_path):
        self.found = common.list_images(image_path, check=False)

    def __len__(self):
        return len(self.found)

    def __iter__(self):
        return (Photo(index, name, path) for index, (path, name) in enumerate(self.found))


class Video:
    """The frames of a video as photos called `<name of the video>/000000` and so on.

    Attributes:
        name (str): the file's, without extension.
        fps (float): frames per second.
    """

    def __init__(self, path):
        self.path, self.name = path, os.path.splitext(os.path.basename(path))[0]
        capture = cv2.VideoCapture(path)
        if not capture.isOpened():
            raise InputError(f'--image_path {path}: cannot be read as a video.')
        self.fps = capture.get(cv2.CAP_PROP_FPS) or 25.0
        self.count = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)

    def __len__(self):
        return self.count  # as its header says

    def __iter__(self):
        capture, index = cv2.VideoCapture(self.path), 0
        while (frame := capture.read()[1]) is not None:
            yield Photo(index, f'{self.name}/{index:06d}', self.path, frame)
            index += 1
        if index < self.count - self.fps:  # a header may be off by a few, so a second is let pass
            yield Photo(index, f'{self.name}/{index:06d}', self.path,
                        error=f'only {index} of {self.count} frames can be read')


def read(path, channels=3, max_pixels=images.MAX_PIXELS):
    """Decodes an image file; see :func:`decode`. A pipe or a device is refused, and not waited for."""
    if not os.path.isfile(path):
        raise InputError('no such file')
    with open(path, 'rb') as file:
        return decode(file.read(), channels, max_pixels)


def decode(data, channels=3, max_pixels=images.MAX_PIXELS):
    """ndarray: uint8 [h, w, 3] BGR, or [h, w] gray; otherwise as `images.decode`."""
    pixels = images.decode(data, channels, max_pixels)
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if channels == 3 else pixels


def frame(pixels, channels=3, max_pixels=images.MAX_PIXELS):
    """A frame of a video, uint8 [h, w, 3] BGR, as :func:`decode` gives a photo."""
    images.check_size(*pixels.shape[1::-1], max_pixels)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY) if channels == 1 else pixels


def reason(error):
    """str: an exception in one line, as it stands behind the name of a file."""
    return str(error) if isinstance(error, InputError) else getattr(error, 'strerror', None) or common.reason(error)
