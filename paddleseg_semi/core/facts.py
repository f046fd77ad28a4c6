"""What `deploy.yaml` says of a network besides how to run it."""

import os
from importlib import metadata

import paddle
import yaml
from paddleseg.cvlibs import manager

import paddleseg_semi
from paddleseg_semi import safe
from paddleseg_semi.core.checkpoint import STATES
from paddleseg_semi.errors import InputError


def about(config, weights=None, net=None):
    """All that is known; what is not known is left out.

    Args:
        config (SemiConfig): the recipe.
        weights (str, optional): the file the network came from; in a run's folder it tells of the training.
        net (str, optional): which network of the method it is, unless the deployed one.

    Returns:
        dict: `class_names`, `palette` (R G B of class 0, R G B of class 1, …), `labels` and `summary`.

    Raises:
        InputError: class_names are not as many as classes.
    """
    dataset, count = config.val_dataset_cfg, config.num_classes
    kind = manager.DATASETS.components_dict.get(dataset.get('type'))
    names = config.class_names(count)
    found = {'class_names': names,
             'palette': count and config.classes(count).colors[:3 * count],
             'labels': _known({'num_classes': count,
                               'ignore_index': dataset.get('ignore_index', getattr(kind, 'IGNORE_INDEX', 255))}),
             'summary': {**_trained(weights, net), **_versions()}}
    return _known(found)


def _known(facts):
    return {key: value for key, value in facts.items() if value is not None}


def _versions():
    return {'paddle': paddle.__version__, 'paddleseg': metadata.version('paddleseg'),
            'paddleseg_semi': paddleseg_semi.__version__}


def _trained(weights, net):
    """dict: about the training; empty without files that tell of it."""
    if not weights:
        return {}
    folder = os.path.dirname(weights)
    run = os.path.dirname(os.path.abspath(folder))
    recipe, split = (read(os.path.join(run, *path)) for path in (['config.yml'], ['split', 'split.yml']))
    states = read(os.path.join(folder, STATES))
    scores = {key: round(_at(states, key) or 0, 4) or None for key in ('mIoU', 'Acc')}  # 0: not evaluated
    return _known({'method': _at(recipe, 'method', 'type'), 'net': net or 'deployed',
                   'label_ratio': _at(recipe, 'semi', 'label_ratio'), 'labeled': _at(split, 'labeled'),
                   'unlabeled': _at(split, 'unlabeled'), 'iters': _at(recipe, 'iters'), 'iter': _at(states, 'iter'),
                   **({} if net else scores)})


def read(path):
    """dict: a file of a run; empty when it is not there or cannot be used, which is not worth stopping for."""
    try:
        if path.endswith('.yml'):
            with open(path, encoding='utf-8') as file:
                content = safe.read_yaml(file)
        else:
            content = safe.load(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, InputError):
        content = None
    return content if isinstance(content, dict) else {}


def _at(settings, *keys):
    """The word or number under these keys; None without."""
    for key in keys:
        settings = settings.get(key) if isinstance(settings, dict) else None
    return settings if isinstance(settings, (str, int, float)) else None
