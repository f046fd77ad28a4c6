"""The four kinds of endless input: images with masks, without, with tags, and with scores.

Whatever the number of loader workers or the moment a run was resumed, batch k of rank r holds the same bytes.
"""

import contextlib
import copy
import json
import os
import random
import threading
import time
import traceback

import cv2
import numpy as np
import paddle
from paddle.base.multiprocess_utils import _cleanup_mmap
from paddleseg.cvlibs import manager
from paddleseg.transforms import Compose

from paddleseg_semi import images
from paddleseg_semi.datasets import fills
from paddleseg_semi.datasets.maps import CELL, read_maps, sure_labels
from paddleseg_semi.errors import InputError
from paddleseg_semi.transforms.boundary import boundary_maps

# With num_workers=0 Paddle still reads in a thread per loader, and PaddleSeg's transforms draw from the process-wide
# generators: one sample at a time, or two streams would mix up their dice.
_DICE = threading.Lock()
SPARES = 64  # of an unlabeled photo: more that cannot be read, one after another, are no accident


def _new_dice():
    """A loader worker is forked at any moment, perhaps while a thread of the parent holds the lock."""
    global _DICE
    _DICE = threading.Lock()


os.register_at_fork(after_in_child=_new_dice)


@contextlib.contextmanager
def seeded(seed):
    """Seeds the generators PaddleSeg's transforms use (`random`, `np.random`) for the length of one sample."""
    with _DICE:
        random.seed(seed)
        np.random.seed(seed)
        yield


class EndlessSampler:
    """Batches of (index, sample_seed, *spares), a function of (seed, batch number, rank) alone: no epoch state to save.

    The samples of all epochs, each epoch shuffled anew, form one sequence that is cut into global batches, so ranks
    share every epoch between them and no sample is dropped at its end.

    Args:
        size (int): samples in the set, at least 1.
        batch_size (int): of one rank.
        seed (int): of this stream.
        rank, ranks (int): this process and how many there are.
        start (int): number of the first batch, the iteration a run is resumed at.
        order_seed (int, optional): of the order alone; samplers that share it show the same samples, each with sample
            seeds of its own. Default: `seed`.
        spares (int, optional): how many of the indices that follow in the order of the epoch come with each sample, for
            a stream to go on to where it cannot read one. Default: none.
    """

    def __init__(self, size, batch_size, seed, rank=0, ranks=1, start=0, order_seed=None, spares=0):
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.ranks, self.start = rank, ranks, start
        self.order_seed = seed if order_seed is None else order_seed
        self.spares = min(spares, size - 1)
        self._epoch, self._order = -1, None

    def __iter__(self):
        number = self.start
        while True:
            first = (number * self.ranks + self.rank) * self.batch_size
            yield [self._sample(position) for position in range(first, first + self.batch_size)]
            number += 1

    def _sample(self, position):
        epoch, place = divmod(position, self.size)
        if epoch != self._epoch:
            self._epoch = epoch
            order = np.random.default_rng((self.order_seed, epoch)).permutation(self.size)
            self._order = np.append(order, order[:self.spares])  # the end of an epoch is followed by its beginning
        index, *spares = self._order[place:place + 1 + self.spares].tolist()
        return index, int(np.random.default_rng((self.seed, 1, position)).integers(2**31)), *spares


class _Stream(paddle.io.Dataset):
    """Reads one sample per (index, sample_seed). What goes wrong travels as a sample, so that it reaches the main
    process as one line; an exception inside a loader worker would arrive without its message."""

    def __getitem__(self, item):
        index, seed, *spares = item
        try:
            return {'index': np.int64(index), **self._read(index, seed, *spares)}
        except Exception as error:
            text = str(error) if isinstance(error, InputError) else self._explain(index, error)
            return {'error': _as_bytes(text)}

    def _explain(self, index, error):
        return f'{self.path(index)}: {failed_in(error)}'


class LabeledStream(_Stream):
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


