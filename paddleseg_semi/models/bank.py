"""What was seen lately, class by class."""

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import nn


class Bank(nn.Layer):
    """One ring of feature vectors per class: a new vector overwrites the oldest of its class.

    All rings lie in one table of (sum of the capacities + 1) x dim float32 numbers on the device; 30000 vectors of
    256 numbers for each of 21 classes are 645 MB. Every rank holds the same vectors.

    Args:
        capacities (Sequence[int]): vectors kept of each class, C numbers of at least 1.
        dim (int): D, length of a vector.
    """

    def __init__(self, capacities, dim):
        super().__init__()
        starts, self._largest = np.cumsum([0, *capacities]), max(capacities)
        self.register_buffer('table', paddle.zeros([int(starts[-1]) + 1, dim]))  # last row: for what is not kept
        self.register_buffer('norm', paddle.zeros([int(starts[-1]) + 1]))
        self.register_buffer('size', paddle.zeros([len(capacities)], 'int64'))
        self.register_buffer('head', paddle.zeros([len(capacities)], 'int64'))   # where the next vector goes
        self.register_buffer('_start', paddle.to_tensor(starts[:-1], 'int64'), persistable=False)
        self.register_buffer('_capacity', paddle.to_tensor(np.asarray(capacities), 'int64'), persistable=False)

    def limit(self, wanted):
        """int: of so many vectors of a class and step, those that a rank pushes: all ranks together fill the largest
        ring at most, and what is gathered does not grow with the ranks."""
        ranks = dist.get_world_size()
        return wanted if ranks == 1 else min(wanted, max(self._largest // ranks, 1))

    @paddle.no_grad()
    def push(self, vectors, count):
        """Stores vectors of all classes, those of every rank in order of the ranks. Does not wait for the device.

        Args:
            vectors (Tensor): [C, K, D], float32; K is the same on all ranks.
            count (Tensor): [C], int64, 0..K; of class c the first `count[c]` vectors are stored.
        """
        vectors, count = _gather(vectors), _gather(count)                              # [R, C, K, D], [R, C]
        number = paddle.arange(vectors.shape[2], dtype='int64')
        total = count.sum(0)
        place = (count.cumsum(0) - count).unsqueeze(-1) + number                       # [R, C, K], in order of arrival
        keep = (number < count.unsqueeze(-1)) & (place >= (total - self._capacity).unsqueeze(-1))
        row = self._start.unsqueeze(-1) + (self.head.unsqueeze(-1) + place) % self._capacity.unsqueeze(-1)
        row = paddle.where(keep, row, paddle.full_like(row, len(self.table) - 1)).flatten()
        vectors = (vectors * keep.unsqueeze(-1).astype(vectors.dtype)).flatten(0, 2)
        paddle.scatter_(self.table, row, vectors)
        paddle.scatter_(self.norm, row, vectors.norm(axis=-1))
        paddle.assign((self.head + total) % self._capacity, self.head)
        paddle.assign(paddle.minimum(self.size + total, self._capacity), self.size)

    def take(self, classes, age):
        """Vectors by age.

        Args:
            classes (Tensor): [B], int64, which rings.
            age (Tensor): [B, K], int64; 0 is the oldest vector of a ring, size - 1 the newest.

        Returns:
            tuple[Tensor, Tensor]: vectors [B, K, D] and their lengths [B, K].
        """
        start, capacity = self._start[classes].unsqueeze(-1), self._capacity[classes].unsqueeze(-1)
        oldest = (self.head - self.size)[classes].unsqueeze(-1)
        row = (start + (oldest + age) % capacity).flatten()
        return (self.table.index_select(row).reshape([*age.shape, -1]),
                self.norm.index_select(row).reshape(age.shape))


def _gather(tensor):
    """[R, ...]: the tensors of all ranks."""
    ranks = dist.get_world_size()
    if ranks == 1:
        return tensor.unsqueeze(0)
    both = paddle.empty([ranks * len(tensor), *tensor.shape[1:]], tensor.dtype)
    dist.stream.all_gather(both, tensor)
    return both.reshape([ranks, *tensor.shape])
