"""A study: a grid of training runs, worked off by a queue that may be killed at any time.

    python benchmarks/study.py --tiers A            # again after an interruption: it goes on where it was
    touch output/study/pause                        # what runs stands still, nothing begins, until the file is removed
    python benchmarks/study_results.py              # tables, trimmed logs and plots of what is finished

A run is a command line of the suite, in a process of its own with one thread at the lowest priority. Its folder holds
what the command writes, console.log, and study.json with the commit, the exit code and the seconds it took.
Work in a clone that nobody else changes, at a tag, and in its root; with changed files nothing begins.
"""

import contextlib
import fcntl
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import yaml

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, 'tools'))
from cli import Parser, run

parser = Parser('Work off a grid of training runs.')
parser.add_argument('--grid', default=os.path.join(ROOT, 'benchmarks/study.yml'), help='what to run (YAML)')
parser.add_argument('--save_dir', default='output/study', help='where the folders of the runs go')
parser.add_argument('--tiers', nargs='+', default=None, help='parts of the grid, in this order (default: all)')
parser.add_argument('--processes', type=int, default=2, help='runs at a time, of one thread each')
parser.add_argument('--pause_file', default=None, help='while it is there, all stands still (default: SAVE_DIR/pause)')
parser.add_argument('--list', action='store_true', help='only say what is done and what is not')

RECORD, CONSOLE, LOCK = 'study.json', 'console.log', '.lock'
_POLL, _SAVE = 0.2, 60  # seconds between looks at the processes, and between records of their time


class Run(NamedTuple):
    """One cell of the grid.

    Attributes:
        method (str), masks (str), seed (int): the cell.
        command (list[str]): arguments of Python.
        folder (str): of the run.
        result (str): the folder of its last training, which is `folder` or below it.
    """

    method: str
    masks: str
    seed: int
    command: list
    folder: str
    result: str

    @property
    def name(self):
        return os.path.basename(self.folder)

    def record(self):
        """dict: what study.json says; empty before the first start."""
        try:
            with open(os.path.join(self.folder, RECORD), encoding='utf-8') as file:
                return json.load(file)
        except FileNotFoundError:
            return {}

    def write(self, **record):
        path = os.path.join(self.folder, RECORD)
        with open(path + '.tmp', 'w', encoding='utf-8') as file:
            json.dump(record, file)
        os.replace(path + '.tmp', path)


def read_grid(path, save_dir, tiers=None):
    """The cells of a grid.

    Args:
        path (str): YAML: `words`, texts that commands may name in braces; `methods`, name → command line, or a section
            of `command` and `result`; `lists`, masks → flags; `tiers`, name → rows [methods, lists, seeds]. A command
            has {seed}, {folder} and {list} besides.
        save_dir (str): where the runs' folders are.
        tiers (list[str], optional): which of them. Default: all.

    Returns:
        list[Run]: in the order of the tiers, each once.

    Raises:
        InputError: a name that the grid does not have.
    """
    with open(path, encoding='utf-8') as file:
        grid = yaml.safe_load(file)
    runs = {}
    for tier in tiers or grid['tiers']:
        for methods, lists, seeds in _known(grid['tiers'], tier, '--tiers'):
            for method, masks, seed in itertools.product(methods, lists, seeds):
                entry = _known(grid['methods'], method, f'{path}: methods')
                entry = entry if isinstance(entry, dict) else {'command': entry}
                folder = os.path.join(save_dir, f'{method}_{masks}_seed{seed}')
                words = {'seed': seed, 'folder': shlex.quote(folder)}
                words['list'] = _known(grid['lists'], masks, f'{path}: lists').format(**words)
                words.update({key: text.format(**words) for key, text in grid['words'].items()})
                runs[folder] = Run(method, str(masks), seed, shlex.split(entry['command'].format(**words)), folder,
                                   os.path.join(folder, entry.get('result', '')))
    return list(runs.values())


def _known(section, name, where):
    if name not in section:
        from paddleseg_semi.errors import InputError
        raise InputError(f'{where}: there is no "{name}". Known: {", ".join(map(str, section))}.')
    return section[name]


