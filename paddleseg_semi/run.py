"""A training run, put together from a recipe and the flags of tools/train.py."""

import functools
import os

import paddle
from paddleseg.utils import logger, utils

from paddleseg_semi.core import parallel
from paddleseg_semi.core.checkpoint import Checkpoints
from paddleseg_semi.core.clock import Clock
from paddleseg_semi.core.journal import Journal
from paddleseg_semi.core.trainer import Plan, Precision, Trainer
from paddleseg_semi.core.val import evaluate
from paddleseg_semi.cvlibs.builder import SemiBuilder
from paddleseg_semi.errors import InputError
from paddleseg_semi.models.ema import EMA

_AT_LEAST = {'save_interval': 1, 'log_iters': 1, 'keep_checkpoint_max': 1, 'repeats': 1, 'num_workers': 0, 'seed': 0,
             'early_stop_intervals': 1}


def check_flags(args):
    """Refuses what tools/train.py takes but cannot do; InputError names the flag."""
    for flag, least in _AT_LEAST.items():
        value = getattr(args, flag)
        if value is not None and value < least:
            raise InputError(f'--{flag} {value}: give a whole number of at least {least}.')
    if args.data_format != 'NCHW':
        raise InputError('--data_format NHWC: training methods work on NCHW; leave the flag out.')
    if args.use_multilabel:
        raise InputError('--use_multilabel: PaddleSeg 2.8 has no multi-label data sets or losses; leave the flag out.')


def build_trainer(config, args, rank=0, ranks=1):
    """Everything checked and built, resumed if asked for, and only then something written.

    Args:
        config (SemiConfig): the recipe.
        args (argparse.Namespace): flags of tools/train.py.
        rank, ranks (int): this process and how many there are.

    Returns:
        Trainer: ready to `train()`. Build and train inside one `paddle.utils.unique_name.guard()`.

    Raises:
        InputError: anything in recipe, data, flags or checkpoint that cannot be used.
    """
    utils.set_seed(args.seed)
    builder = SemiBuilder(config, args.seed, rank, ranks)
    split = builder.split()
    builder.check_data(split)
    method = builder.method()
    players = builder.players(method)
    sizes = builder.stream_sizes(method, split, args.repeats)
    parallel.broadcast(method)

    clock = Clock(config.iters, args.seed, rank)
    identity = {'config': config.dic, 'split': split.digest if split else 'all labeled', 'seed': args.seed,
                'ranks': ranks}
    checkpoints = Checkpoints(args.save_dir, identity, args.keep_checkpoint_max)
    labeled, batch_size = sizes['labeled']
    journal = Journal(args.save_dir, clock, len(labeled) // (batch_size * ranks), batch_size, args.log_iters,
                      writes=rank == 0)
    precision = Precision(args.precision, args.amp_level)
    trainer = Trainer(method, {}, players, clock, journal, checkpoints,
                      Plan(args.save_interval, args.early_stop_intervals, args.profiler_options),
                      _evaluation(builder, args) if args.do_eval else None, precision,
                      EMA(method.deployed, 0.999) if args.use_ema else None)
    folder = checkpoints.find(args.resume_model) if args.resume_model else None
    if folder:
        trainer.resume(folder)
    if rank == 0:
        checkpoints.prepare(fresh=folder is None)
        if split:
            split.write(os.path.join(args.save_dir, 'split'), builder.train_dataset)
        if args.use_vdl:
            journal.open_vdl()
    if split:
        logger.info(f'Split: {len(split.labeled)} labeled, {len(split.unlabeled)} unlabeled images ({split.source}, '
                    f'sha256 {split.digest[:12]})')
    logger.info(f'Method: {type(method).__name__}; streams: ' + ', '.join(
        f'{name} {len(stream)} images, batch {size}' for name, (stream, size) in sizes.items()))
    trainer.streams = builder.streams(sizes, clock.iter, args.num_workers)
    return trainer


def _evaluation(builder, args):
    if not builder.config.val_dataset_cfg:
        raise InputError('--do_eval: the recipe has no val_dataset. Add one, or leave the flag out.')
    return functools.partial(evaluate, eval_dataset=builder.val_dataset, num_workers=min(args.num_workers, 1),
                             precision=args.precision, amp_level=args.amp_level, **builder.config.test_config)


def train(config, args):
    """Runs tools/train.py's work in this process.

    Returns:
        list[str]: paths written.
    """
    rank, ranks = parallel.start()
    with paddle.utils.unique_name.guard():
        trainer = build_trainer(config, args, rank, ranks)
        trainer.train()
    return trainer.checkpoints.written() if rank == 0 else []
