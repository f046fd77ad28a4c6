"""A backend without a framework, to be run in another process."""

import os
import signal


class OwnError(Exception):
    """Like the suite's own errors."""

    exit_code = 2


class Stub:
    """Gives back what it gets, or does what that says."""

    def run(self, batch):
        obey(str(batch))
        return os.getpid(), batch


def build(said=None):
    obey(said)
    return Stub()


def obey(said):
    if said == 'die':
        os._exit(7)
    if said == 'be killed':
        os.kill(os.getpid(), signal.SIGKILL)
    if said == 'fail':
        raise ValueError('one line\nand another')
    if said == 'fail in words':
        raise OwnError('is too small')
