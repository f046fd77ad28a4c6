"""What a recipe says, tried out on copies before anything is written: no schema knows what a network, a loss or a
transform makes of its settings."""

import contextlib
import copy
import dataclasses
import traceback

import paddle
from paddleseg.cvlibs import manager

from paddleseg_semi.core.clock import Clock
from paddleseg_semi.core.trainer import check_terms
from paddleseg_semi.core.val import measure
from paddleseg_semi.datasets.streams.base import failed_in
from paddleseg_semi.errors import InputError, RunError

_REGISTRIES = manager.MODELS, manager.BACKBONES, manager.LOSSES


@contextlib.contextmanager
def tried(what):
    """Whatever goes wrong inside is an InputError that says what was tried; for lack of memory, a RunError."""
    try:
        yield
    except (InputError, RunError):
        raise
    except MemoryError as error:
        raise RunError(f'{what} needs more memory than there is: {_line(error)}') from error
    except Exception as error:  # a network, a loss or a transform may raise anything
        raise InputError(f'{what} fails with these settings: {_line(error)}') from error


def _line(error):
    """An exception in one line, behind the innermost component that it passed."""
    text, known = failed_in(error), {kind for registry in _REGISTRIES for kind in registry.components_dict.values()}
    owners = [type(frame.f_locals.get('self')) for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = [owner.__name__ for owner in owners if owner in known]
    text = f'{names[-1]}: {text}' if names else text
    return text if len(text) < 500 else f'{text[:240]} … {text[-240:]}'


def rehearse(method, players, streams, iters, seed=0):
    """Tries the last step of a run: forward, on two samples of each stream, without a gradient. And a step of each
    optimizer and schedule.

    Args:
        method (Method): a copy, which is of no use afterwards.
        players (Callable): method → dict[str, Player].
        streams (dict[str, Iterator]): of small batches.
        iters (int): of the run.
        seed (int): of the run.

    Raises:
        InputError: what fails, and why.
    """
    clock = Clock(iters, seed)
    clock.iter = iters - 1
    name = type(method).__name__
    with tried('reading the training images'):
        batch = {key: next(stream) for key, stream in streams.items()}
    method.train()
    with tried(f'a step of {name}'), paddle.no_grad():
        losses, _ = method.step(batch, clock)
        check_terms(method, losses)
        if 'unlabeled' in batch:
            method.explain(batch['unlabeled'], clock)
    for key, player in players(method).items():
        with tried(f'a step of the optimizer of {key}'):
            _try_optimizer(player)
    with tried(f'the end of a step of {name}'):
        clock.tick()
        method.after_update(clock)


def _try_optimizer(player):
    """One update of one parameter by nothing."""
    param = next(param for param in player.layer.parameters() if not param.stop_gradient)
    param._set_grad_ivar(paddle.zeros_like(param))
    player.optimizer.step()
    player.next_rate(paddle.zeros([1]))
    rate = player.optimizer.get_lr()
    if isinstance(rate, complex) or not rate >= 0:
        raise ValueError(f'the learning rate becomes {rate}')


def rehearse_evaluation(net, dataset, testing):
    """Tries to evaluate the first photo of a validation set, at the smallest of the scales.

    Args:
        net (nn.Layer): a copy of the network.
        dataset (paddle.io.Dataset): the validation set.
        testing (Testing): how the network looks at an image.

    Raises:
        InputError: what fails, and why.
    """
    first = copy.copy(dataset)
    first.file_list = dataset.file_list[:1]
    with tried('evaluating the first validation photo'):
        measure(net, first, dataclasses.replace(testing, scales=min(testing.scales)), show=False)
