"""What the images and masks of a part of the data are: one by one, and all together."""

import copy
import os
from dataclasses import dataclass

import cv2
import numpy as np
from paddleseg.datasets import Dataset

from paddleseg_semi import images
from paddleseg_semi.errors import InputError

THUMBNAIL = 16
_DIM = 64  # of the upper 8 bits: who stays below it has filled 14 of 16 bits at most


@dataclass
class Look:
    """What one image is.

    Attributes:
        size (tuple[int]): width and height.
        counts (np.ndarray): [C] int64, pixels of each class; None without mask.
        turned, deep (bool): as `images.Decoded` has them.
        peak (int): its largest value.
        thumbnail (np.ndarray): uint8 [16, 16], gray.
    """
    size: tuple
    counts: np.ndarray
    turned: bool
    deep: bool
    peak: int
    thumbnail: np.ndarray


@dataclass
class Part:
    """Images of one use: 'labeled', 'boundary', 'extra 1', 'val'; without labels (masks stay untouched) 'unlabeled',
    'tagged'."""
    name: str
    base: Dataset
    images: list
    labels: list = None
    positions: list = None  # in base.file_list
    list_file: str = None

    @classmethod
    def listed(cls, name, base, positions, list_file):
        """Images of a data set, with their masks where the name says so. InputError if it has none."""
        items = [base.file_list[i] for i in positions]
        labels = None if name == 'tagged' else [item[1] for item in items]
        if labels and None in labels:
            raise InputError(f'{list_file or name}: has no mask for {items[labels.index(None)][0]}. Write "image '
                             'label" per line (of a data set in mode "train" or "val").')
        return cls(name, base, [item[0] for item in items], labels, positions, list_file)

    def where(self, k):
        """'file:line: ' of image k. PaddleSeg takes no blank lines, so a position is a line."""
        return f'{self.list_file}:{self.positions[k] + 1}: ' if self.list_file and self.positions is not None else ''

    def look(self, k):
        """Opens image k and its mask: (list[str] of problems, Look or None). Says nothing of missing files."""
        image = self.images[k]
        if not all(map(os.path.exists, (image, *(self.labels or ())[k:k + 1]))):
            return [], None
        try:
            if self.labels and _decodes_itself(self.base):
                photo, mask = _own_decoding(self.base, self.positions[k])
            else:
                photo = images.inspect(image)  # all of it is decoded: a truncated file shows only then
                mask = self.labels and images.read_mask(self.labels[k])
        except Exception as error:  # data sets raise all kinds
            text = str(error) if isinstance(error, InputError) else f'{image}: cannot be read ({error}).'
            return [f'{self.where(k)}{text} Replace the file or remove its line.'], None
        size, counts = photo.pixels.shape[1::-1], None
        if self.labels:
            problem = mask_problem(mask, size, image, self.labels[k], self.base)
            if problem:
                return [self.where(k) + problem], None
            counts = class_counts(mask, self.base.num_classes, self.base.ignore_index)
        return [], Look(size, counts, photo.turned, photo.deep, int(photo.pixels.max(initial=0)), _small(photo.pixels))


