"""Checkpoints: whole or not there at all.

    save_dir/
      lock          held by the training that runs here
      config.yml, split/, train.log, vdlrecords.*.log, pictures/
      best_model/   model.pdparams, model.pdstates
      iter_N/       SHA256SUMS        digests of all other files, as sha256sum writes them
                    model.pdparams    the deployed network, plain PaddleSeg weights
                    model.pdopt       {player: optimizer and schedule}, keyed by the parameters' names in the network
                    model.pdstates    mIoU, Acc, iter; and what identifies the run
                    method.pdparams   all networks and buffers of the method (in the two newest folders only)

A folder gets its name when the disk has all that is in it. Of a run that ends with the power, the newest folder whose
files have their digests is resumed.
"""

import contextlib
import itertools
import os
import re
import shutil

import numpy as np
import paddle
import yaml
from paddleseg.utils import logger

from paddleseg_semi import files as disk
from paddleseg_semi import safe
from paddleseg_semi.errors import InputError, RunError
from paddleseg_semi.registries import translated

MODEL, OPTIMIZERS, STATES, METHOD = 'model.pdparams', 'model.pdopt', 'model.pdstates', 'method.pdparams'
DIGESTS = 'SHA256SUMS'
EMA = 'ema_model.pdparams'  # with --use_ema
_FREE = ('val_dataset', 'test_dataset', 'test_config', 'export', 'class_names', 'palette')  # is not trained on
_WRITTEN = r'lock|split|pictures|train\.log|vdlrecords\..*'
_ANEW = ('iters', 'lr_scheduler', 'ranks')  # may be changed by who wants to train on; then it is another run's bytes


