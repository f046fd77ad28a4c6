"""Score maps of the classes an image shows, as the stages hand them on: `<name>.npz` with `classes` and `maps`."""


import numpy as np

from paddleseg_semi import files
from paddleseg_semi.errors import InputError, RunError

CELL = 8        # pixels: side of the squares in which AffinityNet sees an image
_NOTHING = 1e-5  # a cell in which no map scores this lies outside the image


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
        with files.replacing(path) as part, open(part, 'wb') as file:
            np.savez(file, classes=np.asarray(classes, 'int64'), maps=np.asarray(maps, 'float32'))
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
        with files.opened(path, 'rb') as raw, np.load(raw, allow_pickle=False) as file:
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


def cell_means(maps):
    """np.ndarray: [K, H / 8, W / 8], the means of cells of 8x8 pixels of maps [K, H, W]."""
    count, height, width = maps.shape
    return maps.reshape(count, height // CELL, CELL, width // CELL, CELL).mean((2, 4))


def sure_labels(low, high, classes, unknown=255):
    """What is certain of the cells of an image, from the scores of a CRF that was given little background and of one
    that was given much (AffinityNet: Ahn and Kwak, CVPR 2018): a class where even the latter, `low`, sees one, and
    background where even the former, `high`, sees none.

    Args:
        low, high (np.ndarray): [K, H, W] float32, 0..1; sides are multiples of 8. `low` of a low exponent of the
            background's score, `high` of a high one. 0 outside the image.
        classes (np.ndarray): [K] integers, the first is 0, the background.
        unknown (int, optional): the label of all other cells. Default: 255.

    Returns:
        np.ndarray: [H / 8, W / 8], of the type of `classes`.
    """
    low, high = cell_means(low), cell_means(high)
    label = classes[low.argmax(0)]
    label[label == 0] = unknown
    label[high.argmax(0) == 0] = 0
    label[np.maximum(low, high).max(0) < _NOTHING] = unknown
    return label
