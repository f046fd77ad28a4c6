"""Which keys a recipe may hold: the constructors' keywords are the schema, so a typo cannot pass unseen."""

import dataclasses
import inspect

import paddle
from paddleseg.cvlibs import manager

from paddleseg_semi import ranges
from paddleseg_semi.core.testing import Testing
from paddleseg_semi.errors import InputError, nearest
from paddleseg_semi.registries import METHODS, STREAMS

_TOP = ('batch_size', 'iters', 'train_dataset', 'val_dataset', 'test_dataset', 'optimizer', 'lr_scheduler', 'loss',
        'distill_loss', 'model', 'test_config', 'export', 'to_static_training', 'class_names', 'palette', 'slim',
        'global', 'train', 'test',  # runtime settings of newer PaddleSeg recipes; here they are flags
        'semi', 'method', 'players', 'import')
_SECTIONS = ('train_dataset', 'val_dataset', 'optimizer', 'lr_scheduler', 'loss', 'model', 'test_config',
             'export', 'semi', 'method', 'players')
_SEMI = ('label_ratio', 'split', 'lr_batch', 'start')  # and the keys of the kinds of streams
_FILES = ('dataset_root', 'train_path', 'val_path', 'test_path', 'separator')
_TEXT = {'train_dataset': _FILES, 'val_dataset': _FILES, 'semi': ('split',)}
_PLAYER = ('optimizer', 'lr_scheduler')
_TEST = (*(field.name for field in dataclasses.fields(Testing)), 'auc_roc')
_WARMUP = ('warmup_iters', 'warmup_start_lr')
_REGISTRIES = (manager.MODELS, manager.BACKBONES, manager.DATASETS, manager.TRANSFORMS, manager.LOSSES,
               manager.OPTIMIZERS, METHODS)
_REGISTRY_OF = {'model': manager.MODELS, 'backbone': manager.BACKBONES, 'train_dataset': manager.DATASETS,
                'val_dataset': manager.DATASETS, 'transforms': manager.TRANSFORMS, 'weak': manager.TRANSFORMS,
                'strong': manager.TRANSFORMS, 'types': manager.LOSSES, 'losses': manager.LOSSES,
                'optimizer': manager.OPTIMIZERS, 'method': METHODS}
_LARGEST = {int: 10 ** 8, float: 1e38}  # Paddle counts bytes in 64 bits; of more it makes tensors it writes past
_OLD_NAMES = {'adam': 'Adam', 'sgd': 'SGD'}  # as PaddleSeg's builder reads them


def check_sections(dic, path):
    """Removes sections that are empty; raises InputError where a section should be and is something else.

    Args:
        dic (dict): a recipe as its files have it.
        path (str): its file, for the message.
    """
    for key in _SECTIONS:
        if dic.get(key, {}) is None:
            del dic[key]
        elif not isinstance(dic.get(key, {}), dict):
            raise InputError(f'{path}: {key}: {dic[key]}: expected a section, keys with values below "{key}:".')
        elif not isinstance(dic.get(key, {}).get('type'), (str, type(None))):
            raise InputError(f'{path}: {key}.type: {dic[key]["type"]}: expected a name.')


def check_values(value, where=''):
    """Raises InputError at the first value, or key, that no keyword takes.

    Args:
        value (object): a recipe, or a part of it.
        where (str): its key.
    """
    items = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    for key, item in items:
        if isinstance(value, dict) and not isinstance(key, str):
            raise InputError(f'{where or key}: {key!r}: expected a name as key. Write it in quotes.')
        check_values(item, f'{where}[{key}]' if isinstance(value, list) else f'{where}.{key}'.lstrip('.'))
    if isinstance(value, str) and not (value.isprintable() or set(value) <= {'\t'}):
        raise InputError(f'{where}: {value!r}: has characters that no name has. Take them out.')
    if type(value) in _LARGEST and not abs(value) < _LARGEST[type(value)]:
        raise InputError(f'{where}: {value}: give a number below {_LARGEST[type(value)]:g}.')
    if not isinstance(value, (str, int, float, list, dict, type(None))):
        raise InputError(f'{where}: {value}: is a {type(value).__name__} in YAML. Write it in quotes.')


def check_keys(dic, path):
    """Raises InputError at the first key, or component type, that nothing reads, or value out of its range.

    Args:
        dic (dict): a whole recipe.
        path (str): its file, for the message.
    """
    try:
        check_values(dic)
        _known(dic, _TOP, '')
        _check_streams(dic.get('semi') or {})
        _check_text(dic)
        _known(dic.get('test_config') or {}, _TEST, 'test_config')
        _known(dic.get('export') or {}, ('transforms',), 'export')
        for name, player in (dic.get('players') or {}).items():
            _known(player, _PLAYER, f'players.{name}')
            _check_scheduler(player.get('lr_scheduler'), f'players.{name}.lr_scheduler')
        _check_scheduler(dic.get('lr_scheduler'), 'lr_scheduler')
        for section in ('model', 'train_dataset', 'val_dataset', 'optimizer', 'method'):
            if section in dic and 'type' not in (dic[section] or {}):
                raise InputError(f'{section}: has no "type".')
        for key, value in dic.items():
            if key not in ('lr_scheduler', 'slim', 'test_dataset', 'global', 'train', 'test'):
                _check_component(value, key, key)
    except InputError as error:
        raise InputError(f'{path}: {error}') from None


