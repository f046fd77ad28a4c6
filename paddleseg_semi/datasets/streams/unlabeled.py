"""Images without masks."""

import copy
import json

import numpy as np

from paddleseg_semi import images
from paddleseg_semi.datasets import fills
from paddleseg_semi.datasets.streams.base import (
    Kind,
    Stream,
    apply,
    as_bytes,
    channels_first,
    read_image,
    read_mask,
    split_at_normalize,
)
from paddleseg_semi.datasets.streams.loading import seeded
from paddleseg_semi.errors import InputError
from paddleseg_semi.registries import STREAMS


@STREAMS.add_component
class Unlabeled(Kind):
    """The unlabeled images, see `UnlabeledStream`. Two streams of this kind are shuffled independently.

    Args:
        views (int): strong views of an image, drawn independently.
        padding (bool): padding counts as image, as some published codes have it: `valid` is True everywhere.
    """

    keys = {'unlabeled': {'files': 'text', 'batch_size': 'count', 'weak': 'transforms', 'strong': 'transforms'}}

    def __init__(self, views=0, padding=False):
        self.views, self.padding = views, padding

    def dataset(self, data):
        return self.of(data, data.split.unlabeled, *data.once(unlabeled_transforms), views=self.views)

    def of(self, data, files, weak, strong=(), views=0, masks=None):
        """UnlabeledStream: some files, with the padding of this kind; arguments as there."""
        return UnlabeledStream(files, weak, strong, views, data.channels, masks, self.padding)

    def batch_size(self, data):
        return (data.semi.get('unlabeled') or {}).get('batch_size') or data.batch_size


@STREAMS.add_component
class Again(Kind):
    """The images of another stream in the same order, cropped and changed anew.

    Args:
        stream (str): its name.
    """

    def __init__(self, stream='unlabeled'):
        self.stream = stream


def unlabeled_transforms(data):
    """tuple[list, list]: those of the weak view, by default the training set's, and those of strong views."""
    settings = data.semi.get('unlabeled') or {}
    weak, strong = ([data.build(op) for op in settings.get(key) or []] for key in ('weak', 'strong'))
    return weak or data.base.transforms.transforms, strong


class UnlabeledStream(Stream):
    """One geometry, weak and strong views; no mask is ever opened. In place of a photo that cannot be read stands the
    first of the spares of its sample that can.

    The weak view passes through all of `weak`. A strong view leaves it before `Normalize`, passes through `strong`
    and goes on, so every view shows the same crop.

    Sample: weak, strong, strong_2, … [3, H, W] float32; valid [H, W] bool, False where a transform padded.

    Args:
        files (Sequence[str]): image paths.
        weak (list): transforms of the weak view.
        strong (list): transforms in between, of strong views.
        views (int): strong views.
        channels (int): 1 or 3.
        masks (dict[str, str], optional): image path → mask path. A sample then has truth [H, W] int64 as well. For
            looking on only; no training stream is given any.
        padding (bool): padding counts as image.

    Attributes:
        unreadable (dict[str, str]): photos that could not be read so far → why. Of the process that takes the batches.
    """

    def __init__(self, files, weak, strong=(), views=0, channels=3, masks=None, padding=False):
        super().__init__()
        self.files, self.strong, self.channels, self.masks = files, list(strong), channels, masks
        self.views, self.padding, self.unreadable = views, padding, {}
        self.shared, self.finish = split_at_normalize(weak)
        taken = {fills.fill_of(op)[1] for op in weak}
        self.mark = next(value for value in range(256) if value not in taken)

    def __len__(self):
        return len(self.files)

    def path(self, index):
        return self.files[index]

    def _read(self, index, seed, *spares):
        index, img, failures = self._first_readable(index, *spares)
        # Transforms fill the masks they pad: one that holds another value everywhere shows where that happened.
        data = {'img': img, 'label': np.full(img.shape[:2], self.mark, 'uint8'),
                'trans_info': [], 'gt_fields': ['label']}
        if self.masks:
            data['truth'] = read_mask(self.masks[self.files[index]], img, 'Repair it, or leave --oracle out.')
            data['gt_fields'].append('truth')
        with seeded(seed):
            data = apply(self.shared, data)
            weak = apply(self.finish, copy.deepcopy(data))
            sample = {'weak': channels_first(weak['img']), 'valid': (weak['label'] == self.mark) | self.padding}
            if self.masks:
                sample['truth'] = weak['truth'].astype('int64')
            for view in range(self.views):
                strong = apply(self.finish, apply(self.strong, copy.deepcopy(data)))
                sample['strong' if view == 0 else f'strong_{view + 1}'] = channels_first(strong['img'])
        if failures:
            sample['unreadable'] = as_bytes(json.dumps(failures))
        return {**sample, 'index': np.int64(index)}

    def _first_readable(self, *indices):
        """The first of some photos that can be read: its index, its pixels; and [[path, reason]] of those before it."""
        failures = []
        for index in indices:
            try:
                return index, read_image(self.files[index], self.channels), failures
            except images.Unreadable as error:
                failures.append([self.files[index], str(error)])
        others = f' Nor can the {len(failures) - 1} photos that would take its place.' if len(failures) > 1 else ''
        raise InputError(failures[0][1] + others)
