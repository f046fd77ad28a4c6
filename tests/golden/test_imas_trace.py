"""A short training run of a tiny network: losses, hardness, weights of student and teacher after every step."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from conftest import close, golden, tensor
from paddle import nn
from test_imas_step import IGNORE, Replay, criterion

from paddleseg_semi.core.clock import Clock
from paddleseg_semi.core.trainer import Plan, Player, Trainer
from paddleseg_semi.methods.base import Task
from paddleseg_semi.methods.imas import IMAS


class Tiny(nn.Layer):
    def __init__(self, num_classes):
        super().__init__()
        self.encoder = nn.Sequential(
            ('conv1', nn.Conv2D(3, 8, 3, 2, 1, bias_attr=False)), ('bn1', nn.BatchNorm2D(8)),
            ('conv2', nn.Conv2D(8, 8, 3, 2, 1, bias_attr=False)), ('bn2', nn.BatchNorm2D(8)))
        self.auxor, self.decoder = nn.Conv2D(8, num_classes, 1), nn.Conv2D(8, num_classes, 1)

    def forward(self, x):
        low = F.relu(self.encoder.bn1(self.encoder.conv1(x)))
        high = F.relu(self.encoder.bn2(self.encoder.conv2(low)))
        return [F.interpolate(logits, x.shape[2:], mode='bilinear', align_corners=True)
                for logits in (self.decoder(high), self.auxor(low))]


def weights(case, name):
    """Weights of a network in the file, under Paddle's names."""
    return {key.split('/')[1].replace('running_mean', '_mean').replace('running_var', '_variance'): value
            for key, value in case.items() if key.startswith(f'{name}/')}


def build(case):
    epoch, first, num_classes = int(case['iters_per_epoch']), int(case['sup_only_epoch']), int(case['C'])
    clock = Clock(int(case['epochs']) * epoch)
    method = IMAS(Task(lambda: Tiny(num_classes), criterion(case), num_classes, IGNORE),
                  unsup_weight=float(case['unsup_loss_weight']), conf_thresh=float(case['thresh']),
                  ema_decay=float(case['ema_decay']), teacher_start=(first + 1) * epoch, semi_start=first * epoch,
                  box_share=case['cutmix_range'].tolist(), reference_quirks=True)
    assert method.model.set_state_dict(weights(case, 'student_init')) == ([], [])
    method.deployed.set_state_dict(method.model.state_dict())
    method.train()

    model, heads = method.model, float(case['head_lr_times'])
    schedule = paddle.optimizer.lr.PolynomialDecay(float(case['base_lr']), clock.iters, end_lr=0, power=0.9)
    groups = [{'params': [param for param in model.encoder.parameters() if not param.stop_gradient]},
              {'params': model.auxor.parameters() + model.decoder.parameters(), 'learning_rate': heads}]
    momentum = paddle.optimizer.Momentum(schedule, float(case['momentum']), parameters=groups,
                                         weight_decay=float(case['weight_decay']))
    return Trainer(method, {}, {'model': Player(model, momentum, schedule)}, clock, None, None, Plan())


@pytest.mark.parametrize('case', [pytest.param(case, id=name) for name, case in golden('imas_trace_*.npz')])
def test_trace(case):
    trainer = build(case)
    method, hardness = trainer.method, list(case['hardness'])
    images = {key: case[f'image_{key}'].astype('float32') for key in ('l', 'weak', 'strong')}
    for t in range(len(case['loss_sup'])):
        replay = Replay(case, f'iter_{t:02d}_') if f'iter_{t:02d}_uniform' in case else None
        trainer.clock.rng = replay.rng if replay else None
        trainer.clock.step_seed = lambda: 0
        weak = tensor(images['weak'][t])
        losses, stats = trainer.step({
            'labeled': {'img': tensor(images['l'][t]), 'label': tensor(case['label_l'][t].astype('int64'))},
            'unlabeled': {'weak': weak, 'strong': tensor(images['strong'][t]),
                          'valid': paddle.ones([len(weak), *weak.shape[2:]], 'bool')}})

        strong, mix = np.nan_to_num(case['loss_unsup_parts'][t])
        mixed = int(case['cutmix_applied'][t])
        weight = float(case['unsup_loss_weight']) / (1 + mixed)
        close(losses['sup'].item(), case['loss_sup'][t], rtol=1e-4, atol=1e-6)
        losses.setdefault('strong', paddle.zeros([]))
        close(losses['strong'].item(), weight * strong, rtol=1e-4, atol=1e-6)
        losses.setdefault('mix', paddle.zeros([]))
        close(losses['mix'].item(), weight * mix, rtol=1e-4, atol=1e-6)
        close((losses['strong'] + losses['mix']).item(), case['loss_unsup'][t], rtol=1e-4, atol=1e-6)
        assert stats.get('mixed', paddle.zeros([])).item() == mixed
        if replay:
            assert replay.used_up()
            close(stats['agreement'].item(), hardness.pop(0).mean(), rtol=1e-4, atol=1e-6)
        for net, name in ((method.model, 'student'), (method.deployed, 'teacher')):
            state = net.state_dict()
            for key, wanted in weights(case, f'{name}_{t:02d}').items():
                close(state[key], wanted, rtol=1e-3, atol=1e-4)
        # The file lists the rate after the scheduler's step, and at the end of an epoch the one before it again.
        if (t + 1) % int(case['iters_per_epoch']):
            rate = trainer.players['model'].optimizer.get_lr()
            close([rate, *[rate * float(case['head_lr_times'])] * 2], case['lr'][t], rtol=1e-9, atol=0)
    assert not hardness


@pytest.mark.parametrize('name, case', golden('imas_lr_*.npz'))
def test_learning_rate(name, case):
    steps = int(case['epochs']) * int(case['iters_per_epoch'])
    first = int(case['start_epoch']) * int(case['iters_per_epoch'])
    schedules = [paddle.optimizer.lr.PolynomialDecay(float(base), steps, end_lr=0, power=float(case['power']))
                 for base in case['base_lr']]
    for t in range(first + len(case['lr'])):
        if t >= first:
            close([schedule() for schedule in schedules], case['lr'][t - first], rtol=1e-9, atol=0)
        for schedule in schedules:
            schedule.step()
