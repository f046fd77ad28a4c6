"""A tiny data set, a recipe that trains on it in a second, and the ways to run the tools on them."""

import copy
import hashlib
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from cli import run

ROOT = Path(__file__).resolve().parents[2]
DATA = {'type': 'Dataset', 'dataset_root': 'data', 'num_classes': 3}
RECIPE = {
    'batch_size': 2,
    'iters': 6,
    'train_dataset': {**DATA, 'mode': 'train', 'train_path': 'data/train.txt', 'transforms': [
        {'type': 'RandomPaddingCrop', 'crop_size': [32, 32]}, {'type': 'RandomHorizontalFlip'},
        {'type': 'RandomDistort'}, {'type': 'Normalize'}]},
    'val_dataset': {**DATA, 'mode': 'val', 'val_path': 'data/val.txt', 'transforms': [{'type': 'Normalize'}]},
    'optimizer': {'type': 'SGD', 'momentum': 0.9, 'weight_decay': 4.0e-5},
    'lr_scheduler': {'type': 'PolynomialDecay', 'learning_rate': 0.05, 'end_lr': 0, 'power': 0.9},
    'loss': {'types': [{'type': 'CrossEntropyLoss'}], 'coef': [1]},
    'model': {'type': 'DeepLabV3', 'num_classes': 3, 'backbone': {'type': 'MobileNetV3_small_x0_35'},  # has dropout
              'backbone_indices': [3], 'aspp_out_channels': 16, 'aspp_ratios': [1, 2]},
    'method': {'ndf': 4, 'semi_start': 2, 'semi_start_adv': 1},
}
TRAIN, PROBE = ROOT / 'tools/train.py', ROOT / 'tests/contract/probe.py'
HALF = ['--label_ratio', 0.5]
ONE_THREAD = ['--device', 'cpu', '--cpu_threads', '1']

cv2.setLogLevel(2)  # errors only, as tools/cli.py has it in a process of its own

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as jobs in the background begin; children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Toy:
    """12 training and 3 validation images of 48x40 pixels, and everything a run on them writes, below one folder.

    Attributes:
        folder (pathlib.Path): data/, recipe.yml and run/ are in it; the working folder of every tool.
        recipe (dict): to be changed at will before a tool is called.
    """

    def __init__(self, folder):
        self.folder, self.recipe = folder, copy.deepcopy(RECIPE)
        rng = np.random.default_rng(0)
        for name in ('images', 'labels'):
            (folder / 'data' / name).mkdir(parents=True)
        for i in range(15):
            label = np.full([40, 48], i % 3, 'uint8')
            cv2.circle(label, (int(rng.integers(48)), int(rng.integers(40))), 14, (i + 1) % 3, -1)
            noise = rng.integers(0, 60, [40, 48, 3])
            label[:, :2] = 255
            cv2.imwrite(str(self.image(i)), (label[..., None] * 70 + noise).clip(0, 255).astype('uint8'))
            cv2.imwrite(str(self.mask(i)), label)
        self.write_list('train', range(12))
        self.write_list('val', range(12, 15))

    @classmethod
    def on(cls, data, folder):
        """A toy of its own on the data of another, for a process beside others; its folder becomes the working one."""
        toy = cls.__new__(cls)
        toy.folder, toy.recipe = Path(folder).resolve(), copy.deepcopy(RECIPE)
        toy.folder.mkdir()
        (toy.folder / 'data').symlink_to(data)
        os.chdir(toy.folder)
        return toy

    def image(self, i):
        return self.folder / f'data/images/{i:02d}.jpg'

    def mask(self, i):
        return self.folder / f'data/labels/{i:02d}.png'

    def write_list(self, name, numbers):
        lines = (f'images/{i:02d}.jpg labels/{i:02d}.png\n' for i in numbers)
        (self.folder / f'data/{name}.txt').write_text(''.join(lines))

    def flags(self, *flags):
        """Writes the recipe as it is now; returns the arguments of tools/train.py."""
        (self.folder / 'recipe.yml').write_text(yaml.safe_dump(self.recipe, sort_keys=False))
        return ['--config', 'recipe.yml', '--save_dir', 'run', *ONE_THREAD, *map(str, flags)]

    def train(self, *flags):
        """Trains in this process; returns the exit code of tools/train.py."""
        return self.call('train', *self.flags(*flags))

    def call(self, tool, *args):
        """Runs a tool in this process; returns its exit code."""
        module = importlib.import_module(tool)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
            patch.setenv('PADDLESEG_EXPORT_STAGE', '')  # set by export
            patch.delenv('PADDLESEG_EXPORT_STAGE')
            patch.chdir(self.folder)
            patch.setattr(sys, 'argv', [tool, *map(str, args)])
            run(module.main, module.parser)
        return end.value.code or 0

    def start(self, *args, **options):
        """Starts Python in the toy's folder, its output piped."""
        environment = {**os.environ, 'OMP_NUM_THREADS': '1'}  # any other number makes Paddle print a warning
        return subprocess.Popen([sys.executable, *map(str, args)], cwd=self.folder, env=environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)

    def finish(self, *args, **options):
        """Runs Python in the toy's folder; returns exit code, stdout, stderr."""
        process = self.start(*args, **options)
        try:
            return communicate(process)
        finally:
            process.kill()

    def files(self, *names):
        """{path below run/: md5} of the files in some folders of the run."""
        run_dir = self.folder / 'run'
        paths = [path for name in names for path in sorted((run_dir / name).rglob('*')) if path.is_file()]
        return {str(path.relative_to(run_dir)): hashlib.md5(path.read_bytes()).hexdigest() for path in paths}


def communicate(process, seconds=120):
    """Waits for the end of a process; returns exit code, stdout, stderr."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


@pytest.fixture
def toy(tmp_path):
    return Toy(tmp_path)


@pytest.fixture(scope='module')
def shared_toy(tmp_path_factory):
    """One toy for all tests of a file."""
    return Toy(tmp_path_factory.mktemp('toy'))


@pytest.fixture
def refused(toy, capfd):
    """Checks that a tool says one line, ends with exit code 2 and writes nothing."""

    def check(*flags, says=(), tool='train', code=2):
        before = snapshot(toy.folder / 'run')
        args = toy.flags(*flags) if tool == 'train' else flags
        capfd.readouterr()
        assert toy.call(tool, *args) == code
        one_line(capfd.readouterr().err, says)
        assert snapshot(toy.folder / 'run') == before
    return check


def one_line(err, says=()):
    """Asserts that stderr holds one line with all of the words."""
    assert err.endswith('\n') and err.count('\n') == 1, err
    for word in [says] if isinstance(says, str) else says:
        assert word in err, f'"{word}" is not in: {err}'


def snapshot(folder):
    """{path: content} of a folder; None when it does not exist."""
    if not folder.exists():
        return None
    return {path: path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}
