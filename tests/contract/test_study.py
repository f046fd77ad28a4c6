"""benchmarks/study.py: a queue that may be killed, paused and started again, and what it makes of real logs."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import paddle
import pytest
import yaml

from paddleseg_semi.methods.fixmatch import Guide
from paddleseg_semi.methods.pseudo import Pseudo

from .conftest import HALF, ONE_THREAD, ROOT

sys.path.append(str(ROOT / 'benchmarks'))  # last: its export.py is not the tool
import study
import study_controls
import study_results

# A run of so many steps. It says when it stands beside another process of the same run, and what it did.
SCRIPT = '''
import os, sys, time
folder, steps, code = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
alone = os.path.join(folder, 'alone')
os.close(os.open(alone, os.O_CREAT | os.O_EXCL))
for step in range(steps):
    print('step', flush=True)
    time.sleep(0.05)
os.remove(alone)
sys.exit(code)
'''


@pytest.fixture
def grid(tmp_path, monkeypatch):
    """grid(**methods: (steps, exit code)) → the path of a grid; its folder is the working one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'script.py').write_text(SCRIPT)

    def make(**methods):
        commands = {name: f'script.py {{folder}} {steps} {code}' for name, (steps, code) in methods.items()}
        (tmp_path / 'grid.yml').write_text(yaml.safe_dump({
            'words': {}, 'methods': commands, 'lists': {31: ''},
            'tiers': {'A': [[list(methods), [31], [0]]], 'B': [[list(methods)[:1], [31], [0, 1]]]}}))
        return str(tmp_path / 'grid.yml')
    return make


def work(path, code='v1 abc', tiers=None):
    """A study in this process; the names of the runs that failed."""
    failed = study.work(study.read_grid(path, 'out', tiers), 2, 'pause', code)
    return [run.name for run in failed]


def start(path):
    """A study in a process of its own."""
    return subprocess.Popen([sys.executable, '-c', f'import sys; sys.path.insert(0, {str(ROOT / "benchmarks")!r})\n'
                             f'import study; study.work(study.read_grid({path!r}, "out"), 2, "pause", "v1 abc")'])


def steps(name):
    file = os.path.join('out', name, 'console.log')
    return Path(file).read_text().count('step') if os.path.exists(file) else 0


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def record(name):
    return json.loads(Path('out', name, 'study.json').read_text())


def test_each_run_once(grid):
    path = grid(one=(3, 0), two=(4, 0), bad=(2, 1))
    assert work(path) == ['bad_31_seed0']
    assert record('two_31_seed0')['code'] == 0 and record('two_31_seed0')['commits'] == ['v1 abc']
    assert record('two_31_seed0')['seconds'] >= 0.2
    assert work(path, 'v2 def') == ['bad_31_seed0']
    assert [steps(f'{name}_31_seed0') for name in ('one', 'two', 'bad')] == [3, 4, 4]  # what failed is tried again
    assert record('bad_31_seed0')['commits'] == ['v1 abc', 'v2 def']
    assert work(path, tiers=['B']) == []
    assert steps('one_31_seed0') == steps('one_31_seed1') == 3


def test_killed_without_a_word(grid):
    """The process that was at work goes on; a new study waits for it instead of standing beside it."""
    path = grid(one=(40, 0), two=(3, 0))
    first = start(path)
    wait_for(lambda: steps('one_31_seed0') > 2)
    first.kill()
    first.wait()
    assert record('one_31_seed0')['code'] is None
    assert work(path) == []
    assert record('one_31_seed0')['code'] == 0 and steps('one_31_seed0') == 80  # the second found the lock free
    assert record('one_31_seed0')['seconds'] is None, 'nobody knows how long it took'


@pytest.mark.parametrize('kill', [signal.SIGINT, signal.SIGKILL])
def test_pause(grid, kill):
    """All stands still while the file is there, also what a killed study left stopped."""
    path, began = grid(one=(30, 0)), time.monotonic()
    first = start(path)
    wait_for(lambda: steps('one_31_seed0') > 2)
    Path('pause').touch()
    time.sleep(0.5)
    seen = steps('one_31_seed0')
    time.sleep(0.3)
    assert steps('one_31_seed0') == seen < 30
    if kill == signal.SIGKILL:
        first.kill()
        first.wait()
        os.remove('pause')
        assert work(path) == []
    else:
        os.remove('pause')
        assert first.wait() == 0
    assert record('one_31_seed0')['code'] == 0
    assert kill == signal.SIGKILL or record('one_31_seed0')['seconds'] < time.monotonic() - began - 0.5, 'without pause'


def test_interrupted_runs_end_too(grid):
    first = start(grid(one=(1000, 0)))
    wait_for(lambda: steps('one_31_seed0') > 2)
    first.send_signal(signal.SIGINT)
    assert first.wait(30) != 0
    seen = steps('one_31_seed0')
    time.sleep(0.3)
    assert steps('one_31_seed0') == seen and record('one_31_seed0')['code'] == 'interrupted'


@pytest.mark.parametrize('change, says', [({'tiers': {'A': [[['two'], [31], [0]]]}}, 'two'),
                                          ({'tiers': {'A': [[['one'], [32], [0]]]}}, '32')])
