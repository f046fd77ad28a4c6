"""deploy/python/infer.py over many photos of all sizes, some of them damaged: does it finish, name them, and keep to
its memory?

    python benchmarks/many_photos.py
"""

import os
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'tools'))
from cli import Parser, run

INFER = os.path.join(HERE, '..', 'deploy', 'python', 'infer.py')
DAMAGES = ('half of the file', 'empty', 'text', 'bomb')

parser = Parser('Skipped photos, images per second and resident memory over time.')
parser.add_argument('--config', help='deploy.yaml (default: FastSCNN with random weights, 12 classes)')
parser.add_argument('--photos', type=int, default=2000, help='how many')
parser.add_argument('--damaged', type=int, default=20, help='how many of them are damaged')
parser.add_argument('--sides', type=int, nargs=2, default=[160, 640], help='the range of their sides, pixels')
parser.add_argument('--infer', nargs='*', default=['enable_mkldnn=True', 'batch_size=4'], help='flags of infer.py')


def main(args):
    with tempfile.TemporaryDirectory() as folder:
        config = args.config or _export(folder)
        damaged = _write_photos(os.path.join(folder, 'photos'), args)
        command = [sys.executable, INFER, '--config', config, '--image_path', os.path.join(folder, 'photos'),
                   '--save_dir', os.path.join(folder, 'results'), '--print_detail', 'False',
                   *(f'--{flag}' for flag in args.infer)]
        print(' '.join(command[1:]))
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        memory = []
        while process.poll() is None:
            memory.append(_resident(process.pid) or memory[-1])  # 0 when it has just ended
            time.sleep(0.2)
        took = time.perf_counter() - start
        out, err = process.communicate()
        done = sum(len(files) for _, _, files in os.walk(os.path.join(folder, 'results')))
    lines = err.splitlines()
    first = next((i for i, line in enumerate(lines) if 'were skipped' in line), len(lines))
    named = {os.path.basename(line.split(': ')[0]) for line in lines[first + 1:]}
    print(*(line.split('\t')[-1] for line in out.splitlines() if 'Written' in line), sep='\n')
    print(f'exit code {process.returncode}, results {done}, skipped {len(named)}, '
          f'as they should be: {named == damaged}')
    print('share of the time, resident memory in MB: ', end='')
    print(*(f'{share}% {memory[min(share * len(memory) // 100, len(memory) - 1)]:.0f}'
            for share in (5, *range(10, 100, 10), 99)), sep=', ')
    half = memory[len(memory) // 2:]
    print(f'second half: {min(half):.0f} to {max(half):.0f} MB, most ever {max(memory):.0f} MB, {took:.0f} s')


def _export(folder):
    import paddle
    from paddleseg.models import FastSCNN

    from paddleseg_semi.core.export import export
    paddle.seed(0)
    return export(FastSCNN(12), folder, [{'type': 'Normalize'}], output_op='argmax')[-1]


def _write_photos(folder, args):
    """Returns the names of the damaged ones."""
    import zlib

    import cv2
    import numpy as np
    os.makedirs(folder)
    rng = np.random.default_rng(0)
    bad = {int(number): DAMAGES[i % len(DAMAGES)]
           for i, number in enumerate(rng.choice(args.photos, args.damaged, replace=False))}
    for number in range(args.photos):
        size = tuple(int(side) for side in rng.integers(*args.sides, 2))
        photo = cv2.resize(rng.integers(0, 256, (12, 12, 3), dtype='uint8'), size, interpolation=cv2.INTER_CUBIC)
        suffix = '.png' if number % 5 == 0 or bad.get(number) == 'bomb' else '.jpg'
        data = cv2.imencode(suffix, photo)[1].tobytes()
        if number in bad:
            bomb = data[:16] + 2 * (60_000).to_bytes(4, 'big') + data[24:29]
            data = {'half of the file': data[:len(data) // 2], 'empty': b'', 'text': b'no photo',
                    'bomb': bomb + zlib.crc32(bomb[12:]).to_bytes(4, 'big') + data[33:]}[bad[number]]
            bad[number] = f'{number:05d}{suffix}'
        with open(os.path.join(folder, f'{number:05d}{suffix}'), 'wb') as file:
            file.write(data)
    return set(bad.values())


def _resident(pid):
    """float: MB of a process and its children; 0 when it has just ended."""
    total = 0
    try:
        with open(f'/proc/{pid}/status') as file:
            total = next((int(line.split()[1]) / 1024 for line in file if line.startswith('VmRSS')), 0)
        for thread in os.listdir(f'/proc/{pid}/task'):
            with open(f'/proc/{pid}/task/{thread}/children') as file:
                total += sum(map(_resident, file.read().split()))
    except OSError:  # ended meanwhile
        pass
    return total


if __name__ == '__main__':
    run(main, parser)
