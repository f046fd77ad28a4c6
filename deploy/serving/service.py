"""The HTTP side: what is asked, what is answered, and what is refused.

    POST /segment        a photo → its classes as PNG, an overlay, or JSON
    GET  /               a page to drop a photo on
    GET  /model          what the network tells apart, and the limits
    GET  /health         200 when photos can be sent, else 503; also /health/live and /health/ready
    GET  /metrics        Prometheus

Every refusal is JSON, {"error": "one line"}.
"""

import asyncio
import base64
import io
import json
import logging
import os
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from aiohttp import hdrs, web
from batcher import Batcher
from paddleseg.utils import logger, visualize
from photo import FORMATS, Refused, decode
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest

from paddleseg_semi.core.common import blended
from paddleseg_semi.deploy.photos import Photo, reason
from paddleseg_semi.deploy.results import Polygons
from paddleseg_semi.deploy.segment import Sample, prepare, to_classes
from paddleseg_semi.errors import InputError, nearest

_OUTPUTS = ('classes', 'overlay', 'json')
_EXTRAS = ('polygons', 'mask')  # of JSON
_TYPES = ('image/', 'application/octet-stream', 'application/x-www-form-urlencoded')  # the last is curl's for any file
_FORM = 'multipart/form-data'
_FORM_SLACK = 1 << 16  # bytes of a form around its file
_IDLE = 75  # seconds that a connection is kept between requests; longer than proxies keep theirs
_PATIENCE = 1  # seconds for a run whose photos have been given up
_CLIENT_GONE = 499  # in the metrics only
_PAGE_POLICY = ("default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob: data:; "
                "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


@dataclass(frozen=True)
class Limits:
    """What a request may cost.

    Attributes:
        body (int): bytes of a photo's file.
        pixels (int): width times height.
        queue (int): requests inside, from their headers to their result.
        timeout (float): seconds from the last byte of a photo to its result.
        client_timeout (float): seconds that a client has to send its headers, its photo, and to take its answer.
    """

    body: int
    pixels: int
    queue: int
    timeout: float
    client_timeout: float


class Metrics:
    """What Prometheus is told."""

    def __init__(self, service):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        if hasattr(service.batcher.backend, 'pid'):  # in a process of its own
            ProcessCollector('network', pid=lambda: service.batcher.backend.pid, registry=self.registry)
        self.requests = Counter('segmentation_requests', 'Answers by status.', ['status'], registry=self.registry)
        self.seconds = Histogram('segmentation_request_seconds', 'From the headers to the answer.',
                                 registry=self.registry)
        self.stages = Histogram('segmentation_stage_seconds', 'The same in parts.', ['stage'], registry=self.registry)
        self.batches = Histogram('segmentation_batch_photos', 'Photos that went through the network with this one.',
                                 buckets=(1, 2, 4, 8, 16, 32, 64), registry=self.registry)
        Gauge('segmentation_requests_inside', 'Requests being served.',
              registry=self.registry).set_function(lambda: service.inside)


class Stopwatch:
    """Seconds by stage, in order."""

    def __init__(self):
        self.last, self.seconds = time.perf_counter(), {}

    def lap(self, stage):
        now = time.perf_counter()
        self.seconds[stage], self.last = now - self.last, now

    def header(self):
        """str: the value of Server-Timing, which browsers show."""
        return ', '.join(f'{stage};dur={1000 * seconds:.2f}' for stage, seconds in self.seconds.items())


class Service:
    """The application around one network.

    Args:
        bundle (Bundle): the exported segmenter.
        backend: what runs it; see worker.py.
        batch_size (int): photos in one run.
        limits (Limits): what a request may cost.
        slides (bool): the backend takes decoded photos as they are, and slides a window over them.
    """

    def __init__(self, bundle, backend, batch_size, limits, slides=False):
        self.bundle, self.limits, self.slides, self.inside, self.closing = bundle, limits, slides, 0, False
        self.batcher = Batcher(backend, batch_size, limits.pixels)
        self.pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)), 'photos')
        self.room = asyncio.Semaphore(2 * batch_size)  # decoded photos: one batch runs, the next one gathers
        self.metrics, self.polygons = Metrics(self), Polygons(bundle, folder='')
        self.silent = {}  # connection → timer that ends it, until its first request
        self.page = (Path(__file__).parent / 'page.html').read_text(encoding='utf-8')

    def app(self):
        """The application, for a runner of aiohttp."""
        app = web.Application(middlewares=[self._answer])
        app.router.add_post('/segment', self._segment, expect_handler=self._expect)
        app.router.add_get('/', self._page)
        app.router.add_get('/model', self._model)
        app.router.add_get('/metrics', self._metrics)
        app.router.add_get(r'/health{probe:(/live|/ready)?}', self._health)
        return app

    async def start(self, sock):
        """Serves on a listening socket until `stop`."""
        logging.getLogger('aiohttp.server').setLevel('CRITICAL')  # or all that is not HTTP leaves a traceback
        self.runner = web.AppRunner(self.app(), handler_cancellation=True, shutdown_timeout=self.limits.timeout)
        await self.runner.setup()
        self.server = await asyncio.get_running_loop().create_server(self._connection, sock=sock)

    async def stop(self):
        """Takes no more photos, answers those that are inside, and ends."""
        self.closing = True
        self.server.close()
        await self.runner.cleanup()
        await asyncio.to_thread(self.batcher.close, _PATIENCE)  # nobody waits for a result any more
        self.pool.shutdown()

    def _connection(self):
        loop = asyncio.get_running_loop()
        connection = _Connection(self.runner.server, self.metrics, loop=loop, keepalive_timeout=_IDLE, access_log=None,
                                 auto_decompress=False)
        self.silent[connection] = loop.call_later(self.limits.client_timeout, self._too_silent, connection)
        return connection

    def _heard(self, request):
        timer = self.silent.pop(request.protocol, None)
        if timer:
            timer.cancel()

    def _too_silent(self, connection):
        del self.silent[connection]
        if connection.transport:
            self.metrics.requests.labels(408).inc()
            body = _error_body('No complete request came in time.')
            connection.transport.write(b'HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Type: '
                                       b'application/json\r\nContent-Length: %d\r\n\r\n%s' % (len(body), body))
            connection.force_close()

    @web.middleware
    async def _answer(self, request, handler):
        """Turns every error into a clean answer, counts, and does not wait for a client that takes no answer."""
        self._heard(request)
        start, status = time.perf_counter(), _CLIENT_GONE
        try:
            try:
                response = await handler(request)
            except Refused as refusal:
                response = _refuse(refusal)
            except InputError as error:
                response = _refuse(Refused(422, f'The photo {error}.'))
            except web.HTTPException as error:  # no such page, wrong method
                allowed = {'Allow': error.headers['Allow']} if 'Allow' in error.headers else {}
                response = _refuse(Refused(error.status, f'{request.method} {request.path}: {error.reason}.',
                                           **allowed))
            except ConnectionError:  # a cancellation may come as that
                raise
            except Exception:
                logger.error(f'{request.method} {request.path}:\n{traceback.format_exc()}')
                response = _refuse(Refused(500, 'The photo could not be segmented; the log of the service says more.'))
            status = response.status
            try:
                await asyncio.wait_for(_send(request, response), self.limits.client_timeout)
            except asyncio.TimeoutError:
                request.transport.abort()
            return response
        finally:
            self.metrics.requests.labels(status).inc()
            if request.path == '/segment' and status == 200:
                self.metrics.seconds.observe(time.perf_counter() - start)

    async def _expect(self, request):
        """Refuses by the headers alone where a client asks whether it may send its photo."""
        self._heard(request)
        try:
            self._check_headers(request)
        except Refused as refusal:
            self.metrics.requests.labels(refusal.status).inc()
            return _refuse(refusal)
        await request.writer.write(b'HTTP/1.1 100 Continue\r\n\r\n')
        return None

    async def _segment(self, request):
        output, extras = _wanted(request)
        self._check_headers(request)
        if self.closing or self.inside >= self.limits.queue:
            raise Refused(503, 'The service is busy; try again.', **{'Retry-After': '1'})
        self.inside += 1
        try:
            watch = Stopwatch()
            try:
                body = await asyncio.wait_for(self._read(request), self.limits.client_timeout)
            except asyncio.TimeoutError:
                raise Refused(408, f'The photo did not arrive within {self.limits.client_timeout:g} s.') from None
            watch.lap('upload')
            try:
                return await asyncio.wait_for(self._work(body, output, extras, watch), self.limits.timeout)
            except asyncio.TimeoutError:
                raise Refused(504, f'No result within {self.limits.timeout:g} s.') from None
        finally:
            self.inside -= 1

    def _check_headers(self, request):
        limit, encoding = self.limits.body, request.headers.get(hdrs.CONTENT_ENCODING, 'identity')
        if encoding.lower() != 'identity':
            raise Refused(415, f'Content-Encoding {encoding}: send the photo as it is.')
        # A request without Content-Type counts as octet-stream.
        if not request.content_type.startswith((*_TYPES, _FORM)):
            raise Refused(415, f'Content-Type {request.content_type}: send a {" or ".join(FORMATS)} image, '
                               'or a form with one.')
        if request.content_type == _FORM:
            limit += _FORM_SLACK
            if request.content_length is None:
                raise Refused(411, 'A form needs a Content-Length.')
        if (request.content_length or 0) > limit:
            raise self._too_long()

    def _too_long(self):
        return Refused(413, f'The file is larger than {self.limits.body} bytes.')

    async def _read(self, request):
        """bytes: the photo's file, from the body or from the first file of a form."""
        chunks, body = request.content.iter_any(), bytearray()
        try:
            if request.content_type == _FORM:
                chunks = _chunks(await _file_part(request))
            async for chunk in chunks:
                body += chunk
                if len(body) > self.limits.body:
                    raise self._too_long()
        except (Refused, ConnectionError):
            raise
        except Exception as error:  # of the parser, for there are many ways to be wrong
            raise Refused(400, f'The body is not well-formed ({reason(error)}).') from None
        if not body:
            raise Refused(400, 'The body is empty: send a photo.')
        return bytes(body)

    async def _work(self, body, output, extras, watch):
        async with self.room:
            watch.lap('room')
            photo = await self._in_pool(self._load, body)
            watch.lap('decode')
            result = await asyncio.wrap_future(self.batcher.submit(photo.sample))
            watch.lap('network')
            waited = watch.seconds.pop('room') + watch.seconds.pop('network') - result.took
            watch.seconds.update(queue=waited, inference=result.took)
            photo.output = result.output
            content = await self._in_pool(self._encode, photo, output, extras)
            watch.lap('encode')
        for stage, seconds in watch.seconds.items():
            self.metrics.stages.labels(stage).observe(seconds)
        self.metrics.batches.observe(result.batch)
        headers = {'Server-Timing': watch.header()}
        if output == 'json':
            timing = {stage: round(1000 * seconds, 2) for stage, seconds in watch.seconds.items()}
            return web.json_response({**content, 'timing_ms': timing, 'batch': result.batch}, headers=headers)
        return web.Response(body=content, content_type='image/png', headers=headers)

    def _in_pool(self, function, *args):
        return asyncio.get_running_loop().run_in_executor(self.pool, function, *args)

    def _load(self, body):
        """bytes → Photo, as the network takes it."""
        pixels = decode(body, self.bundle.transforms.img_channels, self.limits.pixels)
        sample = Sample('', pixels, []) if self.slides else prepare(self.bundle, pixels, '')
        return Photo(0, '', '', pixels, sample)

    def _encode(self, photo, output, extras):
        """Photo with what the network says → the answer, bytes of a PNG file or a dict."""
        photo.classes = to_classes(photo.output, photo.sample.trans_info, self.bundle.output_op)
        if output == 'json':
            return self._report(photo, extras)
        return self._mask(photo) if output == 'classes' else \
            cv2.imencode('.png', blended(photo.pixels, photo.classes, self.bundle.palette,
                                         self.bundle.unpainted))[1].tobytes()

    def _mask(self, photo, **options):
        file = io.BytesIO()
        visualize.get_pseudo_color_map(photo.classes, self.bundle.palette).save(file, format='PNG', **options)
        return file.getvalue()

    def _report(self, photo, extras):
        (height, width), counts = photo.classes.shape, np.bincount(photo.classes.ravel())
        report = {'width': width, 'height': height,
                  'classes': [{**self._class(k), 'pixels': int(counts[k]), 'share': round(counts[k] / counts.sum(), 6)}
                              for k in np.argsort(-counts, kind='stable') if counts[k]]}
        if 'polygons' in extras:
            report['polygons'] = [{'class': k, 'points': ring.tolist()} for k, ring in self.polygons.outlines(photo)]
        if 'mask' in extras:  # to be laid over the photo
            see_through = {'transparency': self.bundle.unpainted[0]} if self.bundle.unpainted else {}
            report['mask'] = base64.b64encode(self._mask(photo, **see_through)).decode()
        return report

    def _class(self, k):
        return {'id': int(k), 'name': self.polygons.name(k),
                'color': '#' + bytes(self.bundle.palette[3 * k:3 * k + 3]).hex(),
                'painted': int(k) not in self.bundle.unpainted}

    async def _page(self, request):
        return web.Response(text=self.page, content_type='text/html', headers={'Content-Security-Policy': _PAGE_POLICY})

    async def _model(self, request):
        return web.json_response({
            'classes': [self._class(k) for k in range(len(self.bundle.class_names or ()))],
            'summary': self.bundle.summary, 'formats': [f'image/{name.lower()}' for name in FORMATS],
            'limits': {'body': self.limits.body, 'pixels': self.limits.pixels}})

    async def _health(self, request):
        live = self.batcher.thread.is_alive()
        ready = live and not self.closing and self.batcher.busy_for() < self.limits.timeout
        good = live if request.match_info['probe'] == '/live' else ready
        return web.json_response({'live': live, 'ready': ready, 'inside': self.inside}, status=200 if good else 503)

    async def _metrics(self, request):
        return web.Response(body=generate_latest(self.metrics.registry), headers={'Content-Type': CONTENT_TYPE_LATEST})


