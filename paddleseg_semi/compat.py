"""What PaddleSeg gets wrong, repaired in place: one entry per defect, with month and version it was last seen in."""

import functools
import inspect
import re
import sys
import textwrap

import cv2
import paddleseg.utils
from paddle import nn
from paddleseg.models import layers, losses
from paddleseg.models.backbones import cae, vision_transformer
from paddleseg.models.losses import lovasz_loss
from paddleseg.transforms import Compose

from paddleseg_semi import images, safe
from paddleseg_semi.errors import InputError
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
    # 2026-12, PaddleSeg 2.8.0: of labels that are all ignored, LovaszSoftmaxLoss makes [0, C], which voids other terms.
    _edit(lovasz_loss, 'lovasz_softmax_flat', 'return probas * 0.', 'return probas.sum() * 0.')
    # 2026-11, PaddleSeg 2.8.0: `pretrained:` goes to `paddle.load`, which executes whatever code the file holds. Models
    # call through both modules. Vision transformers then read the file again: by that time it has been found harmless.
    for module in (paddleseg.utils, paddleseg.utils.utils):
        module.load_pretrained_model = load_pretrained
    # 2026-12, PaddleSeg 2.8.0: archives of a recipe's address are unpacked wherever the names in them lead.
    paddleseg.utils.utils.download_pretrained_model = paddleseg.utils.download_pretrained_model = download
    # 2026-12, PaddleSeg 2.8.0: strings of a recipe (norm_layer, arm_type, activations) are evaluated as code. What its
    # modules call eval finds layers by their names now, and does nothing else; exec does nothing.
    for name, module in list(sys.modules.items()):
        if name.partition('.')[0] == 'paddleseg' and module is not None:
            vars(module).update(eval=named_layer, exec=_refuse)
            # 2026-12, PaddleSeg 2.8.0: a data set that is not there is fetched, over http too, and its archive unpacked
            # wherever the names in it lead.
            if 'download_file_and_uncompress' in vars(module):
                module.download_file_and_uncompress = _fetch_it_yourself
    # 2026-12, PaddleSeg 2.8.0: the weights of vision transformers are read once more by `paddle.load`.
    for network in (vision_transformer.VisionTransformer, cae.CAE):
        network.init_weight.__globals__['read_weights'] = safe.load
        _edit(network, 'init_weight', 'paddle.load(model_path)', 'read_weights(model_path)')
    # 2026-12, PaddleSeg 2.8.0: photos are read by an OpenCV that gets no fixes any more, masks of any kind of file.
    if not hasattr(Compose.__call__, '__wrapped__'):
        Compose.__call__ = _reading(Compose.__call__)


def named_layer(text, *_):
    """What PaddleSeg evaluates: a layer of Paddle or of its own by name, or one made without arguments.

    Args:
        text (str): 'nn.LayerNorm', 'layers.UAFM', 'nn.layer.activation.ReLU()'.

    Returns:
        type|nn.Layer: the layer.

    Raises:
        InputError: anything else.
    """
    found = re.fullmatch(r'(nn|layers)\.(?:layer\.activation\.)?(\w+)(\(\))?', text) if isinstance(text, str) else None
    layer = found and vars({'nn': nn, 'layers': layers}[found[1]]).get(found[2])
    if not (isinstance(layer, type) and issubclass(layer, nn.Layer)):
        raise InputError(f'model: "{text}" is not the name of a layer. Give one such as nn.LayerNorm or '
                         'nn.BatchNorm2D; nothing was executed.')
    return layer() if found[3] else layer


def _refuse(*_):
    raise InputError('model: PaddleSeg wanted to execute a text; nothing was executed.')


def _fetch_it_yourself(url, *_, **__):
    raise InputError(f'dataset_root: there is no such folder. Download {url}, unpack it, and set dataset_root to its '
                     'folder.')


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
    """Corrects one place in the source of a method, or of a function of a module, and leaves the line numbers of
    tracebacks as they are."""
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
