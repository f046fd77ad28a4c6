"""deploy/serving: answers equal to inference, and a service that stays well whatever it is sent."""

import asyncio
import base64
import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import test_serving_parts as parts
from PIL import Image
from tiny import NUM_CLASSES, ROOT, SIZES, call, make_photos, make_recipe

pytest.importorskip('aiohttp', reason='needs the extra "serving"')
pytest.importorskip('prometheus_client', reason='needs the extra "serving"')
from service import Limits, Service
from worker import Sliding, load

from paddleseg_semi.core.testing import Testing
from paddleseg_semi.deploy.backends import PaddleBackend
from paddleseg_semi.deploy.bundle import Bundle
from paddleseg_semi.deploy.worker import Worker

LIMITS = {'body': 200_000, 'pixels': 300 * 300, 'queue': 40, 'timeout': 10, 'client_timeout': 10}
NAMES = sorted(SIZES)
BOUNDARY = 'x-x-x'
CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """A folder of photos, what inference makes of them, and the exported network."""
    folder = tmp_path_factory.mktemp('photos')
    make_photos(folder)
    assert call('tools/export.py', *make_recipe(folder), '--save_dir', folder / 'static') == 0
    assert call('deploy/python/infer.py', '--config', folder / 'static/deploy.yaml', '--image_path', folder / 'images',
                '--save_dir', folder / 'inferred') == 0
    return folder


@pytest.fixture(scope='module')
def bundle(photos):
    return Bundle.read(str(photos / 'static/deploy.yaml'))


