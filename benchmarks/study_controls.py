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

        def weak_pass(self, batch, clock):
            losses, guides = super().weak_pass(batch, clock)
            return losses, [guide._replace(own=guide.own.each(_of_another), other=guide.other.each(_of_another))
                            for guide in guides]

    return ShuffledFixMatch


def _of_another(maps):
    return maps.roll(1, 0)


def main(args):
    from paddleseg_semi.registries import METHODS
    METHODS.add_component(shuffled_fixmatch())
    return train.main(args)


if __name__ == '__main__':
    run(main, train.parser)
