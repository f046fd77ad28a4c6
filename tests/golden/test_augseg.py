"""AugSeg against numbers from the authors' code."""

import random

import numpy as np
import paddle
import pytest
from conftest import close, golden, tensor
from scripted import CLOCK, compare, leaf, task

from paddleseg_semi.methods.augseg import AugSeg, certainty
from paddleseg_semi.transforms.intensity import FADING, RandomIntensity

CASES = golden('augseg_cutmix*.npz')


class Replay:
    """A clock, and its generator, that hands out the draws of a case in the authors' order."""

    def __init__(self, case):
        self.case, self.asked = case, []
        self.draws = {'beta': ['lam_labelled', 'lam_unlabelled'], 'permutation': ['perm'], 'random': ['gate'],
                      'integers': [f'centre_{side}_{kind}' for kind in ('labelled', 'unlabelled')
                                   for side in ('rows', 'cols')]}

    def rng(self, name):
        return self

    def reached(self, start):
        return True

    def uniform(self, low, high):
        assert low == high
        return low

    def _next(self, kind):
        self.asked.append(kind)
        return self.case[self.draws[kind].pop(0)]

    def permutation(self, n):
        return self._next('permutation')

    def random(self, n):
        return self._next('random')

    def beta(self, a, b):
        assert (a, b) == ((8, 2), (4, 4))[self.asked.count('beta')]
        return float(self._next('beta'))

    def integers(self, low, high, n):
        draw = self._next('integers')
        assert len(draw) == n and low == high // 8 and np.all((low <= draw) & (draw < high))
        return draw


def play(case, **knobs):
    """One step; returns method, losses, statistics, the student's leaf, and the clock."""
    label, student = case['label_l'], leaf(case['student_logits'])
    num_classes = student.shape[1]
    method = AugSeg(task(num_classes), conf_thresh=float(case['threshold']), **knobs)
    method.teacher.net.says = [tensor(case['teacher_logits'])]
    labeled = paddle.zeros([len(label), num_classes, *label.shape[1:]])
    weak = [paddle.zeros_like(student)] if knobs.get('weak_statistics') else []
    method.model.says = [[labeled, *weak, student]]
    image = tensor(case['image_u'])
    valid = paddle.ones([len(image), *image.shape[2:]], 'bool')
    batch = {'labeled': {'img': tensor(case['image_l']), 'label': tensor(label)},
             'unlabeled': {'weak': image, 'strong': image, 'valid': valid}}
    clock = Replay(case)
    losses, stats = method.step(batch, clock)
    assert method.teacher.net.modes == [False] and method.model.modes == [True] and not method.model.says
    return method, losses, stats, student, clock


@pytest.mark.parametrize('weak_statistics', [False, True])
@pytest.mark.parametrize('name, case', CASES)
def test_step(name, case, weak_statistics):
    method, losses, stats, student, clock = play(case, weak_statistics=weak_statistics)
    assert clock.asked == ['permutation', 'beta', 'integers', 'integers', 'beta', 'integers', 'integers', 'random']
    mixed = method.model.shown[0][-len(student):]
    np.testing.assert_array_equal(mixed.numpy(), case['image_mixed'].astype('float32'))
    close(stats['trained'].item(), case['high_ratio'], rtol=1e-5, atol=1e-6)
    close(stats['certainty'].item(), case['confidence'].mean())
    close(stats['conf'].item(), case['prob'].mean())
    compare({'unsup': losses['unsup']}, {'unsup': case['loss_unsup']}, [(student, case['grad_student'])])


@pytest.mark.parametrize('name, case', CASES)
def test_what_is_mixed(name, case):
    """Masks and confidence go where the image goes."""
    logits = tensor(case['teacher_logits'])
    certain = certainty(logits, paddle.ones([len(logits), *logits.shape[2:]], 'bool'))
    close(certain.numpy(), case['confidence'])
    own = [tensor(case[key].astype(dtype)) for key, dtype in (('image_u', 'float32'), ('pseudo', 'int64'),
                                                              ('prob', 'float32'))]
    true = [tensor(case['image_l']), tensor(case['label_l']), paddle.ones(case['label_l'].shape)]
    img, label, conf = AugSeg(task(logits.shape[1]))._mix(own, true, certain, Replay(case))
    np.testing.assert_array_equal(img.numpy(), case['image_mixed'].astype('float32'))
    np.testing.assert_array_equal(label.numpy(), case['label_mixed'])
    close(conf.numpy(), case['prob_mixed'])


def test_padding_does_not_count():
    logits, valid = paddle.randn([2, 3, 4, 5]), paddle.ones([2, 4, 5], 'bool')
    valid[0, :, 2:] = False
    valid[1] = False
    found = certainty(logits, valid)
    close(found.numpy(), [certainty(logits[:1, :, :, :2], valid[:1, :, :2]).item(), 0])
    method = AugSeg(task(3), conf_thresh=0.)
    method.teacher.net.says, method.model.says = [logits], [[paddle.zeros_like(logits), leaf(logits.numpy())]]
    blank = paddle.zeros([2, 3, 4, 5])
    images = {'weak': blank, 'strong': blank, 'valid': paddle.zeros_like(valid)}
    batch = {'labeled': {'img': blank, 'label': paddle.full([2, 4, 5], 255, 'int64')}, 'unlabeled': images}
    losses, stats = method.step(batch, CLOCK)
    assert losses['unsup'].item() == stats['kept'].item() == 0
    for quirks in (False, True):  # theirs counts
        assert AugSeg(task(3), reference_quirks=quirks).streams['unlabeled'].padding == quirks


def test_random_intensity(monkeypatch):
    """One to three operations; what is left of contrast and the like lies in 0.05..0.95."""
    drawn, numbers = [], []

    def watched(img, name, strength, least):
        drawn.append(0.95 - (0.95 - least) * strength)
        return img

    monkeypatch.setattr('paddleseg_semi.transforms.intensity.intensity', watched)
    op = RandomIntensity(num_ops=[1, 3], strength=1.0, ops=list(FADING), least=0.05)
    random.seed(0)
    for _ in range(400):
        before = len(drawn)
        op({'img': np.zeros((2, 2, 3), 'float32')})
        numbers.append(len(drawn) - before)
    assert {numbers.count(k) > 100 for k in (1, 2, 3)} == {True} and set(numbers) == {1, 2, 3}
    assert 0.05 < min(drawn) < 0.07 and 0.93 < max(drawn) <= 0.95
