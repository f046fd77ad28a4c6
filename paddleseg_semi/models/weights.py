"""Weights from a file into a network, without executing what the file says."""

import numpy as np
from paddle import nn
from paddleseg.utils import logger

from paddleseg_semi import safe
from paddleseg_semi.errors import InputError, nearest
from paddleseg_semi.models import torch_file
from paddleseg_semi.models.fetch import local_file


def load_weights(model, path, partial=False, net=None):
    """Loads a `.pdparams` file, or a `.pth` file of a network whose layers are named as PyTorch's.

    Args:
        model (nn.Layer): the network.
        path (str): the file.
        partial (bool, optional): True loads what fits and warns of the rest: for pretraining, where the classifier
            differs. False wants every tensor of the network in the file. Default: False.
        net (str, optional): the file holds a whole method; load this one of its networks, see :func:`network_of`.

    Returns:
        int: tensors loaded.

    Raises:
        InputError: the file is missing, damaged, would execute code or is no weights file; a tensor is missing or of
            another shape (unless `partial`); nothing fits.
    """
    state = _from_torch(path, model) if torch_file.is_one(path) else safe.load(path)
    count = assign(model, network_of(state, model, net, path) if net else state, path, partial)
    logger.info(f'{count} of {len(model.state_dict())} tensors of {type(model).__name__} loaded from {path}')
    return count


def _from_torch(path, model):
    """dict[str, np.ndarray]: the weights of a file of PyTorch, where a Linear layer has them the other way round."""
    state = torch_file.paddle_names(torch_file.read(path))
    linear = {f'{name}.weight' for name, layer in model.named_sublayers() if isinstance(layer, nn.Linear)}
    return {name: array.T if name in linear else array for name, array in state.items()}


def network_of(state, model, net, source):
    """The weights of one segmenter out of those of a whole method.

    Args:
        state (dict[str, numpy.ndarray]): of the method.
        model (nn.Layer): a network like it.
        net (str): its name in the method, such as 'model' (or 'student'), 'teacher' or 'model_2'.
        source (str): the file, for messages.

    Returns:
        dict[str, numpy.ndarray]: name in the network to array.

    Raises:
        InputError: the method has no such network.
    """
    names = list(model.state_dict())
    heads = [key[:-len(names[0])] for key in state if key.endswith(f'.{names[0]}')] if isinstance(state, dict) else []
    parts = {head.split('.')[0]: {name: state[head + name] for name in names} for head in heads
             if all(head + name in state for name in names)}
    if not parts:
        raise InputError(f'{source}: holds no {type(model).__name__} of this recipe. Give the recipe it was trained '
                         'with.')
    wanted = 'model' if net == 'student' else net  # what papers call it
    if wanted not in parts:
        raise InputError(f'--export_net {net}: {source} holds {", ".join(parts)}.{nearest(net, parts)}')
    return parts[wanted]


def load_pretrained(model, pretrained):
    """Loads what fits of the weights that `pretrained:` names in a config.

    Args:
        model (nn.Layer): the network or backbone.
        pretrained (str|None): a file, a package or an address, see `fetch.local_file`.

    Raises:
        InputError: see `fetch.local_file` and :func:`load_weights`.
    """
    if pretrained is None:
        logger.info(f'No pretrained weights: {type(model).__name__} starts from random ones.')
        return
    load_weights(model, local_file(pretrained), partial=True)


def assign(model, state, source, partial=False):
    """Puts arrays into a network.

    Args:
        model (nn.Layer): the network.
        state (dict[str, numpy.ndarray]): name to array.
        source (str): where they come from, for messages.
        partial (bool, optional): see :func:`load_weights`. Default: False.

    Returns:
        int: tensors assigned.

    Raises:
        InputError: see :func:`load_weights`. The network is then unchanged.
    """
    if not isinstance(state, dict) or not any(isinstance(array, np.ndarray) for array in state.values()):
        raise InputError(f'{source}: holds no weights. Give a .pdparams file.')
    params = model.state_dict()
    fitting, misfits = {}, []
    for name, param in params.items():
        dtype = np.dtype(str(param.dtype).split('.')[-1])
        if name not in state:
            misfits.append(f'{name} {list(param.shape)} is not in the file')
            continue
        array = np.asarray(state[name])
        if array.shape != tuple(param.shape):
            misfits.append(f'{name} is {list(array.shape)} in the file and {list(param.shape)} in the model')
        elif array.dtype.kind != dtype.kind:  # bfloat16, for one, comes out of the file as uint16
            misfits.append(f'{name} is {array.dtype} in the file and {dtype} in the model')
        else:
            fitting[name] = array.astype(dtype)
    if not fitting:
        raise InputError(f'{source}: no tensor fits {type(model).__name__} (the file begins with "{next(iter(state))}"'
                         f', the model with "{next(iter(params))}"). Give weights of this network.')
    if misfits and not partial:
        more = f' and {len(misfits) - 1} more' if len(misfits) > 1 else ''
        raise InputError(f'{source}: {misfits[0]}{more}. Set model and num_classes to those the weights were '
                         'trained with, or give other weights.')
    for misfit in misfits:
        logger.warning(f'{source}: skipped: {misfit}')
    for name, array in fitting.items():
        params[name].set_value(array)
    return len(fitting)
