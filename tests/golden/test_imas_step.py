"""One iteration with prescribed outputs of the networks, and the teacher after prescribed updates."""

import numpy as np
import paddle
import pytest
from conftest import close, golden, tensor
from paddle import nn
from paddleseg.models.losses import CrossEntropyLoss

from paddleseg_semi.core.clock import Clock
from paddleseg_semi.losses.ohem import HardPixelLoss
from paddleseg_semi.methods.base import Task
from paddleseg_semi.methods.imas import IMAS

IGNORE = 255


class Prescribed(nn.Layer):
    """A network that says what it is told to, and remembers what it was asked, and in which mode."""

    def __init__(self, evaluated, trained=None):
        super().__init__()
        self.evaluated, self.trained = evaluated, trained
        self.seen = []

    def forward(self, x):
        self.seen.append((self.training, x))
        return self.trained if self.training else [self.evaluated]


class Replay:
    """The random draws of the case, in their order."""

    def __init__(self, case, prefix='draw_'):
        self.uniforms = list(case[f'{prefix}uniform']), list(case[f'{prefix}box'])
        self.centers = [case[key] for key in (f'{prefix}center_rows', f'{prefix}center_cols') if key in case]

    def rng(self, name):
        return self

    def random(self):
        return self.uniforms[0].pop(0)

    def uniform(self, low, high):
        return low + (high - low) * self.uniforms[1].pop(0)

    def integers(self, low, high, n):
        draw = self.centers.pop(0)
        assert len(draw) == n and np.all((low <= draw) & (draw < high))
        return draw

    def used_up(self):
        return not any([*self.uniforms, self.centers])


def criterion(case):
    """The loss on labeled images; OHEM keeps no least number of pixels: cross entropy."""
    loss = CrossEntropyLoss(ignore_index=IGNORE)
    if case['ohem_min_kept'] > 0:
        loss = HardPixelLoss(float(case['ohem_thresh']), int(case['ohem_min_kept']), IGNORE)
    weights = [1, float(case['aux_weight'])][:2 if case['aux_weight'] else 1]
    return {'types': [loss] * len(weights), 'coef': weights}


def start(case):
    """Method, batch, leaves of the student's outputs by part, and a clock with the case's draws."""
    parts = [str(part) for part in case['parts']]
    leaves = {part: tensor(case[f'logits_{part}'], grad=True) for part in parts}
    outputs = [paddle.concat(list(leaves.values()))]
    if case['aux_weight']:
        leaves['aux'] = tensor(case['aux_labeled'], grad=True)
        others = paddle.zeros([len(outputs[0]) - len(leaves['aux']), *leaves['aux'].shape[1:]])
        outputs.append(paddle.concat([leaves['aux'], others]))
    assert case['hardness_aware'] and case['use_v1'] and case['mixup_by_hardness'], 'a setting the authors do not use'
    student = Prescribed(None)
    method = IMAS(Task(lambda: student, criterion(case), int(case['num_classes']), IGNORE),
                  unsup_weight=float(case['unsup_loss_weight']), conf_thresh=float(case['thresh']),
                  box_share=case['cutmix_range'].tolist(), ignore_background=bool(case['ignore_background']))
    student.evaluated, student.trained = tensor(case['student_eval_logits']), outputs
    method.teacher.net = Prescribed(tensor(case['teacher_logits']))
    weak = tensor(case['image_weak'])
    batch = {'labeled': {'img': tensor(case['image_l']), 'label': tensor(case['label_l'])},
             'unlabeled': {'weak': weak, 'strong': tensor(case['image_strong']),
                           'valid': paddle.ones([len(weak), *weak.shape[2:]], 'bool')}}
    clock = Clock(1)
    clock.rng = (replay := Replay(case)).rng
    method.train()
    return method, batch, leaves, clock, replay


