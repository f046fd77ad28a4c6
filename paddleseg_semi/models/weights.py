"""Weights from a file into a network, without executing what the file says."""

import re
from collections import defaultdict

import numpy as np
from paddle import nn
from paddleseg.utils import logger

from paddleseg_semi.errors import InputError, nearest
from paddleseg_semi.models import weight_files
from paddleseg_semi.models.fetch import local_file
from paddleseg_semi.models.name_rules import LAYOUTS, SPARE, UNUSED, Layout

_DEEPEST = 4  # level of nesting, of dicts and in names, at which weights are looked for
_TEACHER = re.compile(r'teacher|(^|[._])ema|ema$')
_NUMBER = re.compile(r'(?:^|(?<=\.))\d+(?=\.)|(?<=\d_)\d+(?=\.)')  # of a block: layer3.6.conv1, bb_3_6.conv1


def load_weights(model, path, partial=False, net=None):
    """Loads a file of weights, of Paddle, PyTorch, safetensors or MXNet, by our names or published ones.

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
            another shape (unless `partial`); nothing fits; it is of another network, see :func:`assign`.
    """
    weights = weight_files.read(path)
    state = network_of(weights.content, model, net, path) if net else find(model, weights, path)
    count = assign(model, state, path, partial)
    logger.info(f'{count} of {len(model.state_dict())} tensors of {type(model).__name__} loaded from {path}')
    return count


def find(model, weights, source, net=None):
    """Finds the weights of a network in all that a file holds, and gives them our names.

    Looks at nested dicts, and at parts of names: the backbone in a whole network, one network of two. Of several that
    fit as well, a teacher is taken, which is what authors evaluate, and the first one else.

    Args:
        model (nn.Layer): the network.
        weights (weight_files.Weights): what the file holds.
        source (str): the file, for messages.
        net (str, optional): 'teacher' or 'student'. Default: either.

    Returns:
        dict[str, numpy.ndarray]: name in the network to array, as Paddle has it; and what else the file holds.

    Raises:
        InputError: the file holds no weights, none of them by a name of the network, or not that network.
    """
    wanted = set(model.state_dict())
    found, any_weights = [], False
    for label, state, whole in _candidates(weights.content, len(wanted) // 2):  # some layouts have fewer than we
        any_weights = True
        for layout in (Layout(), *LAYOUTS.get(type(model).__name__, {}).values()):
            named = layout.ours(state, wanted)
            covered = len(wanted & named.keys())
            if covered == len(wanted) or covered and whole:
                found.append((covered, label, named))
    if not any_weights:
        raise InputError(f'{source}: holds no weights. Give a .pdparams, .pth or .safetensors file of weights.')
    if not found:
        _, state, _ = next(_candidates(weights.content, 0))
        raise _nothing_fits(model, state, source)
    best = max(covered for covered, *_ in found)
    networks = {}
    for covered, label, named in found:
        if covered == best and not any(f'{label}.'.startswith(f'{whole}.'.lstrip('.')) for whole in networks):
            networks[label] = named  # the first layout; no part of what is a network already
    label = _choose(networks, net, source)
    linear = {f'{name}.weight'.lstrip('.') for name, layer in model.named_sublayers(include_self=True)
              if isinstance(layer, nn.Linear)} if weights.turned else ()
    return {name: array.T if name in linear else array for name, array in networks[label].items()}


def _candidates(content, fewest, label='', depth=0):
    """Dicts of arrays that might be a network: (label, names to arrays, whether nothing was left out). Parts of one are
    of at least so many arrays."""
    arrays = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, np.ndarray)}
    if arrays:
        yield from _parts(arrays, fewest, label, True)
    for key, value in content.items():
        if isinstance(key, str) and isinstance(value, dict) and depth < _DEEPEST:
            yield from _candidates(value, fewest, f'{label}.{key}'.lstrip('.'), depth + 1)


def _parts(arrays, fewest, label, whole, depth=0):
    yield label, arrays, whole
    if depth == _DEEPEST:
        return
    parts = defaultdict(dict)
    for name, array in arrays.items():
        first, _, rest = name.partition('.')
        if rest:
            parts[first][rest] = array
    for first, part in parts.items():
        if len(part) >= fewest:
            yield from _parts(part, fewest, f'{label}.{first}'.lstrip('.'), whole and len(part) == len(arrays),
                              depth + 1)


