"""From a pipeline's YAML to its stages."""

import inspect
import os
import re

from paddleseg_semi.core.pipeline import Pipeline, Step, naming
from paddleseg_semi.cvlibs.config import read_yaml, set_option
from paddleseg_semi.cvlibs.schema import check_stage
from paddleseg_semi.errors import InputError, nearest
from paddleseg_semi.registries import STAGES


def read_pipeline(path, save_dir, opts=None, **flags):
    """Reads a pipeline:

        defaults: {label_ratio: 0.125}                # keywords of all stages that take them and do not give their own
        stages:
          sup:   {type: Train, config: recipe.yml}    # name, type, the type's keywords
          label: {type: PseudoLabel, model: '@sup/best_model', files: '@sup/split/unlabeled.txt'}

    '@sup/' is the folder of stage sup. Stages run in the order of the file, but for those that another one names: they
    run before it. The `_base_` of PaddleSeg's recipes works here too.

    Args:
        path (str): the YAML file.
        save_dir (str): where the stages' folders are.
        opts (list[str], optional): 'stage.key=value' changes.
        **flags: go over `defaults`; None leaves the file's value.

    Returns:
        Pipeline: every stage built, so that what is wrong in a recipe is known before the first one runs.

    Raises:
        InputError: a stage, type, keyword or reference that is not known; what the stages themselves refuse.
    """
    dic = read_yaml(path)
    stages, defaults = dic.pop('stages', None), dic.pop('defaults', None) or {}
    if dic or not isinstance(stages, dict) or not isinstance(defaults, dict):
        raise InputError(f'{path}: {", ".join(dic) or "stages"}: a pipeline has the sections "stages" (name: settings) '
                         'and, if wanted, "defaults".')
    defaults.update((key, value) for key, value in flags.items() if value is not None)
    for option in opts or []:
        set_option(stages, option)
    steps = {}
    for name in _in_order(stages):
        with naming(name):
            steps[name] = _build(name, stages[name], defaults, save_dir, steps)
    taken = {key for step in steps.values() for key in inspect.signature(type(step.stage)).parameters}
    for key in defaults:
        if key not in taken:
            raise InputError(f'{path}: defaults.{key}: no stage takes it.{nearest(key, taken)}')
    return Pipeline(steps, save_dir)


def _in_order(stages):
    """list[str]: names, each after those it reads from. A stage added to those of a `_base_` may have to come first."""
    order = []

    def place(name, readers):
        if name in readers:
            circle = ', '.join([*readers[readers.index(name):], name])
            raise InputError(f'stages {circle}: each waits for the one after it.')
        if name in stages and name not in order:
            for owner in _owners(stages[name]):
                place(owner, [*readers, name])
            order.append(name)

    for name in stages:
        place(name, [])
    return order


def _owners(value):
    """Yields the stages whose products a setting names."""
    if isinstance(value, str):
        yield from re.findall(r'^@([^/]*)', value)
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _owners(item)


def _build(name, settings, defaults, save_dir, earlier):
    if not re.fullmatch(r'[\w-]+', str(name)) or not isinstance(settings, dict):
        raise InputError('a stage is a name (letters, digits, - and _) with a type and its keywords.')
    kind, known = settings.get('type'), STAGES.components_dict
    if kind not in known:
        raise InputError(f'there is no type "{kind}".{nearest(kind, known)} Known: {", ".join(sorted(known))}.')
    keywords = inspect.signature(known[kind]).parameters
    settings = {**{key: value for key, value in defaults.items() if key in keywords}, **settings}
    check_stage(settings, known[kind])
    products = []

    def resolved(value):
        if isinstance(value, list):
            return [resolved(item) for item in value]
        if isinstance(value, dict):
            return {key: resolved(item) for key, item in value.items()}
        if not isinstance(value, str) or not value.startswith('@'):
            return value
        owner, _, product = value[1:].partition('/')
        if owner not in earlier:
            raise InputError(f'"{value}": there is no stage "{owner}".{nearest(owner, earlier)}')
        products.append((owner, product))
        return os.path.join(save_dir, owner, product)

    return Step(known[kind](**{key: resolved(value) for key, value in settings.items() if key != 'type'}), products)
