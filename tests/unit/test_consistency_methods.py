"""Methods with two views or two networks: two steps of the trainer, and what knobs refuse."""

import contextlib
import inspect
import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
import yaml
from conftest import ROOT, float16_sums, tensor
from paddle import nn
from paddleseg.models.losses import CrossEntropyLoss
from tiny import make_photos, make_recipe

from paddleseg_semi.core.clock import Clock
from paddleseg_semi.core.trainer import Plan, Player, Precision, Trainer
from paddleseg_semi.cvlibs import SemiBuilder, SemiConfig
from paddleseg_semi.cvlibs.config import method_file, read_yaml
from paddleseg_semi.errors import InputError
from paddleseg_semi.losses.consistency import consistency
from paddleseg_semi.methods.base import Task
from paddleseg_semi.registries import METHODS

NUM_CLASSES, SIZE = 3, 24
VARIANTS = [('MeanTeacher', {}), ('MeanTeacher', {'teacher_bn': 'running'}), ('CutMixSeg', {}),
            ('CutMixSeg', {'conf_per_pixel': True, 'distance': 'kld', 'partner': 'reversed', 'conf_thresh': 0.}),
            ('FixMatch', {'conf_thresh': 0.}), ('FixMatch', {'ema_decay': 0.9, 'conf_thresh': 0.}),
            ('UniMatch', {'conf_thresh': 0.}), ('UniMatch', {'ema_decay': 0.9, 'conf_thresh': 0.}),
            ('UniMatch', {'partner': 'reversed', 'feature_layer': 'backbone.1', 'conf_thresh': 0.}), ('UniMatchV2', {}),
            ('UniMatchV2', {'partner': 'other', 'conf_thresh': 0.}), ('CPS', {}),
            ('CPS', {'cutmix': False}), ('CPS', {'partner': 'reversed'}), ('CorrMatch', {'conf_thresh': 0.}),
            ('CorrMatch', {'partner': 'reversed', 'stride': 4, 'reference_quirks': True}),
            ('PrevMatch', {'every': 1, 'conf_thresh': 0., 'prev_thresh': 0.}),
            ('PrevMatch', {'every': 1, 'prev_average': True, 'ramp': 'cosine', 'pool_size': 1}),
            ('PrevMatch', {'every': 1, 'prev_average': True, 'reference_quirks': True, 'ema_decay': 0.9}),
            ('AugSeg', {'conf_thresh': 0.}), ('AugSeg', {'weak_statistics': True, 'inject_beta': [1, 20]})]


class Net(nn.Layer):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2D(3, 8, 3, 2, 1), nn.BatchNorm2D(8), nn.ReLU())
        self.drop, self.head, self.aux = nn.Dropout(0.5), nn.Conv2D(8, NUM_CLASSES, 1), nn.Conv2D(8, NUM_CLASSES, 1)

    def forward(self, x):
        feature = self.backbone(x)
        heads = [self.head(self.drop(feature))] + ([self.aux(feature)] if self.training else [])
        return [F.interpolate(logits, x.shape[2:], mode='bilinear') for logits in heads]


def build(name, **knobs):
    losses = {'types': [CrossEntropyLoss()] * 2, 'coef': [1, 0.4]}
    return METHODS[name](Task(Net, losses, NUM_CLASSES), **knobs)


def make_batch(method, rng, valid=True, n=2, size=SIZE):
    def unlabeled():
        views = {view: tensor(rng.standard_normal((n, 3, size, size)).astype('float32'))
                 for view in ('weak', 'strong', 'strong_2')}
        return {**views, 'valid': paddle.full([n, size, size], valid, 'bool')}

    labeled = {'img': unlabeled()['weak'], 'label': tensor(rng.integers(0, NUM_CLASSES, (n, size, size)))}
    return {stream: labeled if kind.opens_masks else unlabeled() for stream, kind in method.streams.items()}


def train(name, knobs, steps=2):
    """Method, and the losses and statistics of each step."""
    paddle.seed(0)
    method, rng = build(name, **knobs), np.random.default_rng(0)
    trainer = new_trainer(method)
    return method, [trainer.step(make_batch(method, rng)) for _ in range(steps)]


def new_trainer(method, **settings):
    players = {}
    for key, layer in method.players().items():
        schedule = paddle.optimizer.lr.PolynomialDecay(0.05, 10)
        players[key] = Player(layer, paddle.optimizer.Momentum(schedule, parameters=layer.parameters()), schedule)
    method.train()
    return Trainer(method, {}, players, Clock(10), None, None, Plan(), **settings)


def weights(method):
    return {name: value.numpy() for name, value in method.state_dict().items()}