class Checkpoints:
    """The folders of one run.

    Args:
        save_dir (str): the run's folder.
        identity (dict): 'config' (the recipe), 'split' (digest of the split), 'seed', 'ranks' and what else makes a
            run what it is; a checkpoint of another identity is not resumed.
        keep_max (int): how many iter_N folders stay.
    """

    def __init__(self, save_dir, identity, keep_max=5):
        self.save_dir, self.identity, self.keep_max = save_dir, identity, keep_max
        self._lock = None

    def prepare(self, fresh=True):
        """Makes the folder, writes config.yml, and clears what a killed run left half-done.

        Args:
            fresh (bool): a new run begins: checkpoints of an earlier one are moved out of its way.
        """
        try:
            os.makedirs(self.save_dir, exist_ok=True)
            self._check_links()
            self._lock = disk.taken(self.save_dir)
            if self._lock is None:
                raise InputError(f'--save_dir {self.save_dir}: another training is running there. Wait for its end, or '
                                 'give another folder.')
            for name in os.listdir(self.save_dir):
                half = re.fullmatch(r'\.(iter_\d+|best_model|ema_best_model)\.(tmp|old)', name)
                if half and half[2] == 'old' and not os.path.exists(self._path(half[1])):
                    os.rename(self._path(name), self._path(half[1]))
                elif half:
                    shutil.rmtree(self._path(name), ignore_errors=True)
            if fresh:
                self._put_aside()
            disk.write(self._path('config.yml'), yaml.safe_dump(self.identity['config'], sort_keys=False))
        except OSError as error:
            raise InputError(f'--save_dir {self.save_dir}: cannot be written ({error.strerror}).') from None

    def _check_links(self):
        """A stranger's run may hold links in place of what is written to as it is."""
        for name in os.listdir(self.save_dir):
            path = self._path(name)
            if re.fullmatch(_WRITTEN, name) and os.path.islink(path) and (os.path.isfile(path) or os.path.isdir(path)):
                raise InputError(f'--save_dir {self.save_dir}: {name} is a link to {os.path.realpath(path)}, where '
                                 'this run would write. Remove it, or give another folder.')

    def _put_aside(self):
        ours = r'iter_\d+|best_model|ema_best_model|pictures|train\.log|eval\.csv|val\.\w+|worst\.png|report\.html'
        names = [name for name in os.listdir(self.save_dir) if re.fullmatch(ours, name)]
        if not any(name.startswith(('iter_', 'best_model')) for name in names):
            return
        number = next(n for n in itertools.count(1) if not os.path.exists(self._path(f'earlier_{n}')))
        os.makedirs(self._path(f'earlier_{number}'))
        if os.path.isfile(self._path('config.yml')):  # these stay: the new run writes its own, and may read that split
            shutil.copy(self._path('config.yml'), self._path(f'earlier_{number}'))
        if os.path.isdir(self._path('split')):
            shutil.copytree(self._path('split'), self._path(f'earlier_{number}', 'split'))
        for name in names:
            os.rename(self._path(name), self._path(f'earlier_{number}', name))
        logger.warning(f'{self.save_dir} held an earlier run; it is now in {self._path(f"earlier_{number}")}. '
                       'To go on with a run, add --resume_model latest.')

    def written(self):
        """list[str]: what a finished run leaves for its user."""
        iterations = self._iterations()
        names = [*(f'iter_{n}' for n in iterations[-1:]), 'best_model', 'ema_best_model', 'pictures', 'train.log',
                 'report.html']
        return [self._path(name) for name in names if os.path.exists(self._path(name))]

    def save(self, iteration, files):
        """Writes iter_N and reads it back, then removes the oldest folders, and the method file of all but the newest
        before it.

        Args:
            iteration (int): N.
            files (dict[str, dict]): file name → content, all of the parts above at least.

        Returns:
            str: the folder.
        """
        folder = self._write(f'iter_{iteration}', {**files, STATES: {**files[STATES], **self._stamp()}})
        damaged = damage(folder)
        if damaged:
            raise RunError(f'{folder}: {damaged} cannot be read back as written. Earlier checkpoints are untouched; '
                           'look after the disk, and go on with --resume_model latest.')
        older = [n for n in self._iterations()
                 if n != iteration and not os.path.islink(self._path(f'iter_{n}'))]  # nothing is removed elsewhere
        for number in older[:max(0, len(older) + 1 - self.keep_max)]:
            shutil.rmtree(self._path(f'iter_{number}'))
        for number in older[:-1]:
            with contextlib.suppress(FileNotFoundError):
                os.remove(self._path(f'iter_{number}', METHOD))
        return folder

    def save_best(self, model, states, name='best_model'):
        return self._write(name, {MODEL: model, STATES: states})

    def find(self, wanted):
        """The folder --resume_model means.

        Args:
            wanted (str): an iter_N folder, or 'latest' for the newest whole and undamaged one of save_dir.

        Returns:
            str: the folder; None for 'latest' in a run that has not saved yet.

        Raises:
            InputError: no such folder, or parts of it are missing or damaged; for 'latest', of all folders.
        """
        if wanted == 'latest':
            folders = [self._path(f'iter_{n}') for n in self._iterations()]
            if not folders:
                return None
            whole = [folder for folder in folders if not self._missing(folder)]
            wanted = next((folder for folder in reversed(whole) if not damage(folder)), (whole or folders)[-1])
            for folder in folders[folders.index(wanted) + 1:]:
                missing = self._missing(folder)
                what = f'{", ".join(missing)} missing' if missing else f'{damage(folder)} is damaged'
                logger.warning(f'{folder}: {what}; the run goes on from {wanted}.')
        if not os.path.isdir(wanted):
            raise InputError(f'--resume_model {wanted}: no such folder. Give an iter_N folder, or "latest".')
        missing = self._missing(wanted)
        if missing:
            raise InputError(f'--resume_model {wanted}: {", ".join(missing)} missing, so it cannot be resumed. '
                             'Only the newest iter_N folder of a run holds all parts (--resume_model latest). To '
                             'start anew, leave the flag out.')
        damaged = damage(wanted)
        if damaged:
            raise InputError(f'--resume_model {wanted}: {damaged} is damaged: it has not the bytes that were written. '
                             'Give an earlier folder, or "latest" for the newest one that is whole.')
        return wanted

    def load(self, folder):
        """Reads a checkpoint of this run.

        Returns:
            dict[str, dict]: file name → content; tensors as NumPy arrays.

        Raises:
            InputError: damaged, or of a run with another recipe, split or seed.
        """
        states = safe.load(os.path.join(folder, STATES))
        try:
            recipe = safe.read_yaml(states['config'])
        except (KeyError, TypeError, AttributeError, yaml.YAMLError):
            recipe = None
        if not isinstance(recipe, dict) or not {*self.identity} <= {*states} or not _has_progress(states):
            raise InputError(f'--resume_model {folder}: {STATES} does not come from this suite, so optimizers and '
                             'data order cannot be restored. Start from its weights instead: model.pretrained.')
        self._check_identity(folder, {**states, 'config': translated(recipe)[0]})
        files = [name for name in (OPTIMIZERS, METHOD, EMA) if os.path.isfile(os.path.join(folder, name))]
        return {STATES: states, **{name: safe.load(os.path.join(folder, name)) for name in files}}

    def _stamp(self):
        return {**self.identity, 'config': yaml.safe_dump(self.identity['config'])}

    def _check_identity(self, folder, states):
        theirs, ours = states['config'], yaml.safe_load(self._stamp()['config'])  # has lists for tuples
        for key in sorted({*theirs, *ours} - set(_FREE)):
            different = _first_difference(theirs.get(key), ours.get(key), key)
            if different and key in _ANEW:
                self._go_on_anew(different)
            elif different:
                raise InputError(f'--resume_model {folder}: it was trained with {different}. Resume with the same '
                                 'recipe, or start a new run from its weights (model.pretrained).')
        for key, value in self.identity.items():
            if key in _ANEW and states[key] != value:
                self._go_on_anew(f'{key}: {states[key]}, not {value}')
            elif key != 'config' and states[key] != value:
                raise InputError(f'--resume_model {folder}: it was trained with {key} {states[key]}, not {value}. '
                                 'Resume with the same --seed, --label_ratio, --split_ids, --repeats, --precision and '
                                 'number of cards: another split would leak masks, another order is another run.')

    def _go_on_anew(self, difference):
        logger.warning(f'The run was begun with {difference}. It goes on, but from here on it is not, to the bit, the '
                       'run that either recipe makes from its beginning.')

    def _write(self, name, files):
        """A folder that appears under its name only when all files are in it."""
        new, old, final = self._path(f'.{name}.tmp'), self._path(f'.{name}.old'), self._path(name)
        try:
            shutil.rmtree(new, ignore_errors=True)
            os.makedirs(new)
            for file, content in files.items():
                paddle.save(content, os.path.join(new, file))
                disk.sync(os.path.join(new, file))
            disk.write(os.path.join(new, DIGESTS), ''.join(
                f'{disk.sha256(os.path.join(new, file))}  {file}\n' for file in sorted(files)))
        except OSError as error:
            shutil.rmtree(new, ignore_errors=True)
            raise RunError(f'{final}: cannot be saved ({error.strerror or error}). Earlier checkpoints are untouched; '
                           'free some space and go on with --resume_model latest.') from None
        if os.path.exists(final):
            shutil.rmtree(old, ignore_errors=True)
            os.rename(final, old)
        os.rename(new, final)
        disk.sync(self.save_dir)
        shutil.rmtree(old, ignore_errors=True)
        return final

    def _iterations(self):
        return _iterations(self.save_dir)

    def _missing(self, folder):
        return [part for part in (MODEL, OPTIMIZERS, STATES, METHOD) if not os.path.isfile(os.path.join(folder, part))]

    def _path(self, *names):
        return os.path.join(self.save_dir, *names)