class Server:
    """A service on a free port, in a thread of its own."""

    def __init__(self, bundle, backend, slides=False, **limits):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.do(self._start(bundle, backend, slides, Limits(**{**LIMITS, **limits})))

    async def _start(self, bundle, backend, slides, limits):
        sock = socket.create_server(('127.0.0.1', 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # so that who does not read is noticed soon
        self.port = sock.getsockname()[1]
        self.service = Service(bundle, backend, 4, limits, slides)
        await self.service.start(sock)

    def do(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    def ask(self, method='GET', path='/segment', body=None, **headers):
        """Returns the status, the headers and the body, parsed where it is JSON."""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=20)
        try:
            connection.request(method, path, body, {key.replace('_', '-'): value for key, value in headers.items()})
            answer = connection.getresponse()
            content = answer.read()
            is_json = answer.headers.get('Content-Type', '').startswith('application/json')
            return answer.status, answer.headers, json.loads(content) if is_json else content
        finally:
            connection.close()

    def post(self, body, query='', **headers):
        return self.ask('POST', '/segment' + query, body, **headers)

    def connect(self, *data):
        """A raw connection on which `data` have been sent."""
        sock = socket.create_connection(('127.0.0.1', self.port), timeout=20)
        for piece in data:
            sock.sendall(piece)
        return sock

    def metric(self, line):
        """The value of a line of /metrics, 0 where there is none."""
        lines = self.ask(path='/metrics')[2].decode().splitlines()
        return sum(float(text.rsplit(' ', 1)[1]) for text in lines if text.rsplit(' ', 1)[0] == line)

    def well(self):
        """Asserts that health is good and that a photo gets its classes."""
        assert self.ask(path='/health')[0] == 200
        status, _, content = self.post(parts.encoded('PNG'))
        assert status == 200 and Image.open(io.BytesIO(content)).size == (30, 20)
        assert self.service.inside == 0


@contextmanager
def serving(bundle, backend=None, **options):
    server = Server(bundle, backend or PaddleBackend(bundle), **options)
    try:
        yield server
    finally:
        server.do(server.service.stop())
        server.loop.call_soon_threadsafe(server.loop.stop)
        server.thread.join()
        server.loop.close()


@pytest.fixture(scope='module')
def server(photos, bundle):
    """The service as the command makes it."""
    worker = Worker(load, str(photos / 'static/deploy.yaml'), 'cpu', 1, False, 'paddle', 'fp32', None, 4)
    with serving(bundle, worker) as server:
        yield server
    worker.close()
    assert worker.process.exitcode == 0


def wait_for(condition, seconds=8):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def pixels(content):
    image = Image.open(io.BytesIO(content))
    assert image.mode == 'P'
    return np.array(image)


def inferred(photos, name):
    return np.array(Image.open(photos / f'inferred/{name}.png'))


def body_of(photos, name):
    return (photos / f'images/{name}.png').read_bytes()


def form(*fields):
    """Fields (headers, content) → the body of a form."""
    return b''.join(b'--%s\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n' % (BOUNDARY.encode(), head, content)
                    for head, content in fields) + b'--%s--\r\n' % BOUNDARY.encode()


FORM = {'Content_Type': f'multipart/form-data; boundary={BOUNDARY}'}


@pytest.mark.parametrize('name', NAMES)
def test_equals_inference(server, photos, name):
    body, wanted = body_of(photos, name), inferred(photos, name)
    status, headers, content = server.post(body, Content_Type='image/png')
    assert (status, headers['Content-Type']) == (200, 'image/png')
    assert [part.split(';')[0] for part in headers['Server-Timing'].split(', ')] == \
        ['upload', 'decode', 'queue', 'inference', 'encode']
    np.testing.assert_array_equal(pixels(content), wanted)
    np.testing.assert_array_equal(pixels(server.post(iter([body[:99], body[99:]]))[2]), wanted)  # chunked
    sent = form((b'name="note"', b'a word'), (b'name="photo"; filename="x.png"', body))
    np.testing.assert_array_equal(pixels(server.post(sent, **FORM)[2]), wanted)


def test_a_window_slides_as_in_inference(photos, tmp_path):
    deploy = tmp_path / 'static/deploy.yaml'
    assert call('tools/export.py', *make_recipe(photos), '--save_dir', deploy.parent, '--output_op', 'none') == 0
    assert call('deploy/python/infer.py', '--config', deploy, '--image_path', photos / 'images', '--save_dir', tmp_path,
                '--is_slide', '--crop_size', '32', '24', '--stride', '20', '16') == 0
    bundle = Bundle.read(str(deploy))
    window = Testing(is_slide=True, crop_size=(32, 24), stride=(20, 16))
    with serving(bundle, Sliding(bundle, PaddleBackend(bundle), window, 4), slides=True) as server:
        for name in NAMES:
            np.testing.assert_array_equal(pixels(server.post(body_of(photos, name))[2]),
                                          np.array(Image.open(tmp_path / f'{name}.png')))


def test_json(server, photos):
    name = NAMES[0]
    wanted = inferred(photos, name)
    status, headers, report = server.post(body_of(photos, name), '?output=json&mask=true&polygons=True')
    assert (status, report['height'], report['width']) == (200, *SIZES[name])
    counts = np.bincount(wanted.ravel(), minlength=NUM_CLASSES)
    assert {item['id']: item['pixels'] for item in report['classes']} == {k: n for k, n in enumerate(counts) if n}
    assert sum(item['share'] for item in report['classes']) == pytest.approx(1, abs=1e-4)
    assert [item['pixels'] for item in report['classes']] == sorted(counts[counts > 0], reverse=True)
    assert all(item['color'].startswith('#') and item['name'] for item in report['classes'])
    np.testing.assert_array_equal(pixels(base64.b64decode(report['mask'])), wanted)
    assert report['polygons'] and report['batch'] == 1
    assert {'upload', 'decode', 'queue', 'inference', 'encode'} == set(report['timing_ms'])
    assert not {'mask', 'polygons'} & set(server.post(body_of(photos, name), Accept='application/json')[2])


def test_overlay(server, photos):
    body = body_of(photos, NAMES[0])
    status, _, content = server.post(body, '?output=overlay')
    picture = np.array(Image.open(io.BytesIO(content)).convert('RGB'))
    original = cv2.imdecode(np.frombuffer(body, 'uint8'), cv2.IMREAD_COLOR)[..., ::-1]
    assert status == 200 and picture.shape == original.shape and (picture != original).any()


def test_model_page_and_metrics(server):
    _, _, model = server.ask(path='/model')
    assert model['limits'] == {'body': 200_000, 'pixels': 90_000}
    assert model['formats'] == ['image/jpeg', 'image/png', 'image/bmp']
    status, headers, page = server.ask(path='/')
    assert status == 200 and "default-src 'none'" in headers['Content-Security-Policy']
    assert b'http' not in page.replace(b'http-equiv', b'')  # nothing from elsewhere
    before = server.metric('segmentation_requests_total{status="200"}')
    server.post(parts.encoded('PNG'))
    assert server.metric('segmentation_requests_total{status="200"}') == before + 2  # the photo and /metrics
    assert server.metric('segmentation_stage_seconds_count{stage="inference"}') >= 1
    assert server.metric('segmentation_requests_inside') == 0
    assert server.metric('process_resident_memory_bytes') > 1e6


@pytest.mark.parametrize('probe', ['', '/live', '/ready'])
def test_health(server, probe):
    assert server.ask(path='/health' + probe)[::2] == (200, {'live': True, 'ready': True, 'inside': 0})


REFUSED = {
    'a text file': (415, b'just text', {'Content_Type': 'text/plain'}),
    'text that claims to be a photo': (415, b'just text', {'Content_Type': 'image/jpeg'}),
    'a zip file': (415, b'PK\x03\x04' + bytes(99), {}),
    'json': (415, b'{}', {'Content_Type': 'application/json'}),
    'compressed': (415, b'\x1f\x8b', {'Content_Encoding': 'gzip', 'Content_Type': 'image/png'}),
    'empty': (400, b'', {}),
    'larger than allowed': (413, bytes(200_001), {}),
    'chunks without end': (413, (bytes(9999) for _ in range(99)), {}),
    'a bomb': (413, parts.png_bomb(50_000, 50_000), {}),
    'a bomb in a form': (413, form((b'name="a"; filename="a"', parts.png_bomb(50_000, 50_000))), FORM),
    'a bomb of text': (422, parts.text_bomb(), {}),
    'too many pixels': (413, parts.encoded('JPEG', (301, 300), quality=1), {}),
    'cut short': (422, parts.encoded('PNG')[:-300], {}),
    'a form without file': (400, form((b'name="a"', b'x')), FORM),
    'a form that is none': (400, b'no form', FORM),
    'a form with a wrong header': (400, form((b'name="a"', b'x')).replace(b'Disposition', b'\xdb'), FORM),
    'a form without boundary': (400, b'x', {'Content_Type': 'multipart/form-data'}),
    'a form of unknown length': (411, iter([form((b'name="a"; filename="a"', b'x'))]), FORM),
    'a text file in a form': (415, form((b'name="a"; filename="a"', b'just text')), FORM),
    'nothing acceptable': (406, b'x', {'Accept': 'text/html'})}


@pytest.mark.parametrize('kind', REFUSED)
def test_refused(server, kind):
    status, body, headers = REFUSED[kind]
    answer = server.post(body, **headers)
    assert answer[0] == status and set(answer[2]) == {'error'} and '\n' not in answer[2]['error']
    server.well()


@pytest.mark.parametrize('query, hint', [('?output=jsn', '"json"'), ('?polygon=true', '"polygons"'),
                                         ('?mask=1', 'true')])
def test_unknown_parameters(server, query, hint):
    status, _, error = server.post(parts.encoded('PNG'), query)
    assert status == 400 and hint in error['error']


def test_wrong_method_and_path(server):
    for method in ('GET', 'PUT', 'DELETE', 'PATCH'):
        status, headers, error = server.ask(method)
        assert (status, headers['Allow']) == (405, 'POST') and 'error' in error
    assert server.ask('POST', '/health')[0] == 405
    assert server.ask(path='/nothing')[0] == 404
    server.well()


@pytest.mark.parametrize('data', [b'\x16\x03\x01 no http at all\r\n\r\n', b'GET / HTTP/1.1\r\nno header\r\n\r\n',
                                  b'GET /' + 9999 * b'a', b'GET / HTTP/1.1\r\na: ' + 9999 * b'a'])
def test_what_is_not_http(server, data):
    before = server.metric('segmentation_requests_total{status="400"}')
    with server.connect(data) as sock:
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        assert answer.status == 400 and answer.headers['Content-Type'].startswith('application/json')
        error = json.loads(answer.read())['error']
        assert error.startswith('The request is not HTTP (') and '\n' not in error and len(error) < 200
    assert server.metric('segmentation_requests_total{status="400"}') == before + 1
    server.well()


def test_50_megabytes(server):
    """The answer comes before the upload; who sends all the same is read out, and nothing is kept."""
    before = server.metric('process_resident_memory_bytes')
    status, _, error = server.post(bytes(50_000_000))
    assert status == 413 and '200000' in error['error']
    with server.connect(b'POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n') as sock:
        assert sock.recv(999).startswith(b'HTTP/1.1 413')
    with server.connect(b'POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n'
                        b'Expect: 100-continue\r\n\r\n') as sock:
        assert sock.recv(999).startswith(b'HTTP/1.1 413')
    server.well()
    assert server.metric('process_resident_memory_bytes') < before + 120e6  # of which 50 MB are this test's own


def test_expect_continue(server):
    body = parts.encoded('PNG')
    with server.connect(b'POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n'
                        % len(body)) as sock:
        assert sock.recv(999) == b'HTTP/1.1 100 Continue\r\n\r\n'
        sock.sendall(body)
        assert sock.recv(999).startswith(b'HTTP/1.1 200 OK')


def test_slow_clients(bundle):
    """Silent, letter by letter in the headers, byte by byte in the photo: 408 in time, each."""
    headers = b'POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n'
    with serving(bundle, client_timeout=0.7) as server:
        def drip(first, rest):
            start = time.monotonic()
            with server.connect(first) as sock:
                sock.settimeout(0.2)
                while True:
                    try:
                        return sock.recv(999), time.monotonic() - start
                    except TimeoutError:
                        sock.sendall(rest[:1])
                        rest = rest[1:]
        with ThreadPoolExecutor(3) as pool:
            for answer, seconds in pool.map(drip, (b'', headers[:4], headers), (b'', headers[4:], b'\x89PNG\r\n')):
                assert answer.startswith(b'HTTP/1.1 408') and 0.5 < seconds < 3
        assert server.metric('segmentation_requests_total{status="408"}') == 3
        server.well()


def test_a_client_that_does_not_read(bundle):
    body = parts.encoded('JPEG', (300, 300))
    with serving(bundle, client_timeout=0.7) as server, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(('127.0.0.1', server.port))
        sock.sendall(b'POST /segment?output=overlay HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s'
                     % (len(body), body))
        wait_for(lambda: server.metric('segmentation_batch_photos_count') and not server.service.inside)
        assert not server.metric('segmentation_request_seconds_count')  # still being sent
        wait_for(lambda: server.metric('segmentation_request_seconds_count'))  # given up
        server.well()


class Slow(PaddleBackend):
    """A network that waits for `go`."""

    def __init__(self, bundle):
        super().__init__(bundle)
        self.go, self.entered, self.sizes = threading.Event(), threading.Event(), []

    def run(self, batch):
        self.entered.set()
        self.go.wait(10)
        self.sizes.append(len(batch))
        return super().run(batch)


def test_concurrent_photos_share_a_run(bundle, photos):
    backend = Slow(bundle)
    with serving(bundle, backend) as server, ThreadPoolExecutor(16) as pool:
        names = NAMES * 3
        answers = [pool.submit(server.post, body_of(photos, name)) for name in names]
        wait_for(lambda: len(server.service.batcher.jobs) >= 4)  # there is room for 8, of which 1 to 4 run
        backend.go.set()
        for name, answer in zip(names, answers):
            np.testing.assert_array_equal(pixels(answer.result()[2]), inferred(photos, name))
        assert sum(backend.sizes) == len(names) and max(backend.sizes) > 1
        assert server.metric('segmentation_batch_photos_count') == len(names)


def test_busy_and_late(bundle):
    backend = Slow(bundle)
    with serving(bundle, backend, queue=2, timeout=1) as server, ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(server.post, parts.encoded('PNG'))]
        assert backend.entered.wait(5)
        answers.append(pool.submit(server.post, parts.encoded('PNG')))
        wait_for(lambda: server.service.inside == 2)
        status, headers, _ = server.post(parts.encoded('PNG'))
        assert (status, headers['Retry-After']) == (503, '1')
        assert [answer.result()[0] for answer in answers] == [504, 504]
        assert server.ask(path='/health/ready')[0] == 503 and server.ask(path='/health/live')[0] == 200
        backend.go.set()
        time.sleep(0.3)
        server.well()
        assert backend.sizes == [1, 1]  # the photo that gave up while it waited did not run


def test_a_network_that_fails(bundle, monkeypatch):
    backend = PaddleBackend(bundle)
    with serving(bundle, backend) as server:
        with monkeypatch.context() as patch:
            patch.setattr(backend, 'run', lambda batch: 1 / 0)
            status, _, error = server.post(parts.encoded('PNG'))
            assert status == 500 and 'division' not in error['error']
        server.well()


def test_a_network_that_dies(server):
    worker = server.service.batcher.backend
    before = server.metric('network_process_start_time_seconds')
    os.kill(worker.pid, signal.SIGKILL)
    worker.process.join()
    wait_for(lambda: server.post(parts.encoded('PNG'))[0] == 200, 60)  # 504 until another one has started
    server.well()
    assert server.metric('network_process_start_time_seconds') > before > 0


def test_who_hangs_up_while_sending(bundle, monkeypatch):
    errors = []
    monkeypatch.setattr('service.logger.error', errors.append)
    head = b'POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n'
    sent = [head + b'\r\n', head + b'\r\n\x89PNG', head + f'Content-Type: {FORM["Content_Type"]}\r\n\r\n--'.encode()]
    with serving(bundle) as server:
        for data in sent:
            with server.connect(data):
                wait_for(lambda: server.service.inside)
            wait_for(lambda: not server.service.inside)
        assert server.metric('segmentation_requests_total{status="499"}') == len(sent) and not errors
        server.well()


def test_who_hangs_up_is_not_segmented(bundle):
    backend = Slow(bundle)
    body = parts.encoded('PNG')
    with serving(bundle, backend) as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.post, body)
        assert backend.entered.wait(5)
        with server.connect(b'POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s' % (len(body), body)):
            wait_for(lambda: server.service.batcher.jobs)
        wait_for(lambda: server.service.inside == 1)
        backend.go.set()
        assert first.result()[0] == 200
        server.well()
        assert backend.sizes == [1, 1] and server.metric('segmentation_requests_total{status="499"}') == 1


