"""From a recipe to the objects of a run."""

import copy
import hashlib
import os
import re
from functools import cached_property

import paddle
from paddleseg.cvlibs import SegBuilder, manager
from paddleseg.utils import logger

from paddleseg_semi.core.checkpoint import find_weights
from paddleseg_semi.core.probe import Probe
from paddleseg_semi.core.trainer import Player
from paddleseg_semi.datasets import checks, holdout, lists
from paddleseg_semi.datasets.split import Split
from paddleseg_semi.datasets.streams import Again, Labeled, Unlabeled
from paddleseg_semi.datasets.streams.base import Data, split_at_normalize
from paddleseg_semi.datasets.streams.loading import SPARES, EndlessSampler, batches
from paddleseg_semi.datasets.streams.unlabeled import UnlabeledStream, unlabeled_transforms
from paddleseg_semi.errors import InputError, RunError
from paddleseg_semi.methods.base import Method, Task
from paddleseg_semi.models.dinov2 import layer_groups
from paddleseg_semi.models.weights import load_weights
from paddleseg_semi.registries import METHODS

_REGISTRIES = [manager.MODELS, manager.BACKBONES, manager.DATASETS, manager.TRANSFORMS, manager.LOSSES,
               manager.OPTIMIZERS, METHODS]


class SemiBuilder(SegBuilder):
    """PaddleSeg's builder, plus split, streams, method and players.

    Build a whole run inside one `paddle.utils.unique_name.guard()`.

    Args:
        config (SemiConfig): the recipe.
        seed (int): of split, order and everything drawn in training.
        rank, ranks (int): this process and how many there are.
    """

    def __init__(self, config, seed=0, rank=0, ranks=1):
        super().__init__(config, _REGISTRIES)
        self.seed, self.rank, self.ranks = seed, rank, ranks
        self._built = 0
        self._train_list = self._val_list = None  # the list files of the data sets, once these are built
        self.holds_out = False

    @cached_property
    def train_dataset(self):
        self._train_list = checks.list_files(self.config.train_dataset_cfg)
        return super().train_dataset

    @cached_property
    def val_dataset(self):
        self._val_list = checks.list_files(self.config.val_dataset_cfg)
        return super().val_dataset

    def build_component_impl(self, component_class, *args, **kwargs):
        try:
            return component_class(*args, **kwargs)
        except (InputError, RunError, MemoryError):
            raise
        except Exception as error:  # PaddleSeg's constructors may raise anything
            text = ' '.join(str(error).split())
            raise InputError(f'{component_class.__name__}: {text or type(error).__name__}') from error

    def build_component(self, cfg):
        try:
            return super().build_component(cfg)
        except RuntimeError as error:  # PaddleSeg wraps whatever went wrong inside, several times if nested
            cause = error
            while cause is not None and not isinstance(cause, (InputError, RunError, MemoryError)):
                cause = cause.__context__
            raise cause or InputError(" ".join(str(error).split())) from error

    def new_model(self):
        """A freshly initialized model of the recipe, under parameter names of its own."""
        self._built += 1
        self.__dict__.pop('model', None)  # PaddleSeg caches it there
        with paddle.utils.unique_name.guard(f'net{self._built}_'):
            model = self.model
        if self.ranks > 1 and 'gpu' in paddle.get_device():
            model = paddle.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return paddle.jit.to_static(model) if self.config.to_static_training else model

    def load_weights(self, model, path, net=None):
        """Loads a trained network.

        Args:
            model (nn.Layer): the network.
            path (str): a weights file, or the folder of a checkpoint or of a run, see `find_weights`.
            net (str, optional): a network of the method, from method.pdparams there. Default: the deployed one.

        Returns:
            str: the file.

        Raises:
            InputError: it does not fit, or is not there.
        """
        file = find_weights(path, whole=net is not None)
        load_weights(model, file, net=net)
        return file

    def split(self):
        """Split: which images keep their masks; None when all of them do."""
        semi, base = self.config.semi_cfg, self.train_dataset
        raw = (semi.get('unlabeled') or {}).get('files')
        split = None
        if semi.get('split'):
            if not os.path.exists(semi['split']):
                raise InputError(f'--split_ids {semi["split"]}: no such file or folder.')
            split = Split.read(semi['split'], base, semi.get('label_ratio'))
        elif semi.get('label_ratio') is not None:
            split = Split.draw(base, semi['label_ratio'], self.seed)
        return Split.with_raw(base, raw, split) if raw else split

    def hold_out(self, split, path):
        """Takes validation photos out of the labeled ones, where the recipe has no val_dataset and there are enough.

        Args:
            split (Split, optional): which images are labeled; checked.
            path (str): the list of them that the run will write; the recipe's val_dataset from now on.

        Returns:
            Split: the split without them; `val_dataset` are they from now on. Where there are too few, or the recipe
                has a val_dataset, what was given.
        """
        train = self.config.dic.get('train_dataset', {})
        labeled = len(self.train_dataset.file_list) if split is None else len(split.labeled)
        if self.config.val_dataset_cfg or not self.config.opens_masks:
            return split
        if not holdout.possible(train, labeled):
            why = f'{labeled} labeled photos are too few to hold some out ({holdout.LEAST})' \
                if labeled < holdout.LEAST else f'of a {train.get("type")} none are held out'
            logger.info(f'The recipe has no val_dataset, and {why}: the last checkpoint is the model.')
            return split
        transforms = [self.build_component(op) for op in holdout.transforms_of(train)]
        self.config.dic['val_dataset'] = holdout.section_of(train, path)
        self.holds_out = True
        split, self.__dict__['val_dataset'] = holdout.held_out(self.train_dataset, split, self.seed, transforms)
        logger.info(f'The recipe has no val_dataset: {len(self.val_dataset.file_list)} of {labeled} labeled photos are '
                    'held out for validation and not trained on.')
        return split

    def check_data(self, split):
        """The cheap checks of the data, before anything is trained."""
        for check in self._recipe_checks():
            check()
        for options in self._checked(split):
            checks.quick(**options)

    def report(self, split):
        """checks.Report: the same checks, but of all files, with all that is wrong."""
        report = checks.Report()
        for check in self._recipe_checks():
            try:
                check()
            except InputError as error:
                report.problems.append(str(error))
        for options in self._checked(split):
            checks.full(**options, report=report)
        for kind in self.kinds:
            kind.report(report, self.data)
        for texts in (report.problems, report.warnings):  # sets may share images
            texts[:] = dict.fromkeys(texts)
        return report

    def _recipe_checks(self):
        """list[Callable]: of what the recipe says of its data; each raises InputError."""
        said = [check for kind in self.kinds for check in kind.checks(self.data)]
        return [lambda: self.config.classes(self.train_dataset.num_classes), self._check_channels, *said]

    def _checked(self, split):
        """Yields dict: the arguments of `checks.quick`, and of `checks.full`, for each set of images."""
        yield {'base': self.train_dataset, 'split': split, 'val': self.data.val, 'train_list': self._train_list,
               'val_list': self._val_list, 'name': 'labeled' if self.config.opens_masks else 'tagged'}
        for kind in self.kinds:
            for options in kind.sets(self.data):
                yield {'train_list': self._train_list, **options}

    def _check_channels(self):
        """PaddleSeg looks at this only where `img_channels` is said."""
        model, channels = self.config.model_cfg, self.train_dataset.transforms.img_channels
        backbone = model.get('backbone')
        taken = (backbone if isinstance(backbone, dict) else {}).get('in_channels', model.get('in_channels'))
        if taken not in (None, channels):
            raise InputError(f'model: in_channels is {taken}, but images of train_dataset have {channels} channels. '
                             'Set img_channels of train_dataset and val_dataset, or in_channels of the model.')

    @property
    def labeled_digest(self):
        """str: what stands for a split where there is none: all images are labeled, but for those held out."""
        if not self.holds_out:
            return 'all labeled'
        names = sorted(lists.relative(item[0], lists.root_of(self.val_dataset)) for item in self.val_dataset.file_list)
        return 'all labeled but ' + hashlib.sha256('\n'.join(names).encode()).hexdigest()

    @cached_property
    def data(self):
        """Data: what streams are made from, all images labeled."""
        val = self.val_dataset if self.config.val_dataset_cfg else None
        return Data(self.train_dataset, self.config.semi_cfg, self.config.batch_size, self.build_component,
                    self.config.dic.get('class_names'), val=val)

    @property
    def kinds(self):
        """list[Kind]: of the streams of the recipe's method, each once."""
        return list({type(kind): kind for kind in self.config.kinds}.values())

    @property
    def identity(self):
        """dict[str, str]: what the streams say of it, see `Kind.identity`."""
        return {key: value for kind in self.kinds for key, value in kind.identity(self.data).items()}

    def inputs(self):
        """tuple[list, list[str]]: what the streams say of it, see `Kind.inputs`."""
        said = [kind.inputs(self.data) for kind in self.kinds]
        return sum((values for values, _ in said), []), sum((files for _, files in said), [])

    def method(self):
        """Method: the networks and the algorithm."""
        base = self.train_dataset
        cfg = dict(self.config.dic['method'])
        finish = split_at_normalize(base.transforms.transforms)[1][:1]
        looks = {key: tuple(getattr(op, key)) for op in finish for key in ('mean', 'std')}
        task = Task(self.new_model, self.loss, base.num_classes, base.ignore_index, **looks,
                    img_channels=base.transforms.img_channels)
        method_class = METHODS[cfg.pop('type')]
        method = self.build_component_impl(method_class, task, **{
            key: self.build_component(value) if self.is_meta_type(value) else value for key, value in cfg.items()})
        start = self.config.semi_cfg.get('start')
        if start is not None:
            if type(method).step is not Method.step:
                raise InputError(f'semi.start: {type(method).__name__} has no step for labeled images alone. Leave the '
                                 'key out.')
            method.start = start
        return method

    def players(self, method):
        """dict[str, Player]: optimizer and schedule of each; its own sections, or else the recipe's top-level ones."""
        settings = self.config.dic.get('players') or {}
        layers = method.players()
        for name in settings:
            if name not in layers:
                raise InputError(f'players.{name}: {type(method).__name__} has no such player; it has '
                                 f'{", ".join(layers)}.')
        return {name: self._player(layer, {'lr_scheduler': dict(self._schedule), **settings.get(name, {})})
                for name, layer in layers.items()}

    @cached_property
    def _schedule(self):
        """dict: the recipe's lr_scheduler. With `semi.lr_batch`, the global batch its rate was chosen for, the rate is
        scaled linearly to that of this run."""
        schedule, meant_for = self.config.lr_scheduler_cfg, self.config.semi_cfg.get('lr_batch')
        batch, rate = self.config.batch_size * self.ranks, schedule.get('learning_rate')
        rule = 'not scaled: the recipe has no semi.lr_batch'
        if meant_for:
            schedule['learning_rate'] = rate * batch / meant_for
            rule = f'{rate:g} * {batch} / {meant_for}, as the recipe\'s {rate:g} is for a global batch of {meant_for}'
        logger.info(f'Global batch: {batch} labeled images ({self.ranks} ranks of {self.config.batch_size}); '
                    f'learning rate: {schedule.get("learning_rate", schedule["type"])} ({rule})')
        return schedule

    def _player(self, layer, sections):
        config = copy.copy(self.config)
        config.dic = {**config.dic, **sections}
        optimizer = dict(config.dic['optimizer'])
        if (decay := optimizer.pop('layer_decay', None)) is not None:
            if not isinstance(decay, (int, float)) or not 0 < decay <= 1 or optimizer.get('custom_cfg'):
                raise InputError(f'optimizer.layer_decay: {decay}: give a number above 0, at most 1, and no custom_cfg '
                                 'besides.')
            optimizer['custom_cfg'] = layer_groups(layer, decay)
        if optimizer.get('custom_cfg'):
            optimizer['custom_cfg'] = _trained_groups(layer, optimizer['custom_cfg'])
        config.dic['optimizer'] = optimizer
        builder = _PlayerBuilder(config, self.comp_list)
        builder.layer = layer
        try:
            return Player(layer, builder.optimizer, builder.lr_scheduler)
        except (InputError, MemoryError):
            raise
        except Exception as error:  # as in build_component
            text = ' '.join(str(error).split()) or type(error).__name__
            raise InputError(f'optimizer, lr_scheduler: {text}') from error

    def stream_sizes(self, method, split, repeats=1):
        """dict[str, tuple]: stream → (dataset, batch size); an epoch shows a labeled image `repeats` times, and one of
        `semi.extra_labeled` once, unless it is labeled."""
        data = self.data.of(split, repeats)
        sizes, repeated = {}, {}
        for name, kind in method.streams.items():
            if isinstance(kind, Again):
                sizes[name] = sizes[kind.stream]  # the very same dataset, see `streams`
                continue
            stream, batch_size = sizes[name] = kind.dataset(data), kind.batch_size(data)
            if len(stream) < batch_size * self.ranks:
                said = re.sub('(?<!^)(?=[A-Z])', '-', type(kind).__name__).lower()
                repeated[said] = len(stream), batch_size * self.ranks  # once for a kind: there may be two of it
        for kind, (count, wanted) in repeated.items():
            logger.info(f'{count} {kind} photos are fewer than the {wanted} of a step: '
                        f'each is in it {wanted / count:.1f} times on average, cropped anew each time.')
        return sizes

    def check_crops(self, method, sizes):
        """InputError for crops that a network of the method cannot be trained on, seen from one sample of each
        stream: before anything is written."""
        nets = [layer for layer in method.sublayers() if hasattr(layer, 'check_crop')]
        for stream in {id(stream): stream for stream, _ in sizes.values()}.values() if nets else ():
            sample = stream[0, self.seed]
            if 'error' in sample:
                raise InputError(sample['error'].tobytes().decode())
            size = next(sample[key] for key in ('weak', 'img') if key in sample).shape[1:]
            for net in nets:
                net.check_crop(size)

    def probe(self, method, split, oracle=False):
        """Probe: a fixed sample of the unlabeled images; None if the method uses none.

        Args:
            oracle (bool): those which have a mask in the training list, with their masks.
        """
        name = type(method).__name__
        kind = next((kind for kind in method.streams.values() if isinstance(kind, Unlabeled)), None)
        if kind is None:
            if oracle:
                raise InputError(f'--oracle: {name} makes no pseudo labels. Leave the flag out.')
            return None
        base, files, masks = self.train_dataset, split.unlabeled, None
        if oracle:
            masks = {item[0]: item[1] for item in base.file_list if len(item) > 1}
            files = [file for file in files if file in masks]
            if not files:
                raise InputError('--oracle: the training list has no mask for any unlabeled image. Leave the flag out.')
        stream = kind.of(self.data, files, self.data.once(unlabeled_transforms)[0], masks=masks)
        labeled = next((kind for kind in method.streams.values() if isinstance(kind, Labeled)), None)
        return Probe(stream, self.config.batch_size, self.seed, base.num_classes, base.ignore_index,
                     labeled and labeled.dataset(self.data.of(split, 1)))

    def streams(self, sizes, start=0, num_workers=0):
        """dict[str, Iterator]: endless batches, beginning with number `start`. Names that share a dataset, as of
        kind `Again`, share its order."""
        datasets = [stream for stream, _ in sizes.values()]
        return {name: batches(stream, EndlessSampler(
            len(stream), batch_size, (self.seed, number), self.rank, self.ranks, start,
            (self.seed, datasets.index(stream)), SPARES if isinstance(stream, UnlabeledStream) else 0), num_workers)
                for number, (name, (stream, batch_size)) in enumerate(sizes.items())}


