"""A training run, put together from a recipe and options."""

import contextlib
import copy
import functools
import importlib.util
import os
from dataclasses import dataclass
from fractions import Fraction

import paddle
from paddleseg.utils import logger, utils

from paddleseg_semi import runtime
from paddleseg_semi.core import parallel
from paddleseg_semi.core.checkpoint import Checkpoints
from paddleseg_semi.core.clock import Clock
from paddleseg_semi.core.interruption import Interruption
from paddleseg_semi.core.journal import Journal
from paddleseg_semi.core.profiler import Profiler
from paddleseg_semi.core.rehearsal import rehearse, rehearse_evaluation
from paddleseg_semi.core.testing import Testing
from paddleseg_semi.core.trainer import Plan, Precision, Trainer
from paddleseg_semi.core.val import evaluate
from paddleseg_semi.cvlibs.builder import SemiBuilder
from paddleseg_semi.datasets.split import write_pairs
from paddleseg_semi.datasets.streams.unlabeled import UnlabeledStream
from paddleseg_semi.errors import InputError
from paddleseg_semi.models.ema import EMA

_AT_LEAST = {'save_interval': 1, 'log_iters': 1, 'keep_checkpoint_max': 1, 'repeats': 1, 'num_workers': 0, 'seed': 0,
             'early_stop_intervals': 1}


@dataclass
class Options:
    """What is no part of a recipe: the flags of tools/train.py of the same names.

    Attributes:
        save_interval (int|str): iterations between checkpoints, or their share of the run, such as '1/3'. Default: a
            fifth of the run, at most 1000.
        use_ema (float|bool): the decay of a moving average of the deployed network, above 0 and below 1; True: 0.999.

    Raises:
        InputError: a value that cannot be used, naming the flag.
    """

    save_dir: str = './output'
    num_workers: int = 0
    do_eval: bool = False
    use_vdl: bool = False
    oracle: bool = False
    use_ema: float | bool = False
    resume_model: str = None
    save_interval: int = None
    log_iters: int = 10
    keep_checkpoint_max: int = 5
    early_stop_intervals: int = None
    seed: int = 0
    precision: str = 'fp32'
    amp_level: str = 'O1'
    profiler_options: str = None
    repeats: int = 1
    cpu_threads: int = None
    no_cpu_tuning: bool = False

    def __post_init__(self):
        if self.amp_level != 'O1':
            raise InputError(f'--amp_level {self.amp_level}: weights in half precision would not come back when the '
                             'run is resumed. Use O1, which keeps them in fp32.')
        if self.use_ema is True:
            self.use_ema = 0.999
        if self.use_ema is not False and not (isinstance(self.use_ema, float) and 0 < self.use_ema < 1):
            raise InputError(f'--use_ema {self.use_ema}: give a decay above 0 and below 1, such as 0.999.')
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if name == 'save_interval' and isinstance(value, (str, Fraction)):
                self.save_interval = _share(value)
            elif value is not None and (not isinstance(value, int) or value < least):
                raise InputError(f'--{name} {value}: give a whole number of at least {least}.')


def _share(text):
    try:
        share = Fraction(text)
    except (ValueError, ZeroDivisionError):
        share = 0
    if 0 < share <= 1:
        return share
    raise InputError(f'--save_interval {text}: give a whole number of iterations, or a share of the run such as 1/3.')


