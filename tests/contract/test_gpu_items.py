"""What stands between a GPU, or several, and a right result, as far as a CPU can show it. Numbers are those of the list
of defects; what needs two processes is in test_parallel.py, every method's terms in test_half_precision.py."""

import contextlib
import runpy
import sys
import types

import numpy as np
import paddle
import pytest
import setuptools
from half import emulated

from paddleseg_semi import run, runtime
from paddleseg_semi.core import parallel
from paddleseg_semi.core.clock import Clock
from paddleseg_semi.core.journal import Journal
from paddleseg_semi.core.trainer import Plan, Player, Precision, Trainer
from paddleseg_semi.datasets.streams import loading
from paddleseg_semi.deploy.backends import PaddleBackend, TensorRT
from paddleseg_semi.errors import InputError, RunError
from paddleseg_semi.losses.boundary import smoothness
from paddleseg_semi.models import bank
from paddleseg_semi.models.modes import evaluating
from paddleseg_semi.run import Options

from .conftest import ROOT, Toy
from .test_methods import build, next_batch

sys.path.append(str(ROOT / 'benchmarks'))  # last: its export.py is not the tool
import gpu  # noqa: E402


def test_1_weights_in_half_precision_are_refused():
    with pytest.raises(InputError, match='--amp_level O2: weights in half precision would not come back'):
        Options(amp_level='O2')


def test_2_a_rank_goes_on_from_what_the_first_one_has_sent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = Toy(tmp_path).folder / 'data'
    toys = [Toy.on(data, tmp_path / f'rank_{rank}') for rank in (0, 1)]
    trainers = []
    for toy in toys:
        monkeypatch.chdir(toy.folder)
        with paddle.utils.unique_name.guard():
            trainers.append(build(toy, 'MeanTeacher', 'toy'))
        trainers[-1].method.train()
    monkeypatch.chdir(toys[0].folder)
    trainers[0].step(next_batch(trainers[0]))
    folder = trainers[0].checkpoints.save(1, trainers[0].state_dict())
    sent = folder, trainers[0].checkpoints.load(folder)
    monkeypatch.chdir(toys[1].folder)
    monkeypatch.setattr(parallel, 'from_first', lambda read: sent)
    assert run._resume(trainers[1], 'latest') == folder and trainers[1].clock.iter == 1
    theirs = trainers[1].method.state_dict()
    for name, value in trainers[0].method.state_dict().items():
        assert np.array_equal(value.numpy(), theirs[name].numpy()), name


def test_2_ranks_with_other_lists_are_refused(monkeypatch):
    monkeypatch.setattr(parallel, 'gathered', lambda mine: [mine, mine, {**mine, 'split': 'b'}])
    with pytest.raises(InputError, match='rank 2 trains with split b, rank 0 with a'):
        run.check_ranks({'split': 'a', 'seed': 0, 'config': {}})


def test_3_only_one_list_has_paddle(monkeypatch):
    """pip knows the GPU build by another name and would put the CPU build over it."""
    said = {}
    monkeypatch.setattr(setuptools, 'setup', said.update)
    runpy.run_path(str(ROOT / 'setup.py'))
    for_gpu = (ROOT / 'requirements-gpu.txt').read_text().splitlines()
    for_cpu = (ROOT / 'requirements.txt').read_text().splitlines()
    assert not [line for line in for_gpu if line.startswith('paddlepaddle')]
    assert '-r requirements-gpu.txt' in for_cpu and [line for line in for_cpu if line.startswith('paddlepaddle==')]
    assert said['install_requires'] == [line for line in for_gpu if not line.startswith('#')]
    extras = {name for name, lines in said['extras_require'].items() if any('paddlepaddle' in line for line in lines)}
    assert extras == {'cpu'}


