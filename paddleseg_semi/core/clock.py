"""When are we, and every die we roll."""

import zlib

import numpy as np


class Clock:
    """Counts the updates and hands out randomness that is a function of (seed, iteration, rank, name) alone.

    Nothing random is state: no generator has to be saved, any step can be replayed by itself, and a resumed run rolls
    the dice of the uninterrupted one.

    Args:
        iters (int): planned updates, at least 1.
        seed (int): of the whole run.
        rank (int): of this process.

    Attributes:
        iter (int): updates done so far, 0 before the first.
    """

    def __init__(self, iters, seed=0, rank=0):
        self.iters, self.seed, self.rank = iters, seed, rank
        self.iter = 0

    @property
    def progress(self):
        """float: share of the run that is done, in [0, 1]."""
        return self.iter / self.iters

    def since(self, start):
        """float: updates done since a phase began, negative before it.

        Args:
            start (int|float): an int counts updates (5000); a float below 1 is a share of the run (0.25).
        """
        return self.iter - (start * self.iters if isinstance(start, float) and start < 1 else start)

    def reached(self, start):
        """bool: a phase has begun; `start` as in :meth:`since`."""
        return self.since(start) >= 0

    def rng(self, name):
        """np.random.Generator: fresh, for one purpose in this step on this rank."""
        return np.random.default_rng((self.seed, self.iter, self.rank, zlib.crc32(name.encode())))

    def step_seed(self):
        """int: the seed for device randomness (dropout) of this step on this rank, below 2**31."""
        return int(self.rng('step').integers(2**31))

    def tick(self):
        self.iter += 1
