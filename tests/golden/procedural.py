"""Stand-ins for what golden cases do not hold: weights too large to store, which follow from name and shape, and
backbones whose features they give."""

import zlib

import numpy as np
from paddle import nn


def procedural(name, shape):
    """The values of a tensor.

    Args:
        name (str): as in the authors' network.
        shape (Sequence[int]): PyTorch's, a linear weight is [out, in].

    Returns:
        np.ndarray: float32.
    """
    r = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    if len(shape) >= 2:
        value = r / np.sqrt(np.prod(shape[1:]))
    elif name.endswith('running_var'):
        value = 1 + 0.2 * np.abs(r)
    elif name.endswith('weight'):
        value = 1 + 0.1 * r
    else:
        value = 0.1 * r
    return value.astype('float32')


def formula(shape, k, seed):
    """The formula tensors of the golden data: an integer hash of position, tensor number and seed.

    Args:
        shape (Sequence[int]): of the tensor.
        k (int): its number.
        seed (int): of the file.

    Returns:
        np.ndarray: float64, in -1..1.
    """
    h = np.arange(np.prod(shape), dtype=np.uint32) * np.uint32(2654435761)
    h += np.uint32((k * 40503 + seed * 69069 + 12345) % 2**32)
    for shift, factor in ((15, 2246822519), (13, 3266489917)):
        h = (h ^ (h >> np.uint32(shift))) * np.uint32(factor)
    h ^= h >> np.uint32(16)
    return (2. * h / 2**32 - 1).reshape(shape)


class Given(nn.Layer):
    """A backbone that returns the features of a golden case."""

    def __init__(self, features):
        super().__init__()
        self.features, self.feat_channels = features, [feature.shape[1] for feature in features]

    def forward(self, x):
        return self.features