def test_ending_finishes_what_is_inside(bundle):
    backend = Slow(bundle)
    with ThreadPoolExecutor(2) as pool:
        with serving(bundle, backend) as server:
            answer = pool.submit(server.post, parts.encoded('PNG'))
            assert backend.entered.wait(5)
            threading.Timer(0.3, backend.go.set).start()
        assert answer.result()[0] == 200
        with pytest.raises(ConnectionError):
            server.ask(path='/health')


def test_a_fixed_size_is_explained(tmp_path, capsys):
    make_photos(tmp_path)
    assert call('tools/export.py', *make_recipe(tmp_path), '--save_dir', tmp_path / 'static', '--input_shape', '1', '3',
                '20', '30') == 0
    with serving(Bundle.read(str(tmp_path / 'static/deploy.yaml'))) as server:
        server.well()
        status, _, error = server.post(parts.encoded('PNG', (31, 20)))
        assert status == 422 and 'exported for' in error['error']
    assert call('deploy/serving/server.py', '--config', tmp_path / 'static/deploy.yaml', '--is_slide',
                '--crop_size', '20', '30', '--stride', '20', '30') == 2
    assert '--crop_size' in capsys.readouterr().err


def client(url, *flags):
    return call('deploy/serving/client.py', *flags, settings=('--url', url))


