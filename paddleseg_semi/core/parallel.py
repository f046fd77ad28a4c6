"""Several processes, one result. Without DataParallel: a method may call its networks as often as it likes."""

import itertools
import pickle
import time

import numpy as np
import paddle
import paddle.distributed as dist
from paddle.distributed import collective
from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients

from paddleseg_semi.errors import InputError, RunError
from paddleseg_semi.runtime import to_device

_BARRIERS = itertools.count()
_PIECE = 2**28  # bytes of a message


def start():
    """Joins the other ranks, if this process was launched with any.

    Returns:
        tuple[int, int]: rank, ranks.
    """
    env = dist.ParallelEnv()
    if env.nranks > 1 and not dist.is_initialized():
        dist.init_parallel_env()
    return env.rank, env.nranks


def broadcast(layer):
    """Gives every rank the weights and buffers of rank 0."""
    if dist.get_world_size() > 1:
        with paddle.no_grad():
            for tensor in layer.state_dict().values():
                dist.broadcast(tensor, 0)


def sync_gradients(layer):
    """Replaces the gradients of a layer by their mean over the ranks.

    A parameter without gradient takes part with zeros, so no rank waits for another. One that has a gradient on no rank
    has none afterwards: zeros would let weight decay move it, which a card alone does not. A layer without any gradient
    is not trained in this step and is left alone; which one that is follows from the clock, so the ranks agree.
    """
    if dist.get_world_size() == 1:
        return
    params = [param for param in layer.parameters() if not param.stop_gradient]
    here = np.array([param.grad is not None for param in params])
    if not here.any():
        return
    with paddle.no_grad():
        ranks = to_device(here.astype('float32'))  # how many have a gradient
        dist.all_reduce(ranks)
        for param, has in zip(params, here):
            if not has:
                param.grad = paddle.zeros_like(param)
        fused_allreduce_gradients(params, None)
        if not here.all():  # only then it has to be known, which waits for the device
            for param, count in zip(params, ranks.numpy()):
                if count == 0:
                    param.clear_gradient(False)  # to none; Paddle 3.3 overlooks the keyword


def average_statistics(layer):
    """Averages the running statistics of batch normalization, which every rank collects from its own images."""
    ranks = dist.get_world_size()
    if ranks == 1:
        return
    with paddle.no_grad():
        for name, tensor in layer.state_dict().items():
            if name.endswith(('._mean', '._variance')):
                dist.all_reduce(tensor)
                tensor.scale_(1 / ranks)


def gathered(value):
    """list: the values of all ranks in their order, on every rank. Takes what pickles."""
    if dist.get_world_size() == 1:
        return [value]
    values = []
    dist.all_gather_object(values, value)
    return values


def merged(part):
    """dict: those of all ranks in one, on every rank. Takes what pickles."""
    return {key: value for one in gathered(part) for key, value in one.items()}


def from_first(find):
    """What the first rank finds, on every rank: the disks of others may hold something else, or nothing.

    Args:
        find (Callable): without arguments; called on rank 0 only. What it returns pickles.

    Returns:
        object: what `find` has returned.

    Raises:
        InputError, RunError: what `find` has raised, on every rank.
    """
    if dist.get_world_size() == 1:
        return find()
    pieces = []
    if dist.get_rank() == 0:
        try:
            found = find()
        except (InputError, RunError) as error:
            found = error
        data = pickle.dumps(found, pickle.HIGHEST_PROTOCOL)
        pieces = [data[start:start + _PIECE] for start in range(0, len(data), _PIECE)]
    count = _broadcast(len(pieces))
    data = b''.join([_broadcast(pieces[i] if pieces else None) for i in range(count)])
    found = found if pieces else pickle.loads(data)
    if isinstance(found, (InputError, RunError)):
        raise found
    return found


def _broadcast(value):
    values = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]


def barrier():
    """Waits for all ranks, however long they take. Paddle's own gives up, on a CPU after 30 s."""
    if dist.get_world_size() == 1:
        return
    number = next(_BARRIERS)
    _meet(f'paddleseg_semi/barrier/{number}/reached', True)
    _meet(f'paddleseg_semi/barrier/{number}/left', dist.get_rank() == 0)  # it holds the store: it leaves last


def _meet(key, wait):
    store = collective._default_store
    store.add(key, 1)
    while wait and store.add(key, 0) < dist.get_world_size():
        time.sleep(0.02)
