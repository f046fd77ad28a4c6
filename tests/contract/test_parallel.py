"""Two processes on the CPU: one result, every image once, one writer."""

import functools
import itertools
import json
import shutil

import numpy as np
import paddle
import pytest

from paddleseg_semi.core import parallel
from paddleseg_semi.datasets.streams.loading import EndlessSampler
from paddleseg_semi.errors import InputError, RunError
from paddleseg_semi.models.bank import Bank
from paddleseg_semi.run import check_ranks

from .conftest import HALF, PROBE, ROOT, Toy, communicate

RUN = [*HALF, '--do_eval', '--save_interval', 2, '--iters', 4, '--log_iters', 1]


def launch(toy, script, *args, seconds=150):
    """Runs a script on two ranks; returns exit code and what the ranks said."""
    process = toy.start('-m', 'paddle.distributed.launch', '--nproc_per_node', 2, '--log_dir', 'log', script, *args,
                        start_new_session=True)
    code, out, err = communicate(process, seconds)
    logs = ''.join(path.read_text() for path in sorted((toy.folder / 'log').glob('workerlog.*')))
    return code, out + err + logs


def reports(toy):
    return [json.loads((toy.folder / f'run/rank_{rank}.json').read_text()) for rank in (0, 1)]


@pytest.fixture(scope='module')
def trained(shared_toy):
    """A toy trained on two ranks from beginning to end."""
    code, out = launch(shared_toy, PROBE, 0, *shared_toy.flags(*RUN))
    assert code == 0, out
    return shared_toy


def test_ranks_end_with_equal_weights(trained):
    first, second = reports(trained)
    assert first['weights'] == second['weights']


def test_streams_are_sharded(trained):
    """At every step the ranks together read what one process with the doubled batch would read."""
    first, second = (report['images'] for report in reports(trained))
    for number, name in enumerate(['labeled', 'unlabeled', 'ground_truth']):
        whole = EndlessSampler(6, 4, (0, number))
        for ours, theirs, both in zip(first, second, whole):
            assert ours[name] + theirs[name] == [index for index, _ in both]


def test_one_rank_writes(trained):
    run = trained.folder / 'run'
    lines = [line.split('\t')[-1] for line in (run / 'train.log').read_text().splitlines()]
    train = [line for line in lines if line.startswith('[TRAIN]')]
    assert [line.split('iter: ')[1].split(',')[0] for line in train] == ['1/4', '2/4', '3/4', '4/4']
    assert not list(run.glob('.*')) and not list(run.glob('*.tmp'))


def test_a_rank_waits_for_another_however_long(toy):
    """Gloo gives up after 30 s; rather than to wait for that, the test goes without Gloo."""
    (toy.folder / 'wait.py').write_text(f'''
import sys, time
sys.path[:0] = [{str(ROOT / "tools")!r}, {str(ROOT)!r}]
import cli
import paddle.distributed as dist
from paddleseg_semi.core import parallel
rank, _ = parallel.start()
dist.barrier = None
for k in range(20):
    if rank == k % 2:
        time.sleep(0.1)
        open(f"done_{{k}}", "w").close()
    parallel.barrier()
    open(f"done_{{k}}").close()
''')
    code, out = launch(toy, 'wait.py')
    assert code == 0, out


def test_resume(trained, tmp_path):
    toy = Toy(tmp_path)
    code, out = launch(toy, PROBE, 2, *toy.flags(*RUN))
    assert code == 0 and not (toy.folder / 'run/iter_4').exists(), out
    code, out = launch(toy, PROBE, 0, *toy.flags(*RUN, '--resume_model', 'latest'))
    assert code == 0 and 'Resumed from run/iter_2' in out, out
    assert toy.files('iter_4', 'best_model') == trained.files('iter_4', 'best_model')
    assert reports(toy)[0]['weights'] == reports(toy)[1]['weights']


def test_resume_on_disks_of_their_own(trained, tmp_path):
    """Rank 0 decides and reads; the other goes on from the same step, whatever is on its disk."""
    script = tmp_path / 'apart.py'
    script.write_text(f'''
import os, runpy
os.chdir("rank_" + os.environ["PADDLE_TRAINER_ID"])
os.makedirs("run", exist_ok=True)
runpy.run_path({str(PROBE)!r}, run_name="__main__")
''')
    disks = [tmp_path / f'rank_{rank}' for rank in (0, 1)]
    for disk in disks:
        disk.mkdir()
        toy = Toy(disk)
        flags = toy.flags(*RUN)
    toy.folder = tmp_path
    code, out = launch(toy, script, 2, *flags)
    assert code == 0 and (disks[0] / 'run/iter_2').exists() and not list(disks[1].glob('run/iter_*')), out
    shutil.copytree(disks[0] / 'run/iter_2', disks[1] / 'run/iter_3')  # of another run, and newer
    code, out = launch(toy, script, 0, *flags, '--resume_model', 'latest')
    assert code == 0 and 'Resumed from run/iter_2 at iter 2' in out, out
    assert 'run/iter_2 is not on the disk of rank 1: rank 0 has sent it.' in out
    ends = [json.loads((disk / f'run/rank_{rank}.json').read_text())['weights'] for rank, disk in enumerate(disks)]
    assert ends == [report['weights'] for report in reports(trained)]


