"""What the service is made of, without HTTP: decoding photos of strangers, gathering batches."""

import io
import os
import signal
import struct
import sys
import threading
import weakref
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from tiny import ROOT

sys.path.insert(0, str(ROOT / 'deploy/serving'))

from batcher import Batcher
from photo import Refused, decode
from stub_backend import OwnError, build

from paddleseg_semi.deploy.segment import Sample
from paddleseg_semi.deploy.worker import Worker
from paddleseg_semi.errors import RunError

LIMIT = 100 * 100


def encoded(suffix, size=(30, 20), **options):
    """A photo of noise (w, h) as the bytes of its file."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype='uint8')
    Image.fromarray(noise).save(file, suffix, **options)
    return file.getvalue()


def png_bomb(width, height):
    """A small PNG file that declares a large image, and would fill it."""
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    rows = zlib.compress(bytes(1 << 22), 9)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)) + \
        chunk(b'IDAT', rows) + chunk(b'IEND', b'')


def text_bomb():
    """A PNG file whose comment is small until it is inflated."""
    comment = PngImagePlugin.PngInfo()
    comment.add_text('comment', 'a' * (1 << 24), zip=True)
    return encoded('PNG', pnginfo=comment)


@pytest.mark.parametrize('suffix', ['PNG', 'JPEG', 'BMP'])
def test_decodes_as_from_a_file(tmp_path, suffix):
    body = encoded(suffix)
    (tmp_path / 'photo').write_bytes(body)
    np.testing.assert_array_equal(decode(body, 3, LIMIT), cv2.imread(str(tmp_path / 'photo')))


def test_a_photo_taken_sideways_is_upright():
    turned = Image.Exif()
    turned[0x0112] = 6
    assert decode(encoded('JPEG', exif=turned), 3, LIMIT).shape == (30, 20, 3)


@pytest.mark.parametrize('status, body', [
    (415, b'just some text'), (415, b'PK\x03\x04 a zip file'), (415, b'GIF89a'), (415, b''), (415, b'<svg/>'),
    (413, encoded('PNG', (101, 100))), (413, encoded('JPEG', (1, 10001))), (413, png_bomb(30000, 30000)),
    (413, png_bomb(60000, 60000)), (422, png_bomb(0, 10)), (422, text_bomb()),
    (422, encoded('PNG')[:-400]), (422, encoded('JPEG')[:-400]), (422, encoded('BMP')[:-400]),
    (422, b'\xff\xd8\xff nothing'), (422, b'\x89PNG\r\n\x1a\n'), (422, b'BM')])
def test_what_is_refused(status, body):
    with pytest.raises(Refused) as error:
        decode(body, 3, LIMIT)
    assert error.value.status == status
    assert str(error.value) and '\n' not in str(error.value)


class Backend:
    """Stands for a network: its classes are the first channel. Waits where it is told to."""

    def __init__(self):
        self.batches, self.go, self.entered = [], threading.Event(), threading.Event()
        self.go.set()

    def run(self, batch):
        self.entered.set()
        assert self.go.wait(10)
        self.batches.append(batch.shape)
        if batch.max() > 200:
            raise RuntimeError('the network failed')
        return batch[:, 0].astype('int32')


def sample(value, size=(4, 5)):
    return Sample('x', np.full((3, *size), value, 'float32'), [('resize', size)])


@pytest.fixture
def batcher():
    with_ending = Batcher(Backend(), batch_size=3, max_pixels=100)
    yield with_ending
    with_ending.backend.go.set()
    with_ending.close()


def hold(batcher):
    """Makes the network busy with one photo."""
    batcher.backend.go.clear()
    future = batcher.submit(sample(0))
    assert batcher.backend.entered.wait(10)
    return future


def test_what_arrives_meanwhile_runs_together(batcher):
    futures = [hold(batcher), *(batcher.submit(sample(k)) for k in range(1, 6))]
    assert batcher.busy_for() > 0
    batcher.backend.go.set()
    results = [future.result(10) for future in futures]
    assert [len(shape) and shape[0] for shape in batcher.backend.batches] == [1, 3, 2]
    assert [result.batch for result in results] == [1, 3, 3, 3, 2, 2]
    assert all((result.output == k).all() for k, result in enumerate(results))
    assert all(result.took > 0 for result in results)
    assert batcher.busy_for() == 0


def test_only_equal_sizes_and_few_pixels_run_together(batcher):
    hold(batcher)
    futures = [batcher.submit(sample(1, size)) for size in [(4, 5), (6, 7), (4, 5), (6, 7), (6, 7), (30, 30)]]
    batcher.backend.go.set()
    assert [future.result(10).output.shape for future in futures] == [(4, 5), (6, 7), (4, 5), (6, 7), (6, 7), (30, 30)]
    assert [shape[0] for shape in batcher.backend.batches] == [1, 2, 2, 1, 1]


def test_cancelled_photos_do_not_run(batcher):
    hold(batcher)
    futures = [batcher.submit(sample(k)) for k in range(3)]
    assert futures[0].cancel() and futures[2].cancel()
    batcher.backend.go.set()
    assert futures[1].result(10).batch == 1


def test_cancelled_photos_take_no_memory_and_no_place(batcher):
    hold(batcher)
    waiting = [sample(k) for k in range(5)]
    arrays = [weakref.ref(item.img) for item in waiting]
    futures = [batcher.submit(waiting.pop(0)) for _ in arrays]
    assert all(future.cancel() for future in futures[:2])
    assert [array() is None for array in arrays] == [True, True, False, False, False]
    batcher.backend.go.set()
    assert [future.result(10).batch for future in futures[2:]] == [3, 3, 3]


def test_a_failed_batch_is_not_the_end(batcher):
    with pytest.raises(RuntimeError, match='the network failed'):
        batcher.submit(sample(201)).result(10)
    assert (batcher.submit(sample(7)).result(10).output == 7).all()


def test_closing_runs_what_waits(batcher):
    first = hold(batcher)
    last = batcher.submit(sample(2))
    threading.Timer(0.1, batcher.backend.go.set).start()
    batcher.close()
    assert first.done() and (last.result(0).output == 2).all()


class CtrlC:
    """Arrives at another process as Ctrl-C does, before anything of ours runs there."""

    def __reduce__(self):
        return signal.raise_signal, (signal.SIGINT,)


def test_a_network_in_another_process():
    worker = Worker(build, CtrlC())
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    batch = np.arange(6, dtype='float32').reshape(1, 2, 3)
    pid, result = worker.run(batch)
    assert pid == worker.pid != os.getpid()
    np.testing.assert_array_equal(result, batch)
    with pytest.raises(RuntimeError, match='ValueError: one line'):
        worker.run('fail')
    with pytest.raises(OwnError, match='is too small'):
        worker.run('fail in words')
    with pytest.raises(RuntimeError, match='ended: exit code 7'):
        worker.run('die')
    assert worker.run('x') == (worker.pid, 'x') and worker.pid != pid
    os.kill(worker.pid, signal.SIGKILL)
    worker.process.join()
    assert worker.run('y') == (worker.pid, 'y')
    worker.close()
    assert worker.process.exitcode == 0


def test_a_network_that_hangs_is_ended():
    worker = Worker(build)
    os.kill(worker.pid, signal.SIGSTOP)
    worker.close()
    assert worker.process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize('said, error, message', [
    ('fail in words', OwnError, 'is too small'), ('fail', RunError, 'does not start .ValueError: one line'),
    ('be killed', RunError, 'does not start .*has ended: Killed')])
def test_a_network_that_cannot_be_built(said, error, message):
    with pytest.raises(error, match=message) as raised:
        Worker(build, said)
    assert '\n' not in str(raised.value)
