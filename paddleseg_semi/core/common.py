"""What evaluation, export, prediction and deployment share."""

import contextlib
import errno
import hashlib
import io
import os
import sys

import cv2
import numpy as np
from paddleseg.utils import progbar, visualize

from paddleseg_semi import files, images
from paddleseg_semi.datasets.lists import IMAGE_SUFFIXES, advice, image_of, images_below
from paddleseg_semi.errors import InputError, RunError

MOST_CLASSES = 256


def progress_bar(total, show=True):
    """PaddleSeg's progress bar with ETA: live on a terminal, every 10 s in a file."""
    return progbar.Progbar(total, verbose=int(show), interval=0.05 if sys.stderr.isatty() else 10)


def list_images(image_path, check=True):
    """Finds the images to predict.

    Args:
        image_path (str): an image; a folder, searched recursively; or a text list, whose lines begin with an image
            path relative to the list's folder.
        check (bool): read each once, so that a damaged one is known before anything is written.

    Returns:
        list[tuple]: (path, name), sorted unless listed; the name is what the result is called below the output
            folder, without extension.

    Raises:
        InputError: nothing there, an image that cannot be decoded, or two images with one name.
    """
    if os.path.isdir(image_path):
        folder = image_path
        paths = images_below(folder)
    else:
        folder = os.path.dirname(image_path)
        paths = [image_path] if image_path.lower().endswith(IMAGE_SUFFIXES) else _read_list(image_path, folder)
    if not paths:
        raise InputError(f'--image_path {image_path}: no image in it ({", ".join(IMAGE_SUFFIXES)}).')
    found = {}
    for path in paths:
        if check and not os.path.exists(path):
            raise InputError(f'--image_path {image_path}: {path}: no such file.{advice(path)}')
        if check:
            images.read(path)
        name = os.path.splitext(os.path.normpath('/' + os.path.relpath(path, folder or '.')))[0][1:]  # no way up
        other = found.setdefault(name, path)
        if other != path:
            raise InputError(f'--image_path {image_path}: {other} and {path} would both become {name}.png. '
                             'Name one of them in a text list.')
    return [(path, name) for name, path in found.items()]


def _read_list(path, folder):
    try:
        with files.opened(path, encoding='utf-8-sig') as file:
            return [os.path.join(folder, image_of(line.strip())) for line in file if line.strip()]
    except OSError as error:
        raise InputError(f'--image_path {path}: {error.strerror}. '
                         'Give an image, a folder of images or a text list of images.') from None
    except UnicodeDecodeError:
        raise InputError(f'--image_path {path}: neither a text list nor one of {", ".join(IMAGE_SUFFIXES)}.') from None


def make_folder(path, flag='--save_dir'):
    """Creates an output folder, or raises InputError when that is not possible."""
    try:
        os.makedirs(path, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(13, 'permission denied')
    except OSError as error:
        raise InputError(f'{flag} {path}: cannot be written ({error.strerror}).') from None


def check_class_count(count):
    """InputError for more classes than a mask can hold."""
    if count > MOST_CLASSES:
        raise InputError(f'num_classes: {count}: masks are written with 8 bits, which are enough for {MOST_CLASSES} '
                         'classes, 0 to 255. Merge some classes, or write the masks with a program of your own.')


def save_mask(classes, path, color_map, durable=False):
    """Writes classes as a palette PNG whose pixel values are the classes, complete or not at all.

    Args:
        classes (np.ndarray): [H, W] integers of 0..255.
        path (str): the file.
        color_map (list[int]): R G B of class 0, R G B of class 1, …
        durable (bool): see `files.replacing`.

    Raises:
        InputError: a class above 255.
    """
    check_class_count(int(classes.max(initial=0)) + 1)
    png = io.BytesIO()
    visualize.get_pseudo_color_map(classes, color_map).save(png, format='PNG')
    save_bytes(png.getvalue(), path, durable)


def blended(pixels, classes, color_map, unpainted=()):
    """A photo under the colors of its classes, at 0.6 and 0.4 as PaddleSeg has it.

    Args:
        pixels (np.ndarray): uint8 [h, w, 3] BGR, or [h, w] gray.
        classes (np.ndarray): uint8 [h, w].
        color_map (list[int]): R G B of class 0, R G B of class 1, …
        unpainted (tuple[int]): classes where the photo stays as it is.

    Returns:
        np.ndarray: uint8 [h, w, 3] BGR.
    """
    pixels = pixels if pixels.ndim == 3 else cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    colors = np.array(color_map, 'uint8').reshape(-1, 3)[:, ::-1]
    painted = cv2.addWeighted(np.ascontiguousarray(pixels), 0.6, colors[classes], 0.4, 0)
    return np.where(np.isin(classes, unpainted)[..., None], pixels, painted) if unpainted else painted


def save_picture(pixels, stem, suffix):
    """Writes uint8 [h, w, 3] BGR as `stem` + `suffix`, or as a PNG where OpenCV writes no such files; complete or not
    at all."""
    suffix = suffix if cv2.haveImageWriter(f'picture{suffix}') else '.png'
    save_bytes(cv2.imencode(suffix, pixels)[1], stem + suffix)


def save_bytes(data, path, durable=False):
    """Writes a file and the folders above it, complete or not at all; `durable` see `files.replacing`."""
    try:
        files.write(path, bytes(data), durable)
    except OSError as error:
        kind = InputError if error.errno == errno.ENAMETOOLONG else RunError  # others are written all the same
        raise kind(f'{path}: cannot be written ({error.strerror or error}).') from None


def reason(error):
    """str: an exception in one line; of the pages that Paddle writes, the one that tells."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(' -')] or ['no reason given']
    line = next((line for line in reversed(lines) if 'Error: ' in line), lines[-1])
    return line if 'Error: ' in line else f'{type(error).__name__}: {line}'


def old_ir_guard():
    """Paddle 3 writes the format of Paddle 2 inside; Paddle 2 writes it anyway."""
    try:
        from paddle.pir_utils import OldIrGuard
    except ImportError:
        return contextlib.nullcontext()
    return OldIrGuard()


def digest(paths):
    """str: sha256 of what is in files, in the given order."""
    total = hashlib.sha256()
    for path in paths:
        try:
            with open(path, 'rb') as file:
                total.update(hashlib.sha256(file.read()).digest())
        except OSError as error:
            raise InputError(f'{path}: cannot be read ({error.strerror}).') from None
    return total.hexdigest()
