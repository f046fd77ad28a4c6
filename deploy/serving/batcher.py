"""One thread runs the network. Photos that arrive while it is busy, and are of equal size, go through it together."""

import collections
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from paddleseg_semi.deploy.segment import Sample, stack


@dataclass(eq=False)
class _Job:
    sample: Sample
    future: Future = field(default_factory=Future)


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
        self.jobs, self.closed, self.ready = collections.deque(), False, threading.Condition()
        self.busy_since = None
        self.thread = threading.Thread(target=self._work, name='inference', daemon=True)
        self.thread.start()

    def submit(self, sample):
        """Queues a photo (Sample). Returns a Future of Segmented, which may be cancelled until its batch starts."""
        job = _Job(sample)
        with self.ready:
            self.jobs.append(job)
            self.ready.notify()
        return job.future

    def busy_for(self):
        """float: seconds that the present batch has been running, 0 between batches."""
        since = self.busy_since
        return time.perf_counter() - since if since else 0.0

    def close(self):
        """Runs what is queued and ends the thread."""
        with self.ready:
            self.closed = True
            self.ready.notify()
        self.thread.join()

    def _work(self):
        while (group := self._take()) is not None:
            group = [job for job in group if job.future.set_running_or_notify_cancel()]
            if group:
                self._run(group)

    def _take(self):
        """The oldest photo and those that go with it; None at the end."""
        with self.ready:
            self.ready.wait_for(lambda: self.jobs or self.closed)
            if not self.jobs:
                return None
            img = self.jobs[0].sample.img
            pixels = img.size // min(img.shape)  # channels come first or last, and are few
            limit = max(1, min(self.batch_size, self.max_pixels // pixels))
            group = [job for job in self.jobs if job.sample.img.shape == img.shape][:limit]
            for job in group:
                self.jobs.remove(job)
            return group

    def _run(self, group):
        self.busy_since = start = time.perf_counter()
        try:
            outputs = self.backend.run(stack([job.sample for job in group]))
        except Exception as error:  # of the framework, of any kind: these photos fail, the service goes on
            for job in group:
                job.future.set_exception(error)
        else:
            took = time.perf_counter() - start
            for job, output in zip(group, outputs):
                job.future.set_result(Segmented(output, took, len(group)))
        finally:
            self.busy_since = None
