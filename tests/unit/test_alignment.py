"""Distribution alignment: the pseudo labels' classes come to have the shares of the masks."""

import numpy as np
import paddle
import paddle.nn.functional as F
from conftest import close, tensor
from paddleseg.models.losses import CrossEntropyLoss
from test_consistency_methods import Net, make_batch

from paddleseg_semi.core.clock import Clock
from paddleseg_semi.methods.base import Task
from paddleseg_semi.models.alignment import Alignment
from paddleseg_semi.registries import METHODS


def test_probabilities_come_to_have_the_shares_of_the_masks():
    rng = np.random.default_rng(0)
    alignment, label = Alignment(3, 0.5), tensor(rng.integers(0, 3, [2, 8, 8]))
    known = tensor(rng.random([2, 8, 8]) < 0.7)
    logits, valid = tensor(rng.standard_normal([2, 3, 8, 8]).astype('float32') + [[[[2]], [[0]], [[-2]]]]), known
    for _ in range(3):
        alignment.see_labels(paddle.where(known, label, paddle.full_like(label, 255)), known)
        alignment.see_logits(logits.astype('float32'), valid)
    seen = np.bincount(label.numpy()[known.numpy()], minlength=3)
    close(alignment.labeled / alignment.labeled.sum(), seen / seen.sum())
    said = F.softmax(logits.astype('float32'), axis=1).transpose([0, 2, 3, 1]).numpy()[valid.numpy()].mean(0)
    close(alignment.unlabeled / alignment.unlabeled.sum(), said, rtol=1e-5)
    close(alignment.shift().flatten().exp(), seen / seen.sum() / said, rtol=1e-4)


def test_it_forgets():
    alignment, rows = Alignment(2, 0.5), paddle.ones([1, 2, 2], 'bool')
    for value in (0, 1, 1):
        alignment.see_labels(paddle.full([1, 2, 2], value, 'int64'), rows)
    close(alignment.labeled.numpy(), [0.125, 0.75])


def test_a_class_that_nobody_has_seen_is_neither_hidden_nor_invented():
    alignment = Alignment(2, 0.5)
    alignment.see_labels(paddle.zeros([1, 2, 2], 'int64'), paddle.ones([1, 2, 2], 'bool'))
    alignment.see_logits(tensor(np.array([[[[0.]], [[-50.]]]], 'float32')), paddle.ones([1, 1, 1], 'bool'))
    close(alignment.shift().flatten(), [0, 0], atol=1e-6)


def test_methods_learn_from_aligned_labels():
    """A network that says class 0 everywhere, masks that say class 1: the pseudo labels are of class 1."""
    for name in ('FixMatch', 'UniMatch', 'UniMatchV2'):
        losses = {'types': [CrossEntropyLoss()] * 2, 'coef': [1, 0.4]}
        method = METHODS[name](Task(Net, losses, 3), align_decay=0.9, conf_thresh=0.)
        method.train()
        batch = make_batch(method, np.random.default_rng(0))
        batch['labeled']['label'] = paddle.ones_like(batch['labeled']['label'])
        method.labeled_step(batch, Clock(10))
        close(method.alignment.labeled.numpy(), [0, 0.1, 0])
        method.semi_step(batch, Clock(10))
        assert method.alignment.unlabeled.sum() > 0
        pseudo, _ = method.explain(batch['unlabeled'], Clock(10))
        assert (pseudo.label == 1).all()
