"""Depthwise convolutions on a CPU by Numba. Paddle's own kernel takes more than half of a training step of mobile
networks. Imported only where Numba is installed: `pip install '.[fast]'`."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle
from numba import njit
from paddle import nn


def use(model, threads=1):
    """Lets the depthwise convolutions of a network compute here. Its parameters, names and class names stay, and so
    does what is exported; results differ in the last bits.

    Args:
        model (nn.Layer): changed in place.
        threads (int, optional): of the CPU. Default: 1.

    Returns:
        int: convolutions found.
    """
    _Convolution.threads = threads
    found = [layer for layer in model.sublayers(include_self=True) if is_depthwise(layer)]
    for layer in found:
        kind = type(layer)
        layer.__class__ = type(kind.__name__, (kind,), {
            'forward': _forward_here, 'paddle_forward': kind.forward, '__doc__': kind.__doc__,
            '__module__': kind.__module__})
    return len(found)


def is_depthwise(layer):
    """bool: a 2-D convolution with one filter per channel, zeros around, channels first."""
    return (isinstance(layer, nn.Conv2D) and layer._groups == layer._in_channels == layer._out_channels > 1
            and layer._padding_mode == 'zeros' and layer._data_format == 'NCHW' and len(set(layer._stride)) == 1
            and len(set(layer._dilation)) == 1 and not hasattr(layer, 'paddle_forward'))


def _forward_here(self, x):
    if not (paddle.in_dynamic_mode() and x.place.is_cpu_place() and x.dtype == paddle.float32):
        return self.paddle_forward(x)
    y = _Convolution.apply(x, self.weight, self._stride[0], _padding(self, x.shape[2:]), self._dilation[0])
    return y if self.bias is None else y + self.bias.reshape([1, -1, 1, 1])


def _padding(conv, size):
    """((top, bottom), (left, right)) in pixels."""
    if conv._padding_algorithm == 'SAME':  # which Paddle takes for without dilation
        total = [max((-(-side // stride) - 1) * stride + kernel - side, 0)
                 for side, stride, kernel in zip(size, conv._stride, conv._kernel_size)]
        return tuple((both // 2, both - both // 2) for both in total)
    if conv._padding_algorithm == 'VALID':
        return (0, 0), (0, 0)
    sides = list(conv._updated_padding)
    return tuple(zip(sides[::2], sides[1::2])) if len(sides) == 4 else tuple((side, side) for side in sides)


def _array(tensor):
    """np.ndarray: the numbers of a tensor, not copied."""
    return np.from_dlpack(tensor.detach().contiguous())


class _Convolution(paddle.autograd.PyLayer):
    """x [N, C, H, W] with weight [C, 1, h, w], each float32 on a CPU; threads share the images.

    Results are copied into memory of Paddle's: it is aligned, and the last bits of what MKL makes of numbers depend on
    where they lie.
    """

    threads = 1

    @staticmethod
    def forward(ctx, x, weight, stride, padding, dilation):
        ctx.save_for_backward(x, weight)
        ctx.settings = stride, padding, dilation
        parts = _Convolution._map(_forward, [_array(x)], _array(weight)[:, 0], *ctx.settings)
        return paddle.to_tensor(np.concatenate(parts) if len(parts) > 1 else parts[0])

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensor()
        parts = _Convolution._map(_backward, [_array(x), _array(grad)], _array(weight)[:, 0], *ctx.settings)
        dx = np.concatenate([part[0] for part in parts]) if len(parts) > 1 else parts[0][0]
        return paddle.to_tensor(dx), paddle.to_tensor(sum(part[1] for part in parts)[:, None])

    @staticmethod
    def _map(kernel, batches, *settings):
        """The kernel's results for each thread's share of the images, in their order."""
        count = min(_Convolution.threads, len(batches[0]))
        if count <= 1:
            return [kernel(*batches, *settings)]
        shares = zip(*(np.array_split(batch, count) for batch in batches))
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda share: kernel(*share, *settings), shares))


# A padded channel is laid out by phases: pixels whose rows and columns have equal remainders modulo the stride are
# neighbors. Then the pixels that one tap of the filter meets are one stretch of memory for all outputs, whatever the
# stride; at the end of each row there are some outputs too many, which are left out. Loops over such stretches become
# vector code.


@njit(nogil=True, cache=True)
def _lay_out(image, stride, padding, grid, width):
    top, left = padding[0][0], padding[1][0]
    for r in range(image.shape[0]):
        row, start = r + top, (r + top) // stride * width
        for phase in range(stride):
            first = (phase - left) % stride  # of the columns of this phase
            pixels = image[r, first::stride]
            begin = start + (first + left) // stride
            grid[row % stride, phase, begin:begin + len(pixels)] = pixels


@njit(nogil=True, cache=True)
def _sizes(shape, kernel, stride, padding, dilation):
    """Height and width of outputs; rows and columns of a phase, and numbers a phase holds."""
    height, width = shape[0] + padding[0][0] + padding[0][1], shape[1] + padding[1][0] + padding[1][1]
    out_h = (height - dilation * (kernel[0] - 1) - 1) // stride + 1
    out_w = (width - dilation * (kernel[1] - 1) - 1) // stride + 1
    rows, columns = -(-height // stride), -(-width // stride)
    return out_h, out_w, columns, (rows + 1) * columns + dilation * kernel[1]


@njit(nogil=True, cache=True, fastmath={'contract'})
def _forward(x, weight, stride, padding, dilation):
    out_h, out_w, columns, length = _sizes(x.shape[2:], weight.shape[1:], stride, padding, dilation)
    y = np.empty((x.shape[0], x.shape[1], out_h, out_w), np.float32)
    grid, total = np.zeros((stride, stride, length), np.float32), np.empty(out_h * columns, np.float32)
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            _lay_out(x[n, c], stride, padding, grid, columns)
            total[:] = 0
            for i in range(weight.shape[1]):
                for j in range(weight.shape[2]):
                    row, column = i * dilation, j * dilation
                    start, tap = row // stride * columns + column // stride, weight[c, i, j]
                    seen = grid[row % stride, column % stride, start:start + len(total)]
                    for p in range(len(total)):
                        total[p] += tap * seen[p]
            for r in range(out_h):
                y[n, c, r] = total[r * columns:r * columns + out_w]
    return y


@njit(nogil=True, cache=True, fastmath={'contract', 'reassoc'})
def _backward(x, grad, weight, stride, padding, dilation):
    out_h, out_w, columns, length = _sizes(x.shape[2:], weight.shape[1:], stride, padding, dilation)
    top, left = padding[0][0], padding[1][0]
    dx, dweight = np.empty_like(x), np.zeros(weight.shape, np.float32)
    grid, dgrid = np.zeros((stride, stride, length), np.float32), np.empty((stride, stride, length), np.float32)
    given = np.zeros(out_h * columns, np.float32)
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            _lay_out(x[n, c], stride, padding, grid, columns)
            dgrid[:] = 0
            for r in range(out_h):
                given[r * columns:r * columns + out_w] = grad[n, c, r]
            for i in range(weight.shape[1]):
                for j in range(weight.shape[2]):
                    row, column = i * dilation, j * dilation
                    start, tap = row // stride * columns + column // stride, weight[c, i, j]
                    seen = grid[row % stride, column % stride, start:start + len(given)]
                    back = dgrid[row % stride, column % stride, start:start + len(given)]
                    share = np.float32(0)
                    for p in range(len(given)):
                        back[p] += tap * given[p]
                    for p in range(len(given)):
                        share += given[p] * seen[p]
                    dweight[c, i, j] += share
            for r in range(x.shape[2]):
                row, start = r + top, (r + top) // stride * columns
                for phase in range(stride):
                    first = (phase - left) % stride
                    target = dx[n, c, r, first::stride]
                    begin = start + (first + left) // stride
                    target[:] = dgrid[row % stride, phase, begin:begin + len(target)]
    return dx, dweight