class Job:
    """A run whose process is there.

    Args:
        run (Run): what.
        lock (int): descriptor of the run's lock. The process inherits it: however this one ends, no second process
            begins the run while the first is there.
        stamp (str): the code that runs.
    """

    def __init__(self, run, lock, stamp):
        earlier = run.record()
        self.run, self.stopped = run, False
        # A study that was killed knows how long its processes went on without it as little as anybody
        self.earlier = earlier['seconds'] if earlier.get('code') is not None else None if earlier else 0
        self.seconds = 0
        commits = earlier.get('commits', [])
        self.stamp = {'commits': commits + [stamp] * (stamp not in commits), 'command': run.command}
        self.looked = self.saved = time.monotonic()
        with open(os.path.join(run.folder, CONSOLE), 'ab') as console:
            self.process = subprocess.Popen(
                ['nice', '-n', '19', sys.executable, *run.command], stdout=console, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, pass_fds=[lock], start_new_session=True,
                env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONUNBUFFERED': '1'})
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(self.process.pid).encode(), 0)
        os.close(lock)
        self.save()

    def stop(self, stop):
        """Lets the process and all its children stand still, or go on."""
        if stop != self.stopped:
            os.killpg(self.process.pid, signal.SIGSTOP if stop else signal.SIGCONT)
            self.look()
            self.stopped = stop

    def look(self):
        """int: the exit code; None while the process is there. Counts the time in which it was not stopped."""
        now = time.monotonic()
        self.seconds += 0 if self.stopped else now - self.looked
        self.looked = now
        code = self.process.poll()
        if code is not None or now - self.saved > _SAVE:
            self.save(code)
            self.saved = now
        return code

    def save(self, code=None):
        seconds = None if self.earlier is None else round(self.earlier + self.seconds, 1)
        self.run.write(**self.stamp, seconds=seconds, code=code)

    def end(self):
        """Ends the process; what it has saved stays."""
        self.stop(False)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait()
        self.save('interrupted')


def work(runs, processes, pause_file, stamp):
    """Works the runs off.

    Args:
        runs (list[Run]): those that are finished are left out.
        processes (int): at a time.
        pause_file (str): while it exists, all stands still.
        stamp (str): the code that runs.

    Returns:
        list[Run]: those that failed; they are tried again when the study is started again.
    """
    waiting, jobs, failed = [run for run in runs if run.record().get('code') != 0], [], []
    try:
        while waiting or jobs:
            paused = os.path.exists(pause_file)
            for job in list(jobs):
                job.stop(paused)
                code = job.look()
                if code is not None:
                    jobs.remove(job)
                    say(f'{job.run.name}: {"done" if code == 0 else f"failed ({code})"}, {job.seconds / 60:.1f} min')
                    failed += [job.run] * (code != 0)
            if not paused and len(jobs) < processes:
                job = next(filter(None, (_begin(run, stamp) for run in waiting)), None)
                if job:
                    waiting.remove(job.run)
                    jobs.append(job)
                    say(f'{job.run.name}: begun, {len(waiting)} waiting')
                    continue
            time.sleep(_POLL)
    finally:
        for job in jobs:
            job.end()
    return failed


def _begin(run, stamp):
    """Job: None while a process of an earlier study is still at the run."""
    os.makedirs(run.folder, exist_ok=True)
    lock = os.open(os.path.join(run.folder, LOCK), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(lock, 20, 0)
        if pid.isdigit():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(pid), signal.SIGCONT)  # its study was killed in a pause
        os.close(lock)
        return None
    return Job(run, lock, stamp)


def say(text):
    print(f'{time.strftime("%Y-%m-%d %H:%M:%S")} {text}', flush=True)


def stamp():
    """str: tag, if there is one, and commit of the code.

    Raises:
        InputError: files are changed, so no commit would say what ran.
    """
    from paddleseg_semi.errors import InputError

    def git(*args):
        return subprocess.run(['git', '-C', ROOT, *args], capture_output=True, text=True).stdout.strip()

    if git('status', '--porcelain', '--untracked-files=no'):
        raise InputError(f'{ROOT}: files are changed. A run must be of a commit: use a clone at a tag.')
    return f'{git("tag", "--points-at", "HEAD").replace(chr(10), " ")} {git("rev-parse", "--short=12", "HEAD")}'.strip()


def main(args):
    from paddleseg_semi.errors import InputError
    runs = read_grid(args.grid, args.save_dir, args.tiers)
    if args.list:
        for cell in runs:
            record = cell.record()
            print(f'{cell.name:40} {"done" if record.get("code") == 0 else "begun" if record else "waiting"}')
        return 0
    code = stamp()
    os.makedirs(args.save_dir, exist_ok=True)
    with open(os.path.join(args.save_dir, LOCK), 'w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f'{args.save_dir}: another study is at work there.') from None
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        failed = work(runs, args.processes, args.pause_file or os.path.join(args.save_dir, 'pause'), code)
    for cell in failed:
        say(f'{cell.name}: failed, see {os.path.join(cell.folder, CONSOLE)}')
    return int(bool(failed))


if __name__ == '__main__':
    run(main, parser)