def damage(folder):
    """str: the first file of a checkpoint that has not the digest it was written with; None if there is none, or no
    digests (of a version that wrote none)."""
    try:
        with disk.opened(os.path.join(folder, DIGESTS), encoding='utf-8') as file:
            lines = [line.rstrip('\n').split('  ', 1) for line in file]
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        return DIGESTS
    if not lines or any(len(line) != 2 for line in lines) or STATES not in dict(map(reversed, lines)):
        return DIGESTS
    for digest, name in lines:
        try:
            if name != os.path.basename(name) or disk.sha256(os.path.join(folder, name)) != digest:
                return name
        except FileNotFoundError:
            if name != METHOD:  # which is removed from all but the newest
                return name
        except OSError:
            return name
    return None


def _has_progress(states):
    """Whether the counters and scores of a run are all there, and are numbers."""
    best = states.get('best')
    if not isinstance(best, dict) or not {'mIoU', 'iter', 'ema_mIoU'} <= {*best} or \
            not isinstance(states.get('scaler'), dict):
        return False
    numbers = [states.get('iter'), states.get('mIoU'), states.get('Acc'), *best.values()]
    return all(isinstance(number, (int, float)) for number in numbers) and type(numbers[0]) is int and numbers[0] > 0


def find_weights(path, whole=False):
    """The file of weights that --model_path means.

    Args:
        path (str): a weights file, a checkpoint's folder, or a run's folder, which stands for its best_model or else
            its newest checkpoint.
        whole (bool): all networks of the method, method.pdparams, there or beside the file; False: the deployed one.

    Returns:
        str: the file.

    Raises:
        InputError: a folder without it.
    """
    if not (whole or os.path.isdir(path)):
        return path
    name, folder = METHOD if whole else MODEL, path if os.path.isdir(path) else os.path.dirname(path)
    folders = ['', 'best_model', *(f'iter_{n}' for n in reversed(_iterations(folder)))]
    files = [os.path.join(folder, sub, name) for sub in folders]
    found = next((file for file in files if os.path.isfile(file)), None)
    if found is None:
        raise InputError(f'--model_path {path}: has no {name}. ' + (
            'Only the newest iter_N folder of a run holds all networks; give that.' if whole else
            'Give the folder of a run, of one of its checkpoints, or a .pdparams file.'))
    return found


