"""What PaddleSeg gets wrong, repaired in place: one entry per defect, with month and version it was last seen in."""

import functools
import inspect
import textwrap

import cv2
import paddleseg.utils
from paddleseg.models import losses
from paddleseg.transforms import Compose

from paddleseg_semi import images
from paddleseg_semi.models.fetch import download
from paddleseg_semi.models.weights import load_pretrained

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
    # 2026-11, PaddleSeg 2.8.0: `pretrained:` goes to `paddle.load`, which executes whatever code the file holds. Models
    # call through both modules. Vision transformers then read the file again: by that time it has been found harmless.
    for module in (paddleseg.utils, paddleseg.utils.utils):
        module.load_pretrained_model = load_pretrained
    # 2026-12, PaddleSeg 2.8.0: archives of a recipe's address are unpacked wherever the names in them lead.
    paddleseg.utils.utils.download_pretrained_model = paddleseg.utils.download_pretrained_model = download
    # 2026-12, PaddleSeg 2.8.0: photos are read by an OpenCV that gets no fixes any more, masks of any kind of file.
    if not hasattr(Compose.__call__, '__wrapped__'):
        Compose.__call__ = _reading(Compose.__call__)


def _reading(transform):
    """PaddleSeg's transforms, but that files are read by `paddleseg_semi.images`."""
    @functools.wraps(transform)
    def call(self, data):
        if isinstance(data.get('img'), str):
            img = images.read(data['img'], self.img_channels)
            data['img'] = (img if img.ndim == 2 else cv2.cvtColor(img, cv2.COLOR_RGB2BGR)).astype('float32')
        if isinstance(data.get('label'), str):
            data['label'] = images.read_mask(data['label'])
        return transform(self, data)

    return call


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