def test_unknown_names(grid, change, says):
    from paddleseg_semi.errors import InputError
    path = grid(one=(1, 0))
    content = yaml.safe_load(Path(path).read_text()) | change
    Path(path).write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=f'there is no "{says}"'):
        study.read_grid(path, 'out')
    with pytest.raises(InputError, match='there is no "C". Known: A'):
        study.read_grid(path, 'out', ['C'])


def test_commands_of_the_study():
    """Every command names files that are there, and flags that its tool has."""
    import pipeline
    import train
    parsers = {'tools/train.py': train.parser, 'benchmarks/study_controls.py': train.parser,
               'tools/pipeline.py': pipeline.parser}
    for run in study.read_grid(str(ROOT / 'benchmarks/study.yml'), 'out'):
        args = parsers[run.command[0]].parse_args(run.command[1:])
        assert (ROOT / args.config).is_file() and args.save_dir == run.folder and args.seed == run.seed


def test_results_of_real_logs(toy, capfd, tmp_path):
    """A baseline, a method with pseudo labels, and one whose moving average counts."""
    (tmp_path / 'grid.yml').write_text(yaml.safe_dump({
        'words': {}, 'lists': {6: ''}, 'tiers': {'A': [[['labeled', 'fixmatch', 'ema'], [6], [0]]]},
        'methods': {'labeled': '-', 'fixmatch': '-', 'ema': '- --use_ema 0.5'}}))
    toy.recipe.pop('method')
    toy.recipe['class_names'] = ['ground', 'cat', 'dog']
    said = {}
    for name, flags in {'labeled': ['--method', 'Supervised'], 'ema': ['--method', 'Supervised', '--use_ema', '0.5'],
                        'fixmatch': ['--method', 'fixmatch_short', '--oracle']}.items():
        folder = tmp_path / f'out/{name}_6_seed0'
        capfd.readouterr()
        assert toy.train(*HALF, *flags, '--do_eval', '--save_interval', 3, '--save_dir', folder, '--log_iters', 2) == 0
        said[name] = capfd.readouterr().out
        (folder / 'console.log').write_text(said[name])
        (folder / 'study.json').write_text(json.dumps({'code': 0, 'seconds': 90, 'commits': ['v1 abc']}))
    flags = ['--grid', tmp_path / 'grid.yml', '--save_dir', tmp_path / 'out', '--results', tmp_path, '--name', 'toy']
    study_results.main(study_results.parser.parse_args(list(map(str, flags))))

    rows, classes, summary = ({row['method']: row for row in csv.DictReader((tmp_path / f'toy{part}.csv').open())}
                              for part in ('', '_classes', '_summary'))
    for name, row in rows.items():
        scores = [float(part.split()[2]) for part in said[name].split('[EVAL] #Images: ')[1:]]
        assert len(scores) == (4 if name == 'ema' else 2)
        scores = scores[1::2] if name == 'ema' else scores
        assert (float(row['last']), float(row['best'])) == (scores[-1], max(scores)) and row['minutes'] == '1.5'
        mean = sum(float(classes[name][key]) for key in ('ground', 'cat', 'dog')) / 3
        assert abs(mean - scores[-1]) < 1e-3
        log = (tmp_path / f'logs/toy/{name}_6_seed0.log').read_text()
        assert 'commit: v1 abc' in log and '[EVAL] #Images: 3' in log and 'TRAIN' not in log
        assert str(tmp_path) not in log
    assert rows['fixmatch']['pseudo label Acc'] and rows['fixmatch']['kept'] and not rows['labeled']['kept']
    gain = float(rows['fixmatch']['last']) - float(rows['labeled']['last'])
    assert abs(float(summary['fixmatch']['gain']) - gain) < 1e-4 and summary['labeled']['gain'] == ''
    assert (tmp_path / 'plots/toy.png').stat().st_size > 1000


def test_pseudo_labels_of_another_photo(monkeypatch):
    method = study_controls.shuffled_fixmatch()
    own, other = (Pseudo(*[paddle.to_tensor([first, first + 1, first + 2])] * 3) for first in (0, 10))
    monkeypatch.setattr(method.__base__, 'weak_pass',
                        lambda self, batch, clock: ({'sup': 1}, [Guide(own, other, 1., 0.95)]))
    losses, [guide] = method.weak_pass(method.__new__(method), {}, None)
    assert losses == {'sup': 1} and guide[2:] == (1., 0.95)
    assert [value.tolist() for value in (*guide.own, *guide.other)] == [[2, 0, 1]] * 3 + [[12, 10, 11]] * 3


def test_training_of_the_shuffled_control(toy):
    toy.recipe['method'] = {'type': 'ShuffledFixMatch', 'conf_thresh': 0.0}
    toy.recipe['semi'] = {'start': 1}
    code, out, err = toy.finish(ROOT / 'benchmarks/study_controls.py', *toy.flags(
        *HALF, '--iters', 2, '--log_iters', 1), *ONE_THREAD)
    assert code == 0, err
    assert 'Method: ShuffledFixMatch' in out and 'iter: 2/2' in out and 's1: ' in out
