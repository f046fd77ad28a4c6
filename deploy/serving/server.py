"""Serves an exported segmenter over HTTP: photos in, masks out; http://HOST:PORT/ is a page to try it on."""

import asyncio
import math
import os
import signal
import socket
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..')
sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)), ROOT, os.path.join(ROOT, 'tools')]

from cli import Parser, add_device_flags, add_window_flags, run, true_or_false

parser = Parser(__doc__)
parser.add_argument('--config', required=True, help='deploy.yaml, as tools/export.py writes it')
parser.add_argument('--host', default='127.0.0.1', help='address to listen on; 0.0.0.0 is all of them')
parser.add_argument('--port', type=int, default=8080, help='port to listen on; 0 takes a free one')
add_device_flags(parser)
parser.add_argument('--enable_mkldnn', type=true_or_false, default=True, help='oneDNN (CPU)')
parser.add_argument('--enable_openvino', type=true_or_false, default=False,
                    help='OpenVINO (CPU) instead; needs an export with --old_ir')
parser.add_argument('--precision', default='fp32', choices=['fp32', 'bf16'], help='of oneDNN or OpenVINO')
add_window_flags(parser)
parser.add_argument('--average_probs', action='store_true', help='windows average probabilities instead of logits')
parser.add_argument('--batch_size', type=int, default=8, help='photos of equal size, or windows, per run, at most')
parser.add_argument('--max_body', type=float, default=10, help='megabytes of a file, at most')
parser.add_argument('--max_pixels', type=int, default=2048 * 2048, help='of a photo, and of a batch of several')
parser.add_argument('--queue', type=int, default=64, help='requests at once; one more gets status 503')
parser.add_argument('--timeout', type=float, default=30, help='seconds until a photo that has arrived gets status 504')
parser.add_argument('--client_timeout', type=float, default=15,
                    help='seconds a client has for its headers, for its photo (status 408), and to take the answer')


def main(args):
    # OpenCV reads this when it is loaded: the second guard behind that of photo.py.
    os.environ['OPENCV_IO_MAX_IMAGE_PIXELS'] = str(args.max_pixels)
    import cv2
    from paddleseg.utils import logger

    from paddleseg_semi.deploy.bundle import Bundle
    from paddleseg_semi.deploy.extras import require
    from paddleseg_semi.deploy.windows import asked_window
    from paddleseg_semi.deploy.worker import Worker
    from paddleseg_semi.errors import InputError
    for name in ('aiohttp', 'prometheus_client'):
        require(name, 'serving')
    from service import Limits, Service
    from worker import load

    for flag in ('batch_size', 'max_body', 'max_pixels', 'queue', 'timeout', 'client_timeout'):
        if not 0 < getattr(args, flag) < math.inf:
            raise InputError(f'--{flag} {getattr(args, flag)}: give a number above 0.')
    bundle = Bundle.read(args.config)
    if 0 < bundle.input_shape[0] < args.batch_size:
        args.batch_size = bundle.input_shape[0]
        logger.info(f'The model was exported for batches of {args.batch_size}.')
    window = asked_window(args, bundle)
    sock = listen(args.host, args.port)
    engine = 'openvino' if args.enable_openvino else 'onednn' if args.enable_mkldnn else 'paddle'
    threads = args.cpu_threads or len(os.sched_getaffinity(0))
    cv2.setNumThreads(1)  # photos are read side by side
    worker = Worker(load, args.config, args.device, threads, not args.no_cpu_tuning, engine, args.precision, window,
                    args.batch_size)
    limits = Limits(int(args.max_body * 1e6), args.max_pixels, args.queue, args.timeout, args.client_timeout)

    async def serve():
        service, ended = Service(bundle, worker, args.batch_size, limits, bool(window)), asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        await service.start(sock)
        logger.info('Serving on http://{}:{}/'.format(*sock.getsockname()))
        await ended.wait()
        logger.info(f'Ending: {service.inside} photos are still being segmented.')
        await service.stop()
        worker.close()

    asyncio.run(serve())


def listen(host, port):
    """A listening TCP socket, or InputError."""
    from paddleseg_semi.errors import InputError
    try:
        return socket.create_server((host, port), backlog=1024)
    except (OSError, OverflowError) as error:
        raise InputError(f'--host {host} --port {port}: cannot be listened on ({error}).') from None


if __name__ == '__main__':
    run(main, parser)