def test_client(server, photos, capsys):
    url = f'http://127.0.0.1:{server.port}'
    assert client(url, '--image_path', photos / 'images', '--save_dir', photos / 'sent', '--concurrency', '3') == 0
    for name in NAMES:
        np.testing.assert_array_equal(np.array(Image.open(photos / f'sent/{name}.png')), inferred(photos, name))
    (photos / 'bad').mkdir()
    (photos / 'bad/none.png').symlink_to('nothing')
    (photos / 'bad/x.png').write_bytes(b'no photo')
    (photos / 'bad/y.png').write_bytes(body_of(photos, 'three'))
    assert client(url, '--image_path', photos / 'bad', '--save_dir', photos / 'sent', '--output=json') == 3
    said = capsys.readouterr()
    assert 'none.png: cannot be read' in said.err and 'x.png: The file is not' in said.err and '1 of 3' in said.out
    assert json.loads((photos / 'sent/y.json').read_text())['width'] == SIZES['three'][1]
    assert client('http://127.0.0.1:1', '--image_path', photos / 'images', '--save_dir', photos / 'sent') == 1
    assert 'refused' in capsys.readouterr().err
    (photos / 'sent/y.png').mkdir()
    assert client(url, '--image_path', photos / 'bad/y.png', '--save_dir', photos / 'sent') == 1
    assert 'y.png: cannot be written' in capsys.readouterr().err
    with socket.create_server(('127.0.0.1', 0)) as proxy, ThreadPoolExecutor(1) as pool:
        proxy.settimeout(20)
        code = pool.submit(client, 'http://127.0.0.1:{1}'.format(*proxy.getsockname()), '--image_path',
                           photos / 'bad/y.png', '--save_dir', photos / 'sent')
        connection, _ = proxy.accept()
        with connection:
            connection.sendall(b'HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n')
            assert code.result() == 1
    assert 'answers with status 502' in capsys.readouterr().err


