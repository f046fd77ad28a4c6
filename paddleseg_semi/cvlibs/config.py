"""PaddleSeg's YAML plus three sections: `semi` (which images keep their masks), `method` and `players`."""

import math
import os
from ast import literal_eval

import yaml
from paddleseg.cvlibs import Config, manager
from paddleseg.utils import logger

from paddleseg_semi import files, plugins, safe
from paddleseg_semi.core import palette
from paddleseg_semi.core.testing import Testing
from paddleseg_semi.cvlibs.schema import check_keys, check_sections
from paddleseg_semi.datasets.split import check_ratio
from paddleseg_semi.datasets.streams import Labeled, Unlabeled
from paddleseg_semi.errors import InputError, nearest
from paddleseg_semi.registries import METHODS, translated

DEFAULT_METHOD = 'AdvSemiSeg'


class SemiConfig(Config):
    """A PaddleSeg Config in which every key is known.

    The method's base file (`configs/_base_/methods/<method>.yml`) lies under the recipe: what the recipe says wins.
    A recipe without unlabeled images (no label_ratio, split or unlabeled files) trains `Supervised`, unless its method
    needs none.

    Args:
        path (str): the YAML file.
        opts (list[str], optional): 'key.key=value' changes to the file.
        **flags: batch_size, iters, learning_rate, label_ratio, split_ids, extra_labeled and method as given on the
            command line; None leaves the file's value.

    Attributes:
        by_default (bool): neither file nor flags named the method.

    Raises:
        InputError: anything in the file or the flags that cannot be used.
    """

    def __init__(self, path, opts=None, **flags):
        if not os.path.isfile(path):
            raise InputError(f'--config {path}: no such file. Recipes are in configs/.')
        flags = {key: value for key, value in flags.items() if value is not None}
        self.dic = read_yaml(path)
        check_sections(self.dic, path)
        self._leave_method(flags.get('method'))
        for option in opts or []:
            set_option(self.dic, option)
        check_sections(self.dic, path)
        self._apply_flags(flags)
        self._settle_method(flags.get('method'))
        self.dic, lines = translated(self.dic)
        for line in lines:
            logger.warning(f'{path}: {line}')
        plugins.check(self.dic, path)
        check_keys(self.dic, path)
        self._check_numbers()
        self._check_test(path)
        try:
            self._build_default_checker().apply_all_rules(self)
        except RuntimeError as error:
            raise InputError(f'{path}: {" ".join(str(error).split("error message is:")[-1].split())}') from None

    @property
    def semi_cfg(self):
        """dict: label_ratio, split, unlabeled, start, extra_labeled, tags, boundary, scores."""
        return self.dic.get('semi', {}).copy()

    @property
    def uses_unlabeled(self):
        """bool: there are images to train on without their masks."""
        semi = self.dic['semi']
        unlabeled = semi.get('unlabeled')
        files = unlabeled.get('files') if isinstance(unlabeled, dict) else unlabeled
        return any(value is not None for value in (semi.get('label_ratio'), semi.get('split'), files))

    @property
    def kinds(self):
        """list[Kind]: of the streams that the method reads; as of `Supervised` for a method that is not known."""
        method = METHODS.components_dict.get(self.dic['method']['type'])
        return list(method.streams.values()) if method else [Labeled()]

    @property
    def opens_masks(self):
        """bool: the method learns from masks."""
        return any(kind.opens_masks for kind in self.kinds)

    @property
    def train_dataset_cfg(self):
        """dict: as PaddleSeg has it; the list of a method that opens no masks may hold images alone."""
        section = super().train_dataset_cfg
        if section.get('type') == 'Dataset' and 'train_path' in section and not self.opens_masks:
            section.update(mode='test', test_path=section['train_path'])
        return section

    def class_names(self, num_classes):
        """Of the recipe (`class_names`), or of the class of its val_dataset (`CLASSES`).

        Args:
            num_classes (int): how many there should be.

        Returns:
            list[str]: None without.

        Raises:
            InputError: another number of names.
        """
        kind = manager.DATASETS.components_dict.get(self.val_dataset_cfg.get('type'))
        names = self.dic.get('class_names') or getattr(kind, 'CLASSES', None)
        if not isinstance(names, (list, tuple, type(None))):
            raise InputError(f'class_names: {names}: expected a list of names.')
        if names is not None and len(names) != num_classes:
            raise InputError(f'class_names: {len(names)} names for {num_classes} classes.')
        return names and [str(name) for name in names]

    @property
    def num_classes(self):
        """int: of the val_dataset, by its section or its class; None where neither says it."""
        kind = manager.DATASETS.components_dict.get(self.val_dataset_cfg.get('type'))
        return self.val_dataset_cfg.get('num_classes') or getattr(kind, 'NUM_CLASSES', None)

    def classes(self, num_classes):
        """Classes: names and colors (`class_names` and `palette` of the recipe), or default ones.

        Args:
            num_classes (int, optional): how many; None, of a recipe that does not say: up to 256.

        Raises:
            InputError: another number of names, or colors that are none.
        """
        names = self.class_names(num_classes)
        return palette.Classes(self.shown_names(num_classes or 256),
                               palette.of_recipe(self.dic.get('palette'), num_classes or 256, names),
                               palette.unpainted(names))

    def shown_names(self, num_classes):
        """list[str]: `class_names`, or 'class 00', 'class 01', … where there are none."""
        return self.class_names(num_classes) or [f'class {c:02d}' for c in range(num_classes)]

    def forget_pretrained(self):
        """Drops the weights that training starts from: whoever loads trained ones need not have or download them."""
        sections = [self.dic.get('model', {})]
        for section in sections:
            sections += [value for value in section.values() if isinstance(value, dict)]
            if 'pretrained' in section:
                section['pretrained'] = None

    def _apply_flags(self, flags):
        for key in ('batch_size', 'iters'):
            if key in flags:
                self.dic[key] = flags[key]
        semi = self.dic.setdefault('semi', {})
        if 'learning_rate' in flags:
            self.dic.setdefault('lr_scheduler', {})['learning_rate'] = flags['learning_rate']
            semi.pop('lr_batch', None)  # what is said on the command line is meant as it is
        if isinstance(semi.get('unlabeled'), str):  # short form: a folder or list of raw images
            semi['unlabeled'] = {'files': semi['unlabeled']}
        for flag, key in (('label_ratio', 'label_ratio'), ('split_ids', 'split'), ('extra_labeled', 'extra_labeled')):
            if flag in flags:
                semi[key] = flags[flag]

    def _leave_method(self, asked):
        """Drops the knobs of the recipe's method when another one is asked for: they would not fit it."""
        own = self.dic.get('method', {}).get('type')
        if asked and own and own != method_base(asked)['method']['type']:
            self.dic.pop('method')
            self.dic.pop('players', None)

    def _settle_method(self, asked):
        """Chooses the method and lays its base file under the recipe."""
        recipe, own = self.dic, self.dic.get('method', {}).get('type')
        self.by_default = not (asked or own)
        self.dic = merged(recipe, method_base(asked or own or DEFAULT_METHOD))
        if any(isinstance(kind, Unlabeled) for kind in self.kinds) and not self.uses_unlabeled:
            if asked:
                raise InputError(f'--method {asked} needs unlabeled images: add --label_ratio, --split_ids or '
                                 'semi.unlabeled in the recipe.')
            self.by_default = False
            self.dic = {key: value for key, value in recipe.items() if key != 'players'}
            self.dic['method'] = {'type': 'Supervised'}
        for kind in self.kinds:
            kind.check(self.dic['semi'], self.dic['method']['type'])
        if not self.opens_masks:
            self._leave_masks()

    def _leave_masks(self):
        """What a method that opens no mask does without, and what it cannot use."""
        method, semi = self.dic['method']['type'], self.dic['semi']
        if self.uses_unlabeled or semi.get('extra_labeled'):
            raise InputError(f'{method} has no labeled images: leave label_ratio, split, unlabeled and extra_labeled '
                             'out.')
        self.dic.setdefault('loss', {'types': [], 'coef': []})

    def _check_numbers(self):
        semi = self.dic['semi']
        unlabeled = semi.get('unlabeled') or {}
        counts = {'batch_size': self.dic.get('batch_size'), 'iters': self.dic.get('iters'),
                  'test_config.size_divisor': self.dic.get('test_config', {}).get('size_divisor'),
                  'semi.lr_batch': semi.get('lr_batch'), 'semi.unlabeled.batch_size': unlabeled.get('batch_size')}
        for key, value in counts.items():
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise InputError(f'{key}: {value}: give a whole number of at least 1.')
        start = semi.get('start', 0)
        most = {int: self.dic.get('iters') or math.inf, float: 1}.get(type(start), 0)  # of bool and the like: none
        if start is not None and not (most and 0 <= start < most):
            raise InputError(f'semi.start: {start}: give a whole number of updates, fewer than iters, or a share of '
                             'the run such as 0.15.')
        if semi.get('label_ratio') is not None:
            semi['label_ratio'] = check_ratio(semi['label_ratio'])
        coef = self.dic.get('loss', {}).get('coef', [])
        if not isinstance(coef, (list, tuple)) or not all(isinstance(value, (int, float)) for value in coef):
            raise InputError(f'loss.coef: {coef}: give a list of numbers, one per loss.')
        rate = self.lr_scheduler_cfg.get('learning_rate')
        if isinstance(rate, (int, float)) and not 0 < rate < math.inf or isinstance(rate, str):
            raise InputError(f'learning_rate: {rate}: give a number above 0.')
        if semi.get('lr_batch') and rate is None:
            raise InputError(f'semi.lr_batch: {self.lr_scheduler_cfg.get("type")} has no learning_rate to scale. '
                             'Remove the key.')

    def _check_test(self, path):
        """Evaluation in training has no flags: what is wrong has to show before the first step."""
        try:
            Testing.of(self.test_config)
        except InputError as error:
            text = str(error).replace('--', '')  # keys are called like the flags
            raise InputError(f'{path}: test_config: {text}') from None


