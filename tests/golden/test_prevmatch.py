"""PrevMatch against numbers from the authors' code."""

import numpy as np
import paddle
import pytest
from conftest import close, golden, tensor
from paddle import nn
from paddleseg.models.losses import CrossEntropyLoss
from scripted import CLOCK, IGNORE, Scripted, compare, leaf, task

from paddleseg_semi.core.clock import Clock
from paddleseg_semi.losses.ohem import HardPixelLoss
from paddleseg_semi.methods import fixmatch
from paddleseg_semi.methods.base import Task
from paddleseg_semi.methods.prevmatch import PrevMatch, triangle_or_cosine
from paddleseg_semi.methods.pseudo import Pseudo


class Replay:
    """A clock, and its generator, that hands out who is asked, as the program drew it."""

    iter, iters = CLOCK.iter, CLOCK.iters

    def __init__(self, case):
        self.case, self.asked = case, []

    def reached(self, start):
        return True

    def rng(self, name):
        return self

    def integers(self, low, high):
        assert (low, high) == (1, self.case['model_num'] + 1)
        self.asked.append('count')
        return self.case['draw_count']

    def permutation(self, n):
        self.asked.append('members')
        first = self.case['draw_members']
        return np.concatenate([first, np.setdiff1d(np.arange(n), first)])

    def dirichlet(self, alpha):
        self.asked.append('weights')
        assert (alpha == 1).all() and len(alpha) == len(self.case['draw_weights'])
        return self.case['draw_weights']


def build(case, num_classes, losses=None, **knobs):
    """A method whose copies of the network were told what to say."""
    said = case['member_logits']
    settings = task(num_classes)._replace(losses=losses) if losses else task(num_classes)
    method = PrevMatch(settings, members=int(case['model_num']), pool_size=len(said) + 2,
                       random_count=bool(case.get('random_select', 1)), **knobs)
    for logits in said:
        method.pool.push(method.model)
        method.pool.members[method.pool.places()[-1]].says = [tensor(logits)]
    return method


