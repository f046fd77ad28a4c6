"""Adaptive average pooling in operators that every runtime has."""

from contextlib import contextmanager

import paddle
from paddle import nn


@contextmanager
def portable_pooling(model):
    """Within it, `AdaptiveAvgPool2D` layers of several bins are matrix products, which convert to ONNX for images of
    any size, also of sizes that the bins do not divide. The results are the same but for rounding.

    Args:
        model (nn.Layer): whose layers are exchanged and put back.
    """
    replaced = []
    for parent in model.sublayers(include_self=True):
        for name, layer in list(parent.named_children()):
            bins = _bins(layer)
            if bins and max(bins) > 1:
                parent._sub_layers[name] = _Pooling(bins)
                replaced.append((parent, name, layer))
    try:
        yield
    finally:
        for parent, name, layer in replaced:
            parent._sub_layers[name] = layer


def _bins(layer):
    """The two output sizes of a layer that can be exchanged, else None."""
    if not isinstance(layer, nn.AdaptiveAvgPool2D) or layer._data_format != 'NCHW':
        return None
    size = layer._output_size
    size = (size, size) if isinstance(size, int) else tuple(size)
    return None if None in size else size


class _Pooling(nn.Layer):
    """[N, C, H, W] → [N, C, h, w]: bin i of h is the mean of rows floor(i H / h) to ceil((i + 1) H / h)."""

    def __init__(self, bins):
        super().__init__()
        self.bins = bins

    def forward(self, x):
        height, width = paddle.shape(x)[2:]
        rows, columns = _means(height, self.bins[0]), _means(width, self.bins[1])
        return paddle.matmul(paddle.matmul(rows, x), columns, transpose_y=True)


def _means(size, bins):
    """float32 [bins, size], whose rows average the entries of each bin."""
    index, at = paddle.arange(bins, dtype='int32'), paddle.arange(size, dtype='int32')
    start, end = (index * size) // bins, ((index + 1) * size + bins - 1) // bins
    inside = (at >= start.unsqueeze(1)).astype('float32') * (at < end.unsqueeze(1)).astype('float32')
    return inside / inside.sum(1, keepdim=True)
