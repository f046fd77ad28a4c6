"""How often a step waits for the device. Every wait empties the queue of a GPU; a new method is allowed none."""

import numpy as np
import paddle
import pytest
import train

from paddleseg_semi.core.syncs import SMALL, Sync, watched
from paddleseg_semi.cvlibs import SemiConfig
from paddleseg_semi.registries import METHODS
from paddleseg_semi.run import build_trainer
from paddleseg_semi.runtime import to_device

from .test_affinity import scored  # noqa: F401  a fixture
from .test_eader import eader, small  # noqa: F401  fixtures
from .test_methods import NAMES, build, next_batch
from .test_sbnet import tagged  # noqa: F401  a fixture

ALLOWED = {
    'CorrMatch': ['size'],        # which regions are dense: each costs a pass over the images, and most are not
    'IMAS': ['read'],             # whether images are mixed, on which the size of the student's batch depends
    'SBNet': ['read', 'upload'],  # OpenCV looks for edges on the host; after the read, the upload waits for nothing
}
BUILT_IN = {'Affinity', 'EADER', 'SBNet', *NAMES}
STEPS = 4


def waits(trainer):
    """The most waits of any of some steps in which all phases of the method have begun."""
    trainer.method.train()
    trainer.clock.iter = trainer.clock.iters // 2
    found = []
    for _ in range(STEPS):
        batch = next_batch(trainer)
        with watched() as syncs:
            trainer.step(batch)
        found.append(list(syncs))
    trainer.streams.clear()
    return max(found, key=len)


def check(name, syncs):
    assert [sync.kind for sync in syncs] == ALLOWED.get(name, []), [sync[1:] for sync in syncs]


@pytest.mark.parametrize('method', NAMES)
def test_methods_with_masks(shared_toy, monkeypatch, method):
    monkeypatch.chdir(shared_toy.folder)
    check(method, waits(build(shared_toy, method, 'toy', '--no_cpu_tuning', iters=100)))


@pytest.mark.parametrize('mode', [{'mix': 'classmix', 'mix_prob': 1.}, {'mix_prob': 1., 'reference_quirks': True,
                                                                        'prototype_decay': 0.99}])
def test_modes_of_u2pl(shared_toy, monkeypatch, mode):
    monkeypatch.chdir(shared_toy.folder)
    check('U2PL', waits(build(shared_toy, 'U2PL', 'toy', '--no_cpu_tuning', iters=100, knobs=mode)))


def of_recipe(toy, monkeypatch):
    monkeypatch.chdir(toy.folder)
    toy.recipe['iters'] = 100
    return build_trainer(SemiConfig('recipe.yml'), train.parser.parse_args([*toy.flags(), '--no_cpu_tuning']))


@pytest.mark.parametrize('mode', [{}, {'adversary': {'type': 'Small'}, 'steps_localizer': 1, 'steps_adversary': 1},
                                  {'share_weights': True}])
def test_eader(eader, monkeypatch, mode):  # noqa: F811
    eader.recipe['method'] = {'type': 'EADER', **mode}
    eader.flags()
    check('EADER', waits(of_recipe(eader, monkeypatch)))


def test_sbnet(tagged, monkeypatch):  # noqa: F811
    tagged.recipe['semi']['boundary'] = 'maps'
    tagged.flags()
    check('SBNet', waits(of_recipe(tagged, monkeypatch)))


def test_affinity(scored, monkeypatch):  # noqa: F811
    scored.flags()
    check('Affinity', waits(of_recipe(scored, monkeypatch)))


def test_every_method_is_watched():
    assert {name for name, method in METHODS.components_dict.items()
            if method.__module__.startswith('paddleseg_semi')} == BUILT_IN


WAITS = [
    ('read', lambda x: x.numpy()), ('read', lambda x: x.sum().item()), ('read', lambda x: float(x.sum())),
    ('read', lambda x: bool(x.sum() > 0)), ('read', lambda x: int(x.sum())), ('read', lambda x: x.tolist()),
    ('read', lambda x: np.asarray(x)), ('read', lambda x: f'{x.sum():.2f}'), ('read', lambda x: x.clip(min=x.mean())),
    ('read', lambda x: paddle.arange(x.sum())), ('read', lambda x: x[x.sum().astype('int64') * 0]),
    ('read', lambda x: 1 if x.sum() > 0 else 0), ('read', lambda x: x.cpu()),
    ('size', lambda x: x[x > 0]), ('size', lambda x: paddle.nonzero(x)), ('size', lambda x: paddle.where(x > 0)),
    ('size', lambda x: paddle.masked_select(x, x > 0)), ('size', lambda x: paddle.unique(x)),
    ('upload', lambda x: paddle.to_tensor([1.])), ('upload', lambda x: x + np.ones([2, 3], 'float32')),
    ('upload', lambda x: x.set_value(np.ones([2, 3], 'float32'))), ('upload', lambda x: x[np.array([1, 0])]),
    ('upload', lambda x: to_device(np.zeros(SMALL // 8 + 1))),
]
GOES_ON = [
    lambda x: x * 2 + 1, lambda x: x[0, 1:], lambda x: x.mean() * x, lambda x: paddle.where(x > 0, x, -x),
    lambda x: x.index_select(paddle.arange(2)), lambda x: paddle.zeros([3]) + 1., lambda x: x.shape[0],
    lambda x: paddle.nn.functional.interpolate(x.reshape([1, 1, 2, 3]), paddle.shape(x) * 2 - 1),
    lambda x: paddle.nn.functional.interpolate(x.reshape([1, 1, 2, 3]), paddle.shape(x)[:2]),
    lambda x: to_device(np.zeros(SMALL // 8)), lambda x: to_device(np.zeros([300, 400]) > 0),
]


@pytest.mark.parametrize('kind, call', WAITS)
def test_what_waits_is_seen(kind, call):
    x = paddle.ones([2, 3])
    with watched() as syncs:
        call(x)
    assert [sync.kind for sync in syncs] == [kind]


@pytest.mark.parametrize('call', GOES_ON)
def test_what_does_not_wait_is_not_counted(call):
    x = paddle.ones([2, 3])
    with watched() as syncs:
        call(x)
    assert not syncs


def test_watching_leaves_paddle_as_it_was():
    before = paddle.to_tensor, paddle.Tensor.numpy, paddle.Tensor.__getitem__
    with watched() as syncs:
        paddle.to_tensor([1.])
    assert (paddle.to_tensor, paddle.Tensor.numpy, paddle.Tensor.__getitem__) == before
    assert isinstance(syncs[0], Sync) and syncs[0].call == 'to_tensor'


@pytest.mark.parametrize('shape', [(1,), (16,), (17,), (3, 5), (4, 1, 33), (2, 2048)])
@pytest.mark.parametrize('dtype', ['bool', 'int32', 'int64', 'float32', 'float64'])
def test_to_device(shape, dtype):
    array = np.random.default_rng(1).integers(-2**20, 2**20, shape)
    array = array > 0 if dtype == 'bool' else (array / 3).astype(dtype)
    found = to_device(array)
    assert str(found.dtype) == f'paddle.{dtype}' and found.shape == list(shape)
    np.testing.assert_array_equal(found.numpy(), array)
