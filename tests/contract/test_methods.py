"""What every method that learns from masks promises, on four unlike models. A new one is tested here by itself."""

import functools
import json

import numpy as np
import paddle
import pytest
import train
from conftest import close

from paddleseg_semi.core import parallel
from paddleseg_semi.core.export import export
from paddleseg_semi.cvlibs import SemiBuilder, SemiConfig
from paddleseg_semi.errors import InputError
from paddleseg_semi.models.weights import network_of
from paddleseg_semi.registries import METHODS
from paddleseg_semi.run import build_trainer

from .conftest import ROOT, Toy, communicate

MODELS = {
    'DeepLabV3P': ({'type': 'DeepLabV3P', 'num_classes': 3, 'aspp_ratios': [1, 2],
                    'backbone': {'type': 'ResNet18_vd', 'output_stride': 16}}, [1]),
    'BiSeNetV2': ({'type': 'BiSeNetV2', 'num_classes': 3}, [1, 1, 1, 1, 1]),
    'SegFormer': ({'type': 'SegFormer', 'num_classes': 3, 'embedding_dim': 32,
                   'backbone': {'type': 'MixVisionTransformer_B0'}}, [1]),
    'DPT': ({'type': 'DPT', 'num_classes': 3, 'features': 8, 'out_channels': [8, 8, 8, 8],
             'backbone': {'type': 'DINOv2', 'embed_dim': 16, 'depth': 4, 'num_heads': 2, 'blocks': [0, 1, 2, 3]}}, [1]),
}
NAMES = sorted(name for name, method in METHODS.components_dict.items() if 'labeled' in method.streams)


def build(toy, method, model, *flags, rank=0, ranks=1, iters=2, semi=None, knobs=None):
    """A Trainer of two iterations on 64x64 crops; the working folder is the toy's."""
    recipe = toy.recipe
    recipe['method'] = knobs or {}
    recipe['model'], recipe['loss']['coef'] = MODELS.get(model, (recipe['model'], [1]))
    recipe['train_dataset']['transforms'][0] = {
        'type': 'RandomPaddingCrop', 'crop_size': [56, 56] if model == 'DPT' else [64, 64]}
    recipe['iters'], recipe['semi'] = iters, semi or {}
    argv = [*toy.flags(), '--label_ratio', '0.5', '--method', method, *flags]
    argv[argv.index('run')] = f'run_{method}_{model}'
    args = train.parser.parse_args(argv)
    return build_trainer(SemiConfig('recipe.yml', label_ratio='0.5', method=method), args, rank, ranks)


@pytest.fixture
def make(shared_toy, monkeypatch):
    """make(method, model, *flags) → a Trainer."""
    monkeypatch.chdir(shared_toy.folder)
    return functools.partial(build, shared_toy)


def next_batch(trainer):
    return {name: next(stream) for name, stream in trainer.streams.items()}


def watch_gradients(trainer):
    """Collects, at the optimisers' clear_grad, the names of all parameters of the method that have a gradient."""
    seen = set()
    for player in trainer.players.values():
        def clear(clear=player.optimizer.clear_grad, **kwargs):
            seen.update(name for name, param in trainer.method.named_parameters() if param.grad is not None)
            clear(**kwargs)
        player.optimizer.clear_grad = clear
    return seen


def check_step(trainer):
    """One step, whose terms and statistics have to be finite scalars."""
    losses, stats = trainer.step(next_batch(trainer))
    for name, value in {**losses, **stats}.items():
        assert list(value.shape) == [], f'{name} is no scalar'
        assert np.isfinite(value.item()), f'{name} is {value.item()}'


def check_gradients(trainer, touched):
    """After some steps: all gradients are cleared, who had one has an optimizer, and every player was trained."""
    owner = {id(param): name for name, player in trainer.players.items() for param in player.layer.parameters()}
    trained = set()
    for name, param in trainer.method.named_parameters():
        assert param.grad is None, f'the gradient of {name} is not cleared'
        if name in touched:
            assert id(param) in owner, f'{name} has a gradient and no optimiser'
            trained.add(owner[id(param)])
    assert trained == set(trainer.players), 'every player is trained'


@pytest.mark.parametrize('model', MODELS)
@pytest.mark.parametrize('method', NAMES)
def test_two_steps_and_an_exact_resume(make, method, model):
    with paddle.utils.unique_name.guard():
        trainer = make(method, model)
        trainer.method.train()
        touched = watch_gradients(trainer)
        check_step(trainer)
        trainer.checkpoints.save(1, trainer.state_dict())
        check_step(trainer)
    check_gradients(trainer, touched)
    wanted = {name: value.numpy() for name, value in trainer.method.state_dict().items()}

    with paddle.utils.unique_name.guard():
        resumed = make(method, model, '--resume_model', 'latest')
        assert resumed.clock.iter == 1
        resumed.method.train()
        resumed.step(next_batch(resumed))
    found = resumed.method.state_dict()
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        assert np.array_equal(found[name].numpy(), value), f'{name} differs after a resume'


