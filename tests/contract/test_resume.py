"""A run that was interrupted, wherever it was, ends as if nothing had happened; and only that run goes on."""

import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import paddle
import pytest

from paddleseg_semi.core import checkpoint
from paddleseg_semi.core.checkpoint import Checkpoints
from paddleseg_semi.errors import InputError, RunError

from .conftest import HALF, PROBE, TRAIN, communicate

RUN = [*HALF, '--do_eval', '--use_ema', '--save_interval', 3, '--iters', 12, '--log_iters', 1]
RESULT = ['iter_12', 'best_model', 'ema_best_model', 'split']


@pytest.fixture(scope='module')
def undisturbed(shared_toy):
    """{file: md5} of a run from beginning to end, without loader workers."""
    code, _, err = shared_toy.finish(TRAIN, *shared_toy.flags(*RUN))
    assert code == 0, err
    return shared_toy.files(*RESULT)


def finish(toy, *flags):
    code, out, err = toy.finish(TRAIN, *toy.flags(*RUN, '--resume_model', 'latest', *flags))
    assert code == 0, err
    return out


@pytest.mark.parametrize('workers', [0, 2])
def test_parts_make_the_whole(toy, undisturbed, workers):
    """6 iterations, a new process, 6 iterations: every file has the bytes of 12 iterations."""
    code, _, err = toy.finish(PROBE, 6, *toy.flags(*RUN, '--num_workers', workers))
    assert code == 0, err
    assert not (toy.folder / 'run/iter_12').exists()
    out = finish(toy, '--num_workers', workers)
    assert 'Resumed from run/iter_6 at iter 6' in out and 'iter: 7/12' in out and 'iter: 6/12' not in out
    assert toy.files(*RESULT) == undisturbed


@pytest.mark.parametrize('workers, seed', [(0, 1), (2, 2)])
def test_kill_at_any_moment(toy, undisturbed, workers, seed):
    """Killed twice: at a random moment of training, evaluation or saving, and at one of the resumed run."""
    rng, moments = random.Random(seed), []
    for _ in range(2):
        process = toy.start(TRAIN, *toy.flags(*RUN, '--num_workers', workers, '--resume_model', 'latest'))
        for line in process.stdout:
            if '[TRAIN]' in line:
                break
        time.sleep(rng.uniform(0, 1.2))
        process.kill()
        communicate(process, 30)  # its loader workers hold the pipes: they must end too
        moments.append((process.returncode, sorted(path.name for path in (toy.folder / 'run').iterdir())))
    finish(toy, '--num_workers', workers)
    assert toy.files(*RESULT) == undisturbed, moments
    assert not list((toy.folder / 'run').glob('.*')), moments  # nothing half-written is left


@pytest.mark.parametrize('workers', [0, 2])
def test_interrupt(toy, workers):
    """Ctrl-C reaches the whole process group."""
    process = toy.start(TRAIN, *toy.flags(*HALF, '--iters', 100000, '--log_iters', 1, '--num_workers', workers),
                        start_new_session=True)
    for line in process.stdout:
        if '[TRAIN]' in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    code, _, err = communicate(process, 60)
    assert code == 130
    last = err.splitlines()[-1]
    assert re.fullmatch(r'train.py: interrupted at iter (\d+), which is saved in run/iter_\1. To go on: .*', last), err


@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize('workers', [0, 2])
def test_a_signal_saves_the_step(toy, undisturbed, workers, number, code):
    """Wherever it comes, and the run that goes on ends with the bytes of one that was not interrupted."""
    process = toy.start(TRAIN, *toy.flags(*RUN, '--num_workers', workers), start_new_session=True)
    for line in process.stdout:
        if 'iter: 2/12' in line:
            break
    process.send_signal(number)
    found, out, err = communicate(process, 60)
    assert found == code, err
    iteration = re.fullmatch(r'train.py: interrupted at iter (\d+), .*', err.splitlines()[-1])[1]
    out = finish(toy, '--num_workers', workers)
    assert f'Resumed from run/iter_{iteration} at iter {iteration}' in out
    assert toy.files(*RESULT) == undisturbed


