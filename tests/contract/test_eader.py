"""What EADER promises: players in turns, exact resuming with and without an adversary, a plain model to deploy."""

import numpy as np
import paddle
import pytest
import train
from conftest import close
from paddle import nn
from paddleseg.cvlibs import manager

from paddleseg_semi.core.export import export
from paddleseg_semi.cvlibs import SemiBuilder, SemiConfig
from paddleseg_semi.run import build_trainer


class Small(nn.Layer):
    """A backbone with what leaves traces: batch normalization and dropout."""

    feat_channels = [6]

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2D(3, 6, 3, stride=4, padding=1), nn.BatchNorm2D(6), nn.ReLU(),
                                  nn.Dropout(0.2))

    def forward(self, x):
        return [self.body(x)]


MODES = {'adversary': {'adversary': {'type': 'Small'}, 'steps_localizer': 1, 'steps_adversary': 2}, 'alone': {},
         'shared': {'share_weights': True}}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(manager.BACKBONES.components_dict, 'Small', Small)


@pytest.fixture
def eader(toy, monkeypatch):
    """A toy that trains EADER on tags; the working folder is its own."""
    tags = {i: {i % 3, (i + 1) % 3} - {0} for i in range(12)}
    (toy.folder / 'data/tags.txt').write_text(
        ''.join(f'{i:02d}.jpg {" ".join(map(str, classes))}\n' for i, classes in tags.items()))
    toy.recipe.update(method={'type': 'EADER', **MODES['adversary']}, semi={'tags': 'data/tags.txt'},
                      model={'type': 'CAMNet', 'num_classes': 3, 'backbone': {'type': 'Small'}})
    toy.recipe.pop('loss')
    monkeypatch.chdir(toy.folder)
    return toy


def build(toy, mode, *flags):
    toy.recipe['method'] = {'type': 'EADER', **MODES[mode]}
    args = train.parser.parse_args([*toy.flags(), *flags])
    return build_trainer(SemiConfig('recipe.yml'), args)


def step(trainer):
    return trainer.step({name: next(stream) for name, stream in trainer.streams.items()})


def weights(layer, trained=True):
    """{name: value} of the trained parameters, or of the running statistics."""
    return {name: value.numpy() for name, value in layer.state_dict().items()
            if name.endswith(('._mean', '._variance')) != trained}


def equal(one, other):
    return {name: np.array_equal(value, other[name]) for name, value in one.items()}.values()


def test_players_take_turns(eader):
    """Who waits does not move by a bit, also not by momentum or weight decay; its statistics do."""
    trainer = build(eader, 'adversary')
    trainer.method.train()
    names = []
    for turn in (False, True, True, False):
        assert trainer.method.adversary_trains(trainer.clock) == turn
        players = [trainer.method.model, trainer.method.adversary]
        idle, busy = players if turn else players[::-1]
        before = weights(idle), weights(busy), weights(idle, False), weights(busy, False)
        losses, stats = step(trainer)
        assert all(equal(before[0], weights(idle))) and not all(equal(before[1], weights(busy)))
        assert not any(equal(before[2], weights(idle, False))) and not any(equal(before[3], weights(busy, False)))
        assert list(losses) == (['adv'] if turn else ['loc', 'reg', 'am']) and all(losses[k].item() > 0 for k in losses)
        names.append(list(stats))
        for name, value in {**losses, **stats}.items():
            assert list(value.shape) == [] and np.isfinite(value.item()), name
    assert all(name == names[0] for name in names), 'the same statistics in every step'


@pytest.mark.parametrize('done', [1, 2])
@pytest.mark.parametrize('mode', MODES)
def test_resume_is_exact(eader, mode, done):
    with paddle.utils.unique_name.guard():
        trainer = build(eader, mode)
        trainer.method.train()
        for _ in range(4):
            step(trainer)
            if trainer.clock.iter == done:
                trainer.checkpoints.save(done, trainer.state_dict())
    with paddle.utils.unique_name.guard():
        resumed = build(eader, mode, '--resume_model', 'latest')
        assert resumed.clock.iter == done
        resumed.method.train()
        for _ in range(done, 4):
            step(resumed)
    found = {name: value.numpy() for name, value in resumed.method.state_dict().items()}
    assert all(equal({name: value.numpy() for name, value in trainer.method.state_dict().items()}, found))


def test_resumes_only_what_it_was(eader, refused):
    assert eader.train() == 0
    eader.recipe['method'] = {'type': 'EADER'}
    refused('--resume_model', 'latest', says='method.adversary')


def test_deployed_is_a_plain_model(eader, tmp_path):
    deployed = build(eader, 'adversary').method.deployed
    assert set(deployed.state_dict()) == set(SemiBuilder(SemiConfig('recipe.yml')).new_model().state_dict())
    export(deployed, str(tmp_path), [{'type': 'Normalize'}], output_op='none')
    static = paddle.jit.load(str(tmp_path / 'model'))
    static.eval()
    deployed.eval()
    for size in ([32, 32], [40, 56]):
        x = paddle.randn([1, 3, *size])
        with paddle.no_grad():
            found = static(x)
            close((found[0] if isinstance(found, (list, tuple)) else found).numpy(), deployed(x)[0].numpy())


def test_trains_and_evaluates(eader, capfd):
    assert eader.train('--do_eval', '--log_iters', 1) == 0
    out = capfd.readouterr().out
    for word in (' loc: ', ' reg: ', ' am: ', ' adv: ', ' kept: ', ' found: ', '[EVAL] #Images: 3'):
        assert word in out
    assert eader.call('val', '--config', 'recipe.yml', '--model_path', 'run/best_model/model.pdparams', '--device',
                      'cpu') == 0


@pytest.mark.parametrize('change, says', [
    ({'model': {'type': 'DeepLabV2', 'num_classes': 3, 'backbone': {'type': 'Small'}}}, 'EADER trains a CAMNet'),
    ({'method': {'type': 'EADER', 'adversary': {'type': 'Small'}, 'share_weights': True}}, 'Remove method.adversary'),
    ({'method': {'type': 'EADER', 'steps_adversary': 0}}, 'of at least 1'),
    ({'model': {'type': 'CAMNet', 'num_classes': 3, 'backbone': {'type': 'Small'}, 'attention': 'x'}}, 'gcam, cam'),
    ({'semi': {}}, 'EADER needs image-level labels')])
def test_refuses(eader, refused, change, says):
    eader.recipe.update(change)
    refused(says=says)
