"""Images with the scores of two CRFs."""

import os

import numpy as np

from paddleseg_semi.datasets import lists
from paddleseg_semi.datasets.maps import CELL, read_maps, sure_labels
from paddleseg_semi.datasets.streams.base import Kind, Stream, apply, channels_first, read_image
from paddleseg_semi.datasets.streams.loading import seeded
from paddleseg_semi.errors import InputError
from paddleseg_semi.registries import STREAMS


@STREAMS.add_component
class Scored(Kind):
    """All training images with their files in the folders of `semi.scores`; see `ScoredStream`."""

    keys = {'scores': {'low': 'text', 'high': 'text'}}

    def check(self, semi, method):
        if not (isinstance(semi.get('scores'), dict) and len(semi['scores']) == 2):
            raise InputError(f'{method} needs the scores of two CRFs: set semi.scores.low and semi.scores.high to '
                             'their folders.')

    def dataset(self, data):
        base, files = data.base, data.once(scores)
        return ScoredStream([item[0] for item in base.file_list] * data.repeats, files['low'] * data.repeats,
                            files['high'] * data.repeats, base.transforms.transforms, data.channels)

    def checks(self, data):
        return [lambda: data.once(scores)]


def scores(data):
    """dict[str, list[str]]: 'low' and 'high', the files of `semi.scores` for the training images."""
    files = {key: lists.named_like(data.base, folder, '.npz') for key, folder in data.semi['scores'].items()}
    missing = [path for paths in files.values() for path in paths if not os.path.isfile(path)]
    if missing:
        raise InputError(f'semi.scores: {missing[0]}: no such file ({len(missing)} missing files). Run the CRF on '
                         'the maps of all training images.')
    return files


class ScoredStream(Stream):
    """Images with the scores that two CRFs gave their classes, and what is certain of them.

    Sample: img [3, H, W] float32; label [H / 8, W / 8] int64, of cells: 255 where not certain.

    Args:
        files (Sequence[str]): N image paths.
        low, high (Sequence[str]): N files of score maps each, see `datasets/maps.py`: `sure_labels` and `read_maps`.
        transforms (list): what images pass, with their maps.
        channels (int): 1 or 3.
    """

    def __init__(self, files, low, high, transforms, channels=3):
        super().__init__()
        self.files, self.low, self.high, self.transforms, self.channels = files, low, high, transforms, channels

    def __len__(self):
        return len(self.files)

    def path(self, index):
        return self.files[index]

    def _read(self, index, seed):
        img, (classes, maps) = read_image(self.files[index], self.channels), self._maps(index)
        if maps.shape[1:] != img.shape[:2]:
            raise InputError(f'{self.low[index]}: maps of {list(maps.shape[1:])} for an image of {list(img.shape[:2])} '
                             '(height, width). Make them again.')
        fields = [f'score_{k}' for k in range(len(maps))]  # PaddleSeg's transforms want masks without channels
        data = {'img': img, **dict(zip(fields, maps)), 'trans_info': [], 'gt_fields': fields}
        with seeded(seed):
            data = apply(self.transforms, data)
        maps = np.stack([data[field] for field in fields])
        if maps.shape[1] % CELL or maps.shape[2] % CELL:
            raise InputError(f'crops are {maps.shape[1:]}: give them sides that are multiples of {CELL}.')
        maps[maps > 1] = 0  # a transform that pads takes scores for masks, and fills in 255
        label = sure_labels(*np.split(maps, 2), classes)
        return {'img': channels_first(data['img']), 'label': label}

    def _maps(self, index):
        """Classes [K] and the maps [2 K, H, W] of both CRFs."""
        (classes, low), (others, high) = read_maps(self.low[index]), read_maps(self.high[index])
        if low.shape != high.shape or (classes != others).any() or classes[:1] != 0:
            raise InputError(f'{self.high[index]}: has the classes {others.tolist()}, {self.low[index]} '
                             f'{classes.tolist()}. Both need the same, background (0) first, and one size: make them '
                             'again from the same maps.')
        return classes, np.concatenate([low, high])
