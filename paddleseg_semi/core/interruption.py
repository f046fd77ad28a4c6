"""Ctrl-C and SIGTERM (docker stop, timeout, a cluster's queue) let a training finish its step and save."""

import os
import signal
import threading

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """While the block runs, the first signal is only noted; a second one does what it does anywhere else.

    Attributes:
        number (int): of the signal; None without.
    """

    def __init__(self):
        self.number, self._before, self._owner = None, {}, os.getpid()

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # Python allows no other to choose
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *exception):
        self._restore()

    @property
    def exit_code(self):
        """int: what shells expect of a process that a signal has ended."""
        return 128 + self.number

    def _note(self, number, frame):
        if os.getpid() == self._owner:
            self.number = number
            self._restore()
        elif number == signal.SIGTERM:  # a loader worker, forked with this handler, that is told to end
            os._exit(128 + number)

    def _restore(self):
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
