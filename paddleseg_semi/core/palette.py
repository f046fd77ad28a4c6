"""The colors of classes: those of a recipe, and default ones that can be told apart.

The default colors are chosen one after the other, each as far as possible from those before it for the eye that sees
the difference least: the usual one, and the three that lack a kind of cones, as Machado, Oliveira and Fernandes
simulate them (2009). Black (background) and white (void) count as chosen. There are not 255 such colors: after the
first two dozen, a color is held to its four neighbours, and to the others eight times less.
"""

import functools
from typing import NamedTuple

import cv2
import numpy as np

from paddleseg_semi.errors import InputError, nearest

_ALL, _NEAR, _LENIENCE = 24, 4, 8.  # colors held to all before them; neighbours; how much farther away others count
_LEVELS = np.arange(0, 256, 17)
_BACKGROUND = ('background', '_background_', 'bg')
_EYES = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 1]],                                                      # linear RGB
                  [[.152286, 1.052583, -.204868], [.114503, .786281, .099216], [-.003882, -.048116, 1.051998]],
                  [[.367322, .860646, -.227968], [.280085, .672501, .047413], [-.011820, .042940, .968881]],
                  [[1.255528, -.076749, -.178779], [-.078411, .930809, .147602], [.004733, .691367, .303900]]])


class Classes(NamedTuple):
    """How classes are shown.

    Attributes:
        names (list[str]): of them.
        colors (list[int]): R G B of class 0, R G B of class 1, …, 768 numbers.
        unpainted (tuple[int]): those that pictures leave as the photo is.
    """

    names: list
    colors: list
    unpainted: tuple = (0,)


def unpainted(names=None):
    """tuple[int]: the classes that pictures leave as the photo is: class 0, unless its name says that it is something.

    Args:
        names (Sequence[str], optional): of the classes.
    """
    return (0,) if not names or str(names[0]).lower() in _BACKGROUND else ()


def default(names=None):
    """list[int]: R G B of class 0, R G B of class 1, …, 768 numbers; a background is black.

    Args:
        names (Sequence[str], optional): of the classes.
    """
    return [0, 0, 0, *_chosen()][:768] if unpainted(names) else [*_chosen(), 0, 0, 0]


def of_recipe(section, num_classes, names=None):
    """The colors a recipe asks for, and default ones for classes it does not speak of.

    Args:
        section (dict|list, optional): `palette` of the recipe: name (or number) of a class → [R, G, B], or a list of
            such colors, of class 0, 1, ….
        num_classes (int): C.
        names (list[str], optional): of the classes.

    Returns:
        list[int]: R G B of class 0, R G B of class 1, …, 768 numbers.

    Raises:
        InputError: a class that there is not, or no color.
    """
    colors = default(names)
    if isinstance(section, (list, tuple)):
        if len(section) > num_classes:
            raise InputError(f'palette: {len(section)} colors for {num_classes} classes.')
        section = dict(enumerate(section))
    if not isinstance(section, (dict, type(None))):
        raise InputError(f'palette: {section}: expected class names with colors, such as {{road: [255, 0, 128]}}, or a '
                         'list of colors.')
    numbers = {**{str(k): k for k in range(num_classes)}, **{name: k for k, name in enumerate(names or ())}}
    for name, color in (section or {}).items():
        number = numbers.get(str(name))
        if number is None:
            known = ', '.join(names or ()) or f'0 to {num_classes - 1}'
            raise InputError(f'palette: there is no class "{name}".{nearest(str(name), names or ())} '
                             f'Known here: {known}.')
        if not isinstance(color, (list, tuple)) or len(color) != 3 or \
                not all(type(value) is int and 0 <= value <= 255 for value in color):
            raise InputError(f'palette: {name}: {color}: expected three whole numbers of 0 to 255, [R, G, B].')
        colors[3 * number:3 * number + 3] = color
    return colors


def as_seen(colors):
    """Colors as the four eyes see them.

    Args:
        colors (array): [N, 3], R G B of 0..255.

    Returns:
        np.ndarray: [4, N, 3] float32 CIELAB, in which distances are those seen.
    """
    rgb = np.asarray(colors, 'float64') / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = (linear @ _EYES.transpose(0, 2, 1)).clip(0, 1)                                                    # [4, N, 3]
    rgb = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
    return cv2.cvtColor(rgb.astype('float32'), cv2.COLOR_RGB2LAB)


@functools.cache
def _chosen():
    """tuple[int]: 255 colors that are neither black nor white, R G B after each other."""
    grid = np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS, indexing='ij'), -1).reshape(-1, 3)
    lab = as_seen(grid)
    vivid = (np.abs(lab[0, :, 1:]).max(-1) > 20) & (lab[0, :, 0] > 30) & (lab[0, :, 0] < 93)
    grid, lab = grid[vivid], lab[:, vivid]

    def distance(one):
        return np.linalg.norm(lab - one[:, None], axis=-1).min(0).round(3)  # [N], of the eye that sees it least

    ends = np.minimum(*(distance(as_seen([[level] * 3])[:, 0]) for level in (0, 255)))
    gaps, order = [], []
    for _ in range(255):
        lenience = 1 if len(order) < _ALL else _LENIENCE
        far = np.minimum.reduce([ends, *(lenience * gap for gap in gaps[:-_NEAR]), *gaps[-_NEAR:]])
        far[order] = -1
        order.append(int(far.argmax()))
        gaps.append(distance(lab[:, order[-1]]))
    return tuple(grid[order].flatten().tolist())
