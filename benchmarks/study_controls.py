"""tools/train.py with the methods of a study that are there to fail.

    python benchmarks/study_controls.py --config benchmarks/study_shuffled.yml --split_ids …
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tools'))
import train
from cli import run


def shuffled_fixmatch():
    """The class; Paddle is imported here, so that --help answers at once."""
    from paddleseg_semi.methods.fixmatch import FixMatch

    class ShuffledFixMatch(FixMatch):
        """FixMatch in which every image gets the pseudo labels of another one of its batch: as many, of the same
        classes and as sure. It must not gain."""

        def weak_pass(self, batch):
            losses, own, pasted = super().weak_pass(batch)
            return losses, *([value.roll(1, 0) for value in labels] for labels in (own, pasted))

    return ShuffledFixMatch


def main(args):
    from paddleseg_semi.cvlibs.manager import METHODS
    METHODS.add_component(shuffled_fixmatch())
    return train.main(args)


if __name__ == '__main__':
    run(main, train.parser)