@pytest.mark.parametrize('name, knobs', VARIANTS)
def test_two_steps(name, knobs):
    method, steps = train(name, knobs)
    for losses, stats in steps:
        assert losses.keys() == steps[0][0].keys() and stats.keys() == steps[0][1].keys()
        assert {'kept', 'conf'} <= stats.keys()
        for key, value in {**losses, **stats}.items():
            assert value.size == 1 and np.isfinite(value.item()), key
        assert all(0 <= value.item() <= 1 for value in stats.values())
    again = weights(train(name, knobs)[0])
    for key, value in weights(method).items():
        np.testing.assert_array_equal(value, again[key], key)
    assert method.deployed.state_dict().keys() == Net().state_dict().keys()
    pseudo, keep = method.explain(make_batch(method, np.random.default_rng(1))['unlabeled'], Clock(10))
    assert [(view.shape, view.dtype) for view in (*pseudo, keep)] == [
        ([2, SIZE, SIZE], dtype) for dtype in (paddle.int64, paddle.float32, paddle.bool, paddle.bool)]


@pytest.mark.parametrize('name', ['AdvSemiSeg', 'CPS', 'IMAS', 'MeanTeacher'])
@pytest.mark.parametrize('quirks', [False, True])
def test_padding_counts_as_image_where_the_published_code_has_it_so(name, quirks):
    losses = {'types': [CrossEntropyLoss()], 'coef': [1]}
    method = METHODS[name](Task(lambda: paddle.nn.Conv2D(3, NUM_CLASSES, 3), losses, NUM_CLASSES),
                           reference_quirks=quirks)
    assert method.streams['unlabeled'].padding == quirks


@pytest.mark.parametrize('name, knobs', VARIANTS)
def test_gradients_reach_the_players_alone(name, knobs):
    method = build(name, **knobs)
    method.train()
    losses, _ = method.step(make_batch(method, np.random.default_rng(0)), Clock(10))
    sum(losses.values()).backward()
    trained = {id(param) for layer in method.players().values() for param in layer.parameters()}
    for key, param in method.named_parameters():
        if not key.endswith(('._mean', '._variance')):
            assert (param.grad is not None) == (id(param) in trained), key


@pytest.mark.parametrize('name, knobs', VARIANTS)
def test_nothing_valid_is_no_loss(name, knobs):
    method = build(name, **knobs)
    method.train()
    batch = make_batch(method, np.random.default_rng(0), valid=False)
    batch['labeled']['label'] = paddle.full_like(batch['labeled']['label'], 255)
    losses, stats = method.step(batch, Clock(10))
    sum(losses.values()).backward()
    assert sum(losses.values()).item() == 0
    assert stats['kept'].item() == 0
    for param in method.parameters():
        assert param.grad is None or (param.grad.numpy() == 0).all()


@pytest.mark.parametrize('name', sorted({name for name, _ in VARIANTS}))
def test_sums_over_pixels_stay_out_of_float16(name):
    found = []
    for context in (contextlib.nullcontext, float16_sums):
        paddle.seed(0)
        method = build(name)
        method.train()
        with context():
            losses, _ = method.step(make_batch(method, np.random.default_rng(0), size=192), Clock(10))
        found.append([loss.item() for loss in losses.values()])
    np.testing.assert_allclose(*found, rtol=1e-2)


@pytest.mark.parametrize('player', ['model', 'model_2'])
def test_an_overflow_in_one_player_stops_all(player, monkeypatch):
    place = SimpleNamespace(is_gpu_place=lambda: True)  # on a CPU the scaler would switch itself off
    monkeypatch.setattr(paddle.amp.grad_scaler, '_dygraph_tracer', lambda: SimpleNamespace(_expected_place=place))
    precision, method = Precision('fp16'), build('CPS')
    trainer = new_trainer(method, precision=precision)
    before = [param.numpy() for param in method.parameters() if not param.stop_gradient]
    method.players()[player].head.weight.register_hook(lambda grad: grad * float('inf'))
    trainer.step(make_batch(method, np.random.default_rng(0)))
    assert precision.scaler.state_dict()['scale'].item() == 512
    for param, value in zip((param for param in method.parameters() if not param.stop_gradient), before):
        np.testing.assert_array_equal(param.numpy(), value)


@pytest.mark.parametrize('name', sorted({name for name, _ in VARIANTS}))
def test_yaml_holds_every_knob_with_its_default(name):
    section = read_yaml(method_file(name))['method']
    assert section.pop('type') == name
    knobs = dict(list(inspect.signature(METHODS[name]).parameters.items())[1:])
    defaults = {key: list(knob.default) if isinstance(knob.default, tuple) else knob.default
                for key, knob in knobs.items()}
    assert section == defaults


@pytest.mark.parametrize('name, knobs, says', [
    ('MeanTeacher', {'teacher_bn': 'bach'}, 'Did you mean "batch"'), ('CutMixSeg', {'partner': 'revers'}, 'reversed'),
    ('CutMixSeg', {'distance': 'kl'}, 'kld'), ('CPS', {'partner': 'self'}, 'other, reversed, same'),
    ('UniMatch', {'feature_layer': 'backbon'}, 'Did you mean "backbone"'),
    ('UniMatch', {'feature_layer': 'aux'}, 'candidates: backbone'), ('PrevMatch', {'rule': 'beast'}, 'mean "best"'),
    ('PrevMatch', {'ramp': 'linear'}, 'triangle, cosine'), ('PrevMatch', {'every': 0}, 'every: 0: .* above 0'),
    ('PrevMatch', {'pool_size': 0}, 'pool_size: 0: .* at least 1'),
    ('PrevMatch', {'members': 0}, 'members: 0: .* at least 1'),
])
def test_wrong_knobs_are_refused(name, knobs, says):
    with pytest.raises(InputError, match=says):
        build(name, **knobs)


