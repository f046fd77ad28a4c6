"""Maps of class boundaries, and the geometry of SBNet, which carries them along with their image.

In a sample they lie under `boundary`, [H, W, C] float32, 0..1, and are one of its `gt_fields`, so flips of PaddleSeg
move them too. Its crops and resizing do not suit them.
"""

import random

import cv2
import numpy as np
from paddleseg.cvlibs import manager
from PIL import Image

UNKNOWN = 255
_WINDOW = np.ones([3, 3], 'uint8')


def boundary_maps(label, num_classes):
    """Where classes end: pixels whose 3x3 window shows a class and something else; none where the window shows an
    unknown pixel. Borders are replicated.

    Args:
        label (np.ndarray): [H, W] uint8, 255 where unknown.
        num_classes (int): C.

    Returns:
        np.ndarray: [H, W, C] float32 of 0 and 1.
    """
    maps = np.zeros([*label.shape, num_classes], 'float32')
    known = _everywhere(label != UNKNOWN)
    for c in np.unique(label[label < num_classes]):
        maps[..., c] = known & ~_everywhere(label == c) & ~_everywhere(label != c)
    return maps


def _everywhere(mask):
    return cv2.erode(mask.astype('uint8'), _WINDOW, borderType=cv2.BORDER_REPLICATE) > 0


@manager.TRANSFORMS.add_component
class RandomLongSide:
    """Resizes so that the long side gets a random length; cubic, masks by nearest neighbor. For SBNet and SEAM.

    Args:
        sides (list[int], optional): the least and the greatest length in pixels. Default: (448, 768).
    """

    def __init__(self, sides=(448, 768)):
        if len(sides) != 2 or not 0 < sides[0] <= sides[1]:
            raise ValueError(f'sides must be two lengths in rising order, not {sides}.')
        self.sides = sides

    def __call__(self, data):
        height, width = data['img'].shape[:2]
        long_side, longest = random.randint(*self.sides), max(height, width)
        size = round(width * long_side / longest), round(height * long_side / longest)
        image = Image.fromarray(np.rint(data['img']).astype('uint8'))
        data['img'] = np.asarray(image.resize(size, Image.BICUBIC), 'float32')
        for key in _others(data):
            data[key] = resize_maps(data[key], size) if key == 'boundary' else \
                cv2.resize(data[key], size, interpolation=cv2.INTER_NEAREST)
        return data


def resize_maps(maps, size):
    """Resizes cubically, without leaving the range of the values.

    Args:
        maps (np.ndarray): [H, W, C] float32.
        size (tuple[int]): width and height.

    Returns:
        np.ndarray: [height, width, C] float32.
    """
    resized = cv2.resize(maps, size, interpolation=cv2.INTER_CUBIC).reshape(size[1], size[0], -1)
    return resized.clip(maps.min(), maps.max())


@manager.TRANSFORMS.add_component
class RandomPlacedCrop:
    """Cuts a window out of an image at a random place; what is smaller than the window comes at a random place in it.
    For SBNet and SEAM.

    Args:
        crop_size (list[int]): width and height in pixels.
        im_padding_value (list[float], optional): RGB, 0..255, around what is smaller. Default: the mean of ImageNet,
            which its `Normalize` makes 0.
        label_padding_value (int, optional): the same in masks. There is no boundary. Default: 255.
    """

    def __init__(self, crop_size, im_padding_value=(123.675, 116.28, 103.53), label_padding_value=255):
        if len(crop_size) != 2:
            raise ValueError(f'crop_size must be width and height, not {crop_size}.')
        self.crop_size = crop_size
        self.im_padding_value, self.label_padding_value = im_padding_value, label_padding_value

    def __call__(self, data):
        sides = data['img'].shape[1::-1]
        (left, to_left, width), (top, to_top, height) = map(_place, sides, self.crop_size)
        for key in ('img', *_others(data)):
            value = {'img': self.im_padding_value, 'boundary': 0}.get(key, self.label_padding_value)
            source = data[key]
            crop = np.empty([*self.crop_size[::-1], *source.shape[2:]], source.dtype)
            crop[...] = value if crop.ndim == 3 else np.mean(value)
            crop[to_top:to_top + height, to_left:to_left + width] = source[top:top + height, left:left + width]
            data[key] = crop
        return data


def _place(side, size):
    """Draws where a window of `size` begins in an image side, where that comes in the window, and how much it is."""
    offset = random.randrange(abs(side - size) + 1)
    return (offset, 0, size) if side > size else (0, offset, side)


def _others(data):
    """Keys of what has the geometry of the image."""
    return list(dict.fromkeys([*data.get('gt_fields', []), *(['boundary'] if 'boundary' in data else [])]))
