"""What happens when something a user or a stranger sends is changed at random.

A case is a folder with a tiny data set, something in it changed, and one tool that is called on it. However it ends, it
must be with exit code 0, or with one readable line and 2 (1 where the machine or the run failed), and then nothing may
have been written. All of a case follows from its name, 'seed/kind/number'.
"""

import contextlib
import copy
import hashlib
import io
import os
import pickle
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from paddleseg.cvlibs import manager

from paddleseg_semi import safe
from paddleseg_semi.cvlibs.config import merged, method_base
from paddleseg_semi.registries import METHODS

from .conftest import RECIPE, ROOT, Toy
from .mutations import ARRAYS, HOSTILE, MARK, ODD, mutated, scrambled

sys.path.append(str(ROOT / 'deploy/python'))  # for infer

KINDS = 'recipes', 'lists', 'checkpoints', 'deploy'
VARIABLE = 'PADDLESEG_SEMI_FUZZ_SEED'
SECONDS, MEMORY = 120, 3 << 30  # of a case; the bytes are on top of what the process has
_FLAGS = ['--device', 'cpu', '--cpu_threads', '1', '--no_cpu_tuning']
_SMALL = {'U2PL': {'rep_channels': 8, 'bank_size': 50, 'bank_first': 50, 'num_queries': 4, 'num_negatives': 3},
          'AdvSemiSeg': {'ndf': 4}}
_METHODS = ['AdvSemiSeg', 'CPS', 'CutMixSeg', 'FixMatch', 'IMAS', 'MeanTeacher', 'Supervised', 'U2PL', 'UniMatch',
            'UniMatchV2', 'EADER']
_REGISTRIES = (manager.MODELS, manager.BACKBONES, manager.DATASETS, manager.TRANSFORMS, manager.LOSSES,
               manager.OPTIMIZERS, METHODS)


class Broken(AssertionError):
    """A case that ended as none may."""


class TooSlow(BaseException):
    """A case that does not end; no tool turns it into anything else."""


def seed_of(root=ROOT):
    """str: of the environment, or else one that changes with the sources."""
    given = os.environ.get(VARIABLE)
    if given:
        return given
    git = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], cwd=root, capture_output=True, text=True, check=False)
    if git.returncode == 0:
        return git.stdout.strip()
    files = sorted((Path(root) / 'paddleseg_semi').rglob('*.py'))
    return hashlib.sha256(b''.join(path.read_bytes() for path in files)).hexdigest()[:12]


