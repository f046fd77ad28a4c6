"""What a user waits for before and between the steps: --help, a long list of unlabeled images, a checkpoint.

    python benchmarks/start_up.py
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'tools'))
from cli import Parser, run

parser = Parser('Seconds and megabytes of starting and saving.')
parser.add_argument('--paths', type=int, default=1_000_000, help='unlabeled images in the list')


def main(args):
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, os.path.join(HERE, '..', 'tools', 'train.py'), '--help'],
                       stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - start)
    print(f'tools/train.py --help: {statistics.median(times):.2f} s')

    import cv2
    import numpy as np
    import paddle
    from paddleseg.datasets import Dataset

    from paddleseg_semi.core.checkpoint import MODEL, Checkpoints
    from paddleseg_semi.datasets import checks
    from paddleseg_semi.datasets.split import Split
    with tempfile.TemporaryDirectory() as folder:
        os.makedirs(os.path.join(folder, 'img'))
        first = os.path.join(folder, 'img', '0000000.png')
        cv2.imwrite(first, np.zeros((8, 8), 'uint8'))
        cv2.imwrite(os.path.join(folder, 'mask.png'), np.zeros((8, 8), 'uint8'))
        for number in range(1, args.paths):
            os.link(first, os.path.join(folder, 'img', f'{number:07d}.png')) if number % 50_000 else \
                cv2.imwrite(os.path.join(folder, 'img', f'{number:07d}.png'), np.zeros((8, 8), 'uint8'))
            first = first if number % 50_000 else os.path.join(folder, 'img', f'{number:07d}.png')  # links are limited
        with open(os.path.join(folder, 'train.txt'), 'w') as file:
            file.write('img/0000000.png mask.png\n')
        with open(os.path.join(folder, 'raw.txt'), 'w') as file:
            file.writelines(f'img/{number:07d}.png\n' for number in range(1, args.paths))
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        base = Dataset('train', folder, [], 2, train_path=os.path.join(folder, 'train.txt'))
        split = Split.with_raw(base, os.path.join(folder, 'raw.txt'))
        read = time.perf_counter() - start
        checks.quick(base, split, None)
        checked = time.perf_counter() - start
        split.write(os.path.join(folder, 'split'), base)
        megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f'{len(split.unlabeled)} unlabeled paths: read in {read:.1f} s, checked after {checked:.1f} s, written '
              f'after {time.perf_counter() - start:.1f} s, {megabytes:.0f} MB')

        checkpoints = Checkpoints(os.path.join(folder, 'run'), {'config': {}, 'split': '', 'seed': 0, 'ranks': 1})
        checkpoints.prepare()
        state = {str(number): paddle.randn([1024, 1024]) for number in range(50)}
        start = time.perf_counter()
        checkpoints.save(1, {MODEL: state, 'model.pdstates': {}})
        print(f'checkpoint of 200 MB saved in {time.perf_counter() - start:.2f} s')


if __name__ == '__main__':
    run(main, parser)
