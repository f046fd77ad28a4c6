"""From data sets to endless batches.

Whatever the number of loader workers or the moment a run was resumed, batch k of rank r holds the same bytes.
"""

import contextlib
import json
import os
import random
import threading
import time

import cv2
import numpy as np
import paddle
from paddle.base.multiprocess_utils import _cleanup_mmap

from paddleseg_semi.datasets.streams.base import as_bytes
from paddleseg_semi.errors import InputError

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


def collate(samples):
    """A list of samples → arrays [N, ...]; or {'error': text} when a sample brought one. `unreadable`, JSON of a list,
    is that of all. Where there are tags, `present` [n, 2] int64 lists image and column of each: a device would have to
    be asked how many there are."""
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
            return {'error': as_bytes(text)}
    batch = {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
    if 'tags' in batch and batch['tags'].any():
        batch['present'] = np.argwhere(batch['tags'])
    return {**batch, 'unreadable': as_bytes(json.dumps(failures))} if failures else batch


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
        stream (paddle.io.Dataset): a `Stream`.
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