def test_a_second_signal_ends_at_once(toy):
    """While the first is waiting for a step that takes long."""
    process = toy.start('-c', f'import sys; sys.argv[1:] = {list(map(str, toy.flags(*RUN)))}\n'
                        f'sys.path.insert(0, {str(TRAIN.parent)!r})\nimport time, train\nfrom cli import run\n'
                        'from paddleseg_semi.core.trainer import Trainer\n'
                        'Trainer.step = lambda *_: print("stepping", flush=True) or time.sleep(60)\n'
                        'run(train.main, train.parser)')
    for line in process.stdout:
        if 'stepping' in line:
            break
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    communicate(process, 30)
    assert process.returncode not in (0, None)
    assert not list((toy.folder / 'run').glob('iter_*'))


# In this process: what `latest` means, and what is refused

@pytest.fixture(scope='module')
def trained(shared_toy, undisturbed):
    return shared_toy.folder / 'run'


@pytest.fixture
def run(toy, trained):
    return shutil.copytree(trained, toy.folder / 'run')


def test_latest_without_checkpoint(toy):
    """So one command line serves for the start and for every restart."""
    assert toy.train('--iters', 1, '--resume_model', 'latest') == 0
    assert (toy.folder / 'run/iter_1').is_dir()


def test_latest_of_a_finished_run(run, toy):
    before = toy.files(*RESULT)
    assert toy.train(*RUN, '--resume_model', 'latest') == 0
    assert toy.files(*RESULT) == before


def test_latest_skips_what_is_not_whole(run, toy, capfd):
    shutil.copytree(run / 'iter_12', run / 'iter_99')
    (run / 'iter_99/model.pdopt').unlink()
    assert toy.train(*RUN, '--resume_model', 'latest') == 0
    assert 'Resumed from run/iter_12' in capfd.readouterr().out


def test_latest_of_folders_none_of_which_is_whole(run, refused):
    for number in (9, 12):
        (run / f'iter_{number}/method.pdparams').unlink()
    refused(*RUN, '--resume_model', 'latest', says=['run/iter_12', 'method.pdparams missing'])


def test_older_folder(run, refused):
    refused(*RUN, '--resume_model', 'run/iter_6', says=['run/iter_6', 'method.pdparams missing', 'latest'])