class _Connection(web.RequestHandler):
    """Answers what is not HTTP as everything that is refused."""

    def __init__(self, server, metrics, **options):
        super().__init__(server, **options)
        self.metrics = metrics

    def handle_error(self, request, status=500, exc=None, message=None):
        if status != 400:
            return super().handle_error(request, status, exc, message)
        self.metrics.requests.labels(status).inc()
        first = message.partition('\n')[0].rstrip(':')
        return _refuse(Refused(status, f'The request is not HTTP ({first}).'))


def _wanted(request):
    """What the answer shall be, by the query, else by Accept: (output, extras of JSON)."""
    query = dict(request.query)
    for key in query:
        if key not in ('output', *_EXTRAS):
            raise Refused(400, f'{key}: no such parameter.{nearest(key, ("output", *_EXTRAS))}')
    extras = []
    for key in _EXTRAS:
        value = query.get(key, 'false').lower()
        if value not in ('true', 'false'):
            raise Refused(400, f'{key}={value}: give true or false.')
        extras += [key] * (value == 'true')
    output = query.get('output')
    if output is None:
        accepted = request.headers.get(hdrs.ACCEPT, '*/*').lower()
        if 'image/' in accepted or '*/*' in accepted:
            output = 'classes'
        elif 'application/json' in accepted:
            output = 'json'
        else:
            raise Refused(406, f'Accept {accepted}: image/png and application/json are offered.')
    elif output not in _OUTPUTS:
        raise Refused(400, f'output={output}: give {", ".join(_OUTPUTS)}.{nearest(output, _OUTPUTS)}')
    return output, extras


async def _file_part(request):
    """The first file of a form."""
    reader = await request.multipart()
    while (part := await reader.next()) is not None:
        if getattr(part, 'filename', None):
            return part
    raise Refused(400, 'The form has no file.')


async def _chunks(part):
    while chunk := await part.read_chunk():
        yield chunk


async def _send(request, response):
    await response.prepare(request)
    await response.write_eof()


def _refuse(refusal):
    """The answer for a Refused. The connection ends where a body may not have been read."""
    response = web.Response(body=_error_body(str(refusal)), status=refusal.status, headers=refusal.headers,
                            content_type='application/json')
    response.force_close()
    return response


def _error_body(message):
    return json.dumps({'error': message}).encode()
