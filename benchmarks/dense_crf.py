"""The dense CRF: our inference on NumPy and SciPy ÷ the library pydensecrf.

    pip install '.[crf]'
    python benchmarks/dense_crf.py

Without the library only our side is measured.
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tools'))
from cli import Parser, run
from forked import measured

parser = Parser('Time, memory and result of the dense CRF beside pydensecrf.')
parser.add_argument('--image', help='default: smooth random colors with some noise, 500x375')
parser.add_argument('--classes', nargs='+', type=int, default=[2, 3, 21])
parser.add_argument('--iters', type=int, default=10)
parser.add_argument('--rounds', type=int, default=3)


def main(args):
    import cv2
    import numpy as np

    from paddleseg_semi.core import crf
    from paddleseg_semi.errors import InputError
    rng = np.random.default_rng(0)

    def smooth(rows, columns, *channels):
        coarse = rng.random([rows, columns, *channels], dtype='float32')
        return cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC)

    if args.image:
        image = cv2.imread(args.image)
        if image is None:
            raise InputError(f'--image {args.image}: cannot be read as an image.')
    else:
        image = (smooth(9, 12, 3) * 255 + rng.normal(0, 4, [375, 500, 3])).clip(0, 255).astype('uint8')
    height, width = image.shape[:2]
    library = crf.densecrf

    def infer(prob, densecrf):
        crf.densecrf = densecrf
        return crf.dense_crf(prob, image, args.iters)

    for classes in args.classes:
        prob = np.stack([cv2.resize(smooth(12, 16), (width, height)) for _ in range(classes)]).clip(0.01, 1)
        prob /= prob.sum(0)
        own, memory, found = measured(args.rounds, infer, prob, None)
        line = (f'{width}x{height}, {classes} labels, {args.iters} iterations: own {own * 1e3:.0f} ms and '
                f'{memory:.0f} MB')
        if library is not None:
            its, memory, wanted = measured(args.rounds, infer, prob, library)
            same = (wanted.argmax(0) == found.argmax(0)).mean()
            line += (f', pydensecrf {its * 1e3:.0f} ms and {memory:.0f} MB, ratio {own / its:.2f}, '
                     f'difference {np.abs(wanted - found).max():.1e}, same labels {100 * same:.3f} %')
        print(line)


if __name__ == '__main__':
    run(main, parser)
