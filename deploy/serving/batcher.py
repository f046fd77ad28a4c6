"""One thread runs the network. Photos that arrive while it is busy, and are of equal size, go through it together."""

import math
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from paddleseg_semi.deploy.segment import stack


@dataclass
class Segmented:
    """What becomes of a photo.

    Attributes:
        output (ndarray): what the network says of it, classes [H, W] or scores [C, H, W].
        took (float): seconds of the batch.
        batch (int): photos in it.
    """

    output: np.ndarray
    took: float
    batch: int


class Batcher:
    """Gathers photos and runs them, the oldest first. While the network is idle a photo starts at once.

    Args:
        backend: of `paddleseg_semi.deploy.backends`; used by no other thread.
        batch_size (int): photos in a batch.
        max_pixels (int): pixels in a batch of more than one, so that a batch needs no more memory than one large photo.
    """

    def __init__(self, backend, batch_size, max_pixels):
        self.backend, self.batch_size, self.max_pixels = backend, batch_size, max_pixels
        self.jobs, self.closed, self.ready = {}, False, threading.Condition()  # jobs: Future → Sample, the oldest first
        self.busy_since = None
        self.thread = threading.Thread(target=self._work, name='inference', daemon=True)
        self.thread.start()

    def submit(self, sample):
        """Queues a photo (Sample). Returns a Future of Segmented, which may be cancelled until its batch starts."""
        future = Future()
        with self.ready:
            self.jobs[future] = sample
            self.ready.notify()
        future.add_done_callback(self._forget)
        return future

    def busy_for(self):
        """float: seconds that the present batch has been running, 0 between batches."""
        since = self.busy_since
        return time.perf_counter() - since if since else 0.0

    def close(self, timeout=None):
        """Runs what is queued and ends the thread; waits for that up to `timeout` seconds."""
        with self.ready:
            self.closed = True
            self.ready.notify()
        self.thread.join(timeout)

    def _forget(self, future):
        """A photo that is cancelled takes no memory and no place in a batch."""
        with self.ready:
            self.jobs.pop(future, None)

    def _work(self):
        while (group := self._take()) is not None:
            group = {future: sample for future, sample in group.items() if future.set_running_or_notify_cancel()}
            if group:
                self._run(group)

    def _take(self):
        """The oldest photo and those that go with it; None at the end."""
        with self.ready:
            self.ready.wait_for(lambda: self.jobs or self.closed)
            if not self.jobs:
                return None
            shape = next(iter(self.jobs.values())).img.shape
            pixels = math.prod(shape) // min(shape)  # channels come first or last, and are few
            limit = max(1, min(self.batch_size, self.max_pixels // pixels))
            alike = [future for future, sample in self.jobs.items() if sample.img.shape == shape]
            return {future: self.jobs.pop(future) for future in alike[:limit]}

    def _run(self, group):
        self.busy_since = start = time.perf_counter()
        try:
            outputs = self.backend.run(stack(group.values()))
        except Exception as error:  # of the framework, of any kind: these photos fail, the service goes on
            for future in group:
                future.set_exception(error)
        else:
            took = time.perf_counter() - start
            for future, output in zip(group, outputs):
                future.set_result(Segmented(output, took, len(group)))
        finally:
            self.busy_since = None