def check_stage(settings, component):
    """Raises InputError at the first keyword of a pipeline's stage that its type does not take, or that is missing."""
    _known_keywords(settings, component, '')
    for name, parameter in inspect.signature(component).parameters.items():
        value = settings.get(name)
        if parameter.default is parameter.empty and not isinstance(value, (str, dict)):
            raise InputError(f'"{name}" is missing.' if value is None else f'{name}: {value}: expected a path.')


def _check_text(dic):
    """Names of files: Python opens numbers too, as files that are open already."""
    for where, keys in _TEXT.items():
        section = dic
        for part in where.split('.'):
            section = section.get(part) or {}
        for key in keys:
            if not isinstance(section.get(key, ''), str) and section[key] is not None:
                raise InputError(f'{where}.{key}: {section[key]}: expected text.')


def _check_streams(semi):
    """The keys of `semi:` that the kinds of streams declare, see `Kind.keys`."""
    keys = {key: sort for kind in STREAMS.components_dict.values() for key, sort in kind.keys.items()}
    _known(semi, (*_SEMI, *keys), 'semi')
    for key, sort in keys.items():
        value = semi.get(key)
        if isinstance(sort, dict):
            _known(value or {}, tuple(sort), f'semi.{key}')
            for name, part in sort.items():
                _check_sort((value or {}).get(name), part, f'semi.{key}.{name}')
        else:
            _check_sort(value, sort, f'semi.{key}')


def _check_sort(value, sort, where):
    if sort == 'text' and not isinstance(value, (str, type(None))):
        raise InputError(f'{where}: {value}: expected text.')
    if sort == 'lists' and (not isinstance(value, (str, list, type(None))) or
                            not all(isinstance(path, str) for path in value or ())):
        raise InputError(f'{where}: {value}: expected the path of a list, or a list of such paths.')


def _known(section, words, where):
    if not isinstance(section, dict):
        raise InputError(f'{where}: {section}: expected a section with the keys {", ".join(words)}.')
    for key in section:
        if key not in words:
            name = f'{where}.{key}' if where else key
            raise InputError(f'unknown key "{name}".{nearest(key, words)} Known here: {", ".join(words)}.')


def _check_component(value, where, kind):
    if isinstance(value, list):
        for position, item in enumerate(value):
            if item is None and kind in _REGISTRY_OF:
                raise InputError(f'{where}[{position}]: is empty. Give a section with a "type", or take it out.')
            _check_component(item, f'{where}[{position}]', kind)
    elif isinstance(value, dict):
        if 'type' in value and kind != 'lr_scheduler':
            _check_keywords(value, where, kind)
        for key, item in value.items():
            if key == 'pretrained' and not isinstance(item, (str, type(None))):
                raise InputError(f'{where}.{key}: {item}: expected the file or address of weights.')
            _check_component(item, f'{where}.{key}', key)
    elif kind in _REGISTRY_OF and value is not None:
        raise InputError(f'{where}: {value}: expected a section with a "type".')


def _check_keywords(section, where, kind):
    name = str(section['type'])
    name = _OLD_NAMES.get(name, name)
    if kind == 'optimizer' and name == 'SGD' and 'momentum' in section:
        name = 'Momentum'  # PaddleSeg's builder does the same
    registries = [_REGISTRY_OF[kind]] if kind in _REGISTRY_OF else _REGISTRIES
    found = [registry.components_dict[name] for registry in registries if name in registry.components_dict]
    if not found:
        known = sorted(word for registry in registries for word in registry.components_dict)
        raise InputError(f'{where}: there is no {kind} "{name}".{nearest(name, known)} Known: {", ".join(known)}.')
    _known_keywords(section, found[0], where, ('layer_decay',) if kind == 'optimizer' else ())
    ranges.check(found[0], section, where)


def _known_keywords(section, component, where, more=()):
    parameters = inspect.signature(component).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    _known(section, ('type', *(parameter.name for parameter in parameters if parameter.name != 'task'), *more), where)
    for parameter in parameters:
        value = section.get(parameter.name)
        if type(parameter.default) in (int, float) and isinstance(value, str):
            key = f'{where}.{parameter.name}'.lstrip('.')
            raise InputError(f'{key}: "{value}": expected a number. (For YAML 1e-4 is text: write 1.0e-4.)')


def _check_scheduler(section, where):
    if section is None or section == {}:
        return
    if not isinstance(section, dict):
        raise InputError(f'{where}: {section}: expected a section with a "type".')
    schedules = {name: value for name, value in vars(paddle.optimizer.lr).items()
                 if inspect.isclass(value) and issubclass(value, paddle.optimizer.lr.LRScheduler)}
    if str(section.get('type')) not in schedules:
        raise InputError(f'{where}: there is no lr_scheduler "{section.get("type")}".'
                         f'{nearest(section.get("type"), schedules)} Known: {", ".join(sorted(schedules))}.')
    _known_keywords(section, schedules[section['type']], where, _WARMUP)
