"""The strong views of UniMatch, CutMix-Seg and others: colors and blur, never geometry.

For pipelines of PaddleSeg, before `Normalize`: an image is [H, W, 3] RGB (or [H, W] gray), uint8 or float32 in 0..255,
and keeps its dtype. Draws come from `random`, as those of PaddleSeg do.
"""

import random

import cv2
import numpy as np
from paddleseg.cvlibs import manager


@manager.TRANSFORMS.add_component
class ColorJitter:
    """Changes brightness, contrast, saturation and hue, in random order, as torchvision's transform of that name.

    Args:
        brightness (float, optional): the factor is drawn from [max(0, 1 - brightness), 1 + brightness]. Default: 0.5.
        contrast (float, optional): the same, around the mean gray of the image. Default: 0.5.
        saturation (float, optional): the same, around its gray version. Default: 0.5.
        hue (float, optional): the shift is drawn from [-hue, hue]; 1 is a whole turn, 0.5 the most. Default: 0.25.
        prob (float, optional): of any change, 0..1. Default: 0.8.
    """

    def __init__(self, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.25, prob=0.8):
        if min(brightness, contrast, saturation, hue) < 0 or hue > 0.5:
            raise ValueError('brightness, contrast and saturation must be at least 0, hue must lie in 0..0.5')
        factors = ((adjust_brightness, brightness), (adjust_contrast, contrast), (adjust_saturation, saturation))
        self.ops = [(op, max(0, 1 - reach), 1 + reach) for op, reach in factors if reach]
        if hue:
            self.ops.append((adjust_hue, -hue, hue))
        self.prob = prob

    def __call__(self, data):
        if random.random() < self.prob:
            img = data['img']
            for op, low, high in random.sample(self.ops, len(self.ops)):
                img = op(img, random.uniform(low, high))
            data['img'] = img
        return data


@manager.TRANSFORMS.add_component
class RandomGrayscale:
    """Takes away the colors; three channels stay.

    Args:
        prob (float, optional): 0..1. Default: 0.2.
    """

    def __init__(self, prob=0.2):
        self.prob = prob

    def __call__(self, data):
        if random.random() < self.prob:
            data['img'] = adjust_saturation(data['img'], 0)
        return data


@manager.TRANSFORMS.add_component
class GaussianBlur:
    """Blurs with a Gaussian.

    Args:
        sigma (list[float], optional): range of its standard deviation in pixels. Default: [0.1, 2.0].
        prob (float, optional): 0..1. Default: 0.5.
    """

    def __init__(self, sigma=(0.1, 2.0), prob=0.5):
        if not 0 < sigma[0] <= sigma[1]:
            raise ValueError(f'sigma must be a range of positive numbers, not {sigma}')
        self.sigma, self.prob = sigma, prob

    def __call__(self, data):
        if random.random() < self.prob:
            data['img'] = cv2.GaussianBlur(data['img'], (0, 0), random.uniform(*self.sigma))
        return data


def adjust_brightness(img, factor):
    """Blends with black: 0 is black, 1 the image, 2 twice as bright.

    Args:
        img (np.ndarray): see above.
        factor (float): at least 0.

    Returns:
        np.ndarray: like `img`.
    """
    return _blend(img, 0, factor)


def adjust_contrast(img, factor):
    """Blends with the mean gray of the image, rounded; arguments as in :func:`adjust_brightness`."""
    return _blend(img, np.floor(_gray(img).mean() + 0.5), factor)


def adjust_saturation(img, factor):
    """Blends with the gray version of the image; arguments as in :func:`adjust_brightness`."""
    return img if img.ndim == 2 else _blend(img, _gray(img)[..., None], factor)


def adjust_hue(img, shift):
    """Turns the colors around the color circle.

    Args:
        img (np.ndarray): see above.
        shift (float): in turns, -0.5..0.5.

    Returns:
        np.ndarray: like `img`.
    """
    if img.ndim == 2:
        return img
    hsv = cv2.cvtColor(img.astype('float32') / 255, cv2.COLOR_RGB2HSV)                      # hue in degrees
    hsv[..., 0] = (hsv[..., 0] + 360 * shift) % 360
    return _like(img, cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255)


def _gray(img):
    return img.astype('float32') if img.ndim == 2 else cv2.cvtColor(img.astype('float32'), cv2.COLOR_RGB2GRAY)


def _blend(img, other, factor):
    return _like(img, img.astype('float32') * factor + np.float32(1 - factor) * other)


def _like(img, values):
    values = values.clip(0, 255)
    return (np.rint(values) if img.dtype == 'uint8' else values).astype(img.dtype)