def build_trainer(config, options, rank=0, ranks=1):
    """Everything checked and built, resumed if asked for, and only then something written.

    Args:
        config (SemiConfig): the recipe.
        options (Options): how to run it.
        rank, ranks (int): this process and how many there are.

    Returns:
        Trainer: ready to `train()`. Build and train inside one `paddle.utils.unique_name.guard()`.

    Raises:
        InputError: anything in recipe, data, flags or checkpoint that cannot be used.
    """
    utils.set_seed(options.seed)
    builder = SemiBuilder(config, options.seed, rank, ranks)
    split = builder.split()
    builder.check_data(split)
    held_out = os.path.join(options.save_dir, 'split', 'val.txt') if options.do_eval else None
    split = builder.hold_out(split, held_out) if held_out else split
    method = builder.method()
    evaluates = options.do_eval and bool(config.val_dataset_cfg)
    if method.needs_evaluation and not evaluates:
        raise InputError(f'method.{method.needs_evaluation}: this needs an evaluation at every --save_interval. Add '
                         '--do_eval, and a val_dataset with masks.')
    players = builder.players(method)
    sizes = builder.stream_sizes(method, split, options.repeats)
    builder.check_crops(method, sizes)
    _rehearse(builder, method, sizes, evaluates)
    if not options.no_cpu_tuning and 'cpu' in paddle.get_device():
        _speed_up(method, options.cpu_threads)
    probe = builder.probe(method, split, options.oracle)
    parallel.broadcast(method)

    clock = Clock(config.iters, options.seed, rank)
    interval = options.save_interval or min(1000, max(config.iters // 5, 1))
    if isinstance(interval, Fraction):
        interval *= config.iters
    identity = {'config': config.dic, 'seed': options.seed, 'split': split.digest if split else builder.labeled_digest,
                'ranks': ranks, 'repeats': options.repeats, 'precision': options.precision, **builder.identity}
    checkpoints = Checkpoints(options.save_dir, identity, options.keep_checkpoint_max)
    leading, batch_size = next(iter(sizes.values()))
    precision = Precision(options.precision)
    journal = Journal(options.save_dir, clock, len(leading) // (batch_size * ranks), batch_size, options.log_iters,
                      writes=rank == 0, classes=config.classes(builder.train_dataset.num_classes),
                      skips=precision.scaler.is_enable())
    trainer = Trainer(method, {}, players, clock, journal, checkpoints,
                      Plan(interval, options.early_stop_intervals, Profiler(options.profiler_options)),
                      _evaluation(builder, options, journal) if evaluates else None, precision,
                      EMA(method.deployed, options.use_ema) if options.use_ema else None, probe if rank == 0 else None)
    check_ranks(identity)
    folder = _resume(trainer, options.resume_model) if options.resume_model else None
    if rank == 0:
        checkpoints.prepare(fresh=folder is None)
        if split:
            split.write(os.path.join(options.save_dir, 'split'), builder.train_dataset)
        if builder.holds_out:
            write_pairs(held_out, builder.val_dataset, separator='\t')
        if evaluates:
            journal.open_record()
        if options.use_vdl:
            journal.open_vdl()
    if split:
        logger.info(f'Split: {len(split.labeled)} labeled, {len(split.unlabeled)} unlabeled images ({split.source}, '
                    f'sha256 {split.digest[:12]})')
    logger.info(f'Method: {type(method).__name__}; ' + ', '.join(
        f'{name} {len(stream)} images, batch {size}' for name, (stream, size) in sizes.items()))
    runtime.check_shared_memory(options.num_workers)
    trainer.streams = builder.streams(sizes, clock.iter, options.num_workers)
    looked_at = [stream for stream, _ in sizes.values()] + ([probe.stream] if probe else [])
    trainer.unreadable = [stream.unreadable for stream in looked_at if isinstance(stream, UnlabeledStream)]
    return trainer


def check_ranks(identity):
    """InputError on every rank if one of them reads other lists or has other flags: its disk may be another."""
    first, *others = parallel.gathered({key: value for key, value in identity.items() if key != 'config'})
    for rank, other in enumerate(others, 1):
        for key, value in other.items():
            if value != first.get(key):
                raise InputError(f'rank {rank} trains with {key} {value}, rank 0 with {first.get(key)}: they are one '
                                 'run. Give every machine the same data, lists, recipe and flags.')


def _resume(trainer, wanted):
    """The checkpoint that --resume_model means on the disk of rank 0, for all ranks: its folder, or None."""
    def read():
        folder = trainer.checkpoints.find(wanted)
        return folder, folder and trainer.checkpoints.load(folder)

    folder, files = parallel.from_first(read)
    if folder:
        without = [rank for rank, has in enumerate(parallel.gathered(os.path.isdir(folder))) if not has]
        if without:
            logger.info(f'{folder} is not on the disk of rank {", ".join(map(str, without))}: rank 0 has sent it.')
        trainer.resume(folder, files)
    return folder


def _rehearse(builder, method, sizes, evaluates):
    """Tries all out on a copy of the method, whose names leave those of what is trained as they are."""
    streams = builder.streams({name: (stream, min(size, 2)) for name, (stream, size) in sizes.items()})
    try:
        with paddle.utils.unique_name.guard():
            trial = copy.deepcopy(method)
            rehearse(trial, builder.players, streams, builder.config.iters, builder.seed)
            if evaluates:
                rehearse_evaluation(trial.deployed, builder.val_dataset, Testing.of(builder.config.test_config))
    finally:
        for stream in streams.values():
            stream.close()


def _speed_up(method, threads):
    """Depthwise convolutions compute faster where Numba is installed."""
    if not any(getattr(layer, '_groups', 1) > 1 for layer in method.sublayers()):
        return
    if importlib.util.find_spec('numba') is None:
        logger.info("CPU settings: depthwise convolutions by Paddle; pip install '.[fast]' makes them faster")
        return
    from paddleseg_semi.models import depthwise  # takes a second, and Numba is no requirement
    logger.info(f'CPU settings: {depthwise.use(method, runtime.cpu_threads(threads))} depthwise convolutions by Numba')


def _evaluation(builder, options, journal):
    count = len(builder.val_dataset.file_list)
    if count < 5:
        logger.warning(f'{count} validation photo{"s are" if count > 1 else " is"} too few to tell two models apart.')
    names = builder.config.class_names(builder.val_dataset.num_classes)
    tested = builder.config.test_config
    return functools.partial(evaluate, eval_dataset=builder.val_dataset, testing=Testing.of(tested),
                             auc_roc=tested.get('auc_roc', False), num_workers=min(options.num_workers, 1),
                             precision=options.precision, names=names, say=journal.say)


def train(config, options):
    """Runs tools/train.py's work in this process.

    Returns:
        list[str]: paths written.
    """
    rank, ranks = parallel.start()
    with paddle.utils.unique_name.guard():
        trainer = build_trainer(config, options, rank, ranks)
        try:
            with Interruption() if ranks == 1 else contextlib.nullcontext() as interruption:
                # Several ranks would have to agree on the step: there a signal ends the run as it ends any process.
                trainer.train(interruption)
        finally:
            trainer.streams.clear()  # ends their loaders: this process may have another run to do
    if rank == 0:
        from paddleseg_semi.core import page  # Matplotlib takes half a second, which would be part of every start
        page.write([options.save_dir], os.path.join(options.save_dir, 'report.html'))
    return trainer.checkpoints.written() if rank == 0 else []