def test_what_the_client_does_not_begin(photos, tmp_path, capsys):
    def refused(*flags):
        assert client('http://127.0.0.1:1', *flags) == 2
        said = capsys.readouterr().err
        assert said.count('\n') == 1
        return said
    body = body_of(photos, 'three')
    for name in ('a.jpg', 'a.png'):
        (tmp_path / name).write_bytes(body)
    assert 'no photo there' in refused('--image_path', tmp_path / 'none')
    assert 'a.jpg, too' in refused('--image_path', tmp_path, '--save_dir', tmp_path / 'out')
    (tmp_path / 'link').symlink_to(tmp_path)
    assert 'is a photo itself' in refused('--image_path', tmp_path / 'a.png', '--save_dir', tmp_path / 'link')
    assert 'cannot be written' in refused('--image_path', tmp_path / 'a.png', '--save_dir', tmp_path / 'a.jpg')
    assert '--concurrency' in refused('--image_path', tmp_path / 'a.png', '--concurrency', '0')
    assert (tmp_path / 'a.png').read_bytes() == body


def test_a_port_that_is_taken(photos, capsys):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        assert call('deploy/serving/server.py', '--config', photos / 'static/deploy.yaml',
                    '--port', taken.getsockname()[1]) == 2
    assert 'cannot be listened on' in capsys.readouterr().err