def _choose(networks, net, source):
    teachers = [label for label in networks if _TEACHER.search(label)]
    fitting = teachers if net == 'teacher' else [label for label in networks if label not in teachers]
    if net and not fitting:
        raise InputError(f'--net {net}: {source} holds {", ".join(networks)}. Leave the flag out.')
    label = (fitting if net else [*teachers, *networks])[0]
    if len(networks) > 1:
        logger.info(f'{source} holds {", ".join(networks)}; {label} is taken.')
    return label


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
        partial (bool, optional): see :func:`load_weights`. A backbone of ours wants all of its tensors even so, but the
            one that reads the image, whose channels may differ. Default: False.

    Returns:
        int: tensors assigned.

    Raises:
        InputError: see :func:`load_weights`; or they are of another network: deeper or shallower (blocks that only one
            of them has), wider (most shapes differ), or with tensors that a backbone of ours has no use for and that
            are no known classifier either. The network is then unchanged.
    """
    if not isinstance(state, dict) or not any(isinstance(array, np.ndarray) for array in state.values()):
        raise InputError(f'{source}: holds no weights. Give a .pdparams file.')
    params = model.state_dict()
    fitting, missing, misfits, channels = _compare(params, state)
    if not fitting:
        raise _nothing_fits(model, state, source)
    problems = [*missing.values(), *misfits.values(), *channels.values()]
    if problems and not partial:
        raise InputError(f'{source}: {_first_of(problems)}. Set model and num_classes to those the weights were '
                         'trained with, or give other weights.')
    extra = {name: array.shape for name, array in state.items() if name not in params and hasattr(array, 'shape')}
    other = _another_depth(model, missing, extra) or _another_backbone(model, missing, misfits, extra)
    if other is None and len(misfits) > len(fitting):
        other = _first_of([*misfits.values()])
    if other:
        raise InputError(f'{source}: weights of another network than {type(model).__name__}: {other}. Give weights of '
                         'this one, or set the model to theirs.')
    for problem in problems:
        logger.warning(f'{source}: skipped: {problem}')
    if extra:
        logger.info(f'{source}: {len(extra)} of its tensors are not used, the first is {next(iter(extra))}')
    for name, array in fitting.items():
        params[name].set_value(array)
    return len(fitting)


def _compare(params, state):
    """Sorts the tensors of a network.

    Returns:
        tuple[dict]: name → array of those that fit; name → what is wrong, of those that the file has not, that are of
            another shape or kind, and that differ in the number of input channels alone.
    """
    fitting, missing, misfits, channels = {}, {}, {}, {}
    for name, param in params.items():
        shape, dtype = list(param.shape), np.dtype(str(param.dtype).split('.')[-1])
        if name not in state:
            missing[name] = f'{name} {shape} is not in the file'
            continue
        array = np.asarray(state[name])
        found = list(array.shape)
        if found != shape:
            others = len(shape) == len(found) == 4 and [found[0], *found[2:]] == [shape[0], *shape[2:]]
            (channels if others else misfits)[name] = f'{name} is {found} in the file and {shape} in the model'
        elif array.dtype.kind != dtype.kind:  # bfloat16, for one, comes out of the file as uint16
            misfits[name] = f'{name} is {array.dtype} in the file and {dtype} in the model'
        else:
            fitting[name] = array.astype(dtype)
    return fitting, missing, misfits, channels


def _nothing_fits(model, state, source):
    return InputError(f'{source}: no tensor fits {type(model).__name__} (the file begins with "{next(iter(state))}", '
                      f'the model with "{next(iter(model.state_dict()))}"). Give weights of this network.')


def _first_of(problems):
    return problems[0] + (f' and {len(problems) - 1} more' if len(problems) > 1 else '')


def _another_depth(model, missing, extra):
    """str|None: the block that only network or file has, where both have others like it. `missing` are the names of
    what the file has not, `extra` the shapes of what only the file has."""
    shapes, spare = {name: param.shape for name, param in model.state_dict().items()}, SPARE.get(type(model).__name__)
    common = _blocks({name: shape for name, shape in shapes.items() if name not in missing})
    extra = {name: shape for name, shape in extra.items() if not (spare and re.match(spare, name))}
    for some, says in ((extra, 'it has {}, the model has not'), ({name: shapes[name] for name in missing},
                                                                  'the model has {}, it has not')):
        for prefix, numbered in _blocks(some).items():
            known = common.get(prefix, {})
            for number, block in numbered.items():
                if number not in known and block in known.values():
                    return says.format(prefix + number)
    return None


def _blocks(shapes):
    """dict[str, dict[str, dict]]: 'layer3.' → '6' → the rest of each name → sides, sorted: a matrix may be turned."""
    blocks = defaultdict(lambda: defaultdict(dict))
    for name, shape in shapes.items():
        for match in _NUMBER.finditer(name):
            blocks[name[:match.start()]][match[0]][name[match.end():]] = sorted(shape)
    return blocks


def _another_backbone(model, missing, misfits, extra):
    """str|None: what in a backbone of ours is missing, of another shape, or too much."""
    for prefix, layer in (('', model), ('backbone.', getattr(model, 'backbone', None))):
        unused = UNUSED.get(type(layer).__name__)
        if unused:
            problems = [says for name, says in {**missing, **misfits}.items() if name.startswith(prefix)]
            problems += [f'{name} is in the file, and neither in the model nor a known classifier' for name in extra
                         if name.startswith(prefix) and not re.match(unused, name.removeprefix(prefix))]
            return _first_of(problems) if problems else None
    return None
