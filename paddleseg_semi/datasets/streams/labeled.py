"""Images with masks."""

import math

import numpy as np

from paddleseg_semi import images
from paddleseg_semi.datasets import fills, lists
from paddleseg_semi.datasets.extra import ExtraLabeled, Joined
from paddleseg_semi.datasets.streams.base import Kind, Stream, failed_in, split_at_normalize
from paddleseg_semi.datasets.streams.loading import seeded
from paddleseg_semi.datasets.streams.unlabeled import unlabeled_transforms
from paddleseg_semi.errors import InputError
from paddleseg_semi.registries import STREAMS


@STREAMS.add_component
class Labeled(Kind):
    """The labeled images, and those of `semi.extra_labeled`; see `LabeledStream`."""

    keys = {'extra_labeled': 'lists'}
    opens_masks = True

    def dataset(self, data):
        base, total = Joined([data.base, *data.once(extra_labeled)]), len(data.base.file_list)
        positions = list(range(total) if data.split is None else data.split.labeled)
        names = list(lists.identities(item[0] for item in base.file_list))
        labeled = {names[i] for i in positions}
        extra = [i for i in range(total, len(base)) if names[i] not in labeled]  # once in an epoch
        repeats = max(data.repeats, math.ceil(len(extra) / len(positions)))  # about as many of either kind in a batch
        return LabeledStream(base, positions * repeats + extra)

    def checks(self, data):
        def check():
            fills.check(data.base.transforms.transforms, 'train_dataset.transforms', data.base)
            if data.once(extra_labeled):
                weak, strong = data.once(unlabeled_transforms)
                said = 'semi.unlabeled' if (data.semi.get('unlabeled') or {}).get('weak') else \
                    'train_dataset.transforms'
                fills.check(weak, f'{said} (for semi.extra_labeled)', data.base)
                fills.check(strong, 'semi.unlabeled.strong (for semi.extra_labeled)', data.base)
        return [check]

    def sets(self, data):
        for number, extra in enumerate(data.once(extra_labeled), 1):
            yield {'base': extra, 'val': data.val, 'train_list': extra.list_file, 'name': f'extra {number}'}

    def inputs(self, data):
        return [], [mask for extra in data.once(extra_labeled) for _, mask in extra.file_list]


def extra_labeled(data):
    """list[ExtraLabeled]: the lists of `semi.extra_labeled`. They pass the transforms of unlabeled images: the weak
    ones, and the strong ones before `Normalize`."""
    paths = data.semi.get('extra_labeled') or []
    weak, strong = data.once(unlabeled_transforms)
    shared, finish = split_at_normalize(weak)
    return [ExtraLabeled(path, data.base, [*shared, *strong, *finish])
            for path in ([paths] if isinstance(paths, str) else paths)]


class LabeledStream(Stream):
    """PaddleSeg's own samples: img [3, H, W] float32, label [H, W] int64 (ignore_index where unknown), edge if it has.

    Args:
        base (paddle.io.Dataset): a PaddleSeg data set in train mode.
        positions (Sequence[int]): which of its samples keep their masks.
    """

    def __init__(self, base, positions):
        super().__init__()
        self.base, self.positions = base, positions

    def __len__(self):
        return len(self.positions)

    def path(self, index):
        return self.base.file_list[self.positions[index]][0]

    def _read(self, index, seed):
        with seeded(seed):
            sample = self.base[self.positions[index]]
        label = np.asarray(sample['label'], 'int64')
        if label.shape != sample['img'].shape[1:]:
            image, mask = self.base.file_list[self.positions[index]][:2]
            raise InputError(f'{image} is {list(sample["img"].shape[1:])} after the transforms, but its mask {mask} '
                             f'{list(label.shape)}. Give both the same size, and the mask one class id per pixel.')
        foreign = (label != self.base.ignore_index) & ((label < 0) | (label >= self.base.num_classes))
        if foreign.any():
            raise InputError(self._explain_label(index, label[foreign][0]))
        kept = {'img': sample['img'], 'label': label}
        if 'edge' in sample:
            kept['edge'] = np.asarray(sample['edge'], 'int64')
        return kept

    def _explain_label(self, index, label):
        mask = self.base.file_list[self.positions[index]][1]
        stored = (images.read_mask(mask) == label).any()
        return (f'{mask}: label {label}, but num_classes is {self.base.num_classes} and ignore_index '
                f'{self.base.ignore_index}. ' + (
                    'Is it an RGB mask? tools/check_data.py lists all such files.' if stored else
                    'It is not in the file: a transform has put it there. Does one fill with another value than '
                    'ignore_index, or blend labels?'))

    def _explain(self, index, error):
        image, mask = self.base.file_list[self.positions[index]][:2]
        try:
            sizes = images.read(image).shape[:2], images.read_mask(mask).shape[:2]
        except InputError as unreadable:
            return str(unreadable)
        if sizes[0] != sizes[1]:
            return (f'{image} is {list(sizes[0])} (height, width), but its mask {mask} {list(sizes[1])}: give both the '
                    f'same size ({failed_in(error)}).')
        return f'{image} with {mask}: {failed_in(error)}'
