"""The loop. It runs any method and never asks which."""

import math
import os
from typing import NamedTuple

import paddle
from paddleseg.utils import logger

from paddleseg_semi.core import checkpoint, parallel
from paddleseg_semi.core.profiler import Profiler
from paddleseg_semi.errors import InputError, Interrupted
from paddleseg_semi.models.weights import assign

_AMP_WHITE = {'elementwise_add', 'batch_norm', 'sync_batch_norm'}  # PaddleSeg's lists
_AMP_BLACK = {'bilinear_interp_v2'}


class Player(NamedTuple):
    """A network, and who trains it."""

    layer: paddle.nn.Layer
    optimizer: paddle.optimizer.Optimizer
    schedule: paddle.optimizer.lr.LRScheduler

    def next_rate(self, loss):
        """Moves the schedule on by one update; `loss` (Tensor, scalar) is for the one that looks at it."""
        plateau = isinstance(self.schedule, paddle.optimizer.lr.ReduceOnPlateau)
        self.schedule.step(loss) if plateau else self.schedule.step()


class Precision:
    """Mixed precision as PaddleSeg has it: weights stay in fp32.

    Args:
        precision (str): 'fp32', 'fp16' or 'bf16', whose range needs no scaling of the loss.
    """

    def __init__(self, precision='fp32'):
        self.half, self.dtype = precision != 'fp32', 'bfloat16' if precision == 'bf16' else 'float16'
        self.scaler = paddle.amp.GradScaler(enable=precision == 'fp16', init_loss_scaling=1024)
        if self.half:
            on_cpu = ': on a CPU Paddle computes in fp32 all the same' if 'cpu' in paddle.get_device() else ''
            logger.info(f'Mixed precision: {precision}, level O1{on_cpu}')

    def autocast(self):
        return paddle.amp.auto_cast(enable=self.half, dtype=self.dtype, custom_white_list=_AMP_WHITE,
                                    custom_black_list=_AMP_BLACK)

    def step(self, players):
        """Updates all players, or none where a gradient has overflowed; then the scale of the loss is halved."""
        self.scaler.step(_Optimizers(players))
        self.scaler.update()


class _Optimizers:
    """All of them as one: of several, Paddle's scaler believes the last one as to whether a gradient has overflowed."""

    def __init__(self, players):
        self.players = players

    @property
    def _parameter_list(self):  # where the scaler looks for gradients
        return [param for player in self.players.values() for param in player.layer.parameters()]

    def step(self):
        for player in self.players.values():
            player.optimizer.step()  # a frozen player has no gradient and does not move


