"""The random walk on class scores: powers of the dense matrix of transitions ÷ steps through a sparse one.

    python benchmarks/random_walk.py

Both start from the affinities of neighbors on a map of the size that the image has for AffinityNet, and end with the
scores after the walk. Then the sparse one alone on larger images.
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tools'))
from cli import Parser, run
from forked import measured

parser = Parser('Time, memory and result of the sparse random walk beside the dense one.')
parser.add_argument('--size', nargs=2, type=int, default=[500, 375], metavar=('W', 'H'), help='of the image')
parser.add_argument('--classes', nargs='+', type=int, default=[21, 3], help='scores that walk, background included')
parser.add_argument('--log_steps', nargs='+', type=int, default=[6, 8], help='the walk has 2 ** log_steps steps')
parser.add_argument('--beta', type=float, default=8)
parser.add_argument('--rounds', type=int, default=3)


def main(args):
    import numpy as np

    from paddleseg_semi.core.walk import walk
    from paddleseg_semi.datasets.maps import CELL
    from paddleseg_semi.models.affinity import from_sources, half_disk
    steps = half_disk(5)

    def draw(width, height, classes):
        rng = np.random.default_rng(0)
        scores = rng.random([classes, -(-height // CELL), -(-width // CELL)], dtype='float32')
        pairs = from_sources(scores[0], steps)(0, 0).shape
        return scores, rng.random([len(steps), *pairs], dtype='float32') ** 0.3  # most neighbors are alike

    def dense(scores, affinity, log_steps):
        number = np.arange(scores[0].size).reshape(scores.shape[1:])
        at = from_sources(number, steps)
        matrix = np.eye(number.size, dtype='float32')
        for step, values in zip(steps, affinity):
            matrix[at(0, 0), at(*step)] = matrix[at(*step), at(0, 0)] = values
        matrix **= args.beta
        matrix /= matrix.sum(0)
        for _ in range(log_steps):
            matrix = matrix @ matrix
        return (scores.reshape(len(scores), -1) @ matrix).reshape(scores.shape)

    def sparse(scores, affinity, log_steps):
        return walk(scores, affinity, steps, args.beta, log_steps)

    for classes in args.classes:
        drawn = draw(*args.size, classes)
        for log_steps in args.log_steps:
            slow, large, wanted = measured(args.rounds, dense, *drawn, log_steps)
            fast, small, found = measured(args.rounds, sparse, *drawn, log_steps)
            print(f'{args.size[0]}x{args.size[1]}, {classes} scores, {2 ** log_steps} steps: dense {slow * 1e3:.0f} ms '
                  f'and {large:.0f} MB, sparse {fast * 1e3:.0f} ms and {small:.0f} MB, ratio {slow / fast:.1f}, '
                  f'difference {np.abs(wanted - found).max():.1e}')
    for factor in (2, 4, 8):
        width, height = (side * factor for side in args.size)
        drawn = draw(width, height, classes)
        seconds, memory, _ = measured(1, sparse, *drawn, log_steps)
        print(f'{width}x{height}, {classes} scores, {2 ** log_steps} steps: sparse {seconds * 1e3:.0f} ms and '
              f'{memory:.0f} MB, {memory * 2 ** 20 / drawn[0][0].size:.0f} bytes per cell of {CELL}x{CELL} pixels')


if __name__ == '__main__':
    run(main, parser)
