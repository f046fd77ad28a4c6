"""U2PL beyond the authors' program: padding, the paper's keys, several ranks, bad knobs."""

import json
import subprocess
import sys

import numpy as np
import paddle
import pytest
from conftest import ROOT, tensor
from paddle import nn
from paddleseg.models.losses import CrossEntropyLoss

from paddleseg_semi.core.clock import Clock
from paddleseg_semi.errors import InputError
from paddleseg_semi.losses.contrast import assign_roles
from paddleseg_semi.methods.base import Task
from paddleseg_semi.methods.u2pl import U2PL


class Pixelwise(nn.Layer):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Conv2D(3, num_classes, 1)

    def forward(self, x):
        return [self.head(x)]


def new_method(num_classes=4, **knobs):
    losses = {'types': [CrossEntropyLoss()], 'coef': [1]}
    method = U2PL(Task(lambda: Pixelwise(num_classes), losses, num_classes), **{
        'warmup': 0, 'teacher_start': 1, 'rep_channels': 4, 'num_queries': 5, 'num_negatives': 3, 'bank_size': 20,
        'bank_first': 20, **knobs})
    method.train()
    return method


def new_batch(rng, valid=True, size=(2, 8, 8)):
    def img():
        return tensor(rng.standard_normal((size[0], 3, *size[1:])).astype('float32'))

    return {'labeled': {'img': img(), 'label': tensor(rng.integers(0, 4, size))},
            'unlabeled': {'weak': img(), 'valid': paddle.full(size, valid)}}


def test_padding_is_no_image():
    assert new_method(reference_quirks=True).streams['unlabeled'].padding
    method = new_method()
    losses, _ = method.step(new_batch(np.random.default_rng(0), valid=False), Clock(100))
    assert losses['unsup'].item() == 0
    sum(losses.values()).backward()
    assert all(np.isfinite(param.grad.numpy()).all() for param in method.players()['model'].parameters()
               if param.grad is not None)


@pytest.mark.parametrize('mix', ['cutmix', 'cutout', 'classmix', 'none'])
def test_steps(mix):
    method, clock, rng = new_method(mix=mix, mix_prob=1, prototype_decay=0.999, alpha=50, paper_keys=True,
                                    low_rank=1, anchor_threshold=0.1), Clock(20), np.random.default_rng(0)
    for _ in range(6):
        losses, stats = method.step(new_batch(rng), clock)
        assert all(np.isfinite(value.item()) for value in (*losses.values(), *stats.values()))
        clock.tick()
        method.after_update(clock)
    assert losses['contra'].item() > 0
    assert 0 < stats['bank'].item() <= 1
    assert method.prototypes.any()


def test_keys_of_the_paper():
    """Unlabeled images: whatever ranks a class low. Labeled images: what ranks high a class it is not of."""
    prob = tensor(np.array([.5, .3, .15, .05], 'float32').reshape([1, 4, 1, 1]).repeat(2, 0))
    one_hot = tensor(np.array([[0, 1, 0, 0], [0, 0, 1, 0]], bool).reshape([2, 4, 1, 1]))
    seen = paddle.ones([2, 1, 1], 'bool')
    program, paper = (assign_roles(one_hot, prob, seen, seen, 1, 2, 3, 0.2, any_label=any_label).key.numpy()
                      for any_label in (False, True))
    assert program.tolist() == [[False, False], [False, False], [False, True], [False, False]]
    assert paper.tolist() == [[True, False], [False, False], [False, True], [False, False]]


def test_few_classes_have_few_ranks():
    assert new_method(2).ranks['low_rank'] == 1


@pytest.mark.parametrize('knob', [{'mix': 'cutmx'}, {'partner': 'nxt'}, {'feature_layer': 'hed'}])
def test_bad_knob(knob):
    with pytest.raises(InputError, match='Did you mean'):
        new_method(**knob)


RANK = '''
import json, sys
sys.path.insert(0, sys.argv[1])
import paddleseg_semi, numpy as np, paddle
paddleseg_semi.register()
import paddle.distributed as dist
from paddleseg_semi.models.bank import Bank

def main():
    dist.init_parallel_env()
    bank, rank = Bank([4, 9], 1), dist.get_rank()
    for step in range(3):
        keys = 100. * step + 10 * rank + np.arange(3, dtype='float32')
        bank.push(paddle.to_tensor(np.tile(keys, (2, 1))[..., None]), paddle.to_tensor([2 - rank, 3 - rank]))
    rows = [bank.take(paddle.to_tensor([number]), paddle.arange(size).unsqueeze(0))[0].flatten().tolist()
            for number, size in enumerate((4, 9))]
    with open(f'{rank}.json', 'w') as file:
        json.dump(rows, file)

if __name__ == '__main__':
    dist.spawn(main, nprocs=2, backend='gloo')
'''


def test_ranks_hold_the_same_bank(tmp_path):
    """In order of the ranks, each step."""
    script = tmp_path / 'ranks.py'
    script.write_text(RANK)
    done = subprocess.run([sys.executable, script, ROOT], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        rows = json.loads((tmp_path / f'{rank}.json').read_text())
        assert rows == [[110, 200, 201, 210], [101, 102, 110, 111, 200, 201, 202, 210, 211]]