@pytest.mark.parametrize('method', NAMES)
def test_deployed_is_a_plain_model(make, method, tmp_path):
    """`deployed` has the keys of a PaddleSeg model, and the exported network computes what it computes."""
    trainer = make(method, 'DeepLabV3P')
    deployed = trainer.method.deployed
    builder = SemiBuilder(SemiConfig('recipe.yml'))
    assert set(deployed.state_dict()) == set(builder.new_model().state_dict())

    state = {name: value.numpy() for name, value in trainer.method.state_dict().items()}
    names = {'model', 'model_2', 'teacher'} & {name for name, _ in trainer.method.named_children()}
    nets = [network_of(state, deployed, name, 'method.pdparams') for name in names]
    assert any(all(np.array_equal(net[key], value) for key, value in deployed.state_dict().items()) for net in nets), \
        'one of the networks that --export_net finds'

    export(deployed, str(tmp_path), [{'type': 'Normalize'}], output_op='none')
    x = paddle.randn([1, 3, 64, 64])
    static = paddle.jit.load(str(tmp_path / 'model'))
    static.eval()
    deployed.eval()
    with paddle.no_grad():
        wanted, found = deployed(x)[0], static(x)
    close((found[0] if isinstance(found, (list, tuple)) else found).numpy(), wanted.numpy())


def test_what_evaluations_decide_is_resumed(make):
    with paddle.utils.unique_name.guard():
        trainer = make('PrevMatch', 'toy', '--do_eval', semi={'start': 0})
        trainer.method.rule = 'best'
        trainer.method.train()
        batch = next_batch(trainer)
        trainer.step(batch)
        trainer.milestone(batch)
        found = trainer.method.state_dict()
        assert trainer.scores['mIoU'] == found['best'].item() > 0 and trainer.method.pool.places() == [0]
        losses, stats = trainer.step(next_batch(trainer))
    with paddle.utils.unique_name.guard():
        resumed = make('PrevMatch', 'toy', '--do_eval', '--resume_model', 'latest', semi={'start': 0})
        resumed.method.train()
        assert resumed.method.best.item() == trainer.method.best.item()
        again, stats_again = resumed.step(next_batch(resumed))
    assert stats['pool'].item() == stats_again['pool'].item() > 0
    assert {name: loss.item() for name, loss in losses.items()} == {name: loss.item() for name, loss in again.items()}


def test_a_method_that_needs_evaluation_is_refused_without(make, monkeypatch):
    monkeypatch.setattr(METHODS['FixMatch'], 'needs_evaluation', 'rule: best')
    with pytest.raises(InputError, match='method.rule: best: .* --do_eval'):
        make('FixMatch', 'toy')


@pytest.mark.parametrize('flags, decay', [([], None), (['--use_ema'], 0.999), (['--use_ema', '0.5'], 0.5)])
def test_decay_of_the_moving_average(make, flags, decay):
    ema = make('Supervised', 'toy', *flags).ema
    assert (ema and ema.decay) == decay


def on_a_rank(data):
    """Two steps of every method on one of two ranks; leaves the sums of all weights in the working folder."""
    rank, ranks = parallel.start()
    toy = Toy.on(data, f'rank_{rank}')
    sums = {}
    for method in NAMES:
        with paddle.utils.unique_name.guard():
            trainer = build(toy, method, 'DeepLabV3P', rank=rank, ranks=ranks)
            trainer.method.train()
            for _ in range(trainer.clock.iters):
                trainer.step(next_batch(trainer))
            parallel.average_statistics(trainer.method)
        sums[method] = {name: float(np.abs(value.numpy().astype('float64')).sum())
                        for name, value in trainer.method.state_dict().items()}
    (toy.folder / 'sums.json').write_text(json.dumps(sums))


def test_ranks_are_equal(toy):
    """What must survive is equal on every rank, so that the first one's checkpoint resumes all."""
    script = toy.folder / 'ranks.py'
    script.write_text(f'import sys\nsys.path[:0] = {[str(ROOT), str(ROOT / "tools"), str(ROOT / "tests")]}\n'
                      'import cli\nfrom contract import test_methods\ntest_methods.on_a_rank(sys.argv[1])\n')
    process = toy.start('-m', 'paddle.distributed.launch', '--nproc_per_node', 2, '--log_dir', 'log', script,
                        toy.folder / 'data', start_new_session=True)
    code, out, err = communicate(process, 300)
    logs = ''.join(path.read_text() for path in sorted((toy.folder / 'log').glob('workerlog.*')))
    assert code == 0, out + err + logs[-3000:]
    first, second = (json.loads((toy.folder / f'rank_{rank}/sums.json').read_text()) for rank in (0, 1))
    assert sorted(first) == NAMES
    for method in NAMES:
        different = [name for name, value in first[method].items() if second[method][name] != value]
        assert not different, f'{method}: {different[:3]} differ between the ranks'
