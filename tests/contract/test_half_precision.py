"""Mixed precision, emulated (see tests/half.py): the gradient of every term of every method points where it does in
float32. The network is small, so that what is rounded in its depth does not hide what a term makes of it."""

import numpy as np
import paddle
import pytest
from half import emulated
from paddleseg.cvlibs import manager

from .test_affinity import scored  # noqa: F401  a fixture
from .test_eader import eader, small  # noqa: F401  fixtures
from .test_host_syncs import of_recipe
from .test_methods import MODELS, NAMES, build, next_batch
from .test_sbnet import tagged  # noqa: F401  a fixture

# So that after a few steps all terms have something to say.
KNOBS = {
    'AdvSemiSeg': {'ndf': 4, 'mask_threshold': 0., 'semi_start': 0., 'semi_start_adv': 0.},
    'CutMixSeg': {'conf_thresh': 0.4, 'weight': 100., 'ema_decay': 0.9},
    'IMAS': {'conf_thresh': 0.4},
    'S4GAN': {'ndf': 4, 'threshold': 0.},
    'U2PL': {'mix_prob': 1., 'rep_channels': 64, 'num_negatives': 10, 'bank_size': 500, 'bank_first': 500},
    **dict.fromkeys(['FixMatch', 'UniMatch', 'UniMatchV2'], {'conf_thresh': 0.4}),
}
ALIKE = 0.99  # cosine
STEPS = 20


class Plain(paddle.nn.Layer):
    """Two convolutions at a quarter of the size, resized back."""

    def __init__(self, num_classes, pretrained=None):
        super().__init__()
        self.body = paddle.nn.Sequential(
            paddle.nn.Conv2D(3, 8, 5, stride=4, padding=2), paddle.nn.BatchNorm2D(8), paddle.nn.ReLU())
        self.head = paddle.nn.Conv2D(8, num_classes, 1)

    def forward(self, x):
        return [paddle.nn.functional.interpolate(self.head(self.body(x)), paddle.shape(x)[2:], mode='bilinear')]


class TwoLevels(paddle.nn.Layer):
    """A backbone of two features, at a quarter and an eighth of the size."""

    feat_channels = [8, 16]

    def __init__(self, in_channels=3):
        super().__init__()
        self.fine = paddle.nn.Conv2D(in_channels, 8, 5, stride=4, padding=2)
        self.coarse = paddle.nn.Conv2D(8, 16, 3, stride=2, padding=1)

    def forward(self, x):
        fine = paddle.nn.functional.relu(self.fine(x))
        return [fine, paddle.nn.functional.relu(self.coarse(fine))]


class Exact(TwoLevels):
    """The same in float32: where a map is largest, and so where its gradient goes, is not decided by rounding."""

    @paddle.amp.auto_cast(enable=False)
    def forward(self, x):
        return super().forward(x)


def gradients(trainer, batch, scale=1.):
    """{term: gradient of all parameters that are trained, float64} of one step; `scale` is that of the loss."""
    paddle.seed(1)
    params = [param for player in trainer.players.values() for param in player.layer.parameters()
              if not param.stop_gradient]
    losses, _ = trainer.method.step(batch, trainer.clock)
    terms = {name: term for name, term in losses.items() if not term.stop_gradient}
    found = {}
    for name, term in terms.items():
        grads = paddle.grad([term.astype('float32') * scale], params, retain_graph=True, allow_unused=True)
        found[name] = np.concatenate([np.zeros(param.size) if grad is None else
                                      grad.numpy().ravel().astype('float64') / scale
                                      for grad, param in zip(grads, params)])
    return found


def check(trainer):
    """Some steps of training, then one as in float32 and one in each half precision from the same weights."""
    trainer.method.train()
    for _ in range(STEPS):
        trainer.step(next_batch(trainer))
    batch = next_batch(trainer)
    trainer.streams.clear()
    state = {name: value.numpy() for name, value in trainer.method.state_dict().items()}
    wanted = gradients(trainer, batch)
    for dtype, scale in (('float16', 1024.), ('bfloat16', 1.)):
        trainer.method.set_state_dict(state)
        with emulated(dtype) as autocast, autocast():
            found = gradients(trainer, batch, scale)
        assert found.keys() == wanted.keys()
        bad = [line for name in found for line in compared(f'{dtype} {name}', found[name], wanted[name])]
        assert not bad, bad
        assert any(not np.array_equal(found[name], wanted[name]) for name in found), 'nothing was rounded'
    return set(wanted)


def compared(name, found, wanted):
    """Yields what is wrong with a gradient."""
    lengths = np.linalg.norm(found), np.linalg.norm(wanted)
    cosine, ratio = found @ wanted / max(lengths[0] * lengths[1], 1e-30), lengths[0] / max(lengths[1], 1e-30)
    if not lengths[1]:
        yield f'{name}: has no gradient here'
    elif not (cosine >= ALIKE and 0.75 < ratio < 1.33):
        yield f'{name}: cosine {cosine:.4f}, length {ratio:.3f}'


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.setitem(MODELS, 'Plain', ({'type': 'Plain', 'num_classes': 3}, [1]))
    monkeypatch.setitem(manager.MODELS.components_dict, 'Plain', Plain)
    for backbone in (TwoLevels, Exact):
        monkeypatch.setitem(manager.BACKBONES.components_dict, backbone.__name__, backbone)


@pytest.mark.parametrize('method', NAMES)
def test_methods_with_masks(shared_toy, monkeypatch, method):
    monkeypatch.chdir(shared_toy.folder)
    check(build(shared_toy, method, 'Plain', '--no_cpu_tuning', iters=2 * STEPS, knobs=KNOBS.get(method)))


@pytest.mark.parametrize('turn, terms', [(STEPS + 1, {'loc', 'reg', 'am'}), (STEPS, {'adv'})])
def test_eader(eader, monkeypatch, turn, terms):  # noqa: F811
    eader.recipe['method'] = {'type': 'EADER', 'adversary': {'type': 'TwoLevels'}, 'steps_localizer': turn,
                              'steps_adversary': 5}
    eader.recipe['model']['backbone'] = {'type': 'Exact'}
    eader.flags()
    assert check(of_recipe(eader, monkeypatch)) == terms


def test_sbnet(tagged, monkeypatch):  # noqa: F811
    tagged.recipe['semi']['boundary'] = 'maps'
    tagged.recipe['model'] = {**tagged.recipe['model'], 'backbone': {'type': 'TwoLevels'}, 'boundary_indices': [0, 1]}
    tagged.flags()
    assert check(of_recipe(tagged, monkeypatch)) == {'cls', 'er', 'ecr', 'ct', 'smooth'}


def test_affinity(scored, monkeypatch):  # noqa: F811
    scored.flags()
    assert check(of_recipe(scored, monkeypatch)) == {'bg', 'same', 'diff'}
