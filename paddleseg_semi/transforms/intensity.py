"""Strong views by colors alone, so that pseudo labels of the weak view stay in place (iMAS and AugSeg, both by Zhao et
al., CVPR 2023)."""

import math
import random

import numpy as np
from paddleseg.cvlibs import manager
from PIL import Image, ImageEnhance, ImageFilter, ImageOps


def _fade(enhance):
    """One of Pillow's enhancers with a factor of 0.95 down to 0.1 or another least one: always less, never more."""
    return lambda picture, strength, least=0.1: enhance(picture).enhance(0.95 - (0.95 - least) * strength)


def _hue(picture, strength):
    if picture.mode == 'L':
        return picture
    hue, saturation, value = picture.convert('HSV').split()
    shifted = (np.asarray(hue, 'int64') + int(255 * 0.5 * strength)) % 256
    return Image.merge('HSV', (Image.fromarray(shifted.astype('uint8')), saturation, value)).convert('RGB')


FADING = ('contrast', 'brightness', 'color', 'sharpness')
OPS = {
    'identity': lambda picture, strength: picture,
    'autocontrast': lambda picture, strength: ImageOps.autocontrast(picture),
    'equalize': lambda picture, strength: ImageOps.equalize(picture),
    'invert': lambda picture, strength: ImageOps.invert(picture),
    'blur': lambda picture, strength: picture.filter(ImageFilter.GaussianBlur(0.1 + 1.9 * strength)),
    'contrast': _fade(ImageEnhance.Contrast),
    'brightness': _fade(ImageEnhance.Brightness),
    'color': _fade(ImageEnhance.Color),
    'sharpness': _fade(ImageEnhance.Sharpness),
    'posterize': lambda picture, strength: ImageOps.posterize(picture, 8 - max(1, math.ceil(4 * strength))),
    'solarize': lambda picture, strength: ImageOps.solarize(picture, max(1, 256 - math.ceil(255 * strength))),
    'hue': _hue,
}


def intensity(img, name, strength, least=0.1):
    """One operation on colors.

    Args:
        img (np.ndarray): [H, W, 3] RGB or [H, W] gray, uint8.
        name (str): a key of `OPS`.
        strength (float): 0..1; for 'hue' -1..1, half a turn of the color circle either way.
        least (float, optional): what is left of contrast, brightness, color or sharpness at strength 1. Default: 0.1.

    Returns:
        np.ndarray: like `img`.
    """
    limits = {'least': least} if name in FADING else {}
    return np.asarray(OPS[name](Image.fromarray(img), float(strength), **limits))


@manager.TRANSFORMS.add_component
class RandomIntensity:
    """A few operations, drawn with replacement, each at a random strength.

    Args:
        num_ops (int|list[int], optional): operations per image; a range, of which the number is drawn. Default: 2.
        strength (float, optional): the largest strength, 0..1; each operation draws its own below it. iMAS adapts the
            strength to the image later, by blending strong and weak view. Default: 0.999.
        ops (list[str], optional): what to draw from. Default: all of `OPS`.
        least (float, optional): what is left of contrast, brightness, color or sharpness at strength 1, 0..0.95.
            Default: 0.1.
    """

    def __init__(self, num_ops=2, strength=0.999, ops=tuple(OPS), least=0.1):
        unknown = [name for name in ops if name not in OPS]
        if unknown or not ops:
            raise ValueError(f'ops: {unknown or "empty"}: choose from {", ".join(OPS)}.')
        low, high = num_ops if isinstance(num_ops, (list, tuple)) and len(num_ops) == 2 else (num_ops, num_ops)
        if not (isinstance(low, int) and isinstance(high, int) and 0 <= low <= high and 0 <= strength <= 1):
            raise ValueError(f'num_ops must be a number of at least 0, or a range of two, and strength in 0..1, not '
                             f'{num_ops} and {strength}.')
        if not 0 <= least <= 0.95:
            raise ValueError(f'least must lie in 0..0.95, not {least}.')
        self.num_ops, self.strength, self.ops, self.least = (low, high), strength, list(ops), least

    def __call__(self, data):
        img = np.clip(np.rint(data['img']), 0, 255).astype('uint8')
        low, high = self.num_ops
        for name in random.choices(self.ops, k=low if low == high else random.randint(low, high)):
            strength = self.strength * random.random()
            sign = random.choice((-1, 1)) if name == 'hue' else 1
            img = intensity(img, name, sign * strength, self.least)
        data['img'] = img.astype('float32')
        return data
