"""Reading, segmenting and writing at the same time."""

import os
import time
from collections import defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock

from paddleseg_semi.deploy.photos import frame, read, reason
from paddleseg_semi.deploy.segment import batches, prepare, stack, to_classes
from paddleseg_semi.deploy.windows import slide
from paddleseg_semi.errors import RunError
from paddleseg_semi.images import MAX_PIXELS


def ahead(function, items, workers):
    """`map` in threads, a few items ahead of who takes the results; they come in order."""
    with ThreadPoolExecutor(workers) as pool:
        pending = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


class Pipeline:
    """Segments photos, reading some and writing others meanwhile: both in threads, the network in the caller's.
    Little waits in between, so memory does not grow with the number of photos.

    Args:
        bundle (Bundle): the exported segmenter.
        backend (object): what runs it; see backends.py.
        writers (list): see results.py.
        batch_size (int): photos of equal size, or windows of one photo, per run of the network.
        window (Testing, optional): slide it over every photo.
        with_conf (bool): find the probability of the classes as well.
        max_pixels (int): larger photos are skipped.
        warm_up (int): runs of the network before it is timed.
        workers (int, optional): threads that read, and as many that write. Default: one per core, at most 4.

    Attributes:
        seconds (dict): spent in 'preprocess', 'inference' and 'postprocess', summed over threads; and 'batches', how
            often the network ran.
    """

    def __init__(self, bundle, backend, writers, batch_size=1, window=None, with_conf=False, max_pixels=MAX_PIXELS,
                 warm_up=0, workers=None):
        self.bundle, self.backend, self.writers = bundle, backend, writers
        self.batch_size, self.window, self.with_conf = batch_size, window, with_conf
        self.max_pixels, self.warm_up = max_pixels, warm_up
        self.workers = workers or min(len(os.sched_getaffinity(0)), 4)
        self.keep_pixels = window or any(writer.needs_pixels for writer in writers)
        self.seconds, self._lock = defaultdict(float), Lock()

    def run(self, photos):
        """Yields every photo when it is done, without its arrays. One that had to be skipped has an `error`.

        Args:
            photos (Iterable[Photo]): with a path, or with pixels.

        Raises:
            RunError: results cannot be written.
        """
        loaded = ahead(self._load, photos, self.workers)
        for photo in ahead(self._write, self._slide(loaded) if self.window else self._segment(loaded), self.workers):
            for writer, made in zip(self.writers, photo.made):
                writer.add(made)
            photo.made = ()
            yield photo

    def _load(self, photo):
        if photo.error is not None:
            return photo
        with _skipping([photo]), self._watch('preprocess'):
            channels = self.bundle.transforms.img_channels
            photo.pixels = read(photo.path, channels, self.max_pixels) if photo.pixels is None else \
                frame(photo.pixels, channels, self.max_pixels)
            if not self.window:
                photo.sample = prepare(self.bundle, photo.pixels, photo.name)
            if not self.keep_pixels:
                photo.pixels = None
        return photo

    def _segment(self, photos):
        skipped = deque()

        def good():
            for photo in photos:
                if photo.error is None:
                    yield photo
                else:
                    skipped.append(photo)

        for group in batches(good(), self.batch_size, lambda photo: photo.sample.img):
            with _skipping(group):
                batch = stack([photo.sample for photo in group])
                for photo in group:
                    photo.sample.img = None
                for photo, output in zip(group, self._infer(batch)):
                    photo.output = output
            yield from group
            while skipped:
                yield skipped.popleft()
        yield from skipped

    def _slide(self, photos):
        for photo in photos:
            if photo.error is None:
                with _skipping([photo]):
                    photo.classes, photo.conf = slide(self.bundle, self._infer, photo.pixels, self.window,
                                                      self.batch_size, self.with_conf)
            yield photo

    def _infer(self, batch):
        while self.warm_up:
            self.backend.run(batch)
            self.warm_up -= 1
        self.seconds['batches'] += 1
        with self._watch('inference'):
            return self.backend.run(batch)

    def _write(self, photo):
        if photo.error is None:
            with _skipping([photo]):
                if photo.output is not None:
                    with self._watch('postprocess'):
                        found = to_classes(photo.output, photo.sample.trans_info, self.bundle.output_op,
                                           self.with_conf)
                        photo.classes, photo.conf = found if self.with_conf else (found, None)
                photo.made = [writer.make(photo) for writer in self.writers]
        photo.pixels = photo.output = photo.classes = photo.conf = None
        return photo

    @contextmanager
    def _watch(self, stage):
        start = time.perf_counter()
        yield
        with self._lock:
            self.seconds[stage] += time.perf_counter() - start


@contextmanager
def _skipping(photos):
    """What goes wrong with photos is noted, and the others go on. A disk that is full is another matter."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:  # decoders, transforms, networks: anything
        for photo in photos:
            photo.error = reason(error)
