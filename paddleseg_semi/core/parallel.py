"""Several processes, one result. Without DataParallel: a method may call its networks as often as it likes."""

import itertools
import time

import paddle
import paddle.distributed as dist
from paddle.distributed import collective
from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients

_BARRIERS = itertools.count()


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

    A parameter without gradient takes part with zeros, so no rank waits for another. A layer without any gradient is
    not trained in this step and is left alone; which one that is follows from the clock, so the ranks agree.
    """
    if dist.get_world_size() == 1:
        return
    params = [param for param in layer.parameters() if not param.stop_gradient]
    if all(param.grad is None for param in params):
        return
    with paddle.no_grad():
        for param in params:
            if param.grad is None:
                param.grad = paddle.zeros_like(param)
        fused_allreduce_gradients(params, None)


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


def merged(part):
    """dict: those of all ranks in one, on every rank. Takes what pickles."""
    if dist.get_world_size() == 1:
        return part
    parts = []
    dist.all_gather_object(parts, part)
    return {key: value for one in parts for key, value in one.items()}


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
