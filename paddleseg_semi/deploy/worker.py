"""A network in a process of its own: Paddle Inference holds Python's lock as long as a network runs, so in one process
no request would be answered meanwhile."""

import atexit
import contextlib
import multiprocessing
import os
import signal
from multiprocessing import resource_tracker

from paddleseg_semi.core.common import reason
from paddleseg_semi.errors import RunError

_PATIENCE = 5  # seconds that a process has to end by itself


class Worker:
    """A backend that runs elsewhere. A process that has died is replaced by the next run.

    Args:
        build (callable): makes the backend; a function of a module, and called over there.
        args: for `build`.

    Raises:
        Exception: what `build` raised, where it is of the suite; else RunError, also where the process has died.
    """

    def __init__(self, build, *args):
        self.build, self.args = build, args
        try:
            self._start()
        except RuntimeError as error:
            raise RunError(f'The network does not start ({reason(error)}).') from None

    @property
    def pid(self):
        """int: the process."""
        return self.process.pid

    def run(self, batch):
        """ndarray → what the backend makes of it. RuntimeError where the framework fails, or the process has died."""
        if not self.process.is_alive():
            self._start()
        with contextlib.suppress(OSError):  # the process has ended, as reading says
            self.pipe.send(batch)
        return self._receive()

    def close(self):
        """Ends the process, by force where it does not answer."""
        self.pipe.close()
        self.process.join(_PATIENCE)
        self.process.kill()  # nothing where it has ended
        self.process.join()

    def _start(self):
        context = multiprocessing.get_context('spawn')
        self.pipe, there = context.Pipe()
        self.process = context.Process(target=_work, args=(there, self.build, self.args), daemon=True)
        resource_tracker.ensure_running()  # which would unblock the signal below
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # inherited: Ctrl-C is for this process
        try:
            self.process.start()
            atexit.register(self.process.kill)  # before SIGTERM comes, of which Paddle would make a page
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        there.close()  # so that reading ends when the process does
        self._receive()

    def _receive(self):
        try:
            error, result = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            how = signal.strsignal(-code) if code < 0 else f'exit code {code}'
            raise RuntimeError(f'the process of the network has ended: {how}') from None
        if error:
            raise error
        return result


def _work(pipe, build, args):
    os.setsid()  # signals for the group, too, are for the other process, which then ends this one
    with contextlib.suppress(EOFError, OSError):  # the other process has ended
        error, backend = _tried(build, *args)
        pipe.send((error, None))
        while not error:
            pipe.send(_tried(backend.run, pipe.recv()))


def _tried(function, *args):
    """The exception that a function raises, or None, and what it gives."""
    try:
        return None, function(*args)
    except Exception as error:  # others than the suite's own may not pass through a pipe
        own = hasattr(error, 'exit_code')
        return error if own else RuntimeError(f'{type(error).__name__}: {error}'), None
