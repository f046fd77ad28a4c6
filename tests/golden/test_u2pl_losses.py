"""The terms of U2PL, one function at a time, against the authors' code."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from conftest import close, golden, tensor
from u2pl_draws import Replay, fill, rows_of

from paddleseg_semi.losses.adversarial import one_hot
from paddleseg_semi.losses.contrast import (
    Contrast,
    assign_roles,
    draw_uniformly,
    entropy,
    pack,
    percentiles,
    reliable_cross_entropy,
    spilled_one_hot,
)
from paddleseg_semi.losses.ohem import HardPixelLoss
from paddleseg_semi.models.bank import Bank

IGNORE = 255


def cases(topic):
    return [pytest.param(case, id=name) for name, case in golden(f'u2pl_{topic}_*.npz')]


@pytest.mark.parametrize('case', cases('sup_loss'))
def test_supervised(case):
    loss_of = HardPixelLoss(float(case['thresh']), int(case['min_kept']), int(case['ignore_index']))
    label = tensor(case['label'])
    outputs = {'logits': 1.} | ({'aux_logits': float(case['aux_weight'])} if 'aux_logits' in case else {})
    logits = {name: tensor(case[name], grad=True) for name in outputs}
    loss = sum(weight * loss_of(logits[name], label) for name, weight in outputs.items())
    loss.backward()
    close(loss.item(), case['loss'], atol=1e-6)
    for name in outputs:
        close(logits[name].grad.numpy(), case[f'grad_{name}'], rtol=1e-3, atol=1e-7)


def test_everything_ignored_is_no_supervised_loss():
    logits = tensor(np.ones((1, 3, 4, 4), 'float32'), grad=True)
    for min_kept in (0, 5, 100):
        loss = HardPixelLoss(min_kept=min_kept)(logits, paddle.full([1, 4, 4], IGNORE, 'int64'))
        loss.backward()
        assert loss.item() == 0
    assert (logits.grad.numpy() == 0).all()


@pytest.mark.parametrize('case', cases('unsup_loss'))
def test_reliable_pixels(case):
    label = tensor(case['pseudo_label'])
    known = label != IGNORE
    uncertain = entropy(F.softmax(tensor(case['teacher_logits']), axis=1))
    close(uncertain.numpy()[known.numpy()], case['entropy_valid'], rtol=1e-5, atol=2e-6)

    threshold, = percentiles(uncertain, known, [float(case['percent'])])
    close(threshold.numpy(), case['threshold'], rtol=1e-5, atol=2e-6)
    keep = known & (uncertain < threshold)
    assert (paddle.where(keep, label, paddle.full_like(label, IGNORE)).numpy() == case['target_after']).all()

    logits = tensor(case['student_logits'], grad=True)
    loss = reliable_cross_entropy(logits, label, keep)
    loss.backward()
    close(loss.item(), case['loss'], atol=1e-6)
    close(logits.grad.numpy(), case['grad_student_logits'], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize('percent', [0, 19.3, 20, 50, 99.99, 100])
@pytest.mark.parametrize('count', [1, 2, 11, 101])
def test_percentiles_are_those_of_numpy(percent, count):
    values = np.random.default_rng(count).random((7, 50), 'float32').round(2)  # many equal ones
    keep = np.arange(values.size).reshape(values.shape) % (values.size // count) == 0
    found, twice = percentiles(tensor(values), tensor(keep), [percent, percent])
    assert found.item() == twice.item()
    wanted = np.percentile(values[keep], percent)
    assert ((values >= found.item()) == (values >= np.float32(wanted))).all()
    close(found.item(), wanted, rtol=1e-6)


def test_nothing_known_is_no_loss():
    logits = tensor(np.ones((2, 3, 4, 5), 'float32'), grad=True)
    known = paddle.zeros([2, 4, 5], 'bool')
    threshold, = percentiles(entropy(F.softmax(logits, axis=1)), known, [80.])
    keep = known & (entropy(F.softmax(logits, axis=1)) < threshold)
    loss = reliable_cross_entropy(logits, paddle.zeros([2, 4, 5], 'int64'), keep)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad.numpy() == 0).all()


@pytest.mark.parametrize('case', cases('onehot'))
def test_one_hot(case):
    label, num_classes = tensor(case['label']), int(case['num_classes'])
    known = label != IGNORE
    assert (one_hot(label, num_classes, known).numpy() == case['onehot']).all()
    assert (spilled_one_hot(label, num_classes, known).numpy() == case['onehot_reference']).all()


@pytest.mark.parametrize('case', cases('memobank'))
def test_bank(case, monkeypatch):
    ranks, dim = int(case['world_size']), case['queue_init'].shape[1]
    bank = Bank([3, int(case['queue_size'])], dim)
    assert bank.size[1].item() == len(case['queue_init'])
    for step in range(int(case['steps'])):
        keys = [case[f'keys_{step:02d}_rank{rank}'] for rank in range(ranks)]
        vectors = np.full((ranks, 2, max(map(len, keys)) + 2, dim), 7, 'float32')  # what is beyond the count is lost
        for rank, key in enumerate(keys):
            vectors[rank, 1, :len(key)] = key
        counts = np.array([[0, len(key)] for key in keys])
        gathered = iter((tensor(vectors), tensor(counts)))
        monkeypatch.setattr('paddleseg_semi.models.bank._gather', lambda _, gathered=gathered: next(gathered))
        bank.push(gathered, gathered)
        assert (rows_of(bank, 1) == case[f'queue_after_{step:02d}']).all()
        assert bank.size.tolist() == [0, case['ptr_after'][step]]
        assert counts.sum() == case['returned'][step]


def test_bank_is_saved_as_it_is():
    bank, other = Bank([4, 3], 2), Bank([4, 3], 2)
    for step in range(5):
        bank.push(tensor(np.full((2, 2, 2), step, 'float32')), tensor(np.array([2, 1])))
    other.set_state_dict({name: value.numpy() for name, value in bank.state_dict().items()})
    assert sorted(bank.state_dict()) == ['head', 'norm', 'size', 'table']
    for number in range(2):
        assert (rows_of(bank, number) == rows_of(other, number)).all()
    assert rows_of(bank, 0)[:, 0].tolist() == [3, 3, 4, 4]
    assert rows_of(bank, 1)[:, 0].tolist() == [2, 3, 4]


@pytest.mark.parametrize('case', cases('contra'))
@pytest.mark.parametrize('by_position', [True, False], ids=['published', 'aligned'])
def test_contrast(case, by_position):
    prefix, suffix = ('', '') if by_position or 'loss_aligned' not in case else ('aligned_', '_aligned')
    rep, rep_teacher = tensor(case['rep'], grad=True), tensor(case['rep_teacher'])
    sizes = [int(size) for size in case['queue_size']]
    bank = Bank(sizes, rep.shape[1])
    fill(bank, case)
    before = bank.size.numpy()

    label = tensor(np.concatenate([case['label_l'], case['label_u']]).astype(bool))
    prob = tensor(np.concatenate([case['prob_l'], case['prob_u']]))
    roles = assign_roles(label, prob, tensor(case['low_mask'][:, 0] > 0), tensor(case['high_mask'][:, 0] > 0),
                         len(case['label_l']), int(case['low_rank']), int(case['high_rank']),
                         float(case['current_class_threshold']), float(case['current_class_negative_threshold']))
    assert (np.flatnonzero(roles.member.any(1).numpy()) == case['present_classes']).all()
    assert (roles.key.numpy().sum(1) == case['new_keys']).all()

    sampler = Replay(case, prefix)
    contrast = Contrast(int(case['num_queries']), int(case['num_negatives']), float(case['temperature']), 1 << 20,
                        by_position, sampler)
    prototypes, decay = None, 0.
    if case['use_prototype']:
        prototypes = tensor(case['prototype_in'][:, :, 0])
        if case['prototype_in'].any():
            decay = min(1 - 1 / int(case['i_iter']), 0.999)
    loss, prototypes = contrast.loss(rep, rep_teacher, roles, bank, prototypes, decay)
    loss.backward()
    assert sampler.is_used_up()
    close(loss.item(), case[f'loss{suffix}'], atol=1e-6)
    close(rep.grad.numpy(), case[f'grad_rep{suffix}'], rtol=1e-3, atol=1e-7)
    if case['use_prototype']:
        close(prototypes.numpy(), case['prototype_out'][:, :, 0], rtol=1e-5, atol=1e-6)
    assert (bank.size.numpy() == case['queue_ptr_after']).all()
    assert (before + case['new_keys'] >= bank.size.numpy()).all()
    for number in range(len(sizes)):
        assert (rows_of(bank, number) == case[f'bank_after_{number:02d}']).all()


def test_more_keys_than_fit_are_thinned_evenly():
    mask = np.zeros((2, 40), bool)
    mask[0, ::2] = True
    mask[1, 30:33] = True
    features = paddle.arange(40, dtype='float32').unsqueeze(1)
    packed, count = pack(features, tensor(mask), 5)
    assert count.tolist() == [5, 3]
    assert packed[0, :, 0].tolist() == [0, 8, 16, 24, 32]
    assert packed[1, :3, 0].tolist() == [30, 31, 32]


def test_draws_stay_in_range():
    anchors, keys = draw_uniformly(tensor(np.array([0, 1, 7])), tensor(np.array([3, 0, 1 << 20])), 50, 4)
    assert anchors.shape == [3, 50]
    assert keys.shape == [3, 200]
    assert anchors.max(1).tolist() == [0, 0, 6]
    assert keys.min() >= 0
    assert keys[0].max() == 2
    assert keys[1].max() == 0
    assert 1 << 19 < keys[2].max() < 1 << 20