@pytest.mark.parametrize('device, gpu_here, said', [(None, True, 1), (None, False, 0), ('cpu', True, 0)])
def test_3_a_cpu_build_beside_a_gpu_is_said(tmp_path, monkeypatch, capfd, device, gpu_here, said):
    driver = tmp_path / 'version'
    if gpu_here:
        driver.touch()
    monkeypatch.setattr(runtime, '_NVIDIA', str(driver))
    assert runtime.set_device(device) == 'cpu'
    assert capfd.readouterr().out.count('this Paddle is a CPU build') == said


@pytest.mark.parametrize('precision, dtype', [('fp16', 'float16'), ('bf16', 'bfloat16')])
def test_4_mixed_precision_is_said(capfd, precision, dtype):
    found = Precision(precision)
    assert found.half and found.dtype == dtype
    said = [line for line in capfd.readouterr().out.splitlines() if 'Mixed precision' in line]
    assert len(said) == 1 and f'{precision}, level O1: on a CPU Paddle computes in fp32 all the same' in said[0]
    assert not Precision('bf16').scaler.is_enable()


def test_5_smoothness_needs_float32():
    """With its island the gradient is right, without it is not: the emulation tells the two apart."""
    rng = np.random.default_rng(0)
    values = 0.5 + rng.normal(size=[2, 3, 16, 16]).cumsum(3).cumsum(2) * 1e-5
    boundary, label = paddle.zeros([2, 3, 16, 16]), paddle.ones([2, 3, 1, 1])

    def gradient(loss, autocast):
        prob = paddle.to_tensor(values.astype('float32'), stop_gradient=False)
        with autocast():
            (loss(prob * 1., boundary, label) * 1024.).backward()
        return prob.grad.numpy().ravel().astype('float64')

    wanted = gradient(smoothness, contextlib.nullcontext)
    with emulated('float16') as autocast:
        with_island, without = (gradient(loss, autocast) for loss in (smoothness, smoothness.__wrapped__))
    cosines = [found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted) for found in (with_island, without)]
    assert cosines[0] > 0.99 > cosines[1]


def test_5_terms_are_added_in_float32():
    """Two terms of 40000 overflow in float16, alone they do not."""
    layer = paddle.nn.Linear(1, 1)
    schedule = paddle.optimizer.lr.NoamDecay(1, 1)
    player = Player(layer, paddle.optimizer.SGD(schedule, layer.parameters()), schedule)

    class Two:
        def step(self, batch, clock):
            half = (layer.weight * 0 + 40000).sum().astype('float16')
            return {'a': half, 'b': half}, {}

        def after_update(self, clock):
            pass

    totals = []
    precision = Precision()
    precision.scaler = types.SimpleNamespace(scale=lambda total: totals.append(total) or total, update=lambda: None,
                                             step=lambda players: None)
    Trainer(Two(), {}, {'model': player}, Clock(10), None, None, Plan(), precision=precision).step({})
    assert totals[0].dtype == paddle.float32 and totals[0].item() == 80000


def test_6_modes_are_changed_in_one_walk(monkeypatch):
    net = paddle.nn.Sequential(paddle.nn.Linear(2, 2), paddle.nn.Sequential(paddle.nn.Dropout()))
    net[1].eval()
    walks, sublayers = [], paddle.nn.Layer.sublayers
    monkeypatch.setattr(paddle.nn.Layer, 'sublayers', lambda *args, **more: walks.append(1) or sublayers(*args, **more))
    with evaluating(net):
        assert not any(layer.training for layer in (net, *net.children(), net[1][0]))
    assert (net.training, net[0].training, net[1].training, net[1][0].training) == (True, True, False, False)
    assert len(walks) == 1


@pytest.mark.parametrize('other', [False, True])
def test_7_only_a_parameter_that_some_rank_has_used_gets_zeros(monkeypatch, other):
    """The other rank used the second layer, or did not."""
    net = paddle.nn.Sequential(paddle.nn.Linear(2, 2), paddle.nn.Linear(2, 2))
    net[0](paddle.ones([1, 2])).sum().backward()
    theirs = paddle.to_tensor([1., 1., float(other), float(other)])
    monkeypatch.setattr(parallel.dist, 'get_world_size', lambda: 2)
    monkeypatch.setattr(parallel.dist, 'all_reduce', lambda tensor: paddle.assign(tensor + theirs, tensor))
    monkeypatch.setattr(parallel, 'fused_allreduce_gradients', lambda params, group: None)
    parallel.sync_gradients(net)
    assert all(param.grad is not None for param in net[0].parameters())
    assert [param.grad is None for param in net[1].parameters()] == [not other] * 2
    before = net[1].weight.numpy()
    paddle.optimizer.Momentum(0.1, parameters=net.parameters(), weight_decay=0.5).step()
    assert np.array_equal(before, net[1].weight.numpy()) != other


