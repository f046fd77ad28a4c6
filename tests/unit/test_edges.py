"""Ties at a threshold, padding, the first updates of a teacher, weights of terms: what is off by one comparison or one
step may not show in the numbers of whole steps."""

import inspect

import numpy as np
import paddle
import pytest
from conftest import tensor
from paddle import nn
from paddleseg.models.losses import CrossEntropyLoss
from test_consistency_methods import NUM_CLASSES, build, make_batch, new_trainer

from paddleseg_semi.core.clock import Clock
from paddleseg_semi.cvlibs.config import method_file, read_yaml
from paddleseg_semi.losses.adversarial import trusted
from paddleseg_semi.losses.affinity import affinity_losses, pair_sets
from paddleseg_semi.losses.consistency import consistency
from paddleseg_semi.losses.contrast import assign_roles
from paddleseg_semi.losses.hardness import confident_share
from paddleseg_semi.losses.ohem import HardPixelLoss
from paddleseg_semi.methods.base import Task
from paddleseg_semi.methods.pseudo import Pseudo
from paddleseg_semi.models.affinity import affinities, from_sources
from paddleseg_semi.models.modes import evaluating
from paddleseg_semi.registries import METHODS

LOSSES = {'types': [CrossEntropyLoss()], 'coef': [1]}


