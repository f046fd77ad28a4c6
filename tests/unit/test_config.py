"""SemiConfig and SemiBuilder: learning rates and global batches, knobs given with another method."""

import paddle
import pytest
import yaml
from conftest import ROOT

from paddleseg_semi.cvlibs import SemiBuilder, SemiConfig
from paddleseg_semi.cvlibs.config import merged
from paddleseg_semi.errors import InputError

RECIPE = {
    '_base_': str(ROOT / 'configs/_base_/datasets/demo.yml'), 'batch_size': 4, 'iters': 10,
    'model': {'type': 'FastSCNN'}, 'optimizer': {'type': 'SGD'},
    'lr_scheduler': {'type': 'PolynomialDecay', 'learning_rate': 0.02, 'end_lr': 0, 'power': 0.9},
    'loss': {'types': [{'type': 'CrossEntropyLoss'}], 'coef': [1]}, 'semi': {'label_ratio': 0.5}}


@pytest.fixture
def config(tmp_path):
    """Makes a SemiConfig of RECIPE, with other sections and flags."""
    def make(opts=None, flags=None, **sections):
        path = tmp_path / 'recipe.yml'
        path.write_text(yaml.safe_dump({**RECIPE, **sections}))
        return SemiConfig(str(path), opts, **(flags or {}))
    return make


def rates(config, players, ranks=1):
    """Learning rate of each player in the first step."""
    builder = SemiBuilder(config, ranks=ranks)
    method = type('Any', (), {'players': lambda self: {name: paddle.nn.Linear(2, 2) for name in players}})()
    return [player.optimizer.get_lr() for player in builder.players(method).values()]


@pytest.mark.parametrize('batch, ranks, rate', [(4, 4, 0.02), (2, 1, 0.0025), (8, 4, 0.04)])
def test_rate_follows_the_global_batch(config, capfd, batch, ranks, rate):
    recipe = config(['semi.lr_batch=16'], {'batch_size': batch, 'method': 'CPS'})
    assert rates(recipe, ['model', 'model_2'], ranks) == pytest.approx([rate, rate])
    said = capfd.readouterr().out
    assert f'Global batch: {batch * ranks} labeled images ({ranks} ranks of {batch}); learning rate: {rate:g} ' in said
    assert f'0.02 * {batch * ranks} / 16' in said
    assert recipe.dic['lr_scheduler']['learning_rate'] == 0.02  # what a checkpoint remembers of the recipe


def test_rate_of_a_player_of_its_own_stays(config):
    players = ['model', 'discriminator']
    assert rates(config(['semi.lr_batch=16'], {'method': 'AdvSemiSeg'}), players) == pytest.approx([0.005, 1e-4])


@pytest.mark.parametrize('opts, flags, rate', [([], {}, 0.02), (['semi.lr_batch=16'], {'learning_rate': 0.3}, 0.3)])
def test_rate_as_given(config, capfd, opts, flags, rate):
    assert rates(config(opts, {**flags, 'method': 'Supervised'}), ['model']) == [rate]
    assert f'Global batch: 4 labeled images (1 ranks of 4); learning rate: {rate} (not scaled' in capfd.readouterr().out


@pytest.mark.parametrize('value', ['16.0', '0', '-8', 'True', 'many'])
def test_batch_that_is_none(config, value):
    with pytest.raises(InputError, match='semi.lr_batch: .*: give a whole number of at least 1'):
        config([f'semi.lr_batch={value}'])


def test_schedule_without_a_rate(config):
    with pytest.raises(InputError, match='semi.lr_batch: PiecewiseDecay has no learning_rate to scale'):
        config(['semi.lr_batch=16'], lr_scheduler={'type': 'PiecewiseDecay', 'boundaries': [5], 'values': [0.1, 0.01]})


def test_knobs_on_the_command_line_are_for_the_method_there(config):
    own = {'type': 'U2PL', 'warmup': 7}
    dic = config(['method.conf_thresh=0.5'], {'method': 'FixMatch'}, method=own).dic['method']
    assert (dic['type'], dic['conf_thresh'], 'warmup' in dic) == ('FixMatch', 0.5, False)
    assert config(['method.epochs=3'], {'method': 'u2pl_cityscapes'}, method=own).dic['method']['warmup'] == 7


def test_sections_over_a_base():
    base = {'a': {'x': 1, 'y': {'z': 2}}, 'none': None, 'word': 'files', 'kept': 3}
    dic = {'a': {'y': {'w': 4}}, 'none': {'type': 'Net'}, 'word': {'files': 'raw'}}
    assert merged(dic, base) == {'a': {'x': 1, 'y': {'z': 2, 'w': 4}}, 'none': {'type': 'Net'},
                                 'word': {'files': 'raw'}, 'kept': 3}
    assert merged({'a': {'_inherited_': False, 'q': 5}}, base)['a'] == {'q': 5}
    assert base['a'] == {'x': 1, 'y': {'z': 2}}


@pytest.mark.parametrize('method, old, new, said', [
    ({'type': 'CPS', 'weight': 3.0}, 'weight', ('cps_weight', 3.0), 'method.weight is called cps_weight now'),
    ({'type': 'U2PL', 'partner': 'other'}, None, ('partner', 'next'), 'method.partner: other is called next now'),
    ({'type': 'FixMatch', 'partner': 'other'}, None, ('partner', 'other'), None)])
def test_earlier_names_of_knobs(config, capfd, method, old, new, said):
    section = config(method=method).dic['method']
    assert old not in section and section[new[0]] == new[1]
    out = capfd.readouterr().out
    assert said in out if said else 'is called' not in out


def test_earlier_names_by_option(config):
    assert config(['method.lambda_adv=0.5'], {'method': 'AdvSemiSeg'}).dic['method']['adv_weight'] == 0.5