@pytest.mark.parametrize('ranks, limit', [(1, 2048), (2, 2048), (25, 2000), (64, 781), (10**6, 1)])
def test_7_what_ranks_gather_for_the_bank_has_a_limit(monkeypatch, ranks, limit):
    monkeypatch.setattr(bank.dist, 'get_world_size', lambda: ranks)
    assert bank.Bank([50000, 30000], 1).limit(2048) == limit


def test_8_a_worker_keeps_to_one_core(monkeypatch):
    threads = []
    monkeypatch.setattr(loading.cv2, 'setNumThreads', threads.append)
    monkeypatch.setattr(loading.threading, 'Thread', lambda **_: types.SimpleNamespace(start=lambda: None))
    loading.end_with_parent(0)
    assert threads == [0]


@pytest.mark.parametrize('workers, megabytes, said', [(4, 64, True), (4, 8192, False), (0, 64, False)])
def test_8_little_shared_memory_is_said(tmp_path, monkeypatch, capfd, workers, megabytes, said):
    monkeypatch.setattr(runtime.shutil, 'disk_usage', lambda _: types.SimpleNamespace(total=megabytes << 20))
    runtime.check_shared_memory(workers, str(tmp_path))
    out = capfd.readouterr().out
    assert ('--shm-size' in out) == said and out.count('\n') == said


def test_9_tensorrt_takes_the_old_format(monkeypatch):
    monkeypatch.setattr(PaddleBackend, '_config', lambda self: None)
    with pytest.raises(InputError, match='model.json: TensorRT takes the old format only. Export with --old_ir'):
        PaddleBackend(types.SimpleNamespace(model='model.json', params=None), 'gpu', tensorrt=TensorRT())


def journal(tmp_path, skips, losses):
    """A journal that has seen one step per loss, four to a line, from iteration 100 on."""
    clock = Clock(1000)
    clock.iter = 100
    found = Journal(str(tmp_path), clock, 10, 2, log_iters=4, skips=skips)
    for loss in losses:
        clock.tick()
        found.step_done({'sup': paddle.to_tensor(float(loss))}, {'kept': paddle.to_tensor(0.5)}, {'model': 0.1})
    return (tmp_path / 'train.log').read_text()


def test_9_a_step_that_overflows_is_left_out(tmp_path):
    """With a scaled loss such a step is not made, and the scale is halved; a run of them is a fault."""
    said = journal(tmp_path, True, [1, np.inf, 3, np.nan])
    assert '2 of 4 updates were not made' in said and 'loss: 2.0000' in said
    with pytest.raises(RunError, match='iter 121: a loss is not finite'):
        journal(tmp_path, True, [np.inf] * 40)
    with pytest.raises(RunError, match='iter 102: a loss is not finite: sup: inf'):
        journal(tmp_path, False, [1, np.inf, 3, 4])


def test_the_benchmark_measures_what_there_is(monkeypatch, capfd):
    """Without a GPU it says so; what it does with one is run here on the CPU."""
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError, match='this Paddle is a CPU build: there is nothing to measure'):
        gpu.main(gpu.parser.parse_args([]))
    args = gpu.parser.parse_args(['--size', '32', '32', '--batch_size', '2', '--warm_up', '1', '--steps', '1'])
    seconds, peak, syncs = gpu.measure(args, 'IMAS', 'fp32')
    assert seconds > 0 and peak > 0 and [sync.kind for sync in syncs] == ['read']
