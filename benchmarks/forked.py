"""Time and peak memory of a function, each in a process of its own."""

import multiprocessing
import resource
import statistics
import time


def measured(rounds, work, *args):
    """Runs a function several times in a fork of this process.

    Args:
        rounds (int): how often.
        work (Callable): its result can be pickled.
        *args: for it.

    Returns:
        tuple: median seconds, peak memory in MB above that before the first round, the last result.
    """
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context('fork').Process(target=_report, args=(there, rounds, work, *args))
    process.start()
    there.close()
    try:
        return here.recv()
    finally:
        process.join()


def _report(pipe, rounds, work, *args):
    before, seconds = _peak(), []
    for _ in range(rounds):
        start = time.perf_counter()
        result = work(*args)
        seconds.append(time.perf_counter() - start)
    pipe.send((statistics.median(seconds), _peak() - before, result))


def _peak():
    """Of a fork it begins with what the process has in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
