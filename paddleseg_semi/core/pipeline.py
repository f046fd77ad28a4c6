"""Stages one after the other, each in a folder of its own; what is complete is not run again.

    save_dir/
      lock              held by the pipeline that runs here
      <stage>/
        started.json    digest of the inputs the stage began with
        done.json       the same, once it is complete
"""

import contextlib
import glob
import hashlib
import itertools
import json
import os
from typing import Any, NamedTuple

import paddle.distributed as dist
from paddleseg.utils import logger

from paddleseg_semi import files
from paddleseg_semi.core import parallel
from paddleseg_semi.core.common import make_folder
from paddleseg_semi.datasets import lists
from paddleseg_semi.errors import InputError, RunError, nearest


class Step(NamedTuple):
    """Attributes:
        stage (Any): `inputs()` is all its products depend on besides those of other stages, as JSON takes it;
            `run(out_dir)` makes them, and goes on where a killed run with the same inputs stopped.
        products (list[tuple[str, str]]): what it reads: (stage, file or pattern below its folder).
    """

    stage: Any
    products: list


class Pipeline:
    """Runs steps (dict[str, Step], in order) below save_dir (str)."""

    def __init__(self, steps, save_dir):
        self.steps, self.save_dir, self._lock = steps, save_dir, None

    def run(self, start=None):
        """Runs every stage that is not complete; errors name the stage.

        Args:
            start (str, optional): run this stage and all after it anew; take those before as they are.
        """
        names, anew = list(self.steps), start is not None
        if anew and start not in names:
            raise InputError(f'--from {start}: no such stage.{nearest(start, names)} Known: {", ".join(names)}.')
        for number, name in enumerate(names):
            with naming(name):
                if not anew or number >= names.index(start):
                    self._run(name, f'{number + 1} of {len(names)}', anew)
                elif not self._recorded(name, 'done.json'):
                    raise InputError(f'is not complete, so --from {start} has nothing to start from. Leave --from out, '
                                     f'or give --from {name}.')

    def _run(self, name, place, anew):
        step = self.steps[name]
        for owner, product in step.products:
            if not glob.glob(os.path.join(glob.escape(self.save_dir), owner, product)):
                raise InputError(f'{self._path(owner, product)}: no such file. It is a product of stage "{owner}": '
                                 f'make it again with --from {owner}.')
        owners = sorted({owner for owner, _ in step.products})
        inputs = _digest(step.stage, [self._recorded(owner, 'done.json') for owner in owners])
        if not anew and self._recorded(name, 'done.json') == inputs:
            logger.info(f'Stage {name} ({place}) is complete.')
            return
        go_on = not anew and self._recorded(name, 'started.json') == inputs
        logger.info(f'Stage {name} ({place}) {"goes on" if go_on else "starts"}: {type(step.stage).__name__}')
        with _first_rank() as is_first:
            if is_first:
                self._take_folder()
            if is_first and not go_on:
                names = list(self.steps)
                # With --from the later ones as well, lest the next run takes them for its own if this one is killed.
                for other in reversed(names[names.index(name):] if anew else [name]):
                    self._put_aside(other)
                make_folder(self._path(name))
                lists.write(self._path(name, 'started.json'), [json.dumps(inputs)])
        step.stage.run(self._path(name))
        with _first_rank() as is_first:
            if is_first:
                lists.write(self._path(name, 'done.json'), [json.dumps(inputs)])

    def _take_folder(self):
        """Keeps other pipelines out of the folder until this one ends, however it does."""
        make_folder(self.save_dir)
        self._lock = self._lock or files.taken(self.save_dir)
        if self._lock is None:
            raise InputError(f'--save_dir {self.save_dir}: another pipeline is running there. Wait for its end, or '
                             'give another folder.')

    def _put_aside(self, name):
        """Products of other inputs are moved out of the way, not mixed with the new ones."""
        folder = self._path(name)
        if os.path.exists(folder):
            other = next(path for n in itertools.count(1) if not os.path.exists(path := f'{folder}.earlier_{n}'))
            os.rename(folder, other)
            logger.warning(f'{folder} held products of other inputs, or of an earlier run; they are now in {other}.')

    def _recorded(self, name, file):
        """The digest in a file of a stage; None when there is none."""
        try:
            with open(self._path(name, file), encoding='utf-8') as text:
                return json.load(text)
        except (OSError, ValueError):
            return None

    def _path(self, *names):
        return os.path.join(self.save_dir, *names)


@contextlib.contextmanager
def naming(stage):
    """Errors say which stage they come from."""
    try:
        yield
    except (InputError, RunError) as error:
        raise type(error)(f'stage "{stage}": {error}') from None


@contextlib.contextmanager
def _first_rank():  # the one that writes, while all others wait
    parallel.barrier()
    yield dist.get_rank() == 0
    parallel.barrier()


def _digest(stage, earlier):
    text = json.dumps([type(stage).__name__, stage.inputs(), earlier], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
