"""tools/train.py, watched: leaves run/rank_<r>.json with the images of every step and the md5 of the final weights.

First argument: the iteration after whose checkpoint the process ends, or 0. The others go to tools/train.py.
"""

import hashlib
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'tools'))
import train
from cli import run


def main(args):
    from paddleseg_semi.core.trainer import Trainer
    step, milestone, train_all = Trainer.step, Trainer.milestone, Trainer.train
    images = []

    def watched_step(self, batch):
        images.append({name: stream['index'].tolist() for name, stream in batch.items()})
        return step(self, batch)

    def last_milestone(self, batch):
        milestone(self, batch)
        if self.clock.iter == LAST:
            sys.exit()

    def watched_train(self, *more):
        train_all(self)
        weights = hashlib.md5()
        for name, tensor in self.method.state_dict().items():
            weights.update(name.encode() + tensor.numpy().tobytes())
        with open(os.path.join(args.save_dir, f'rank_{self.clock.rank}.json'), 'w') as file:
            json.dump({'images': images, 'weights': weights.hexdigest()}, file)

    Trainer.step, Trainer.milestone, Trainer.train = watched_step, last_milestone, watched_train
    return train.main(args)


if __name__ == '__main__':
    LAST = int(sys.argv.pop(1))
    run(main, train.parser)