DAMAGES = {'empty': lambda data: b'', 'half': lambda data: data[:len(data) // 2],
           'byte': lambda data: data[:len(data) // 3] + bytes([data[len(data) // 3] ^ 1]) + data[len(data) // 3 + 1:]}


@pytest.mark.parametrize('damage', DAMAGES)
def test_damaged_files_are_noticed(run, damage):
    """As a power cut or a disk leaves them: each file of the newest checkpoint, one after the other."""
    checkpoints = Checkpoints(str(run), {})
    assert checkpoints.find('latest') == str(run / 'iter_12')
    names = sorted(path.name for path in (run / 'iter_12').iterdir())
    assert len(names) == 6
    for path in (run / 'iter_12' / name for name in names):
        data = path.read_bytes()
        path.write_bytes(DAMAGES[damage](data))
        assert checkpoints.find('latest') == str(run / 'iter_9')
        name = r'\S+' if path.name == 'SHA256SUMS' else path.name  # a wrong digest is one of another file
        with pytest.raises(InputError, match=rf'iter_12: {name} is damaged.*"latest"'):
            checkpoints.find(str(run / 'iter_12'))
        path.write_bytes(data)
    assert checkpoints.find('latest') == str(run / 'iter_12')


def test_a_run_goes_on_before_its_damaged_checkpoint(run, toy, undisturbed):
    path = run / 'iter_12/method.pdparams'
    path.write_bytes(DAMAGES['byte'](path.read_bytes()))
    out = finish(toy)
    assert 'run/iter_12: method.pdparams is damaged; the run goes on from run/iter_9' in out
    assert toy.files(*RESULT) == undisturbed


def test_a_run_goes_on_before_its_incomplete_checkpoint(run, toy, undisturbed):
    (run / 'iter_12/model.pdopt').unlink()
    assert 'run/iter_12: model.pdopt missing; the run goes on from run/iter_9' in finish(toy)
    assert toy.files(*RESULT) == undisturbed


def test_all_checkpoints_are_damaged(run, refused):
    for number in (9, 12):
        (run / f'iter_{number}/model.pdopt').write_bytes(b'')
    refused(*RUN, '--resume_model', 'latest', says=['run/iter_12', 'model.pdopt is damaged'])


def test_checkpoints_without_digests_are_resumed(run, toy):
    """Those of earlier versions."""
    for folder in run.glob('iter_*'):
        (folder / 'SHA256SUMS').unlink()
    assert 'Resumed from run/iter_12' in finish(toy)


def test_a_run_with_earlier_names_of_knobs_goes_on(run, toy):
    path = toy.folder / 'run/iter_12/model.pdstates'
    states = paddle.load(str(path))
    assert '\n  semi_weight: ' in states['config']
    states['config'] = states['config'].replace('\n  semi_weight: ', '\n  lambda_semi: ')
    paddle.save(states, str(path))
    (path.parent / 'SHA256SUMS').unlink()
    assert toy.train(*RUN, '--resume_model', 'run/iter_12') == 0


def test_what_cannot_be_read_back_removes_nothing(tmp_path, monkeypatch):
    checkpoints = Checkpoints(str(tmp_path), {'config': {}}, keep_max=1)
    files = {name: {} for name in ('model.pdparams', 'model.pdopt', 'model.pdstates', 'method.pdparams')}
    checkpoints.save(1, files)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, 'damage', lambda folder: 'model.pdopt')
        with pytest.raises(RunError, match='iter_2: model.pdopt cannot be read back'):
            checkpoints.save(2, files)
    assert (tmp_path / 'iter_1/method.pdparams').exists()
    for number in (2, 3):
        checkpoints.save(number, files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['iter_3']


def test_two_whole_checkpoints_stay(run):
    whole = sorted(path.parent.name for path in run.glob('iter_*/method.pdparams'))
    assert whole == ['iter_12', 'iter_9']


def test_names_come_after_bytes(tmp_path, monkeypatch):
    """Every file, and then the folder, is on the disk before the folder gets its name; then the name is."""
    done = []
    monkeypatch.setattr(os, 'fsync', lambda handle: done.append(os.readlink(f'/proc/self/fd/{handle}')))
    rename = os.rename
    monkeypatch.setattr(os, 'rename', lambda old, new: done.append('rename') or rename(old, new))
    names = ['method.pdparams', 'model.pdopt', 'model.pdparams', 'model.pdstates']
    Checkpoints(str(tmp_path), {'config': {}}).save(1, {name: {} for name in names})
    cut = done.index('rename')
    folder = f'{tmp_path}/.iter_1.tmp'
    assert {f'{folder}/{name}' for name in names} | {folder} <= set(done[:cut])
    assert done[cut + 1:] == [str(tmp_path)]


def test_a_new_run_puts_the_old_one_aside(run, toy, capfd):
    before = toy.files('iter_12', 'split')
    recipe = (run / 'config.yml').read_bytes()
    assert toy.train('--iters', 1, '--label_ratio', 0.25) == 0
    assert 'held an earlier run' in capfd.readouterr().out
    assert toy.files('iter_1') and not (run / 'iter_12').exists()
    after = toy.files('earlier_1/iter_12', 'earlier_1/split')
    assert {name.removeprefix('earlier_1/'): md5 for name, md5 in after.items()} == before
    assert (run / 'earlier_1/config.yml').read_bytes() == recipe


def test_files_of_others_stay(toy):
    """Only what a killed run left under the names of checkpoints is cleared away."""
    others = ['notes.old', '.cache.tmp/file', '.cache.old/file', 'x.tmp']
    for name in [*others, '.iter_7.tmp/model.pdparams', '.best_model.old/model.pdparams']:
        (toy.folder / 'run' / name).parent.mkdir(parents=True, exist_ok=True)
        (toy.folder / 'run' / name).write_text('mine')
    assert toy.train('--iters', 1, '--resume_model', 'latest') == 0
    assert [(toy.folder / 'run' / name).read_text() for name in others] == ['mine'] * 4
    assert not (toy.folder / 'run/.iter_7.tmp').exists()
    assert not (toy.folder / 'run/.best_model.old').exists()


def test_several_values_in_an_option(toy):
    flags = ['--iters', 2, '--opts', 'model.aspp_ratios=1,2', 'test_config.scales=(0.5,1.0)']
    assert toy.train(*flags) == 0
    assert toy.train(*flags, '--resume_model', 'latest') == 0


@pytest.mark.parametrize('flags, difference', [
    (['--seed', 1], 'seed 0, not 1'),
    (['--label_ratio', 0.25], 'semi.label_ratio: 0.5, not 0.25'),
    (['--batch_size', 3], 'batch_size: 2, not 3'),
    (['--opts', 'method.semi_weight=0.2'], 'method.semi_weight: 0.1, not 0.2'),
    (['--opts', 'players.discriminator.optimizer.beta1=0.8'], 'players.discriminator.optimizer.beta1: 0.9, not 0.8'),
    (['--repeats', 2], 'repeats 1, not 2'),
    (['--precision', 'fp16'], 'precision fp32, not fp16')])
def test_another_run(run, refused, flags, difference):
    refused(*RUN, '--resume_model', 'latest', *flags, says=['run/iter_12', difference])


@pytest.mark.parametrize('flags, says', [
    (['--iters', 15], 'iters: 12, not 15'),
    (['--learning_rate', 0.01, '--iters', 13], 'lr_scheduler.learning_rate: 0.05')])
def test_a_run_is_lengthened(run, toy, flags, says, capfd):
    """Or goes on with another rate: the commonest wish. The log says that it is another run now."""
    assert toy.train(*RUN, '--resume_model', 'latest', *flags) == 0
    out = capfd.readouterr().out
    assert says in out and 'not, to the bit, the run' in out and 'iter: 13/' in out
    assert (toy.folder / f'run/iter_{flags[flags.index("--iters") + 1]}').is_dir()
    if '--learning_rate' in flags:
        assert re.search(r'iter: 13/13, .*lr: 0.00', out)


def test_two_trainings_in_one_folder(toy):
    """The second is refused and the first goes on; when it is killed its lock is gone."""
    first = toy.start(TRAIN, *toy.flags(*HALF, '--iters', 100000, '--log_iters', 1))
    for line in first.stdout:
        if '[TRAIN]' in line:
            break
    code, _, err = toy.finish(TRAIN, *toy.flags(*HALF, '--iters', 1))
    assert code == 2 and err.splitlines()[-1].startswith('train.py: --save_dir run: another training is running there')
    assert first.poll() is None
    first.kill()
    communicate(first, 30)
    assert toy.train(*HALF, '--iters', 1) == 0


def test_another_method(toy, run, refused):
    del toy.recipe['method']
    refused(*RUN, '--resume_model', 'latest', '--method', 'Supervised',
            says=['run/iter_12', 'method.type: AdvSemiSeg, not Supervised'])


def test_another_split_of_the_same_size(toy, run, refused):
    (toy.folder / 'ids.txt').write_text(''.join(f'{i:02d}\n' for i in range(6)))
    refused(*RUN, '--resume_model', 'latest', '--split_ids', 'ids.txt', says=['run/iter_12', 'semi.split: None'])


def test_split_whose_list_has_changed(toy, refused):
    """The recipe names the same file; what is in it differs."""
    ids = toy.folder / 'ids.txt'
    ids.write_text('00\n01\n02\n')
    flags = ['--split_ids', 'ids.txt', '--iters', 1, '--resume_model', 'latest']
    assert toy.train(*flags) == 0
    ids.write_text('00\n01\n03\n')
    refused(*flags, says=['run/iter_1', 'split', 'leak masks'])


def test_ema_was_not_kept(toy, refused):
    assert toy.train('--iters', 1) == 0
    refused('--iters', 1, '--use_ema', '--resume_model', 'latest', says=['run/iter_1', 'ema_model.pdparams'])


def test_ema_had_another_decay(run, refused):
    refused(*RUN, '--resume_model', 'latest', '--use_ema', '0.9', says=['run/iter_12', '--use_ema 0.999, not 0.9'])


def test_what_may_change(run, toy):
    """Where and how it is evaluated, and how often something is said, is not part of what is trained."""
    toy.recipe['val_dataset']['transforms'].insert(0, {'type': 'Resize', 'target_size': [32, 32]})
    assert toy.train(*RUN, '--resume_model', 'latest', '--log_iters', 5, '--save_interval', 2) == 0


def test_interrupt_while_paddle_is_imported(toy):
    process = toy.start(TRAIN, *toy.flags())
    maps = Path(f'/proc/{process.pid}/maps')
    while process.poll() is None and 'libpaddle.so' not in maps.read_text():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    code, _, err = communicate(process, 60)
    assert code == 130
    assert err.splitlines()[-1] == 'train.py: interrupted' and 'Traceback' not in err, err
    assert not (toy.folder / 'run').exists()
