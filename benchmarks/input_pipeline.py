"""Images per second and core of the unlabeled stream: decode, geometry, weak and strong views, 321x321 crops.

    python benchmarks/input_pipeline.py
"""

import os
import statistics
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tools'))
from cli import Parser, run

parser = Parser('Speed of reading unlabeled images of VOC size, on one core.')
parser.add_argument('--images', type=int, default=60)
parser.add_argument('--rounds', type=int, default=5)


def main(args):
    import cv2
    import numpy as np
    from paddleseg import transforms as T

    from paddleseg_semi.datasets.streams.unlabeled import UnlabeledStream
    cv2.setNumThreads(1)
    weak = [T.ResizeStepScaling(0.5, 2.0, 0.25), T.RandomPaddingCrop((321, 321)), T.RandomHorizontalFlip(),
            T.Normalize()]
    strong = [T.RandomDistort(0.5, 1, 0.5, 1, 0.5, 1), T.RandomBlur(0.5)]
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number in range(args.images):
            files.append(os.path.join(folder, f'{number}.jpg'))
            noise = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype='uint8')
            cv2.imwrite(files[-1], cv2.resize(noise, (500, 375), interpolation=cv2.INTER_CUBIC))
        for name, stream in (('weak view', UnlabeledStream(files, weak)),
                             ('weak and strong views', UnlabeledStream(files, weak, strong, 1))):
            rates = []
            for repeat in range(args.rounds):
                start = time.perf_counter()
                for number in range(args.images):
                    stream[number, repeat]
                rates.append(args.images / (time.perf_counter() - start))
            print(f'{name}: {statistics.median(rates):.1f} images/s on one core')


if __name__ == '__main__':
    run(main, parser)