class Fuzzer:
    """Makes cases and runs them.

    Args:
        folder (pathlib.Path): what it works in; empty.
        seed (str): of all cases.
    """

    def __init__(self, folder, seed):
        self.folder, self.seed = Path(folder).resolve(), seed
        self.makers = {'recipes': self._recipe, 'lists': self._lists, 'checkpoints': self._checkpoint,
                       'deploy': self._deploy}
        (self.folder / 'origin').mkdir()
        self.toy = Toy(self.folder / 'origin')
        self.toy.recipe = _recipe('FixMatch')
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert self.toy.call('train', *self.toy.flags()[:4], *_FLAGS, '--iters', 2, '--use_ema') == 0
            shutil.move(self.toy.folder / 'run', self.folder / 'trained')
            flags = ['--config', 'recipe.yml', '--device', 'cpu', '--save_dir', '../exported']
            assert self.toy.call('export', *flags) == 0

    def run(self, kind, number):
        """Runs one case.

        Returns:
            tuple: exit code, what was changed, the last line on stderr.

        Raises:
            Broken: it ended as none may.
        """
        rng = random.Random(f'{self.seed}/{kind}/{number}')
        folder = self.folder / 'case'
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        shutil.copytree(self.toy.folder / 'data', folder / 'data')
        toy = Toy.__new__(Toy)
        toy.folder, toy.recipe = folder, copy.deepcopy(self.toy.recipe)
        what, tool, args, written = self.makers[kind](rng, toy)
        name = f'{self.seed}/{kind}/{number} ({what[:200]}; {tool} {" ".join(map(str, args))})'
        before, around = _listing(folder), sorted(os.listdir(self.folder))
        code, err = _call(toy, tool, args, name)
        after = _listing(folder)
        made = {path for path in {*before, *after} if before.get(path) != after.get(path)}
        lines = err.splitlines()
        if code not in ((0, 1, 2, 3) if tool == 'infer' else (0, 1, 2)):
            raise Broken(f'{name}: exit code {code}: {err}')
        if code in (1, 2) and (len(lines) != 1 or not re.match(r'\w+\.py: .', lines[0])):
            raise Broken(f'{name}: not one line: {err}')
        if code == 2 and made:
            raise Broken(f'{name}: left {sorted(made)[:3]} behind: {err}')
        if any(path.split('/')[0] != written for path in made) or sorted(os.listdir(self.folder)) != around:
            raise Broken(f'{name}: wrote {sorted(made)[:5]}, {sorted(os.listdir(self.folder))}')
        if any(path.endswith(MARK) for path in after) or (self.folder / MARK).exists():
            raise Broken(f'{name}: executed something')
        return code, what, lines[-1] if lines else ''

    def _recipe(self, rng, toy):
        method = rng.choice(_METHODS)
        recipe, what = mutated(rng, _recipe(method), times=rng.choice([1, 1, 1, 2, 4]), others=_likely)
        text = yaml.safe_dump(recipe, sort_keys=False).encode()
        if rng.random() < 0.15:
            text, more = scrambled(rng, text)
            what = f'{what}; bytes: {more}'
        (toy.folder / 'recipe.yml').write_bytes(text)
        shutil.copytree(toy.folder / 'data/labels', toy.folder / 'data/maps')
        flags = rng.choice([[], ['--do_eval'], ['--do_eval', '--use_ema']])
        return f'{method}: {what}', 'train', ['--config', 'recipe.yml', '--save_dir', 'run', *_FLAGS, *flags], 'run'

    def _lists(self, rng, toy):
        folder, data = toy.folder, toy.folder / 'data'
        lines = (data / 'train.txt').read_text().splitlines()
        (folder / 'split').mkdir()
        (folder / 'split/labeled.txt').write_text('\n'.join(lines[:6]))
        (folder / 'split/unlabeled.txt').write_text('\n'.join(line.split()[0] for line in lines[6:]))
        (folder / 'ids.txt').write_text('\n'.join(f'{i:02d}' for i in range(5)))
        (folder / 'tags.txt').write_text(''.join(f'images/{i:02d}.jpg {i % 2 + 1}\n' for i in range(12)))
        (folder / 'more.txt').write_text('\n'.join(lines[:3]))
        order = list(range(12))
        rng.shuffle(order)
        (folder / 'ids.pkl').write_bytes(pickle.dumps(order, protocol=2))
        file, options = rng.choice([
            ('data/train.txt', []), ('data/train.txt', ['--label_ratio', '0.5']), ('data/val.txt', ['--do_eval']),
            ('split/labeled.txt', ['--split_ids', 'split']), ('split/unlabeled.txt', ['--split_ids', 'split']),
            ('ids.txt', ['--split_ids', 'ids.txt']),
            ('ids.pkl', ['--split_ids', 'ids.pkl', '--label_ratio', '0.5']), ('tags.txt', ['tags']),
            ('more.txt', ['--extra_labeled', 'more.txt', '--label_ratio', '0.5'])])
        toy.recipe = _recipe('FixMatch' if len(options) > 1 else 'Supervised')
        if options == ['tags']:
            toy.recipe, options = {**_recipe('EADER'), 'semi': {'tags': 'tags.txt'}}, []
        else:
            toy.recipe['semi'].pop('label_ratio', None)
        what = _changed_file(rng, folder / file, self._lines)
        return f'{file}: {what}', *_train(toy, options)

    def _lines(self, rng, path):
        if path.suffix == '.pkl':
            ids, what = mutated(rng, pickle.loads(path.read_bytes()), times=rng.choice([1, 3]))
            path.write_bytes(pickle.dumps(ids, protocol=rng.choice([0, 2, 4])))
            return what
        lines = path.read_text().splitlines()
        for _ in range(rng.choice([1, 1, 3])):
            k = rng.randrange(len(lines) + 1)
            line = lines[k % len(lines)] if lines else ''
            lines[k:k + 1] = rng.choice([
                [], [''], [line, line], [rng.choice(HOSTILE)], [line + ' ' + rng.choice(HOSTILE)], [line.upper()],
                [' '.join(reversed(line.split()))], [line.replace(' ', rng.choice([',', '\t', '  ', '\\', ';']))],
                ['../' + line], ['/' + line], [line.replace('images', 'labels')], [line.split(' ')[0]],
                [f'"{line}"'], ['#' + line], [line + 'x' * 5000], lines[:1]])
        ending, encoding = rng.choice(['\n', '\n', '\r\n', '\r']), rng.choice(['utf-8'] * 4 + ['utf-8-sig', 'utf-16'])
        path.write_bytes(ending.join(lines).encode(encoding, 'surrogatepass'))
        return f'{len(lines)} lines, {ending!r}, {encoding}'

    def _checkpoint(self, rng, toy):
        run = shutil.copytree(self.folder / 'trained', toy.folder / 'run', symlinks=True)
        tool = rng.choice(['train'] * 5 + ['val', 'val', 'predict', 'export'])
        names = ['model.pdopt', 'model.pdstates', 'model.pdstates', 'method.pdparams', 'ema_model.pdparams',
                 'SHA256SUMS'] if tool == 'train' else ['model.pdparams']
        path = run / 'iter_2' / rng.choice(names)
        if rng.random() < 0.8 and path.name != 'SHA256SUMS':
            (run / 'iter_2/SHA256SUMS').unlink()  # who makes a file can make its digest
        what = f'{path.name}: {_changed_file(rng, path, self._content)}'
        if tool == 'train':
            wanted = rng.choice(['latest', 'run/iter_2'])
            return what, *_train(toy, ['--iters', 2, '--use_ema', '--resume_model', wanted])
        toy.flags()
        flags = ['--config', 'recipe.yml', '--device', 'cpu', '--model_path', 'run/iter_2/model.pdparams']
        if tool == 'val':
            return what, tool, [*flags, '--report_dir', 'results'], 'results'
        return what, tool, [*flags, '--save_dir', 'results', *(
            ['--image_path', 'data/images'] if tool == 'predict' else [])], 'results'

    def _content(self, rng, path):
        if path.name == 'SHA256SUMS':
            return self._lines(rng, path)
        content, what = mutated(rng, safe.load(str(path)), (*ODD, *HOSTILE, *ARRAYS), rng.choice([1, 1, 3]))
        if path.name == 'model.pdstates' and rng.random() < 0.3:
            config, what = mutated(rng, _recipe('FixMatch'))
            content = {**safe.load(str(path)), 'config': yaml.safe_dump(config)}
        with open(path, 'wb') as file:
            pickle.dump(content, file, protocol=rng.choice([2, 4]))
        return what

    def _deploy(self, rng, toy):
        shutil.copytree(self.folder / 'exported', toy.folder / 'export')
        path = toy.folder / 'export' / rng.choice(['deploy.yaml'] * 9 + ['model.json', 'model.pdiparams'])
        what = _changed_file(rng, path, self._settings)
        flags = rng.choice([[], ['--save_overlay'], ['--polygons', 'coco'], ['--polygons', 'labelme']])
        (toy.folder / 'photos').mkdir()
        shutil.copy(toy.image(0), toy.folder / 'photos')
        return f'{path.name}: {what}', 'infer', ['--config', 'export/deploy.yaml', '--image_path', 'photos',
                                                 '--save_dir', 'results', *_FLAGS, *flags], 'results'

    def _settings(self, rng, path):
        if path.name != 'deploy.yaml':  # as bytes: what Paddle makes of a network is tested in a process of its own
            data, what = scrambled(rng, path.read_bytes())
            path.write_bytes(data[:len(data) // 2])
            return what
        content, what = mutated(rng, yaml.safe_load(path.read_text()), times=rng.choice([1, 1, 3]), others=_likely)
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return what


def _recipe(method):
    """dict: one that trains, with all knobs of the method in it."""
    recipe = copy.deepcopy(RECIPE)
    recipe.update(iters=2, semi={'label_ratio': 0.5, 'unlabeled': {
        'batch_size': 2, 'strong': [{'type': 'RandomBlur'}], 'views': 2}})
    recipe['test_config'] = {'aug_eval': True, 'scales': [0.5, 1.0], 'flip_horizontal': True}
    recipe['class_names'], recipe['palette'] = ['a', 'b', 'c'], {'a': [0, 0, 0], 'b': [255, 0, 0], 'c': [0, 255, 0]}
    recipe['method'] = {'type': method}
    recipe = merged(recipe, method_base(method))
    recipe['method'].update(_SMALL.get(method, {}))
    recipe['players'] = {'model': {'lr_scheduler': {'type': 'StepDecay', 'learning_rate': 0.01, 'step_size': 1}}}
    if method == 'EADER':
        recipe['semi'] = {'tags': 'masks'}
        recipe['model'] = {'type': 'CAMNet', 'num_classes': 3, 'backbone': {'type': 'ResNet18_plain'}}
        recipe.pop('players')
    return recipe


def _likely(path, value):
    """Other values of a place in a recipe that would do as well: types of the same kind, near numbers."""
    if path[-1] == 'type':
        return [name for registry in _REGISTRIES if value in registry.components_dict
                for name in registry.components_dict] + ['StepDecay', 'ReduceOnPlateau', 'LambdaDecay', 'CyclicLR']
    if type(value) in (int, float):
        return [value * 2, value / 2, -value, value + 1, value * 1000, 0, 1, str(value), [value, value]]
    return [None, '', 0]


def _changed_file(rng, path, change):
    """A change of what a file holds, of its bytes, or of what kind of file it is."""
    action = rng.random()
    if action < 0.75:
        return change(rng, path)
    if action < 0.9:
        data, what = scrambled(rng, path.read_bytes())
        path.write_bytes(data)
        return f'bytes: {what}'
    path.unlink()
    kind = rng.choice(['nothing', 'folder', 'pipe', '/dev/zero', '/etc/passwd', path.name, 'empty'])
    if kind == 'folder':
        path.mkdir()
    elif kind == 'pipe':
        os.mkfifo(path)
    elif kind == 'empty':
        path.touch()
    elif kind != 'nothing':
        path.symlink_to(kind)
    return f'is {kind}'


def _train(toy, options):
    toy.flags()
    return 'train', ['--config', 'recipe.yml', '--save_dir', 'run', *_FLAGS, *options], 'run'


def _listing(folder):
    """dict[str, tuple]: of all that is below a folder, by path; what changes with its content."""
    found = {}
    for path in folder.rglob('*'):
        about = path.lstat()
        found[str(path.relative_to(folder))] = about.st_mode, about.st_size, path.is_dir() or about.st_mtime_ns
    return found


def _call(toy, tool, args, name):
    err = io.StringIO()

    def give_up(*_):
        raise TooSlow(name)

    before, limits = signal.signal(signal.SIGALRM, give_up), resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, limits[1]))
    signal.alarm(SECONDS)
    state = np.random.get_state(), random.getstate()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
            return toy.call(tool, *args), err.getvalue()
    except TooSlow:
        raise Broken(f'{name}: takes more than {SECONDS} s') from None
    except Exception as error:
        raise Broken(f'{name}: {type(error).__name__}: {error}') from error
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)
        np.random.set_state(state[0])
        random.setstate(state[1])