def newest_checkpoint(save_dir):
    """str: the newest iter_N folder of a training run; None without any."""
    numbers = _iterations(save_dir)
    return os.path.join(save_dir, f'iter_{numbers[-1]}') if numbers else None


def _iterations(save_dir):
    """Numbers of the iter_N folders, ascending."""
    names = os.listdir(save_dir) if os.path.isdir(save_dir) else []
    return sorted(int(match[1]) for match in (re.fullmatch(r'iter_(\d+)', name) for name in names) if match)


def _first_difference(theirs, ours, key):
    """'key: theirs, not ours' at the first leaf where two settings part, or None."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = sorted({*theirs, *ours}, key=lambda k: (k != 'type', str(k)))  # what differs in type differs in all else
        parts = (_first_difference(theirs.get(k), ours.get(k), f'{key}.{k}') for k in keys)
        return next((part for part in parts if part), None)
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        parts = (_first_difference(a, b, f'{key}[{i}]') for i, (a, b) in enumerate(zip(theirs, ours)))
        return next((part for part in parts if part), None)
    return None if theirs == ours else f'{key}: {theirs}, not {ours}'


def optimizer_state(layer, optimizer):
    """State of an optimizer under the parameters' names in the network, so that it fits whatever was built before.

    Args:
        layer (nn.Layer): what it trains.
        optimizer (paddle.optimizer.Optimizer): trains it.

    Returns:
        dict: '<name in the layer>|<accumulator>' → Tensor; 'master_weights' by name; LR_Scheduler as it is.
    """
    names = {param.name: name for name, param in layer.named_parameters()}
    state = {}
    for key, value in optimizer.state_dict().items():
        # Paddle's key is <generated name>_<accumulator>, and one generated name may begin another
        owner = max((name for name in names if key.startswith(name + '_')), key=len, default=None)
        if key == 'master_weights':
            state[key] = {names[name]: tensor for name, tensor in value.items()}
        elif owner:
            state[f'{names[owner]}|{key[len(owner) + 1:]}'] = value
        else:
            state[key] = value
    return state


def restore_optimizer(layer, optimizer, state, source=OPTIMIZERS):
    """The inverse of `optimizer_state`, for a layer built anew; tensors may be NumPy arrays.

    Paddle looks the state up at the first step, under names it counts up per `unique_name.guard()`: build, restore and
    train inside one.

    Raises:
        InputError: the state is of another network; Paddle itself would take it without a word.
    """
    params = dict(layer.named_parameters())
    restored = {}
    for key, value in state.items():
        name, bar, accumulator = key.partition('|')
        if key == 'master_weights':
            restored[key] = {params[name].name: _named(array, params[name].name) for name, array in value.items()}
        elif bar and (name not in params or np.size(value) != 1 and np.shape(value) != tuple(params[name].shape)):
            raise InputError(f'{source}: holds {accumulator} {list(np.shape(value))} of "{name}", which fits no '
                             'parameter of this recipe. Resume with the recipe and version it was trained with.')
        elif bar:
            key = f'{params[name].name}_{accumulator}'
            restored[key] = _named(value, key)
        else:
            restored[key] = value
    optimizer.set_state_dict(restored)


def _named(array, name):
    """Tensor of a name that is saved with it: what takes no step before the next checkpoint is saved as it was read."""
    tensor = paddle.to_tensor(array)
    tensor.name = name
    return tensor
