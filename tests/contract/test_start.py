"""`semi.start`: labeled images alone until then, for every method by one key."""

import numpy as np
import paddle
import pytest
from conftest import ROOT

from paddleseg_semi.registries import METHODS

from .test_methods import NAMES, build, next_batch

SEMI = [name for name in NAMES if 'unlabeled' in METHODS.components_dict[name].streams]
START, ITERS = 2, 4


@pytest.fixture
def make(shared_toy, monkeypatch):
    """make(method, *flags, start=…) → a Trainer."""
    monkeypatch.chdir(shared_toy.folder)

    def make(method, *flags, start=START):
        semi = {} if start is None else {'start': start}
        return build(shared_toy, method, 'toy', *flags, iters=ITERS, semi=semi)
    return make


def looks_at_unlabeled(trainer, batch):
    """Whether terms or statistics of a step depend on the images without masks."""
    results, masked = [], {name for name, kind in trainer.method.streams.items() if kind.opens_masks}
    state = {name: value.clone() for name, value in trainer.method.state_dict().items()}
    others = {name: {key: -value if name not in masked and value.is_floating_point() else value
                     for key, value in part.items()} for name, part in batch.items()}
    for part in (batch, others):
        trainer.method.set_state_dict(state)
        paddle.seed(1)
        losses, stats = trainer.method.step(part, trainer.clock)
        results.append({name: value.item() for name, value in {**losses, **stats}.items()})
    trainer.method.set_state_dict(state)
    assert all(np.isfinite(value) for result in results for value in result.values())
    return results[0] != results[1]


@pytest.mark.parametrize('method', SEMI)
def test_unlabeled_images_come_in_at_the_start(make, method):
    trainer, looks, names = make(method), [], []
    trainer.method.train()
    for _ in range(ITERS):
        batch = next_batch(trainer)
        looks.append(looks_at_unlabeled(trainer, batch))
        losses, stats = trainer.step(batch)
        names.append((list(losses), list(stats)))
    assert looks == [False] * START + [True] * (ITERS - START)
    assert not names[START - 1][1] or 'kept' not in names[START - 1][1]
    assert 'kept' in names[START][1] and {*names[START - 1][0]} < {*names[START][0]}


@pytest.mark.parametrize('method', SEMI)
def test_all_train_before_the_start(make, method):
    """Every player; and the deployed network follows, its running statistics included."""
    trainer = make(method)
    nets = {**trainer.method.players(), 'deployed': trainer.method.deployed}
    first = {name: {key: value.numpy().copy() for key, value in net.state_dict().items()} for name, net in nets.items()}
    trainer.method.train()
    trainer.step(next_batch(trainer))
    for name, net in nets.items():
        moved = {key for key, value in net.state_dict().items() if not np.array_equal(value.numpy(), first[name][key])}
        assert any(key.endswith('.weight') for key in moved), name
        assert name != 'deployed' or any(key.endswith('._mean') for key in moved)


@pytest.mark.parametrize('method', SEMI)
def test_batches_stay_what_they_are(make, method):
    shown = [[{name: part['index'].tolist() for name, part in next_batch(trainer).items()} for _ in range(ITERS)]
             for trainer in (make(method, start=None), make(method))]
    assert shown[0] == shown[1]


@pytest.mark.parametrize('method', SEMI)
def test_resume_across_the_start_is_exact(make, method):
    with paddle.utils.unique_name.guard():
        trainer = make(method)
        trainer.method.train()
        for number in range(1, ITERS + 1):
            trainer.step(next_batch(trainer))
            if number == START - 1:
                trainer.checkpoints.save(number, trainer.state_dict())
    wanted = {name: value.numpy() for name, value in trainer.method.state_dict().items()}
    with paddle.utils.unique_name.guard():
        resumed = make(method, '--resume_model', 'latest')
        assert resumed.clock.iter == START - 1
        resumed.method.train()
        for _ in range(ITERS - resumed.clock.iter):
            resumed.step(next_batch(resumed))
    for name, value in resumed.method.state_dict().items():
        assert np.array_equal(value.numpy(), wanted[name]), f'{name} differs after a resume'


@pytest.mark.parametrize('method', SEMI)
def test_every_method_has_a_preset_for_short_runs(make, method):
    """Built with the share that its file names, whatever the class calls its own knob."""
    file = ROOT / f'configs/_base_/methods/{method.lower()}_short.yml'
    assert file.is_file()
    trainer = make(f'{method.lower()}_short', start=None)
    assert type(trainer.method).__name__ == method and trainer.method.start == 0.15


def test_a_line_across_the_start(shared_toy, capfd):
    """Terms that a step has not count 0 in the mean of a line."""
    assert shared_toy.train('--label_ratio', 0.5, '--method', 'fixmatch_short', '--iters', 4, '--log_iters', 2,
                            '--opts', 'semi.start=1') == 0
    line = next(line for line in capfd.readouterr().out.splitlines() if 'iter: 2/4' in line)
    assert all(f'{name}: ' in line for name in ('sup', 's1', 'kept'))


def test_labeled_only_may_have_a_start(shared_toy):
    assert shared_toy.train('--label_ratio', 0.5, '--method', 'Supervised', '--iters', 2, '--opts', 'semi.start=1') == 0