class Plan(NamedTuple):
    """When to do what besides stepping.

    Attributes:
        save_interval (int|Fraction): iterations between checkpoints (and evaluations); 100/3 means 33, 66, 100, …
        early_stop_intervals (int, optional): stop after so many of them without a better mIoU.
        profiler (Profiler): times some of the steps, or none.
    """

    save_interval: int = 1000
    early_stop_intervals: int = None
    profiler: Profiler = Profiler()

    def due(self, iteration):
        """Whether an iteration is a multiple of `save_interval`, rounded down."""
        count = -(-iteration // self.save_interval)  # exact for fractions too
        return math.floor(count * self.save_interval) == iteration


class Trainer:
    """Trains a method until its clock is full.

    Args:
        method (Method): the algorithm.
        streams (dict[str, Iterator]): endless batches per stream of the method.
        players (dict[str, Player]): who is trained.
        clock (Clock): where the run is.
        journal (Journal): what it says.
        checkpoints (Checkpoints): where it is kept.
        plan (Plan): intervals.
        evaluate (Callable, optional): network → (mIoU, Acc, class IoU [C], …), on all ranks.
        precision (Precision, optional): default: float32.
        ema (EMA, optional): a follower of the deployed network, evaluated and saved beside it (--use_ema).
        probe (Probe, optional): looks at the pseudo labels at every milestone.

    Attributes:
        unreadable (list[dict[str, str]]): photos that others have stood in for → why; they fill while it trains.
    """

    def __init__(self, method, streams, players, clock, journal, checkpoints, plan, evaluate=None, precision=None,
                 ema=None, probe=None):
        self.method, self.streams, self.players, self.clock = method, streams, players, clock
        self.journal, self.checkpoints, self.plan = journal, checkpoints, plan
        self.evaluate, self.ema, self.probe = evaluate, ema, probe
        self.unreadable = []
        self.precision = precision or Precision()
        self.best = {'mIoU': -1.0, 'iter': -1, 'ema_mIoU': -1.0}
        self.scores = {'mIoU': 0.0, 'Acc': 0.0}

    def train(self, interruption=None):
        """Runs to the end of the clock, or to an early stop.

        Args:
            interruption (Interruption, optional): when it has a signal, the step is finished and saved.

        Raises:
            Interrupted: after such a signal.
        """
        self.method.train()
        self.journal.restart_timer()
        stale = self._stale()  # a run that had stopped, resumed
        while self.clock.iter < self.clock.iters and not stale:
            batch = {name: next(stream) for name, stream in self.streams.items()}
            self.journal.read_done()
            rates = {name: player.optimizer.get_lr() for name, player in self.players.items()}
            losses, stats = self.step(batch)
            self.journal.step_done(losses, stats, rates)
            self.plan.profiler.step()
            if self.plan.due(self.clock.iter) or self.clock.iter == self.clock.iters:
                self.milestone(batch)
                stale = self._stale()
            if interruption and interruption.number and self.clock.iter < self.clock.iters:
                self._leave(interruption.exit_code)
        if stale:
            self.journal.say(f'Early stop: no better mIoU for {self.plan.early_stop_intervals} intervals.')
        self.journal.unreadable(parallel.merged(self._unreadable()))
        self.journal.close()

    def step(self, batch):
        """One update of every player: a single backward of the summed terms."""
        paddle.seed(self.clock.step_seed())  # dropout and the like, a function of (seed, iter, rank)
        with self.precision.autocast():
            losses, stats = self.method.step(batch, self.clock)
        check_terms(self.method, losses)
        total = sum(loss.astype('float32') for loss in losses.values())  # fp16 ends at 65504
        self.precision.scaler.scale(total).backward()
        for player in self.players.values():
            parallel.sync_gradients(player.layer)
        self.precision.step(self.players)
        for player in self.players.values():
            player.optimizer.clear_grad(set_to_zero=False)  # zeros would let weight decay move a frozen player
            player.next_rate(total)
        self.clock.tick()
        self.method.after_update(self.clock)
        if self.ema is not None:
            self.ema.update(self.method.deployed, self.clock.iter)
        return losses, stats

    def _unreadable(self):
        return {path: why for part in self.unreadable for path, why in part.items()}

    def _leave(self, exit_code):
        self.journal.flush()
        folder = self.checkpoints.save(self.clock.iter, self.state_dict())
        self.journal.unreadable(self._unreadable())
        self.journal.close()
        raise Interrupted(f'interrupted at iter {self.clock.iter}, which is saved in {folder}. To go on: the same '
                          'command with --resume_model latest', exit_code)

    def milestone(self, batch):
        """Evaluates, draws and saves. The best model is written first: were the run killed in between, the resumed one
        would find it and write the same again."""
        self.journal.flush()
        parallel.average_statistics(self.method)
        self.journal.memory()
        if self.probe:
            self.journal.diagnosed(*self.probe.look(self.method, self.clock), self.probe.labeled_shares)
        if self.evaluate:
            self._evaluate(batch)
        if self.journal.writes:
            self.checkpoints.save(self.clock.iter, self.state_dict())
        parallel.barrier()
        self.journal.restart_timer()

    def _evaluate(self, batch):
        miou, acc, class_iou = self.evaluate(self.method.deployed)[:3]
        self.scores = {'mIoU': float(miou), 'Acc': float(acc)}
        self.journal.evaluated(miou, acc, class_iou)
        self.method.after_evaluation(dict(self.scores), self.clock)
        if self.scores['mIoU'] > self.best['mIoU']:
            self.best.update(mIoU=self.scores['mIoU'], iter=self.clock.iter)
            self._save_best(self.method.deployed, self.scores, 'best_model')
        self.journal.say(f'[EVAL] The model with the best validation mIoU ({self.best["mIoU"]:.4f}) was saved at iter '
                         f'{self.best["iter"]}.')
        if self.ema is not None:
            self.journal.say('[EVAL] Now the moving average (--use_ema):')
            miou, acc, class_iou = self.evaluate(self.ema.net)[:3]
            self.journal.evaluated(miou, acc, class_iou, 'ema')
            miou, acc = float(miou), float(acc)
            if miou > self.best['ema_mIoU']:
                self.best['ema_mIoU'] = miou
                self._save_best(self.ema.net, {'mIoU': miou, 'Acc': acc}, 'ema_best_model')
        self.journal.picture(self.method, batch[next(iter(self.streams))], self.probe)

    def _save_best(self, net, scores, name):
        if self.journal.writes:
            self.checkpoints.save_best(net.state_dict(), {**scores, 'iter': self.clock.iter}, name)

    def _stale(self):
        patience = self.plan.early_stop_intervals
        return bool(self.evaluate and patience and self.best['iter'] > 0 and
                    self.clock.iter - self.best['iter'] >= math.floor(patience * self.plan.save_interval))

    def state_dict(self):
        """dict[str, dict]: file name → what a checkpoint holds in it."""
        files = {
            checkpoint.MODEL: self.method.deployed.state_dict(),
            checkpoint.OPTIMIZERS: {name: checkpoint.optimizer_state(player.layer, player.optimizer)
                                    for name, player in self.players.items()},
            checkpoint.STATES: {**self.scores, 'iter': self.clock.iter, 'best': self.best,
                                'scaler': self.precision.scaler.state_dict()},
            checkpoint.METHOD: self.method.state_dict(),
        }
        if self.ema is not None:
            files[checkpoint.EMA] = self.ema.net.state_dict()
            files[checkpoint.STATES]['ema_decay'] = self.ema.decay
        return files

    def resume(self, folder, files=None):
        """Takes over where a checkpoint left off. Call before the streams are read.

        Args:
            folder (str): an iter_N folder of a run with the same recipe, split and seed.
            files (dict[str, dict], optional): what `Checkpoints.load` has read of it. Default: it is read here.
        """
        files = self.checkpoints.load(folder) if files is None else files
        states, optimizers = files[checkpoint.STATES], files[checkpoint.OPTIMIZERS]
        if isinstance(files[checkpoint.METHOD], dict):  # what else there may be is refused below
            self.method.expect(files[checkpoint.METHOD])
        assign(self.method, files[checkpoint.METHOD], os.path.join(folder, checkpoint.METHOD))
        source = os.path.join(folder, checkpoint.OPTIMIZERS)
        for name, player in self.players.items():
            state = optimizers.get(name) if isinstance(optimizers, dict) else None
            if not isinstance(state, dict) or 'LR_Scheduler' not in state:
                raise InputError(f'{source}: has no state of the player "{name}", so it does not come from this run. '
                                 'Give another folder.')
            try:
                checkpoint.restore_optimizer(player.layer, player.optimizer, state, source)
            except InputError:
                raise
            except Exception as error:  # Paddle may raise anything at what such a file holds
                raise InputError(f'{source}: is no state of the player "{name}" ({type(error).__name__}: {error}). '
                                 'Give another folder.') from None
        if self.ema is not None:
            if checkpoint.EMA not in files:
                raise InputError(f'--resume_model {folder}: has no {checkpoint.EMA}: that run was without --use_ema.')
            if states.get('ema_decay', self.ema.decay) != self.ema.decay:
                raise InputError(f'--resume_model {folder}: it was trained with --use_ema {states["ema_decay"]}, not '
                                 f'{self.ema.decay}. Give the same decay.')
            assign(self.ema.net, files[checkpoint.EMA], os.path.join(folder, checkpoint.EMA))
        if states['scaler']:
            try:
                self.precision.scaler.load_state_dict(states['scaler'])
            except Exception as error:
                raise InputError(f'{os.path.join(folder, checkpoint.STATES)}: holds no state of a loss scaler '
                                 f'({type(error).__name__}: {error}). Give another folder.') from None
        self.best = {key: states['best'][key] for key in self.best}  # these very key objects: pickle tells them apart
        self.scores = {key: states[key] for key in self.scores}
        self.clock.iter = states['iter']
        logger.info(f'Resumed from {folder} at iter {self.clock.iter}')


def check_terms(method, losses):
    """InputError for a loss term of a method, name → Tensor, that is not one number."""
    for name, loss in losses.items():
        if loss.size != 1:
            raise InputError(f'{type(method).__name__}: the loss term "{name}" is {list(loss.shape)} numbers, not one.')