class Undecided(nn.Layer):
    """Gives half of the probability to each of two classes, of three; to the first one where an image is negative, a
    little less."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Identity()
        self.head = nn.Conv2D(3, NUM_CLASSES, 1)  # so that a search finds a classifier

    def forward(self, x):
        x = self.backbone(x)
        first = paddle.where(x[:, :1] < 0, paddle.full_like(x[:, :1], -1e-3), paddle.zeros_like(x[:, :1]))
        return [paddle.concat([first, paddle.zeros_like(first), paddle.full_like(first, -1e9)], 1) +
                0 * self.head(x)]


def undecided(name, **knobs):
    return METHODS[name](Task(Undecided, LOSSES, NUM_CLASSES), **knobs)


def batch_of(method, value=1.):
    """Images of one value, labels of class 0."""
    batch = make_batch(method, np.random.default_rng(0))
    for name, part in batch.items():
        for key in part:
            if key != 'valid' and key != 'label':
                part[key] = paddle.full_like(part[key], value if name != 'labeled' else 1.)
    return batch


@pytest.mark.parametrize('name', ['FixMatch', 'UniMatch', 'UniMatchV2', 'CutMixSeg', 'IMAS'])
def test_a_confidence_that_equals_the_threshold_is_kept(name):
    method = undecided(name, conf_thresh=0.5)
    method.train()
    batch = batch_of(method)
    losses, stats = method.step(batch, Clock(10))
    assert stats['kept'].item() == 1
    assert all(losses[term].item() > 0 for term in ('s1', 's2', 'fp') if term in losses)
    assert method.explain(batch['unlabeled'], Clock(10))[1].all()
    method.conf_thresh = np.nextafter(np.float32(0.5), np.float32(1)).item()
    assert method.step(batch, Clock(10))[1]['kept'].item() == 0
    assert not method.explain(batch['unlabeled'], Clock(10))[1].any()


def test_ties_that_are_sure():
    conf = paddle.full([1, 2, 2], 0.5)
    assert confident_share(conf, 0.5, conf > 0).item() == 1
    assert trusted(paddle.zeros([1, 1, 2, 2]), 0.5)[1].all()


def test_ties_in_the_roles_of_u2pl():
    """An anchor is above its threshold, a key below its own; pixels at the percentiles are reliable and unreliable."""
    prob = tensor(np.array([.5, .25, .25], 'float32').reshape([1, 3, 1, 1]).repeat(2, 0))
    one_hot = tensor(np.array([1, 0, 0], bool).reshape([1, 3, 1, 1]).repeat(2, 0))
    seen = paddle.ones([2, 1, 1], 'bool')
    for threshold, anchors in ((0.5, 0), (0.49, 2)):
        assert assign_roles(one_hot, prob, seen, seen, 1, 1, 3, threshold).anchor.sum().item() == anchors
    other = tensor(np.array([0, 1, 0], bool).reshape([1, 3, 1, 1]).repeat(2, 0))
    for threshold, keys in ((0.25, 0), (0.26, 1)):
        assert assign_roles(other, prob, seen, seen, 1, 1, 3, 0, threshold).key.sum().item() == keys

    method = undecided('U2PL', feature_layer='head', rep_channels=2, bank_size=4, bank_first=4, keep_percent=50,
                       alpha=50)
    unsure = tensor(np.array([0., 1., 2.], 'float32').reshape([1, 1, 3]))                  # the median is 1
    keep, low, high = method._split(unsure, paddle.ones([1, 1, 3], 'bool'), Clock(10))
    assert keep.flatten().tolist() == [True, False, False]
    assert low.flatten().tolist() == [True, True, False]
    assert high.flatten().tolist() == [False, True, True]


@pytest.mark.parametrize('kept', [1, 2, 3])
def test_hard_pixels_at_the_kth_probability(kept):
    """Confident predictions: `min_kept` raises the threshold, to a probability that two pixels share."""
    gap = np.log(np.array([.8, .9, .9, .99]) / (1 - np.array([.8, .9, .9, .99]))).astype('float32')
    logits = tensor(np.stack([gap, np.zeros(4, 'float32')]).reshape([1, 2, 1, 4]), grad=True)
    HardPixelLoss(0.7, kept)(logits, paddle.zeros([1, 1, 4], 'int64')).backward()
    trained = (logits.grad.numpy() != 0).any(1).ravel().tolist()
    assert trained == [True, kept > 1, kept > 1, False]


def test_padding_teaches_adversarial_training_nothing():
    method = METHODS['AdvSemiSeg'](Task(Undecided, LOSSES, NUM_CLASSES), semi_start=0, semi_start_adv=0, ndf=2,
                                   mask_threshold=0., d_remain=True)
    method.train()
    batch = make_batch(method, np.random.default_rng(0), size=64)
    seen, tell = [], method._unlabeled
    method._unlabeled = lambda *args: seen.append(tell(*args)) or seen[-1]
    for valid in (True, False):
        batch['unlabeled']['valid'] = paddle.full_like(batch['unlabeled']['valid'], valid)
        losses, stats = method.step(batch, Clock(10))
        assert (losses['semi'].item() > 0) == (losses['semi_adv'].item() > 0) == valid
        assert stats['kept'].item() == valid
        assert seen[-1][1][1].all().item() == valid  # and the discriminator


@pytest.mark.parametrize('name, knobs', [('MeanTeacher', {'ema_warmup': True}), ('UniMatchV2', {}),
                                         ('CutMixSeg', {'ema_warmup': True})])
def test_first_updates_of_a_teacher(name, knobs):
    """After the first it is the student; after the second, the mean of the students so far, by min(1 - 1 / (t + 1),
    decay) with t from 0."""
    paddle.seed(0)
    method = build(name, **knobs, ema_decay=0.99)
    trainer, students = new_trainer(method), []
    for _ in range(3):
        trainer.step(make_batch(method, np.random.default_rng(len(students))))
        students.append(method.model.head.weight.numpy())
        np.testing.assert_allclose(method.teacher.net.head.weight.numpy(), np.mean(students, 0), rtol=1e-5, atol=1e-7)
    assert (students[0] != students[1]).any()


def test_a_teacher_without_warm_up_starts_slowly():
    paddle.seed(0)
    method = build('MeanTeacher', ema_decay=0.9)
    before = method.model.head.weight.numpy()
    new_trainer(method).step(make_batch(method, np.random.default_rng(0)))
    wanted = 0.9 * before + 0.1 * method.model.head.weight.numpy()
    np.testing.assert_allclose(method.teacher.net.head.weight.numpy(), wanted, rtol=1e-5, atol=1e-7)


class Channels(nn.Layer):
    """Features of ones; logits as many as channels, so that what was dropped can be read off."""

    def __init__(self, width=64):
        super().__init__()
        self.backbone, self.width = nn.Identity(), width
        self.head = nn.Conv2D(width, width, 1)

    def forward(self, x):
        return [self.backbone(paddle.ones([len(x), self.width, 2, 2])) + 0 * self.head.bias.sum()]


@pytest.mark.parametrize('pairs', [2, 5, 8])
def test_half_of_the_pairs_keep_all_channels(pairs):
    method = METHODS['UniMatchV2'](Task(Channels, LOSSES, 64))
    kept = []
    for clock in (Clock(10, seed=seed) for seed in range(8)):
        first, second = method.strong_pass(paddle.zeros([2 * pairs, 3, 4, 4]), clock)[:, :, 0, 0].split(2)
        whole = ((first == 1) & (second == 1)).all(1)
        assert whole.astype('int64').sum().item() == pairs // 2
        assert ((first + second) == 2).all()
        changed = first.numpy()[~whole.numpy()]
        assert set(np.unique(changed)) == {0, 2} and 0.3 < (changed == 2).mean() < 0.7
        kept.append(whole.tolist())
    assert len(set(map(tuple, kept))) > 1, 'drawn anew'


class Strided(nn.Layer):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(3, 4, 8, 8)

    def forward(self, x):
        return [self.conv(x)]


def test_weights_of_the_pairs_of_affinitynet():
    """Each term is its own mean times its own weight, and all reach the features."""
    weights = {'bg': 0.3, 'same': 0.5, 'diff': 0.7}
    method = METHODS['Affinity'](Task(Strided, {'types': [], 'coef': []}, NUM_CLASSES), 2, *weights.values())
    rng = np.random.default_rng(0)
    batch = {'img': tensor(rng.standard_normal((2, 3, 64, 64)).astype('float32')),
             'label': tensor(rng.choice([0, 1, 2, 255], (2, 8, 8)))}
    losses, stats = method.step({'scored': batch}, Clock(10))
    at = from_sources(batch['label'], method.steps)
    sets = pair_sets(at(0, 0).unsqueeze(1), paddle.stack([at(*step) for step in method.steps], axis=1))
    terms = affinity_losses(affinities(method.model(batch['img'])[0], method.steps), *sets)
    for (name, weight), term in zip(weights.items(), terms, strict=True):
        assert term.item() > 0
        np.testing.assert_allclose(losses[name].item(), weight * term.item(), rtol=1e-5)
    sum(losses.values()).backward()
    assert method.model.conv.weight.grad.abs().sum().item() > 0
    np.testing.assert_allclose(stats['kept'].item(), sum(kind.numpy().mean() for kind in sets), rtol=1e-5)


def test_weights_of_the_papers():
    papers = {'Affinity': {'radius': 5, 'bg_weight': 0.25, 'same_weight': 0.25, 'diff_weight': 0.5},
              'EADER': {'steps_localizer': 200, 'steps_adversary': 200, 'am_weight': 0.05, 'reg_weight': 1e-5,
                        'omega': 100., 'sigma': 0.5}}
    for name, wanted in papers.items():
        knobs = inspect.signature(METHODS[name]).parameters
        assert {key: knobs[key].default for key in wanted} == wanted


@pytest.mark.parametrize('name', sorted(METHODS.components_dict))
def test_yaml_holds_the_defaults_of_every_method(name):
    """Each knob is in the method's file with its default, but for parts that only a recipe can name."""
    section = read_yaml(method_file(name))['method']
    knobs = dict(list(inspect.signature(METHODS[name]).parameters.items())[1:])
    defaults = {key: list(knob.default) if isinstance(knob.default, tuple) else knob.default
                for key, knob in knobs.items() if key != 'adversary'}
    assert section == {'type': name, **defaults}


def test_nothing_flows_back_into_pseudo_labels_and_teachers():
    logits = paddle.randn([2, NUM_CLASSES, 4, 4])
    logits.stop_gradient = False
    pseudo = Pseudo.of(logits)
    assert pseudo.label.stop_gradient and pseudo.conf.stop_gradient
    for kind in ('var', 'kld'):
        student, teacher = paddle.randn([2, 3, 4, 4]), paddle.randn([2, 3, 4, 4])
        student.stop_gradient = teacher.stop_gradient = False
        consistency(student, teacher, kind).sum().backward()
        assert student.grad is not None and teacher.grad is None
    method = undecided('FixMatch')
    with evaluating(method.model):
        assert all(value.stop_gradient for value in method.pseudo_label(paddle.ones([1, 3, 4, 4])))