class UnlabeledStream(_Stream):
    """One geometry, weak and strong views; no mask is ever opened. In place of a photo that cannot be read stands the
    first of the spares of its sample that can.

    The weak view passes through all of `weak`. A strong view leaves it before `Normalize`, passes through `strong`
    and goes on, so every view shows the same crop.

    Sample: weak, strong, strong_2, … [3, H, W] float32; valid [H, W] bool, False where a transform padded.

    Args:
        files (Sequence[str]): image paths.
        weak (list): transforms of the weak view.
        strong (list): transforms in between, none for a stream with one view.
        views (int): strong views.
        channels (int): 1 or 3.
        masks (dict[str, str], optional): image path → mask path. A sample then has truth [H, W] int64 as well. For
            looking on only; no training stream is given any.

    Attributes:
        unreadable (dict[str, str]): photos that could not be read so far → why. Of the process that takes the batches.
    """

    def __init__(self, files, weak, strong=(), views=0, channels=3, masks=None):
        super().__init__()
        self.files, self.strong, self.channels, self.masks = files, list(strong), channels, masks
        self.views, self.unreadable = views or bool(strong), {}
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
            data['truth'] = _read_mask(self.masks[self.files[index]], img, 'Repair it, or leave --oracle out.')
            data['gt_fields'].append('truth')
        with seeded(seed):
            data = _apply(self.shared, data)
            weak = _apply(self.finish, copy.deepcopy(data))
            sample = {'weak': _channels_first(weak['img']), 'valid': weak['label'] == self.mark}
            if self.masks:
                sample['truth'] = weak['truth'].astype('int64')
            for view in range(self.views):
                strong = _apply(self.finish, _apply(self.strong, copy.deepcopy(data)))
                sample['strong' if view == 0 else f'strong_{view + 1}'] = _channels_first(strong['img'])
        if failures:
            sample['unreadable'] = _as_bytes(json.dumps(failures))
        return {**sample, 'index': np.int64(index)}

    def _first_readable(self, *indices):
        """The first of some photos that can be read: its index, its pixels; and [[path, reason]] of those before it."""
        failures = []
        for index in indices:
            try:
                return index, _read_image(self.files[index], self.channels), failures
            except images.Unreadable as error:
                failures.append([self.files[index], str(error)])
        others = f' Nor can the {len(failures) - 1} photos that would take its place.' if len(failures) > 1 else ''
        raise InputError(failures[0][1] + others)


class ImageLevelStream(_Stream):
    """Images with tags: which classes they show.

    Sample: img [3, H, W] float32; tags [C-1] float32 of 0 and 1 (column c - 1 is class c); if there are label maps,
    boundary [C, H, W] float32, 0..1, where their classes end.

    Args:
        files (Sequence[str]): N image paths.
        tags (np.ndarray): [N, C-1] float32.
        transforms (list): what images pass, with their maps of boundaries; see `transforms/boundary.py`.
        channels (int): 1 or 3.
        boundary (Sequence[str], optional): N label maps (PNG), 255 where unknown.
    """

    def __init__(self, files, tags, transforms, channels=3, boundary=None):
        super().__init__()
        self.files, self.tags, self.transforms, self.channels = files, tags, transforms, channels
        self.boundary = boundary

    def __len__(self):
        return len(self.files)

    def path(self, index):
        return self.files[index]

    def _read(self, index, seed):
        data = {'img': _read_image(self.files[index], self.channels), 'trans_info': [], 'gt_fields': []}
        if self.boundary:
            label = _read_mask(self.boundary[index], data['img'], 'Make it again.')
            data.update(boundary=boundary_maps(label, self.tags.shape[1] + 1), gt_fields=['boundary'])
        with seeded(seed):
            data = _apply(self.transforms, data)
        return {**{key: _channels_first(data[key]) for key in ('img', *data['gt_fields'])}, 'tags': self.tags[index]}


class ScoredStream(_Stream):
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
        img, (classes, maps) = _read_image(self.files[index], self.channels), self._maps(index)
        if maps.shape[1:] != img.shape[:2]:
            raise InputError(f'{self.low[index]}: maps of {list(maps.shape[1:])} for an image of {list(img.shape[:2])} '
                             '(height, width). Make them again.')
        fields = [f'score_{k}' for k in range(len(maps))]  # PaddleSeg's transforms want masks without channels
        data = {'img': img, **dict(zip(fields, maps)), 'trans_info': [], 'gt_fields': fields}
        with seeded(seed):
            data = _apply(self.transforms, data)
        maps = np.stack([data[field] for field in fields])
        if maps.shape[1] % CELL or maps.shape[2] % CELL:
            raise InputError(f'crops are {maps.shape[1:]}: give them sides that are multiples of {CELL}.')
        maps[maps > 1] = 0  # a transform that pads takes scores for masks, and fills in 255
        label = sure_labels(*np.split(maps, 2), classes)
        return {'img': _channels_first(data['img']), 'label': label}

    def _maps(self, index):
        """Classes [K] and the maps [2 K, H, W] of both CRFs."""
        (classes, low), (others, high) = read_maps(self.low[index]), read_maps(self.high[index])
        if low.shape != high.shape or (classes != others).any() or classes[:1] != 0:
            raise InputError(f'{self.high[index]}: has the classes {others.tolist()}, {self.low[index]} '
                             f'{classes.tolist()}. Both need the same, background (0) first, and one size: make them '
                             'again from the same maps.')
        return classes, np.concatenate([low, high])


