"""Training as a stage."""

import dataclasses
import math
import os
import shutil
from fractions import Fraction

import paddle.distributed as dist

from paddleseg_semi import files
from paddleseg_semi import run as runs
from paddleseg_semi.core.checkpoint import MODEL, newest_checkpoint
from paddleseg_semi.core.common import digest
from paddleseg_semi.cvlibs.builder import SemiBuilder
from paddleseg_semi.cvlibs.config import SemiConfig
from paddleseg_semi.errors import InputError
from paddleseg_semi.registries import STAGES


@STAGES.add_component
class Train:
    """What tools/train.py does; a killed run goes on at its newest checkpoint.

    Products: model.pdparams (the last network), best_model/ (with a val_dataset), iter_N/, split/, config.yml,
    train.log.

    Args:
        config (str): the recipe.
        method, label_ratio, split, extra_labeled, iters, batch_size, learning_rate, opts (optional): as the flags of
            tools/train.py (`split` is --split_ids). `opts` may be a section 'key.key: value', whose values may be
            products of other stages.
        save_interval (int|str): iterations between evaluations and checkpoints, or their share of the run ('1/3').
        keep_checkpoint_max (int, optional): default: all of a share, 5 of others.
        seed, num_workers, log_iters, use_vdl, use_ema, precision, amp_level: as the flags.
    """

    def __init__(self, config, method=None, label_ratio=None, split=None, extra_labeled=None, iters=None,
                 batch_size=None, learning_rate=None, opts=None, save_interval='1/12', keep_checkpoint_max=None, seed=0,
                 num_workers=0, log_iters=10, use_vdl=False, use_ema=False, precision='fp32', amp_level='O1'):
        if isinstance(opts, dict):
            opts = [f'{key}={value}' for key, value in opts.items()]
        if not isinstance(opts or [], list):
            raise InputError(f'opts: {opts}: expected a section "key.key: value".')
        self.config = SemiConfig(config, opts, method=method, label_ratio=label_ratio, split_ids=split,
                                 extra_labeled=extra_labeled, iters=iters, batch_size=batch_size,
                                 learning_rate=learning_rate)
        self.options = runs.Options(
            resume_model='latest', do_eval=bool(self.config.val_dataset_cfg), seed=seed, save_interval=save_interval,
            num_workers=num_workers, log_iters=log_iters, use_vdl=use_vdl, use_ema=use_ema, precision=precision,
            amp_level=amp_level)
        if keep_checkpoint_max:
            self.options.keep_checkpoint_max = keep_checkpoint_max
        elif isinstance(self.options.save_interval, Fraction):
            self.options.keep_checkpoint_max = math.ceil(1 / self.options.save_interval)

    def inputs(self):
        builder = SemiBuilder(self.config, self.options.seed)
        split = builder.split()
        said, read = builder.inputs()
        options = [str(getattr(self.options, name)) for name in (
            'seed', 'save_interval', 'keep_checkpoint_max', 'use_ema', 'precision', 'amp_level')]
        listed = [item if self.config.opens_masks else item[0] for item in builder.train_dataset.file_list]
        return [self.config.dic, split and split.digest, listed, said[0] if said else None,
                digest([*read, *_files(self.config.dic)]), options]

    def run(self, out_dir):
        runs.train(self.config, dataclasses.replace(self.options, save_dir=out_dir))
        if dist.get_rank() == 0:
            last = os.path.join(out_dir, MODEL)
            with files.replacing(last) as part:
                shutil.copyfile(os.path.join(newest_checkpoint(out_dir), MODEL), part)


def _files(settings):
    """Yields the weights that a recipe starts from, those that are files."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _files(value)
        elif key == 'pretrained' and isinstance(value, str) and os.path.isfile(value):
            yield value
