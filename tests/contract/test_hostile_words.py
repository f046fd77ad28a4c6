"""Text of a stranger in every keyword that takes text, of every component a recipe can name: nothing is executed, no
process begins, no address is asked, nothing is written outside of the working folder. Python itself says so."""

import contextlib
import inspect
import os
import sys
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddleseg.cvlibs import SegBuilder, manager

from paddleseg_semi.cvlibs.builder import SemiBuilder
from paddleseg_semi.errors import InputError, RunError
from paddleseg_semi.methods.base import Task
from paddleseg_semi.registries import METHODS, STAGES

from .mutations import HOSTILE, MARK

WORDS = [word for word in HOSTILE if word not in ('/dev/zero', 'a\nb')]
SCHEDULES = {name: kind for name, kind in vars(paddle.optimizer.lr).items()
             if inspect.isclass(kind) and issubclass(kind, paddle.optimizer.lr.LRScheduler)}
COMPONENTS = {kind: registry.components_dict for kind, registry in (
    ('model', manager.MODELS), ('backbone', manager.BACKBONES), ('dataset', manager.DATASETS),
    ('transform', manager.TRANSFORMS), ('loss', manager.LOSSES), ('optimizer', manager.OPTIMIZERS),
    ('method', METHODS), ('stage', STAGES))} | {'schedule': SCHEDULES}
HIDDEN = ('norm_layer', 'act', 'act_layer', 'data_format', 'padding_mode', 'pretrained')  # behind **kwargs
FITTING = {'num_classes': 3, 'backbone_indices': [0, 1, 2, 3], 'in_channels': 3, 'learning_rate': 0.1,
           'crop_size': [8, 8], 'target_size': [8, 8], 'losses': [], 'coef': [], 'mode': 'train', 'transforms': []}
RAN = ('os.system', 'os.exec', 'os.fork', 'os.posix_spawn', 'os.spawn', 'subprocess.Popen', 'socket.connect',
       'socket.getaddrinfo', 'shutil.unpack_archive', 'ctypes.dlopen')
WROTE = ('os.remove', 'os.rename', 'os.mkdir', 'os.symlink', 'os.link', 'shutil.rmtree', 'shutil.move')
WATCH = SimpleNamespace(seen=None, folder='')


def audit(event, args):
    """What Python tells of, while somebody listens; a hook cannot be taken back."""
    if WATCH.seen is None:
        return
    if event in RAN or event == 'compile' and args[0] is not None and MARK in str(args[0]):
        WATCH.seen.append((event, str(args)[:200]))
    writes = event == 'open' and isinstance(args[0], str) and (
        set(args[1] or '') & set('wax+') or (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if writes or event in WROTE:
        _written(event, args[0])


def _written(event, path):
    if path != os.devnull and not os.path.realpath(path).startswith(WATCH.folder):
        WATCH.seen.append((event, str(path)))


sys.addaudithook(audit)


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """Whatever is done inside a block is seen; at the end it must be nothing."""
    (tmp_path / 'in').mkdir()
    monkeypatch.chdir(tmp_path / 'in')

    @contextlib.contextmanager
    def watch():
        WATCH.seen, WATCH.folder = [], str((tmp_path / 'in').resolve())
        try:
            yield
        finally:
            seen, WATCH.seen = WATCH.seen, None
        assert not seen
        assert not list(tmp_path.rglob(MARK)) and os.listdir(tmp_path) == ['in']

    return watch


def text_keywords(component):
    """Those without a default, and those whose default is text or none."""
    for key, parameter in inspect.signature(component).parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            yield from HIDDEN
        elif key != 'task' and isinstance(parameter.default, (str, type(None), type(parameter.empty))):
            yield key


def cases(kind):
    """(name, keyword); of several components of one file, which do the same with a keyword, the first."""
    seen = set()
    for name, component in COMPONENTS[kind].items():
        for key in text_keywords(component):
            place = inspect.getsourcefile(component), key
            if kind in ('transform', 'method', 'stage', 'schedule') or place not in seen:
                seen.add(place)
                yield name, key


class Small(paddle.nn.Layer):
    """Stands for any backbone and model."""

    feat_channels = [3] * 4

    def __init__(self):
        super().__init__()
        self.conv = paddle.nn.Conv2D(3, 3, 1)

    def forward(self, x):
        return [self.conv(x)] * 4


def use(kind, component, made):
    """A little of what a run does with it."""
    if kind == 'transform':
        made({'img': np.zeros([16, 16, 3], 'float32'), 'label': np.zeros([16, 16], 'uint8'), 'trans_info': [],
              'gt_fields': ['label']})
    elif kind == 'loss':
        made(paddle.zeros([1, 3, 4, 4]), paddle.zeros([1, 4, 4], 'int64'))
    elif kind == 'schedule':
        made.step()
    elif kind == 'dataset':
        made[0]


@pytest.mark.parametrize('kind', COMPONENTS)
def test_no_word_does_anything(kind, watched):
    builder, count = SemiBuilder.__new__(SemiBuilder), 0
    builder.comp_list = [manager.MODELS]
    assert isinstance(builder, SegBuilder)
    for number, (name, key) in enumerate(cases(kind)):
        component = COMPONENTS[kind][name]
        parameters = inspect.signature(component).parameters
        needed = {word: FITTING.get(word, 2) for word, parameter in parameters.items()
                  if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD}
        if 'backbone' in needed:
            needed['backbone'] = Small()
        if 'task' in needed:
            needed['task'] = Task(Small, {'types': [], 'coef': []}, 3)
        if 'dataset_root' in parameters:
            needed['dataset_root'] = '.'  # or some would fetch their data
        slow = kind in ('model', 'backbone')
        for word in [WORDS[number % len(WORDS)]] if slow else WORDS:
            lazily = paddle.LazyGuard() if slow else contextlib.nullcontext()  # names and shapes without memory
            with watched(), lazily, contextlib.suppress(InputError, RunError):
                made = builder.build_component_impl(component, **{**needed, key: word})
                with contextlib.suppress(Exception):  # of what cannot be used, which a rehearsal would refuse
                    use(kind, component, made)
            count += 1
    assert count > 20


def test_what_is_done_is_seen(watched, tmp_path):
    """Else the test above could not fail."""
    for harm in (lambda: eval(WORDS[1]), lambda: os.system('true'), lambda: open(tmp_path / 'x', 'w').close(),
                 lambda: eval(f"'{MARK}'"), lambda: os.mkdir(tmp_path / 'y')):
        with pytest.raises(AssertionError), watched():
            harm()
        for path in (*tmp_path.glob('?'), *tmp_path.rglob(MARK)):
            path.rmdir() if path.is_dir() else path.unlink()
