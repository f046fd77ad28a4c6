"""What PaddleSeg gets wrong, repaired in place: one entry per defect, with month and version it was last seen in."""

import inspect
import os
import textwrap
from urllib.parse import urlparse

import paddleseg.utils
from paddleseg.models import losses
from paddleseg.utils import logger

from paddleseg_semi.models.weights import load_weights

# 2026-11, PaddleSeg 2.8.0: losses mix float32 with int64 or bool in one operation, a TypeError in Paddle 3.
_UNCAST = [  # (class, method, the term that needs a cast, to what)
    (losses.CrossEntropyLoss, '_post_process_loss', 'label * mask', 'int64'),
    (losses.CrossEntropyLoss, '_post_process_loss', 'paddle.ones_like(label)', 'float32'),
    (losses.PointCrossEntropyLoss, 'forward', 'paddle.ones_like(label)', 'float32'),
    (losses.OhemCrossEntropyLoss, 'forward', 'prob + (1 - valid_mask)', 'float32'),
    (losses.OhemEdgeAttentionLoss, 'forward', 'prob + (1 - valid_mask)', 'float32'),
    (losses.RelaxBoundaryLoss, 'relax_onehot', "(onehot > 0).astype('int64')", 'float32'),
    (losses.RMILoss, 'forward_sigmoid', 'label_mask_3D, axis=3)', 'float32'),
    (losses.RMILoss, 'forward_sigmoid', 'label_mask_3D, axis=1)', 'float32'),
    (losses.DualTaskLoss, 'forward', '(labels != self.ignore_index)', 'float32'),
    (losses.DualTaskLoss, 'forward', 'labels * mask', 'int64'),
]


def apply():
    """Repairs PaddleSeg. What is right stays as it is, so doing it twice is doing it once."""
    for owner, method, term, dtype in _UNCAST:
        _edit(owner, method, term, f"{term}.astype('{dtype}')")
    # 2026-11, PaddleSeg 2.8.0: DiceLoss turns ignored pixels of its caller's label into class 0, for all that follows.
    _edit(losses.DiceLoss, 'forward', 'labels[labels ==', 'labels = labels.clone(); labels[labels ==')
    # `paddleseg.utils` re-exports the names of `paddleseg.utils.utils`; models call through either.
    for module in (paddleseg.utils, paddleseg.utils.utils):
        module.load_pretrained_model = load_pretrained_model


def _edit(owner, name, wrong, right):
    """Corrects one place in the source of a method, and leaves the line numbers of tracebacks as they are."""
    method = getattr(owner, name)
    source = getattr(method, 'source', None) or textwrap.dedent(inspect.getsource(method))
    if wrong not in source or right in source:
        return
    source = source.replace(wrong, right)
    code = compile('\n' * (method.__code__.co_firstlineno - 1) + source, inspect.getfile(method), 'exec')
    namespace = {}
    exec(code, method.__globals__, namespace)
    namespace[name].source = source
    setattr(owner, name, namespace[name])


def load_pretrained_model(model, pretrained_model):
    """2026-11, PaddleSeg 2.8.0: `pretrained:` goes to `paddle.load`, which executes whatever code the file holds.

    The vision transformers read the file a second time with `paddle.load`: by then it has passed here.

    Args:
        model (nn.Layer): the network or backbone.
        pretrained_model (str|None): a file, or a URL, which PaddleSeg downloads.

    Raises:
        InputError: see :func:`paddleseg_semi.models.weights.load_weights`.
    """
    if pretrained_model is None:
        logger.info(f'No pretrained weights: {type(model).__name__} starts from random ones.')
        return
    path = pretrained_model
    if not os.path.exists(path) and urlparse(path).netloc:
        path = paddleseg.utils.utils.download_pretrained_model(path)
    load_weights(model, path, partial=True)