@pytest.mark.parametrize('name, case', golden('prevmatch_ensemble*.npz'))
def test_ensemble(name, case):
    _, twice, num_classes, *size = case['member_logits'].shape
    method, clock = build(case, num_classes), Replay(case)
    images = {'weak': paddle.zeros([twice // 2, 3, *size]), 'valid': paddle.ones([twice // 2, *size], 'bool')}
    guide, = method.earlier(images, images, clock)
    assert clock.asked == ['count'] * bool(case['random_select']) + ['members', 'weights']
    for pseudo, key in ((guide.own, 'u_w'), (guide.other, 'u_w_mix')):
        np.testing.assert_array_equal(pseudo.label.numpy(), case[f'label_{key}'])
        close(pseudo.conf.numpy(), case[f'conf_{key}'], rtol=1e-5, atol=2e-6)
    places = [method.pool.places()[i] for i in case['draw_members']]
    asked = [method.pool.members[place] for place in places]
    assert all(net.modes == [False] and not net.says for net in asked)
    for place, member in zip(places, case['draw_members']):
        method.pool.members[place].says = [tensor(case['member_logits'][member])]
    close(method.pool(images['weak'], places, case['draw_weights']).numpy(), case['logits'], rtol=1e-5, atol=2e-6)


def play(monkeypatch, case, **knobs):
    """One step; returns losses, statistics, and leaves by name."""
    on, thresh, min_kept = case['ohem'].tolist()
    loss = HardPixelLoss(thresh, int(min_kept), IGNORE) if on else CrossEntropyLoss(ignore_index=IGNORE)
    leaves = {key: leaf(case[f'logits_{name}']) for key, name in
              (('x', 'x'), ('u_w', 'u_w'), ('fp', 'u_fp'), ('s1', 'u_s1'), ('s2', 'u_s2'))}
    method = build(case, leaves['x'].shape[1], {'types': [loss], 'coef': [1]}, conf_thresh=float(case['conf_thresh']),
                   prev_thresh=float(case['prev_conf_thresh']), prev_average=bool(case['pixel_average']), **knobs)
    method.model.says = [tensor(case['logits_u_w_mix']),
                         [leaves['x'], leaves['u_w'], paddle.zeros_like(leaves['x']), leaves['fp']],
                         [leaves['s1'], leaves['s2']]]
    boxes = iter([tensor(case['cutmix_box1'] == 1), tensor(case['cutmix_box2'] == 1)])
    monkeypatch.setattr(fixmatch, 'gated_boxes', lambda *_: next(boxes))
    monkeypatch.setattr('paddleseg_semi.methods.prevmatch.triangle_or_cosine', lambda *_: float(case['lam']))
    n, _, *size = leaves['u_w'].shape
    batch = {stream: {'weak': paddle.zeros([n, 3, *size]), 'strong': tensor(case[f'img_s1{key}']),
                      'strong_2': tensor(case[f'img_s2{key}']), 'valid': tensor(case[f'ignore_mask{key}'] != IGNORE)}
             for stream, key in (('unlabeled', ''), ('mix', '_mix'))}
    label = tensor(case['label_x'])
    batch['labeled'] = {'img': paddle.zeros([len(label), 3, *size]), 'label': label}
    losses, stats = method.step(batch, Replay(case))
    assert not method.model.says and method.model.modes == [False, True, True]
    for images, wanted in zip(method.model.shown[2].split(2), ('img_s1_mixed', 'img_s2_mixed')):
        np.testing.assert_array_equal(images.numpy(), case[wanted].astype('float32'))
    return losses, stats, leaves


@pytest.mark.parametrize('quirks', [False, True], ids=['corrected', 'published'])
@pytest.mark.parametrize('name, case', golden('prevmatch_loss*.npz'))
def test_step(name, case, quirks, monkeypatch):
    ending = '' if quirks or not case['corrected_differs'] else '_corrected'
    if not np.isfinite(case[f'loss{ending}']):
        pytest.skip('published: 0 / 0; nothing valid is no loss here, with the quirks too')
    losses, stats, leaves = play(monkeypatch, case, reference_quirks=quirks)
    with_pool = len(case['member_logits']) > 0
    lam = float(case['lam']) if with_pool else 0.

    def wanted(key):
        prev = lam * case[f'loss_{key}_prev{ending}'] if with_pool else 0.
        return (case[f'loss_{key}{ending}'] + prev) / (2 + lam)

    close(stats['kept'].item(), np.nan_to_num(case['mask_ratio']))
    close(stats['lam'].item(), lam)
    compare(losses, {'sup': case['loss_x'] / (2 + lam), 's1': wanted('s1') / 4, 's2': wanted('s2') / 4,
                     'fp': wanted('fp') / 2, None: case[f'loss{ending}']},
            [(leaves[key], case[f'grad_{key}{ending}']) for key in ('x', 'fp', 's1', 's2')]
            + [(leaves['u_w'], np.zeros(leaves['u_w'].shape))])


@pytest.mark.parametrize('name, case', golden('prevmatch_loss*.npz'))
def test_the_weight_restores_the_published_balance(name, case, monkeypatch):
    """Without padding, the published mean is as many times too large as there are images, if they are equally sure."""
    case = {**case, **{key: np.zeros_like(case[key]) for key in ('ignore_mask', 'ignore_mask_mix')},
            'pixel_average': 1, 'member_logits': case['member_logits'] * 1000}
    if not len(case['member_logits']):
        return
    published = play(monkeypatch, case, reference_quirks=True)[0]
    found = play(monkeypatch, case, prev_weight=float(len(case['logits_u_w'])))[0]
    for key, loss in published.items():
        close(found[key].item(), loss.item(), rtol=1e-3)


@pytest.mark.parametrize('name, case', golden('prevmatch_loss*.npz'))
def test_what_is_pasted(name, case):
    """The labels of the copies go where the image goes."""
    if 'pseudo_prev' not in case:
        return
    method = build(case, case['logits_x'].shape[1])
    n, _, *size = case['logits_u_w'].shape
    first, second = ({'weak': paddle.zeros([n, 3, *size]), 'valid': tensor(case[f'ignore_mask{key}'] != IGNORE)}
                     for key in ('', '_mix'))
    guide, = method.earlier(first, second, Replay(case))
    np.testing.assert_array_equal(guide.own.label.numpy(), case['pseudo_prev'])
    close(guide.own.conf.numpy(), case['conf_prev'], rtol=1e-5, atol=2e-6)
    for k in (1, 2):
        mixed = guide.own.pasted(tensor(case[f'cutmix_box{k}'] == 1), guide.other)
        np.testing.assert_array_equal(mixed.label.numpy(), case[f'pseudo_prev_mixed{k}'])
        close(mixed.conf.numpy(), case[f'conf_prev_mixed{k}'], rtol=1e-5, atol=2e-6)
        np.testing.assert_array_equal(mixed.valid.numpy(), case[f'ignore_mixed{k}'] != IGNORE)


@pytest.mark.parametrize('name, case', golden('prevmatch_ramp*.npz'))
def test_ramp(name, case):
    for i, total in enumerate(case['total_epochs'].tolist()):
        for ramp, key in (('triangle', f'lambda_{i}'), ('cosine', f'log_cosine_{i}')):
            found = [triangle_or_cosine(epoch, total, ramp) for epoch in range(total)]
            close(found, case[key], rtol=1e-5, atol=2e-6)


class Number(nn.Layer):
    """A network that is one number."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Identity(), nn.Conv2D(3, 2, 1)

    def forward(self, x):
        return [self.head(self.backbone(x))]


def numbered(**knobs):
    method = PrevMatch(Task(Number, {'types': [CrossEntropyLoss()], 'coef': [1]}, 2), **knobs)

    def members():
        return [round(method.pool.members[place].head.bias[0].item()) for place in method.pool.places()]

    return method, members


@pytest.mark.parametrize('name, case', golden('prevmatch_pool*.npz'))
def test_pool_of_the_best(name, case):
    """An epoch of the program is an interval between evaluations."""
    score, limit, length = case['score'].tolist(), int(case['list_max_len']), 3
    clock = Clock(length * len(score))
    method, members = numbered(rule='best', pool_size=limit, pool_start=length * int(case['base_only_epoch']))
    for epoch, miou in enumerate(score):
        assert members() == [member for member in case['pool'][epoch] if member >= 0]
        for _ in range(length):
            clock.tick()
            method.after_update(clock)
        method.model.head.bias.set_value(np.full(2, epoch, 'float32'))
        method.after_evaluation({'mIoU': miou, 'Acc': 0.}, clock)
        assert method.best.item() == case['previous_best'][epoch]


@pytest.mark.parametrize('knobs, wanted', [
    ({'every': 0.1}, [*range(10, 101, 10)]), ({'every': 0.05, 'pool_size': 8}, [*range(65, 101, 5)]),
    ({'every': 30}, [30, 60, 90]), ({'every': 0.3, 'pool_start': 20}, [50, 80]),
    ({'every': 0.5, 'pool_start': 0.75}, []), ({'every': 0.07, 'pool_start': 0.5, 'pool_size': 3}, [85, 92, 99])])
def test_pool_on_a_schedule(knobs, wanted):
    method, members = numbered(**{'pool_size': 20, **knobs})
    clock = Clock(100)
    for _ in range(clock.iters):
        clock.tick()
        method.model.head.bias.set_value(np.full(2, clock.iter, 'float32'))
        method.after_update(clock)
        method.after_evaluation({'mIoU': clock.iter / 100, 'Acc': 0.}, clock)  # does not matter
    assert members() == wanted


def test_the_pool_is_part_of_the_state():
    method, members = numbered(pool_size=2)
    for number in range(5):
        method.model.head.bias.set_value(np.full(2, number, 'float32'))
        method.pool.push(method.model)
    state = {name: value.numpy() for name, value in method.state_dict().items()}
    again, theirs = numbered(pool_size=2)
    again.expect(state)
    again.set_state_dict(state)
    assert theirs() == members() == [3, 4]
    again.train()
    pseudo = Pseudo.of(again.pool(paddle.zeros([1, 3, 2, 2]), again.pool.places(), [0.5, 0.5]))
    assert pseudo.label.shape == [1, 2, 2] and not again.pool.members[0].training
    assert all(param.stop_gradient for param in again.pool.parameters())


def test_scripted_copies_are_copies():
    """What a member is told to say, the network is not: the tests above rest on it."""
    method = PrevMatch(task(3), pool_size=1)
    method.pool.push(method.model)
    method.pool.members[0].says = [paddle.zeros([1])]
    assert isinstance(method.model, Scripted) and method.model.says == []
