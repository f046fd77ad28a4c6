"""The inside of any model: read it, or change it on the way."""

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.jit.dy2static.program_translator import StaticFunction

from paddleseg_semi.errors import InputError, nearest
from paddleseg_semi.models.modes import evaluating

_CANDIDATES = 8  # named in an error


class Tap:
    """Reads, and on request replaces, what goes into or comes out of a layer while the block runs.

        with Tap(model, 'decode_head.conv') as tap:
            logits = model(x)[0]
        feature = tap.value

    Args:
        model (nn.Layer): any model.
        layer (str): name of a layer of it, as in `model.named_sublayers()`.
        side (str, optional): 'input' for the first argument of the layer, 'output' for its result. Default: 'input'.
        edit (Callable, optional): value → the value the model goes on with. Default: it is left as it is.

    Attributes:
        value (Tensor|list): what was there in the last pass, before `edit`; with its graph.

    Raises:
        InputError: the model has no such layer, or is a static graph.
    """

    def __init__(self, model, layer, side='input', edit=None):
        if isinstance(model.forward, StaticFunction):
            raise InputError('--to_static_training: a static graph cannot be looked into; leave the flag out.')
        layers = dict(model.named_sublayers())
        if layer not in layers:
            raise InputError(f'layer "{layer}": {type(model).__name__} has no such layer.{nearest(layer, layers)}')
        self.layer, self.side, self.edit = layers[layer], side, edit
        self.value = None

    def __enter__(self):
        if self.side == 'input':
            self._hook = self.layer.register_forward_pre_hook(
                lambda _, inputs: (self._pass(inputs[0]), *inputs[1:]))
        else:
            self._hook = self.layer.register_forward_post_hook(lambda _, inputs, output: self._pass(output))
        return self

    def __exit__(self, *exception):
        self._hook.remove()

    def _pass(self, value):
        self.value = value
        return self.edit(value) if self.edit else value


def new_probe(size=128, channels=3):
    """Noise for a look inside a network.

    Args:
        size (int, optional): height and width. Default: 128.
        channels (int, optional): C, of its images. Default: 3.

    Returns:
        Tensor: [2, C, size, size] float32, always the same, whatever the state of the device's generator. (With one
            image, batches of different sizes would pass as broadcasting.)
    """
    return paddle.to_tensor(np.random.default_rng(0).standard_normal((2, channels, size, size), 'float32'))


def find_classifier(model, num_classes, probe=None):
    """Finds the last layer of a segmenter by one pass in eval mode: the convolution whose output, resized, is the
    first of the model's outputs. Its input is the feature map that is classified.

    Args:
        model (nn.Layer): a PaddleSeg model.
        num_classes (int): channels of its output.
        probe (Tensor, optional): [N, C, H, W], any image. Default: :func:`new_probe`.

    Returns:
        str: name of the layer, for :class:`Tap`.

    Raises:
        InputError: no layer fits; candidates are named.
    """
    ran = []  # (name, layer, output) in order

    def watch(name):
        return lambda layer, inputs, output: ran.append((name, layer, output))

    hooks = [layer.register_forward_post_hook(watch(name)) for name, layer in model.named_sublayers()
             if isinstance(layer, (nn.Conv2D, nn.Conv2DTranspose))]
    try:
        with evaluating(model), paddle.no_grad():
            logits = model(new_probe() if probe is None else probe)[0]
            for name, _, output in reversed(ran):
                if output.shape[1] == num_classes and _is_resized(output, logits):
                    return name
    finally:
        for hook in hooks:
            hook.remove()
    names = list(dict.fromkeys(name for name, _, _ in ran))[-_CANDIDATES:]
    raise InputError(f'feature_layer: {type(model).__name__} does not show which convolution classifies. Name the '
                     f'layer whose input is to be used; candidates, the last to run: {", ".join(names)}.')


def find_fork(model, num_classes, layer=None, probe=None):
    """Finds where a second, changed copy of the features can join the batch, so that the rest of the model treats both.

    Args:
        model (nn.Layer): a PaddleSeg model.
        num_classes (int): channels of its output.
        layer (str, optional): the layer whose output is to be doubled. Default: `backbone`; if the model has none, or
            cannot go on from there, the input of the classifier.
        probe (Tensor, optional): [N, C, H, W], any images, N at least 2. Default: :func:`new_probe`.

    Returns:
        tuple[str, str]: layer and side, for :class:`Tap`.

    Raises:
        InputError: the layer does not exist or does not do; candidates are named.
    """
    probe = new_probe() if probe is None else probe
    if layer is None:
        if hasattr(model, 'backbone') and _goes_on_doubled(model, 'backbone', probe):
            return 'backbone', 'output'
        return find_classifier(model, num_classes, probe), 'input'
    if not _goes_on_doubled(model, layer, probe):
        names = ', '.join(name for name, _ in model.named_children())
        raise InputError(f'feature_layer: {type(model).__name__} cannot go on from "{layer}" with a doubled batch. '
                         f'Name a layer that all of its output depends on; candidates: {names}.')
    return layer, 'output'


def _goes_on_doubled(model, layer, probe):
    def double(features):
        return paddle.utils.map_structure(lambda level: paddle.concat([level, level]), features)

    with evaluating(model), paddle.no_grad(), Tap(model, layer, 'output', double):
        try:
            return len(model(probe)[0]) == 2 * len(probe)
        except Exception:  # whatever a model says of shapes that do not fit
            return False


@paddle.no_grad()
def _is_resized(output, logits):
    for align_corners in (False, True):
        resized = F.interpolate(output, logits.shape[2:], mode='bilinear', align_corners=align_corners)
        if bool((resized - logits).abs().max() <= 1e-4 * logits.abs().max()):
            return True
    return False