class Summary:
    """What the images of a part are, all together.

    Args:
        part (Part): the part.

    Attributes:
        count (int): images that could be looked at.
        sizes (set[tuple[int]]): widths and heights.
        pixels, presence (np.ndarray): [C] int64, pixels of every class, and images that hold it.
    """

    def __init__(self, part):
        classes = part.base.num_classes
        self.part, self.count, self.sizes = part, 0, set()
        self.pixels, self.presence = np.zeros(classes, 'int64'), np.zeros(classes, 'int64')
        self._ignored, self._turned, self._deep, self._dim = 0, [], [], []

    def add(self, k, look):
        """Takes what image k is."""
        self.count += 1
        self.sizes.add(look.size)
        if self.part.labels:
            self.pixels += look.counts
            self.presence += look.counts > 0
            self._ignored += look.size[0] * look.size[1] - int(look.counts.sum())
        self._turned += [k] * look.turned
        self._deep += [k] * look.deep
        self._dim += [k] * (look.deep and look.peak < _DIM)

    @property
    def suspicious(self):
        """bool: the masks hold ignore_index, and no class but 0, if any."""
        return self.part.name != 'boundary' and self._ignored > 0 and not self.pixels[1:].any()

    def problem(self):
        """str: what must be wrong with the masks; None if nothing."""
        if not (self.suspicious and self.pixels.any() and self.part.base.ignore_index == 255):
            return None
        return (f'{self.part.where(0)}{self.part.labels[0]}: this mask and all others looked at ({self.count}, the '
                f'{self.part.name} part) hold the values 0 and 255 alone, and 255 is ignore_index: there is no class '
                'but 0. Are they saved as 0 and 255 instead of 0 and 1? Divide them by 255.')

    def notes(self):
        """Yields lines on what may be intended."""
        name, photos = self.part.name, self.part.images
        if self.suspicious and not self.pixels.any():
            yield (f'All {self.count} masks looked at in the {name} part hold ignore_index '
                   f'({self.part.base.ignore_index}) alone, such as {self.part.labels[0]}: there is nothing to learn.')
        if self._turned and self.part.labels:
            count = len(self._turned)
            yield (f'{count} {name} photo{"s are" if count > 1 else " is"} turned when read, as the EXIF data say '
                   f'(first: {photos[self._turned[0]]}): the masks must be upright, not as the photos are stored.')
        if 2 * len(self._dim) > len(self._deep):
            yield (f'{len(self._dim)} {name} photos of 16 bits use the lower 14 of them or fewer (first: '
                   f'{photos[self._dim[0]]}): the upper 8 are read, so hardly any gray levels are left. Save them with '
                   '8 bits, stretched to 0..255.')


def class_counts(mask, num_classes, ignore_index):
    """np.ndarray: [C] int64, pixels of each class in a mask [H, W]."""
    known = mask[(mask >= 0) & (mask < num_classes) & (mask != ignore_index)]
    return np.bincount(known.astype('int64'), minlength=num_classes)


def mask_problem(mask, size, image, label, base):
    """str: what is wrong with a mask, None if nothing.

    Args:
        mask (np.ndarray): as it was read.
        size (tuple[int]): width and height of its image.
        image, label (str): their files.
        base (paddle.io.Dataset): a PaddleSeg data set.
    """
    if mask.ndim != 2:
        return (f'{label}: is an RGB mask ({"x".join(map(str, mask.shape))}). Masks hold one class id per pixel: '
                'convert the colors to ids and save a grayscale or palette PNG.')
    if mask.dtype == bool:
        return (f'{label}: has 1 bit per pixel, with which transforms of PaddleSeg fail. Save it as a grayscale or '
                'palette PNG of 8 bits.')
    if mask.shape[::-1] != size:
        return (f'{image} is {size[0]}x{size[1]}, but its mask {label} is {mask.shape[1]}x{mask.shape[0]}. '
                'Give both the same size.')
    values = np.flatnonzero(np.bincount(mask.ravel())) if mask.dtype == 'uint8' else np.unique(mask)
    foreign = values[(values != base.ignore_index) & ((values < 0) | (values >= base.num_classes))]
    if len(foreign):
        hint = 'Is it saved as 0 and 255 instead of 0 and 1?' if set(values.tolist()) == {0, 255} else \
            'Is it a colored or RGB mask saved as gray, or does num_classes leave out the background?'
        return (f'{label}: has label {foreign[0]}, but num_classes is {base.num_classes} and ignore_index '
                f'{base.ignore_index}. {hint}')
    return None


def _decodes_itself(base):
    """Whether a data set changes its masks while reading (ADE20K subtracts 1): then its own reading is looked at."""
    return hasattr(base, 'transforms') and type(base).__getitem__ is not Dataset.__getitem__


def _own_decoding(base, position):
    """The photo, and its mask [H, W] as the data set reads it, without its transforms."""
    plain = copy.copy(base)
    plain.transforms = copy.copy(base.transforms)
    plain.transforms.transforms = []
    mask = np.asarray(plain[position]['label']).squeeze()
    return images.inspect(base.file_list[position][0]), mask


def _small(pixels):
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if pixels.ndim == 3 else pixels
    return cv2.resize(gray, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
