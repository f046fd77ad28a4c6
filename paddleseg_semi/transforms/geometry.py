"""Resizing, padding and cropping as the semi-supervised papers do it."""

import math
import random

import cv2
import numpy as np
from paddleseg.cvlibs import manager
from PIL import Image


@manager.TRANSFORMS.add_component
class RandomSmoothScale:
    """Resizes to a random size, bilinear with anti-aliasing; masks by nearest neighbor. For iMAS, UniMatch, ST.

    Pillow averages when it shrinks; OpenCV, in PaddleSeg, picks pixels.

    Args:
        base_size (int|list[int], optional): the long side in pixels, kept in proportion; or height and width. Default:
            the long side that the image has.
        scale (list[float], optional): range of the factor. Default: (0.5, 2.0).
    """

    def __init__(self, base_size=None, scale=(0.5, 2.0)):
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
        if isinstance(self.base_size, (list, tuple)):
            factor = random.uniform(*self.scale)
            return [int(side * factor) for side in self.base_size]
        base = self.base_size or max(sides)
        long_side = random.randint(*(int(base * factor) for factor in self.scale))
        return [int(long_side * side / max(sides) + 0.5) for side in sides]


def _resize(array, size, how):
    if how != Image.NEAREST or array.dtype == bool:
        array = array.astype('uint8')
    elif array.dtype not in ('uint8', 'uint16', 'float32'):  # masks keep their numbers, and scores, which are no masks
        array = array.astype('int32')
    return np.array(Image.fromarray(array).resize((size[1], size[0]), how))


@manager.TRANSFORMS.add_component
class PadToCrop:
    """Pads what is smaller than the crop that follows, at the bottom and on the right.

    PaddleSeg's transforms pad all channels with one number; this one takes a color.

    Args:
        crop_size (list[int]): width and height in pixels.
        im_padding_value (list[float], optional): RGB, 0..255. Default: the mean of ImageNet.
        label_padding_value (int, optional): of masks. Default: 255.
        center (bool, optional): pad on all sides, as U2PL does. Not for evaluation, which cannot undo it: there the
            padding has to be at the bottom and on the right. Default: False.
    """

    def __init__(self, crop_size, im_padding_value=(123, 116, 103), label_padding_value=255, center=False):
        if len(crop_size) != 2:
            raise ValueError(f'crop_size must be width and height, not {crop_size}.')
        self.crop_size = crop_size
        self.im_padding_value, self.label_padding_value = tuple(im_padding_value), label_padding_value
        self.center = center

    def __call__(self, data):
        height, width = data['img'].shape[:2]
        bottom, right = max(self.crop_size[1] - height, 0), max(self.crop_size[0] - width, 0)
        top, left = (bottom // 2, right // 2) if self.center else (0, 0)
        if not self.center:
            data.setdefault('trans_info', []).append(('padding', (height, width)))
        for key in ('img', *data.get('gt_fields', [])):
            value = self.im_padding_value if key == 'img' else self.label_padding_value
            data[key] = cv2.copyMakeBorder(data[key], top, bottom - top, left, right - left, cv2.BORDER_CONSTANT,
                                           value=value)
        return data


@manager.TRANSFORMS.add_component
class RandomBalancedScale:
    """Resizes by a factor that is below 1 as often as above, bilinear; masks by nearest neighbor. For U2PL.

    Args:
        scale (list[float], optional): range of the factor, around 1. Default: (0.5, 2.0).
    """

    def __init__(self, scale=(0.5, 2.0)):
        if not 0 < scale[0] <= 1 <= scale[1]:
            raise ValueError(f'scale must be a factor of at most 1 and one of at least 1, not {scale}.')
        self.scale = scale

    def __call__(self, data):
        low, high = (self.scale[0], 1) if random.random() < 0.5 else (1, self.scale[1])
        factor = low + (high - low) * random.random()
        height, width = data['img'].shape[:2]
        size = int(width * factor), int(height * factor)
        data['img'] = cv2.resize(data['img'], size, interpolation=cv2.INTER_LINEAR)
        for key in data.get('gt_fields', []):
            data[key] = cv2.resize(data[key], size, interpolation=cv2.INTER_NEAREST)
        return data


@manager.TRANSFORMS.add_component
class CenterCrop:
    """Cuts out the middle of an image that is at least as large as the crop.

    Args:
        crop_size (list[int]): width and height in pixels.
    """

    def __init__(self, crop_size):
        if len(crop_size) != 2:
            raise ValueError(f'crop_size must be width and height, not {crop_size}.')
        self.crop_size = crop_size

    def __call__(self, data):
        width, height = self.crop_size
        top, left = (data['img'].shape[0] - height) // 2, (data['img'].shape[1] - width) // 2
        for key in ('img', *data.get('gt_fields', [])):
            data[key] = data[key][top:top + height, left:left + width]
        return data


@manager.TRANSFORMS.add_component
class RandomResizedCrop:
    """Cuts out a part of random size and shape and resizes it, bilinear with anti-aliasing; masks by nearest neighbor.

    The usual augmentation of ImageNet classifiers.

    Args:
        crop_size (list[int]): width and height of the result in pixels.
        area (list[float], optional): range of the part's share of the image. Default: (0.08, 1).
        aspect (list[float], optional): range of its width / height, drawn on a logarithmic scale. Default: (3/4, 4/3).
    """

    def __init__(self, crop_size, area=(0.08, 1.), aspect=(3 / 4, 4 / 3)):
        if len(crop_size) != 2:
            raise ValueError(f'crop_size must be width and height, not {crop_size}.')
        if not 0 < area[0] <= area[1] <= 1 or not 0 < aspect[0] <= aspect[1]:
            raise ValueError(f'area must be a range in 0..1 and aspect one above 0, not {area} and {aspect}.')
        self.crop_size, self.area, self.aspect = crop_size, area, aspect

    def __call__(self, data):
        rows, columns = self._draw(*data['img'].shape[:2])
        size = self.crop_size[::-1]
        data['img'] = _resize(np.rint(data['img'][rows, columns]), size, Image.BILINEAR).astype('float32')
        for key in data.get('gt_fields', []):
            data[key] = _resize(data[key][rows, columns], size, Image.NEAREST)
        return data

    def _draw(self, height, width, attempts=10):
        """tuple[slice, slice]: rows and columns; after ten parts that do not fit, the largest one in the middle."""
        for _ in range(attempts):
            area = height * width * random.uniform(*self.area)
            aspect = math.exp(random.uniform(*map(math.log, self.aspect)))
            h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
            if 0 < h <= height and 0 < w <= width:
                top, left = random.randint(0, height - h), random.randint(0, width - w)
                return slice(top, top + h), slice(left, left + w)
        h = min(height, max(1, round(width / self.aspect[0])))
        w = min(width, max(1, round(height * self.aspect[1])))
        top, left = (height - h) // 2, (width - w) // 2
        return slice(top, top + h), slice(left, left + w)