def _read_image(path, channels):
    """[H, W, 3] float32 RGB, or [H, W] gray, 0..255."""
    return images.read(path, channels).astype('float32')


def _read_mask(path, img, remedy):
    mask, size = images.read_mask(path), img.shape[:2]
    if mask.shape != size:
        raise InputError(f'{path}: is {list(mask.shape)}, but its image {list(size)} (height, width). {remedy}')
    return mask


def split_at_normalize(transforms):
    """The transforms before `Normalize`, and the others; strong ones belong in between."""
    cut = next((i for i, op in enumerate(transforms) if type(op).__name__ == 'Normalize'), len(transforms))
    return transforms[:cut], transforms[cut:]


def _apply(transforms, data):
    for transform in transforms:
        data = transform(data)
    return data


def _channels_first(img):
    return np.ascontiguousarray(np.atleast_3d(img).transpose(2, 0, 1))


def failed_in(error):
    """str: an exception in one line, behind the name of the transform that raised it, if one did."""
    known = {kind for kind in manager.TRANSFORMS.components_dict.values() if kind is not Compose}
    owners = (type(frame.f_locals.get('self')) for frame, _ in traceback.walk_tb(error.__traceback__))
    name = next((owner.__name__ for owner in owners if owner in known), None)
    where = f'{name} of its transforms fails: ' if name else ''
    return f'{where}{type(error).__name__}: {" ".join(str(error).split())}'


def _as_bytes(text):
    return np.frombuffer(text.encode(), 'uint8')


def collate(samples):
    """A list of samples → arrays [N, ...]; or {'error': text} when a sample brought one. `unreadable`, JSON of a list,
    is that of all."""
    for sample in samples:
        if 'error' in sample:
            return {'error': sample['error']}
    failures = [failure for sample in samples if 'unreadable' in sample
                for failure in json.loads(sample.pop('unreadable').tobytes())]
    for key in samples[0]:  # an exception here would end Paddle's loader thread, and the trainer would wait forever
        shapes = sorted({sample[key].shape for sample in samples})
        if len(shapes) > 1:
            text = (f'the images of a batch have different sizes after the transforms: {key} is {list(shapes[0])} and '
                    f'{list(shapes[-1])}. Add a crop of fixed size, such as RandomPaddingCrop.')
            return {'error': _as_bytes(text)}
    batch = {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
    return {**batch, 'unreadable': _as_bytes(json.dumps(failures))} if failures else batch


def end_with_parent(worker_id):
    """The `worker_init_fn` of every loader. A worker of Paddle looks for its parent only between two batches, so those
    of a killed process would wait for the next one forever."""
    parent = os.getppid()
    cv2.setNumThreads(0)  # a worker is one of several: its transforms keep to one core

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        _cleanup_mmap()  # shared memory nobody will fetch
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def batches(stream, sampler, num_workers=0):
    """Batches of one stream, as many as its sampler has.

    Args:
        stream (paddle.io.Dataset): one of the streams above.
        sampler (Iterable[list[tuple]]): batches of (index, sample_seed, *spares), such as an `EndlessSampler`.
        num_workers (int): loader processes.

    Yields:
        dict[str, Tensor]: arrays of `collate`.

    Raises:
        InputError: what went wrong with a sample, in one line.
    """
    loader = paddle.io.DataLoader(stream, batch_sampler=sampler, collate_fn=collate, num_workers=num_workers,
                                  worker_init_fn=end_with_parent, return_list=True)
    iterator = iter(loader)
    try:
        for batch in iterator:
            if 'error' in batch:
                raise InputError(bytes(batch['error'].numpy()).decode())
            if 'unreadable' in batch:
                stream.unreadable.update(json.loads(batch.pop('unreadable').numpy().tobytes()))
            yield batch
    finally:
        iterator._exit_thread_expectedly()  # it would wait forever to hand over its next batch
        if not num_workers and iterator._thread:  # none after the last batch of a sampler that ends
            iterator._thread.join()  # waking up while the interpreter ends, it would abort it
        iterator._try_shutdown_all()