@pytest.mark.parametrize('case', [pytest.param(case, id=name) for name, case in golden('imas_step_*.npz')])
def test_step(case):
    method, batch, leaves, clock, replay = start(case)
    losses, stats = method.step(batch, clock)
    sum(losses.values()).backward()
    assert replay.used_up()

    for net, key in ((method.model, 'student'), (method.teacher.net, 'teacher')):
        assert [training for training, _ in net.seen] == case[f'{key}_calls_training'].tolist()
    seen = method.model.seen[1][1]
    close(seen, case['student_input'], rtol=1e-5, atol=1e-6)
    pseudo, keep = method.explain(batch['unlabeled'], clock)
    if 'weak_label' in case:
        np.testing.assert_array_equal(pseudo.label, case['weak_label'])
        close(pseudo.conf, case['weak_conf'], rtol=1e-5, atol=2e-6)
    assert stats['kept'].item() == pytest.approx(keep.numpy().mean())
    close(stats['agreement'].item(), case['hardness_v1'].mean(dtype='float64'), rtol=1e-5, atol=1e-7)
    assert stats['mixed'].item() == ('cutmix' in case['parts'])

    close(losses['sup'].item(), case['loss_sup'], rtol=1e-4, atol=1e-6)
    mixed = losses.setdefault('mix', paddle.zeros([])).item()  # a term that this step may not have
    close(losses['strong'].item() + mixed, case['loss_unsup'], rtol=1e-4, atol=1e-6)
    weight = case['unsup_loss_weight'] / len(case['loss_unsup_parts'])
    for name, wanted in zip(('strong', 'mix'), case['loss_unsup_parts']):
        close(losses[name].item(), weight * wanted, rtol=1e-4, atol=1e-6)
    for part, leaf in leaves.items():
        close(leaf.grad, case['grad_aux_labeled' if part == 'aux' else f'grad_{part}'], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize('case', [pytest.param(case, id=name) for name, case in golden('imas_step_*.npz')])
def test_padding_is_no_pseudo_label(case):
    """Where we differ from the published code, unless told otherwise."""
    parts = [part for part in case['parts'] if part != 'cutmix']
    method, batch, leaves, clock, _ = start({**case, 'parts': parts})
    batch['unlabeled']['valid'][:] = False
    losses, stats = method.step(batch, clock)
    sum(losses.values()).backward()
    assert losses['strong'].item() == 0 and 'mix' not in losses
    assert stats['kept'].item() == stats['agreement'].item() == stats['mixed'].item() == 0
    assert not leaves['strong'].grad.any()
    assert not method.explain(batch['unlabeled'], clock)[1].any()


class Weights(nn.Layer):
    """A parameter, a buffer and a counter."""

    def __init__(self, weight, buffer):
        super().__init__()
        self.weight = self.create_parameter([len(weight)])
        self.register_buffer('buffer', tensor(buffer))
        self.register_buffer('counter', paddle.zeros([1], 'int64'))
        self.weight.set_value(weight)


@pytest.mark.parametrize('case', [pytest.param(case, id=name) for name, case in golden('imas_ema_*.npz')])
def test_teacher(case):
    steps = len(case['student_after_step'])
    epoch, first = int(case['iters_per_epoch']), int(case['sup_only_epoch'])
    task = Task(lambda: Weights(case['student_init'], case['teacher_buffer_init']), {}, 2, IGNORE)
    method = IMAS(task, ema_decay=float(case['ema_decay']), teacher_start=(first + 1) * epoch,
                  semi_start=first * epoch)
    method.teacher.net.weight.set_value(case['teacher_init'])
    clock = Clock(steps)
    for t in range(steps):
        method.model.set_state_dict({'weight': case['student_after_step'][t], 'buffer': case['student_buffer'][t],
                                     'counter': case['student_counter'][t:t + 1].astype('int64')})
        clock.tick()
        method.after_update(clock)
        close(method.deployed.weight, case['teacher_after'][t], rtol=1e-5, atol=1e-6)
        close(method.deployed.buffer, case['teacher_buffer_after'][t], rtol=1e-5, atol=1e-6)
        assert method.deployed.counter.item() == case['student_counter'][t]  # a counter is copied, not averaged


def test_the_teacher_stays_a_copy_while_there_are_no_unlabeled_images():
    """Also where it should have left before."""
    method = IMAS(Task(lambda: Weights(np.float32([0]), np.float32([0])), {}, 2, IGNORE), teacher_start=1, semi_start=3)
    clock = Clock(10)
    for weight in (1., 2., 3., 4., 5.):
        method.model.weight.set_value(np.float32([weight]))
        clock.tick()
        method.after_update(clock)
        assert method.deployed.weight.item() == {5.: 4.5}.get(weight, weight)
