"""Weak views whose resizing is Pillow's, which averages when it shrinks; OpenCV's, in PaddleSeg, picks pixels."""

import random

import cv2
import numpy as np
from paddleseg.cvlibs import manager
from PIL import Image


@manager.TRANSFORMS.add_component
class RandomSmoothScale:
    """Resizes to a random size, bilinear with anti-aliasing; masks by nearest neighbor.

    Args:
        base_size (int|list[int]): the long side in pixels, kept in proportion; or height and width.
        scale (list[float], optional): range of the factor. Default: (0.5, 2.0).
    """

    def __init__(self, base_size, scale=(0.5, 2.0)):
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f'scale must be two factors above 0 in rising order, not {scale}.')
        self.base_size, self.scale = base_size, scale

    def __call__(self, data):
        size = self._draw_size(*data['img'].shape[:2])
        data['img'] = _resize(np.rint(data['img']), size, Image.BILINEAR).astype('float32')
        for key in data.get('gt_fields', []):
            data[key] = _resize(data[key], size, Image.NEAREST)
        return data

    def _draw_size(self, *sides):
        if isinstance(self.base_size, int):
            long_side = random.randint(*(int(self.base_size * factor) for factor in self.scale))
            return [int(long_side * side / max(sides) + 0.5) for side in sides]
        factor = random.uniform(*self.scale)
        return [int(side * factor) for side in self.base_size]


def _resize(array, size, how):
    return np.array(Image.fromarray(array.astype('uint8')).resize((size[1], size[0]), how))


@manager.TRANSFORMS.add_component
class PadToCrop:
    """Pads at the bottom and on the right what is smaller than the crop that follows.

    PaddleSeg's transforms pad all channels with one number; this one takes a color.

    Args:
        crop_size (list[int]): width and height in pixels.
        im_padding_value (list[float], optional): RGB, 0..255. Default: the mean of ImageNet.
        label_padding_value (int, optional): of masks. Default: 255.
    """

    def __init__(self, crop_size, im_padding_value=(123, 116, 103), label_padding_value=255):
        if len(crop_size) != 2:
            raise ValueError(f'crop_size must be width and height, not {crop_size}.')
        self.crop_size = crop_size
        self.im_padding_value, self.label_padding_value = tuple(im_padding_value), label_padding_value

    def __call__(self, data):
        height, width = data['img'].shape[:2]
        bottom, right = max(self.crop_size[1] - height, 0), max(self.crop_size[0] - width, 0)
        for key in ('img', *data.get('gt_fields', [])):
            value = self.im_padding_value if key == 'img' else self.label_padding_value
            data[key] = cv2.copyMakeBorder(data[key], 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=value)
        return data
