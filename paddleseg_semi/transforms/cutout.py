"""Erasing a part of an image (as ST++ does: Yang et al., CVPR 2022)."""

import math
import random

import numpy as np
from paddleseg.cvlibs import manager


@manager.TRANSFORMS.add_component
class CutOut:
    """Fills a rectangle of the image with noise, uniform in 0..255 for every pixel and channel, and its mask with void.

    Args:
        area (list[float], optional): range of the rectangle's share of the image. Default: (0.02, 0.4).
        aspect (list[float], optional): range of height / width. Default: (0.3, 1 / 0.3).
        prob (float, optional): 0..1. Default: 0.5.
        ignore_index (int, optional): what masks are filled with. Default: 255.
    """

    def __init__(self, area=(0.02, 0.4), aspect=(0.3, 1 / 0.3), prob=0.5, ignore_index=255):
        if not 0 < area[0] <= area[1] <= 0.5 or not 0.2 <= aspect[0] <= aspect[1] <= 5:
            raise ValueError(f'area must be a range in 0..0.5 and aspect one in 0.2..5, not {area} and {aspect}.')
        self.area, self.aspect, self.prob, self.ignore_index = area, aspect, prob, ignore_index

    def __call__(self, data):
        if random.random() < self.prob:
            rows, columns = self._draw(*data['img'].shape[:2])
            data['img'] = data['img'].copy()
            hole = data['img'][rows, columns]
            hole[:] = np.random.uniform(0, 255, hole.shape)
            for key in data.get('gt_fields', []):
                data[key] = data[key].copy()  # what Pillow read is read-only
                data[key][rows, columns] = self.ignore_index
        return data

    def _draw(self, height, width):
        """tuple[slice, slice]: rows and columns; everything is drawn anew until it lies inside."""
        while True:
            area, aspect = height * width * random.uniform(*self.area), random.uniform(*self.aspect)
            h, w = int(math.sqrt(area * aspect)), int(math.sqrt(area / aspect))
            top, left = random.randint(0, height), random.randint(0, width)
            if top + h <= height and left + w <= width:
                return slice(top, top + h), slice(left, left + w)
