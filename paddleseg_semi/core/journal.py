"""What a run says: PaddleSeg's log lines, VisualDL's scalars and pictures."""

import math
import os
import time

import numpy as np
import paddle
from paddleseg.utils import TimeAverager, calculate_eta, logger

from paddleseg_semi.core import pictures
from paddleseg_semi.core.report import Record, forgotten, named
from paddleseg_semi.errors import RunError
from paddleseg_semi.runtime import peak_memory

_LISTED = 20  # photos that could not be read
_OVERFLOWS = 20  # in a row; each time the scale of the loss is halved


class Journal:
    """Collects what the steps return and speaks every `log_iters` of them; nothing is read from the device between.

    Args:
        save_dir (str): where train.log, VisualDL's records and pictures/ go.
        clock (Clock): of the run.
        epoch_iters (int): iterations per pass over the images of the method's first stream, for the epoch shown.
        batch_size (int): samples of that stream per step and rank.
        log_iters (int): steps per line.
        writes (bool): False on all ranks but the first.
        classes (Classes): how they are called and shown.
        skips (bool): the loss is scaled, so that a step whose loss overflows is not made: some in a row are no fault.
    """

    def __init__(self, save_dir, clock, epoch_iters, batch_size, log_iters=10, writes=True, classes=None, skips=False):
        self.save_dir, self.clock, self.epoch_iters = save_dir, clock, max(epoch_iters, 1)
        self.batch_size, self.log_iters, self.writes = batch_size, log_iters, writes
        self.classes, self.record, self.window = classes, None, []
        self.batch_cost, self.reader_cost = TimeAverager(), TimeAverager()
        self.vdl, self.skips, self.last_finite = None, skips, None
        self.started = time.time()

    def open_record(self):
        """From here on, evaluations are recorded in eval.csv too. Call when the clock is where the run goes on."""
        self.record = Record(os.path.join(self.save_dir, 'eval.csv'), self.classes.names, self.clock.iter)

    def open_vdl(self):
        """From here on, scalars and pictures go to VisualDL's records too."""
        from visualdl import LogWriter  # takes a second to import
        self.vdl = LogWriter(self.save_dir)

    def read_done(self):
        self.reader_cost.record(time.time() - self.started)

    def step_done(self, losses, stats, rates):
        """Takes the results of one step; at the end of a window checks and prints them.

        Args:
            losses, stats (dict[str, Tensor]): as the method returned them.
            rates (dict[str, float]): learning rate per player.
        """
        self.window.append(({k: v.detach() for k, v in losses.items()}, {k: v.detach() for k, v in stats.items()}))
        self.batch_cost.record(time.time() - self.started, num_samples=self.batch_size)
        if self.clock.iter % self.log_iters == 0:
            self.flush(rates)
        self.started = time.time()

    def flush(self, rates=None):
        """Reads the window from the device; raises RunError if a loss in it was not finite.

        Args:
            rates (dict[str, float], optional): None checks only, without a line.
        """
        if not self.window:
            return
        losses, stats = (_on_host([step[part] for step in self.window]) for part in (0, 1))
        skipped = self._skipped(losses)
        if rates is None:
            return
        if skipped:
            self.say(f'{len(skipped)} of {len(self.window)} updates were not made: the loss overflowed in float16.')
            losses, stats = ({k: np.delete(v, skipped) for k, v in part.items()} for part in (losses, stats))
        empty = len(skipped) == len(self.window)
        self.window = []
        if empty:
            return
        losses = {name: np.nan_to_num(values).mean() for name, values in losses.items()}  # a term left out adds nothing
        stats = {name: np.nanmean(values) for name, values in stats.items()}
        self._line(sum(losses.values()), {**losses, **stats}, rates)

    def say(self, text):
        """One line to the console and to train.log."""
        logger.info(text)
        if self.writes:
            with open(os.path.join(self.save_dir, 'train.log'), 'a', encoding='utf-8') as file:
                file.write(f'{time.strftime("%Y-%m-%d %H:%M:%S")} [INFO]\t{text}\n')

    def evaluated(self, miou, acc, class_iou, network='model'):
        """Takes what an evaluation found: floats, and [C]; `network` is 'model' or 'ema' (--use_ema)."""
        prefix = 'Evaluate/' if network == 'model' else 'Evaluate/Ema_'  # PaddleSeg's
        self._scalars({f'{prefix}mIoU': miou, f'{prefix}Acc': acc})
        self._scalars({f'{prefix}IoU/{name}': value for name, value in zip(self.classes.names, class_iou)})
        if self.record:
            self.record.add(self.clock.iter, network, miou, acc, class_iou)

    def diagnosed(self, pseudo, classes, oracle, labeled=None):
        """Takes what a `Probe` saw, and the shares of the classes in the masks [C], if they are known."""
        self.say(f'[PSEUDO] #Crops: {pseudo["crops"]:.0f}' + _named(pseudo, ('kept', 'conf', 'gap')))
        self.say(f'[PSEUDO] Class share: {named(self.classes.names, classes)}')
        if labeled is not None:
            self.say(f'[LABELED] Class share: {named(self.classes.names, labeled)}')
            lost = [f'{" ".join(name.split())} ({100 * share:.2f} %, of the masks {100 * wanted:.2f} %)'
                    for name, share, wanted in zip(self.classes.names, classes, labeled) if forgotten(share, wanted)]
            if lost and pseudo['kept'] > 0:
                self.say(f'[PSEUDO] Forgotten, hardly any kept pseudo label is of: {", ".join(lost)}. '
                         'method.align_decay of FixMatch, UniMatch and UniMatchV2 is against that.')
        self._scalars({f'Pseudo/{name}': pseudo[name] for name in ('kept', 'conf', 'gap') if name in pseudo})
        self._scalars({f'Pseudo/share/{name}': value for name, value in zip(self.classes.names, classes)})
        if oracle:
            self.say(f'[ORACLE] #Crops: {pseudo["crops"]:.0f}' + _named(oracle, ('mIoU', 'Acc', 'kept_Acc')))
            self._scalars({f'Oracle/{name}': value for name, value in oracle.items()})

    def memory(self):
        peak = peak_memory() / 2**20
        self.say(f'[MEMORY] Peak: {peak:.0f} MB')
        self._scalars({'Memory/peak_MB': peak})

    def picture(self, method, batch, probe=None):
        """Writes pictures/iter_N.png and the same to VisualDL; `batch` is one of the method's first stream."""
        if not self.writes:
            return
        unlabeled = next(probe.batches()) if probe else None
        image = pictures.strip(method, batch, unlabeled, self.clock, self.classes)
        pictures.save(image, os.path.join(self.save_dir, 'pictures', f'iter_{self.clock.iter}.png'))
        if self.vdl:
            self.vdl.add_image('Evaluate/strip', image, self.clock.iter)

    def unreadable(self, photos):
        """Takes the unlabeled photos (path → why) that could not be read, so that others stood in for them."""
        for line in listed(photos, 'others were taken instead'):
            self.say(line)

    def restart_timer(self):
        """Time spent on evaluation and saving is not part of a batch."""
        self.started = time.time()

    def close(self):
        if self.vdl:
            self.vdl.close()

    def _skipped(self, losses):
        """Positions in the window of steps whose loss was not finite and that were not made for that, see `skips`."""
        skipped = []
        if self.last_finite is None:  # now the clock is where the run goes on
            self.last_finite = self.clock.iter - len(self.window)
        for position, step in enumerate(self.window):
            number = self.clock.iter - len(self.window) + position + 1
            values = {name: float(losses[name][position]) for name in step[0]}
            if all(math.isfinite(value) for value in values.values()):
                self.last_finite = number
            elif self.skips and number - self.last_finite <= _OVERFLOWS:
                skipped.append(position)
            else:
                raise RunError(f'iter {number}: a loss is not finite: '
                               f'{", ".join(f"{k}: {v:.4g}" for k, v in values.items())}. '
                               'Try a smaller learning rate, or look for damaged images with tools/check_data.py.')
        return skipped

    def _line(self, loss, terms, rates):
        iteration, clock = self.clock.iter, self.clock
        batch_cost, reader_cost = self.batch_cost.get_average(), self.reader_cost.get_average()
        named = ''.join(f'{name}: {value:.4f}, ' for name, value in terms.items())
        rate = next(iter(rates.values()))
        self.say(f'[TRAIN] epoch: {(iteration - 1) // self.epoch_iters + 1}, iter: {iteration}/{clock.iters}, '
                 f'loss: {loss:.4f}, {named}lr: {rate:.6f}, batch_cost: {batch_cost:.4f}, '
                 f'reader_cost: {reader_cost:.5f}, ips: {self.batch_cost.get_ips_average():.4f} samples/sec | '
                 f'ETA {calculate_eta(clock.iters - iteration, batch_cost)}')
        self._scalars({'Train/loss': loss, **{f'Train/{name}': value for name, value in terms.items()},
                       'Train/lr': rate, **{f'Train/lr_{name}': value for name, value in list(rates.items())[1:]},
                       'Train/batch_cost': batch_cost, 'Train/reader_cost': reader_cost})
        self.batch_cost.reset()
        self.reader_cost.reset()

    def _scalars(self, values):
        if self.vdl:
            for tag, value in values.items():
                self.vdl.add_scalar(tag.replace('%', ' percent'), float(value), self.clock.iter)  # refused in a tag


def listed(photos, fate):
    """Yields lines on unlabeled photos (path → why) that could not be read, and their fate; of no photos none."""
    if photos:
        yield f'{len(photos)} unlabeled photo{"s" if len(photos) > 1 else ""} could not be read; {fate}:'
    for path in sorted(photos)[:_LISTED]:
        yield f'  {photos[path]}'
    if len(photos) > _LISTED:
        yield f'  … and {len(photos) - _LISTED} more; tools/check_data.py lists all.'


def _named(values, names):
    return ''.join(f' {name}: {values[name]:.4f}' for name in names if name in values)


def _on_host(steps):
    """[{name: scalar tensor}] → {name: np.ndarray [steps]}, in one copy from the device; NaN where a step has none."""
    names = list(dict.fromkeys(name for step in steps for name in step))
    if not names:
        return {}
    missing = paddle.full([], math.nan)
    values = [step.get(name, missing).astype('float32').reshape([]) for step in steps for name in names]
    values = paddle.stack(values).numpy()
    return dict(zip(names, np.asarray(values).reshape(len(steps), len(names)).T))