@pytest.mark.parametrize('flags', [['--timeout', 'nan'], ['--client_timeout', 'inf'], ['--max_body', 'inf'],
                                   ['--queue', '0']])
def test_limits_that_are_none(photos, capsys, flags):
    assert call('deploy/serving/server.py', '--config', photos / 'static/deploy.yaml', *flags) == 2
    assert f'{" ".join(flags)}: give' in capsys.readouterr().err


def test_the_command(photos):
    """From its start to its end, which does not wait for a network that hangs."""
    tool = [sys.executable, str(ROOT / 'deploy/serving/server.py'), '--config', str(photos / 'static/deploy.yaml')]
    flags = ['--port', '0', '--device', 'cpu', '--no_cpu_tuning', '--cpu_threads', '1', '--timeout', '2']
    process = subprocess.Popen([*tool, *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        url = next(line.split()[-1] for line in process.stdout if 'Serving on' in line)
        for status in (200, 504):
            connection = http.client.HTTPConnection(url.split('/')[2], timeout=20)
            connection.request('POST', '/segment', body_of(photos, 'three'))
            answer = connection.getresponse()
            assert answer.status == status
            if status == 200:
                np.testing.assert_array_equal(pixels(answer.read()), inferred(photos, 'three'))
                children = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
                network = next(pid for pid in children if b'spawn_main' in Path(f'/proc/{pid}/cmdline').read_bytes())
                os.kill(int(network), signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        assert not Path(f'/proc/{network}').exists()
    finally:
        process.kill()
        process.stdout.close()


@pytest.mark.parametrize('suffix', ['png', 'webp'])
def test_page_in_a_browser(server, photos, tmp_path, suffix):
    """A photo is dropped on the page: the mask appears over it, fades with the slider, and the legend names it."""
    sync_api = pytest.importorskip('playwright.sync_api', reason='needs the package playwright')
    if not CHROMIUM:
        pytest.skip('needs Chromium')
    flags = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
             '--disable-component-update', '--disable-sync']
    photo = cv2.resize(cv2.imread(str(photos / 'images/three.png')), (400, 300))  # above the limit of pixels
    data = base64.b64encode(cv2.imencode(f'.{suffix}', photo)[1]).decode()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={'width': 1100, 'height': 700})
        errors = []
        page.on('pageerror', lambda error: errors.append(error))
        page.on('console', lambda message: message.type == 'error' and errors.append(message.text))
        page.goto(f'http://127.0.0.1:{server.port}/')
        for name, answer, said in (('four', {'status': 503, 'json': {'error': 'Busy.'}}, 'Busy.'),
                                   ('five', {'status': 502, 'body': 'Bad gateway'}, 'The service does not answer')):
            page.route('**/model', lambda route, _, answer=answer: route.fulfill(**answer), times=1)
            page.set_input_files('#file', str(photos / f'images/{name}.png'))
            page.locator('#status.bad', has_text=said).wait_for(timeout=20000)
        assert all('status of 50' in error for error in errors)  # said by the browser
        errors.clear()
        dropped = page.evaluate_handle('''([data, type]) => {
            const files = new DataTransfer();
            const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt());
            files.items.add(new File([bytes], 'photo', {type}));
            return files;
        }''', [data, f'image/{suffix}'])
        page.dispatch_event('#drop', 'drop', {'dataTransfer': dropped})
        page.wait_for_selector('#result:not([hidden])', timeout=20000)
        assert page.evaluate('[mask.naturalWidth, mask.naturalHeight]') == [346, 259]  # made to fit
        assert page.locator('#legend tr').count() >= 2
        assert page.locator('#legend').inner_text().count('%') == page.locator('#legend tr').count()
        box, over = page.locator('#photo').bounding_box(), page.locator('#mask').bounding_box()
        assert box == over and box['width'] > 300
        pictures = []
        for opacity in (0, 100, 60):
            page.locator('#opacity').fill(str(opacity))
            pictures.append(page.locator('#stage').screenshot())
        assert len(set(pictures)) == 3
        page.screenshot(full_page=True, path=os.environ.get('PADDLESEG_SEMI_SCREENSHOT', str(tmp_path / 'page.png')))
        page.set_input_files('#file', {'name': 'note.txt', 'mimeType': 'text/plain', 'buffer': b'no photo'})
        page.wait_for_selector('#status.bad')
        assert 'note.txt is not an image' in page.locator('#status').inner_text()
        assert not errors
        browser.close()
    server.well()