def config_root():
    """str: the folder `configs`, of a checkout or of the installed package."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    installed = os.path.join(here, 'configs')
    return installed if os.path.isdir(installed) else os.path.join(os.path.dirname(here), 'configs')


def method_file(name):
    """The base file of a method (`AdvSemiSeg`) or of a preset (`advsemiseg_reference`), or None."""
    path = os.path.join(config_root(), '_base_', 'methods', f'{name.lower()}.yml')
    return path if name.isidentifier() and os.path.isfile(path) else None


def method_base(name):
    """dict: what lies under a recipe that uses the method or preset."""
    path = method_file(name)
    return read_yaml(path) if path else {'method': {'type': name}}


def read_yaml(path, seen=()):
    """A YAML file with its `_base_` files merged in, the first listed winning."""
    if not path.endswith(('.yml', '.yaml')):
        raise InputError(f'{path}: not a YAML file (.yml or .yaml).')
    if path in seen:
        raise InputError(f'{path}: its _base_ files lead back to it. Break the circle.')
    try:
        with files.opened(path, encoding='utf-8') as file:
            dic = safe.read_yaml(file)
    except OSError as error:
        listed = f' (a _base_ of {seen[-1]})' if seen else ''
        raise InputError(f'{path}: cannot be read{listed}: {error.strerror}.') from None
    except UnicodeDecodeError as error:
        raise InputError(f'{path}: not valid YAML: {error}. Save it in UTF-8.') from None
    except yaml.YAMLError as error:
        mark = getattr(error, 'problem_mark', None)
        where = f':{mark.line + 1}' if mark else ''
        problem = getattr(error, 'problem', None) or ' '.join(str(error).split())
        raise InputError(f'{path}{where}: not valid YAML: {problem}.') from None
    if not isinstance(dic, dict):
        raise InputError(f'{path}: holds no settings (a YAML mapping is expected).')
    bases = dic.pop('_base_', [])
    bases = bases if isinstance(bases, list) else [bases]
    for base in bases:
        if not isinstance(base, str):
            raise InputError(f'{path}: _base_: {base}: expected the path of a YAML file, or a list of paths.')
        dic = merged(dic, read_yaml(os.path.normpath(os.path.join(os.path.dirname(path), base)),
                                                (*seen, path)))
    return dic


def merged(dic, base):
    """dict: settings over those of a base, key by key; a section with `_inherited_: False`, or over what is no section
    in the base, as it stands (PaddleSeg's own function fails on the latter)."""
    if not dic.get('_inherited_', True):
        return {key: value for key, value in dic.items() if key != '_inherited_'}
    return {**base, **{key: merged(value, base[key]) if isinstance(value, dict) and isinstance(base.get(key), dict)
                       else value for key, value in dic.items()}}


def _lists(value):
    """A value of Python as YAML has it: lists for tuples."""
    return [_lists(part) for part in value] if isinstance(value, (list, tuple)) else value


def set_option(dic, option):
    """Carries out one 'key.key=value' in place; InputError if it has another form or a section is not there."""
    key, equals, text = option.partition('=')
    if not equals or not key:
        raise InputError(f'--opts {option}: write key=value, such as batch_size=4 or method.semi_start=100.')
    try:
        value = _lists(literal_eval(text))
    except (ValueError, SyntaxError):
        value = {'true': True, 'false': False, 'null': None}.get(text.lower(), text)
    *parents, leaf = key.split('.')
    late = parents[:1] in (['semi'], ['method'], ['players'], ['test_config'])  # from the flags or the method's file
    for parent in parents:
        if late:
            dic.setdefault(parent, {})
        if not isinstance(dic.get(parent), dict):
            raise InputError(f'--opts {option}: there is no section "{parent}".{nearest(parent, dic)}')
        dic = dic[parent]
    dic[leaf] = value
