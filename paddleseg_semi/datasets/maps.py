"""Score maps of the classes an image shows, as the stages hand them on: `<name>.npz` with `classes` and `maps`."""

import os

import numpy as np

from paddleseg_semi.errors import InputError, RunError


def write_maps(path, classes, maps):
    """Writes the maps of one image, whole or not at all.

    Args:
        path (str): the file, '.npz'; its folder is made.
        classes (Sequence[int]): K class ids in rising order; 0 is the background. There may be none.
        maps (numpy.ndarray): [K, h, w], kept as float32.

    Raises:
        RunError: the file cannot be written.
    """
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with open(path + '.tmp', 'wb') as file:
            np.savez(file, classes=np.asarray(classes, 'int64'), maps=np.asarray(maps, 'float32'))
        os.replace(path + '.tmp', path)
    except OSError as error:
        raise RunError(f'{path}: cannot be written ({error.strerror or error}).') from None


def read_maps(path):
    """Reads what :func:`write_maps` wrote.

    Args:
        path (str): the file.

    Returns:
        tuple[numpy.ndarray, numpy.ndarray]: classes int64 [K] and maps float32 [K, h, w].

    Raises:
        InputError: no such file, a damaged one, or one that holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            classes, maps = file['classes'], file['maps']
    except FileNotFoundError:
        raise InputError(f'{path}: no such file. Run the stage that makes it for this image too.') from None
    except Exception as error:  # a damaged archive can raise almost anything
        raise InputError(f'{path}: holds no score maps ({type(error).__name__}: {error}). Remove it and run the stage '
                         'that makes it again.') from None
    if classes.dtype != np.int64 or maps.dtype != np.float32 or classes.ndim != 1 or maps.ndim != 3 \
            or len(classes) != len(maps) or (np.diff(classes) <= 0).any() or (classes < 0).any():
        raise InputError(f'{path}: classes are {classes.dtype} {list(classes.shape)} and maps {maps.dtype} '
                         f'{list(maps.shape)}, not rising int64 [K] and float32 [K, h, w]. Remove it and run the stage '
                         'that makes it again.')
    return classes, maps
