"""A network in a process of its own: Paddle Inference holds Python's lock as long as a network runs, so in one process
nothing would be read or written, and no request be answered, meanwhile."""

import multiprocessing
import os


class Worker:
    """A backend that runs elsewhere. A process that has died is replaced by the next run.

    Args:
        build (callable): makes the backend; a function of a module, and called over there.
        args: for `build`.

    Raises:
        Exception: what `build` raised; RuntimeError where it is of the framework, or where the process has died.
    """

    def __init__(self, build, *args):
        self.build, self.args = build, args
        self._start()

    @property
    def pid(self):
        """int: the process."""
        return self.process.pid

    def run(self, batch):
        """ndarray → what the backend makes of it."""
        if not self.process.is_alive():
            self._start()
        return self._ask(batch)

    def close(self):
        """Ends the process."""
        self.pipe.close()
        self.process.join()

    def _start(self):
        context = multiprocessing.get_context('spawn')
        self.pipe, there = context.Pipe()
        self.process = context.Process(target=_work, args=(there, self.build, self.args), daemon=True)
        self.process.start()
        there.close()  # so that reading ends when the process does
        self._ask(None)

    def _ask(self, batch):
        try:
            self.pipe.send(batch)
            error, result = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            raise RuntimeError(f'The process of the network has ended ({self.process.exitcode}).') from None
        if error:
            raise error
        return result


def _work(pipe, build, args):
    os.setsid()  # Ctrl-C is for the other process, which then ends this one
    backend = None
    try:
        while True:
            batch = pipe.recv()
            try:
                if backend is None:
                    backend, result = build(*args), None
                else:
                    result = backend.run(batch)
            except Exception as error:  # others than the suite's own may not pass through a pipe
                own = hasattr(error, 'exit_code')
                pipe.send((error if own else RuntimeError(f'{type(error).__name__}: {error}'), None))
            else:
                pipe.send((None, result))
    except (EOFError, OSError):
        return  # the other process has ended
