"""The service under load: clients that each send one photo after the other.

    python benchmarks/serving.py --config <deploy.yaml> --image_path <folder of photos>
"""

import asyncio
import os
import re
import resource
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'tools'))
from cli import Parser, run

_BATCH = 8
_FIELDS = ('clients', 'photos', 'errors', 'photos/s', 'p50', 'p90', 'p99', 'most', 'photos in its run', 'CPU ms', 'MB')

parser = Parser('Latency and throughput of deploy/serving/server.py.')
parser.add_argument('--config', required=True, help='deploy.yaml')
parser.add_argument('--image_path', required=True, help='a folder of photos, or a text list')
parser.add_argument('--clients', type=int, nargs='+', default=[1, 8, 32], help='at once, one round for each number')
parser.add_argument('--seconds', type=float, default=20, help='of a round')
parser.add_argument('--cpu_threads', type=int, default=len(os.sched_getaffinity(0)), help='of the network')


def main(args):
    """Returns 1 when any answer was not the mask that inference from files gives."""
    from paddleseg_semi.core.common import list_images
    from paddleseg_semi.deploy.extras import require
    from paddleseg_semi.errors import InputError
    require('aiohttp', 'serving')
    photos = list_images(args.image_path)
    rate, cpu, masks = without_http(args, photos)
    print(f'Without HTTP, batches of {_BATCH}, reading and encoding beside the network: {rate:.1f} photos/s, '
          f'{cpu:.1f} ms of CPU a photo')
    bodies = []
    for path, _ in photos:
        with open(path, 'rb') as file:
            bodies.append(file.read())
    server = subprocess.Popen(
        [sys.executable, os.path.join(HERE, '..', 'deploy', 'serving', 'server.py'), '--config', args.config,
         '--port', '0', '--device', 'cpu', '--cpu_threads', str(args.cpu_threads),
         '--batch_size', str(_BATCH)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        lines = []
        for line in server.stdout:
            lines.append(line)
            if 'Serving on' in line:
                break
        else:
            raise InputError(f'The server did not start: {lines[-1].strip()}')
        url = line.split()[-1]
        threading.Thread(target=server.stdout.read, daemon=True).start()  # or a full pipe would stop the server
        print('| ' + ' | '.join(_FIELDS) + ' | photos/s ÷ without HTTP | CPU ÷ without HTTP |')
        print('| --- ' * (len(_FIELDS) + 2) + '|')
        failures, before = 0, cpu_seconds()
        asyncio.run(load(url, bodies, masks, 1, 2))  # warms up
        for clients in args.clients:
            row = asyncio.run(load(url, bodies, masks, clients, args.seconds))
            failures += row['errors']
            print('| ' + ' | '.join(f'{row[field]:.4g}' for field in _FIELDS) +
                  f' | {row["photos/s"] / rate:.2f} | {row["CPU ms"] / cpu:.2f} |', flush=True)
    finally:
        server.terminate()
        server.wait()
    print('Latencies, and CPU time of the server, in ms a photo; its memory in MB. '
          f'The clients shared the CPU with the server and used {cpu_seconds() - before:.1f} s of it.')
    return int(failures > 0)


def without_http(args, photos):
    """Inference from files: photos per second, ms of CPU per photo, and the masks as PNG files."""
    import tempfile

    from paddleseg_semi.deploy.backends import PaddleBackend
    from paddleseg_semi.deploy.bundle import Bundle
    from paddleseg_semi.deploy.photos import Photo
    from paddleseg_semi.deploy.pipeline import Pipeline
    from paddleseg_semi.deploy.results import Masks
    from paddleseg_semi.runtime import tune_cpu
    tune_cpu(args.cpu_threads)
    bundle = Bundle.read(args.config)
    backend = PaddleBackend(bundle, 'cpu', args.cpu_threads, 'onednn')
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):  # the first one warms up
            start, cpu, count = time.perf_counter(), time.process_time(), 0
            while time.perf_counter() - start < args.seconds / 4:
                pipeline = Pipeline(bundle, backend, [Masks(bundle, folder)], _BATCH)
                count += sum(1 for _ in pipeline.run(Photo(i, name, path) for i, (path, name) in enumerate(photos)))
            rate, cpu = count / (time.perf_counter() - start), 1000 * (time.process_time() - cpu) / count
        masks = []
        for _, name in photos:
            with open(os.path.join(folder, f'{name}.png'), 'rb') as file:
                masks.append(file.read())
    return rate, cpu, masks


async def load(url, bodies, masks, clients, seconds):
    """One round. Returns its row, by field."""
    import aiohttp
    import numpy as np
    times, errors = [], 0
    before = await metrics(url)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=clients)) as session:
        start = time.perf_counter()

        async def client(number):
            nonlocal errors
            while time.perf_counter() < start + seconds:
                sent = time.perf_counter()
                try:
                    async with session.post(url + 'segment', data=bodies[number % len(bodies)]) as answer:
                        errors += answer.status != 200 or await answer.read() != masks[number % len(bodies)]
                except (aiohttp.ClientError, OSError):
                    errors += 1
                times.append(time.perf_counter() - sent)
                number += clients

        await asyncio.gather(*(client(number) for number in range(clients)))
        took = time.perf_counter() - start
    after = await metrics(url)

    def more(name):
        return after[name] - before.get(name, 0)

    p50, p90, p99, most = 1000 * np.percentile(times, [50, 90, 99, 100])
    return {'clients': clients, 'photos': len(times), 'errors': errors, 'photos/s': len(times) / took, 'p50': p50,
            'p90': p90, 'p99': p99, 'most': most,
            'photos in its run': more('segmentation_batch_photos_sum') / more('segmentation_batch_photos_count'),
            'CPU ms': 1000 * more('process_cpu_seconds_total') / len(times),
            'MB': after['process_resident_memory_bytes'] / 1e6}


async def metrics(url):
    """What the service counts, by name."""
    import aiohttp
    async with aiohttp.ClientSession() as session, session.get(url + 'metrics') as answer:
        found = {name: float(value) for name, value in re.findall(r'^(\w+) ([\d.e+]+)$', await answer.text(), re.M)}
    for name in ('process_cpu_seconds_total', 'process_resident_memory_bytes'):
        found[name] += found[f'network_{name}']
    return found


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == '__main__':
    run(main, parser)