@pytest.mark.parametrize('method', ['FixMatch', 'UniMatch', 'UniMatchV2', 'CPS', 'CutMixSeg', 'CorrMatch', 'PrevMatch'])
def test_the_same_partner_is_another_crop_of_the_same_image(method, tmp_path):
    """On both of two ranks, over several epochs."""
    make_photos(tmp_path)
    recipe = make_recipe(tmp_path, [{'type': 'RandomPaddingCrop', 'crop_size': [16, 16]}])[1]
    shown = {}
    for partner, rank in itertools.product(['same', 'other'], range(2)):
        config = SemiConfig(recipe, [f'method.partner={partner}'], label_ratio=0.41, method=method)
        builder = SemiBuilder(config, rank=rank, ranks=2)
        streams = builder.streams(builder.stream_sizes(builder.method(), builder.split()))
        pairs = [(next(streams['unlabeled']), next(streams['mix'])) for _ in range(6)]
        shown[partner, rank] = [[part['index'].item() for part in pair] for pair in pairs]
        assert all((first['weak'] != second['weak']).any() for first, second in pairs)
    for rank in range(2):
        assert all(first == second for first, second in shown['same', rank])
        assert any(first != second for first, second in shown['other', rank])
        assert [first for first, _ in shown['same', rank]] == [first for first, _ in shown['other', rank]]


@pytest.mark.parametrize('apart', [True, False])
def test_two_networks_from_one_start_are_warned_of(monkeypatch, apart):
    said, first = [], []

    def new_model():
        model = paddle.nn.Linear(2, 3)
        if first and not apart:
            model.set_state_dict(first[0].state_dict())
        first.append(model)
        return model

    monkeypatch.setattr('paddleseg_semi.methods.cps.logger.warning', said.append)
    METHODS['CPS'](Task(new_model, {}, 3))
    assert len(said) == (not apart) and all('model.pretrained' in line for line in said)


@pytest.mark.parametrize('name', ['FixMatch', 'CorrMatch', 'AugSeg'])
def test_crops_of_two_sizes_are_refused(name):
    method = build(name)
    batch = make_batch(method, np.random.default_rng(0))
    batch['labeled']['img'] = batch['labeled']['img'][:, :, :16]
    with pytest.raises(InputError, match='crop size'):
        method.step(batch, Clock(10))


@pytest.mark.parametrize('shape, rest', [((2, 64, 3, 4), (2, 3)), ((2, 12, 64), (1,))], ids=['map', 'tokens'])
def test_channels_are_dropped_as_a_whole(shape, rest):
    alive = build('UniMatch').disturb(paddle.ones(shape))[2:].numpy() > 0
    assert (alive == alive.any(rest, keepdims=True)).all()
    assert 0.2 < alive.mean() < 0.8


def test_teachers_differ_in_their_statistics():
    """A teacher that never moves: on batch statistics it still collects its own."""
    for bn in ('batch', 'running'):
        method, _ = train('MeanTeacher', {'teacher_bn': bn, 'ema_decay': 1.}, steps=1)
        assert (method.teacher.net.backbone[1]._mean.numpy() != 0).any() == (bn == 'batch')


def test_rampup():
    method, clock = build('MeanTeacher', cons_weight=2., rampup=0.5), Clock(10)
    weights_seen = []
    for clock.iter in range(10):
        weights_seen.append(method.weight_now(clock))
    np.testing.assert_allclose(weights_seen, [2 * np.exp(-5 * max(1 - t / 5, 0) ** 2) for t in range(10)])
    assert build('CutMixSeg').weight_now(Clock(10)) == 1


def test_divergence():
    student, teacher = tensor(np.random.default_rng(0).standard_normal((2, 2, 4, 3, 5)).astype('float32'))
    wanted = F.kl_div(F.log_softmax(student, 1), F.softmax(teacher, 1), reduction='none').sum(1)
    np.testing.assert_allclose(consistency(student, teacher, 'kld').numpy(), wanted.numpy(), rtol=1e-5, atol=1e-6)


def test_the_two_networks_of_cps_start_apart():
    method = build('CPS')
    assert (method.model.head.weight.numpy() != method.model_2.head.weight.numpy()).any()
    assert method.deployed is method.model


@pytest.mark.parametrize('name', sorted({name for name, _ in VARIANTS}))
def test_the_page_names_every_knob(name):
    page = (ROOT / 'docs/methods' / f'{METHODS[name].__module__.split(".")[-1]}.md').read_text()
    own = yaml.safe_load(Path(method_file(name)).read_text())['method']
    assert [knob for knob in own if knob != 'type' and not re.search(f'`{knob}[:`]', page)] == []
