"""Mixed precision as a GPU computes it, emulated on a CPU, where Paddle leaves all in float32.

Inside `paddle.amp.auto_cast`, and only there, every operator rounds as Paddle's lists and PaddleSeg's have it: those on
the white list take and give half precision, those on the black list float32, all others what they are given. Gradients
are rounded where forward values are. Tensors stay float32 and hold the rounded numbers; a mark says so.

Not emulated: sums inside of an operator (kernels of GPUs add in float32, cuDNN at its discretion in float16), TF32, the
order in which a GPU adds, operators that work in place, and a mask that a method casts to the dtype of its logits.
"""

import contextlib
import functools

import paddle
from paddle import _C_ops
from paddle.amp.amp_lists import black_list, white_list
from paddle.base.core import AmpLevel
from paddle.base.framework import _dygraph_tracer

from paddleseg_semi.core import trainer

# The lists have the names of operators in Paddle's old format.
_OLD_NAMES = {'add': 'elementwise_add', '__add__': 'elementwise_add', '__radd__': 'elementwise_add',
              '__matmul__': 'matmul', 'sum': 'reduce_sum', 'mean': 'reduce_mean', 'mean_all': 'mean',
              'batch_norm_': 'batch_norm', 'sync_batch_norm_': 'sync_batch_norm', 'p_norm': 'pnorm',
              'cross_entropy_with_softmax': 'softmax_with_cross_entropy', 'linear': 'linear_v2',
              'embedding': 'lookup_table_v2',
              **{f'{kind}_interp': f'{kind}_interp_v2' for kind in ('bilinear', 'nearest', 'bicubic', 'linear')}}
_METHODS = ['detach', 'clone', '__getitem__', '__neg__', '__matmul__', *(
    f'__{reflected}{name}__' for name in ('add', 'sub', 'mul', 'truediv', 'pow') for reflected in ('', 'r'))]
_NORMS = ('batch_norm', 'sync_batch_norm')  # of which only the first input is cast


class _Round(paddle.autograd.PyLayer):
    @staticmethod
    def forward(ctx, x, dtype):
        ctx.dtype = dtype
        return x.astype(dtype).astype('float32')

    @staticmethod
    def backward(ctx, grad):
        return grad.astype(ctx.dtype).astype('float32')


class _Emulation:
    def __init__(self, dtype):
        self.dtype, self.tracer, self.inside = dtype, _dygraph_tracer(), False
        self.white = (white_list()[dtype]['O1'] | trainer._AMP_WHITE) - trainer._AMP_BLACK
        self.black = (black_list()[dtype]['O1'] | trainer._AMP_BLACK) - trainer._AMP_WHITE

    def rounded(self, value):
        if isinstance(value, (list, tuple)):
            return type(value)(map(self.rounded, value))
        if not _is_float(value):
            return value
        return _marked(value if _is_half(value) else _Round.apply(value, self.dtype))

    def wrap(self, name, original):
        name = _OLD_NAMES.get(name, name)

        @functools.wraps(original)
        def call(*args, **kwargs):
            if self.inside or self.tracer._amp_level != AmpLevel.O1:
                return original(*args, **kwargs)
            self.inside = True  # nothing that an operator calls itself is an operator of the network
            try:
                if name in self.white and name in _NORMS:
                    return self.first(original(self.rounded(args[0]), *args[1:], **kwargs))
                if name in self.white:
                    return self.rounded(original(*map(self.rounded, args), **kwargs))
                floats = [value for value in _flat(args) if _is_float(value)]
                result = original(*args, **kwargs)
                keeps = floats and all(map(_is_half, floats)) and name not in self.black and name != 'cast'
                return self.rounded(result) if keeps else result
            finally:
                self.inside = False
        return call

    def first(self, result):
        return type(result)([self.rounded(result[0]), *result[1:]]) if isinstance(result, (list, tuple)) else \
            self.rounded(result)


@contextlib.contextmanager
def emulated(dtype):
    """Makes `paddle.amp.auto_cast` round; `autocast` of the yielded object switches it on.

    Args:
        dtype (str): 'float16' or 'bfloat16'.

    Yields:
        Callable: a context manager, in place of `Precision.autocast`.
    """
    emulation = _Emulation(dtype)
    names = [name for name in dir(_C_ops) if not name.startswith('_') and 'grad' not in name
             and (not name.endswith('_') or name in _OLD_NAMES)]
    with contextlib.ExitStack() as patches:
        for owner, name in [*((_C_ops, name) for name in names), *((paddle.Tensor, name) for name in _METHODS)]:
            original = getattr(owner, name)
            setattr(owner, name, emulation.wrap(name, original))
            patches.callback(setattr, owner, name, original)
        yield functools.partial(_autocast, emulation.tracer, dtype)


@contextlib.contextmanager
def _autocast(tracer, dtype):
    before = tracer._amp_dtype, tracer._amp_level
    tracer._amp_dtype, tracer._amp_level = dtype, AmpLevel.O1
    try:
        yield
    finally:
        tracer._amp_dtype, tracer._amp_level = before


def _flat(values):
    for value in values:
        yield from _flat(value) if isinstance(value, (list, tuple)) else (value,)


def _is_float(value):
    return isinstance(value, paddle.Tensor) and value.dtype == paddle.float32


def _is_half(tensor):
    return getattr(tensor, 'is_half', False)


def _marked(tensor):
    tensor.is_half = True
    return tensor