def test_resume_on_another_number_of_ranks(trained, capfd):
    """Allowed, and said to be another run from there on."""
    assert trained.train(*RUN, '--resume_model', 'latest') == 0
    assert 'ranks: 2, not 1' in capfd.readouterr().out


@pytest.mark.parametrize('size, batch_size, ranks', [(12, 2, 2), (7, 2, 2), (5, 1, 3), (9, 4, 2)])
def test_ranks_share_one_sequence(size, batch_size, ranks):
    """Batch by batch the ranks together read the sequence of one process; an epoch shows every image once."""
    count = 3 * size
    whole = itertools.chain.from_iterable(EndlessSampler(size, batch_size * ranks, 7))
    parts = zip(*(EndlessSampler(size, batch_size, 7, rank, ranks) for rank in range(ranks)))
    shared = itertools.chain.from_iterable(itertools.chain.from_iterable(parts))
    whole, shared = list(itertools.islice(whole, count)), list(itertools.islice(shared, count))
    assert whole == shared
    for epoch in range(3):
        assert sorted(index for index, _ in whole[epoch * size:(epoch + 1) * size]) == list(range(size))
    assert len({seed for _, seed in whole}) == count  # no two samples are cropped and flipped alike


def net():
    """Two layers; the second is only used when asked for."""
    paddle.seed(5)
    return paddle.nn.Sequential(paddle.nn.Linear(3, 4), paddle.nn.Linear(4, 2))


def batch():
    return np.random.default_rng(0).normal(size=[8, 3]).astype('float32')


def gradients(both_layers, x):
    layer = net()
    y = layer(paddle.to_tensor(x)) if both_layers else layer[0](paddle.to_tensor(x))
    (y ** 2).mean().backward()
    return layer


def refuse(error, text):
    raise error(text)


def on_a_rank(folder):
    """What one rank does: gradients of its half of the batch, then what the ranks make of them."""
    rank, ranks = parallel.start()
    half = batch()[rank * 4:][:4]
    shared, partly, untrained = gradients(True, half), gradients(rank == 0, half), net()
    unused = gradients(False, half)
    for layer in (shared, partly, untrained, unused):
        parallel.sync_gradients(layer)
    assert all(param.grad is None for layer in (untrained, unused[1]) for param in layer.parameters())
    before = [param.numpy() for param in unused[1].parameters()]
    paddle.optimizer.Momentum(0.1, parameters=unused.parameters(), weight_decay=0.1).step()
    assert all(np.array_equal(was, param.numpy()) for was, param in zip(before, unused[1].parameters()))
    ring = Bank([3, 2], 1)
    ring.push(paddle.to_tensor([[[1.], [2.]], [[3.], [4.]]]) + 10. * rank, paddle.to_tensor([2, 1 + rank]))
    assert ring.table.flatten().tolist()[:5] == [12., 2., 11., 14., 13.]  # in order of the ranks
    assert parallel.from_first(lambda: f'of rank {rank}') == 'of rank 0'
    for refusal in (InputError, RunError):
        with pytest.raises(refusal, match='by rank 0'):
            parallel.from_first(functools.partial(refuse, refusal, f'by rank {rank}'))
    with pytest.raises(InputError, match='rank 1 trains with split 1, rank 0 with 0: they are one run'):
        check_ranks({'config': {'root': rank}, 'seed': 3, 'split': rank})
    different = paddle.nn.Sequential(paddle.nn.Linear(3, 4), paddle.nn.BatchNorm1D(4))
    different[0].weight.set_value(paddle.full([3, 4], float(rank)))
    different[1]._mean.set_value(paddle.full([4], 2.0 * rank))
    parallel.average_statistics(different)
    means = different[1]._mean.numpy()
    parallel.broadcast(different)
    np.savez(f'{folder}/gradients_{rank}.npz', ranks=ranks, means=means, weight=different[0].weight.numpy(),
             **{f'shared_{i}': param.grad.numpy() for i, param in enumerate(shared.parameters())},
             **{f'partly_{i}': param.grad.numpy() for i, param in enumerate(partly.parameters())})


def test_gradients_of_two_ranks_are_those_of_the_doubled_batch(toy):
    script = toy.folder / 'ranks.py'
    script.write_text(f'import sys\nsys.path[:0] = {[str(ROOT), str(ROOT / "tools"), str(ROOT / "tests")]}\n'
                      'import cli\nfrom contract import test_parallel\ntest_parallel.on_a_rank(sys.argv[1])\n')
    code, out = launch(toy, script, toy.folder)
    assert code == 0, out
    first, second = (np.load(toy.folder / f'gradients_{rank}.npz') for rank in (0, 1))
    assert first['ranks'] == 2
    for key in first:
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)
    for i, param in enumerate(gradients(True, batch()).parameters()):
        np.testing.assert_allclose(first[f'shared_{i}'], param.grad.numpy(), rtol=1e-5, atol=1e-7)
    halves = gradients(True, batch()[:4]), gradients(False, batch()[4:])
    for i, params in enumerate(zip(*(half.parameters() for half in halves))):
        mean = sum(0 if param.grad is None else param.grad.numpy() for param in params) / 2  # none counts as zero
        np.testing.assert_allclose(first[f'partly_{i}'], mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(first['means'], np.full(4, 1.0))
    np.testing.assert_array_equal(first['weight'], np.zeros([3, 4]))