class _PlayerBuilder(SegBuilder):
    """PaddleSeg's optimizer and schedule for a layer that is there already."""

    layer = None

    @property
    def model(self):
        return self.layer


def _trained_groups(layer, groups):
    """The groups of an optimizer without those of frozen parts.

    Args:
        layer (nn.Layer): what is trained.
        groups (list[dict]): PaddleSeg's `custom_cfg`.

    Returns:
        list[dict]: those of which a parameter is trained.

    Raises:
        InputError: no sections with names; a name that no parameter has: an IndexError deep in Paddle.
    """
    if not isinstance(groups, list) or not all(isinstance(group, dict) and 'name' in group for group in groups):
        raise InputError(f'optimizer.custom_cfg: {groups}: expected a list of sections with a "name".')
    names = [name for name, param in layer.named_parameters() if not param.stop_gradient]
    frozen = [name for name, param in layer.named_parameters() if param.stop_gradient]
    taken, kept = set(), []
    for group in groups:
        matching = {name for name in names if str(group['name']) in name} - taken
        if matching:
            taken |= matching
            kept.append(group)
        elif not any(str(group['name']) in name for name in frozen):
            raise InputError(f'optimizer.custom_cfg: no parameter of {type(layer).__name__} has "{group["name"]}" in '
                             f'its name (or an earlier group took them). Names begin like {names[0]}, {names[-1]}.')
    return kept
