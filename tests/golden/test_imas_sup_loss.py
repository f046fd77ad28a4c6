"""The loss on labeled images: cross entropy, or OHEM with an auxiliary head."""

import numpy as np
import paddle
import pytest
from conftest import close, golden, tensor
from paddleseg.core.train import loss_computation
from paddleseg.models.losses import CrossEntropyLoss

from paddleseg_semi.losses.ohem import HardPixelLoss


def criterion(case):
    """The loss section of a recipe."""
    ignore = int(case['ignore_index'])
    loss = (CrossEntropyLoss(ignore_index=ignore) if case['kind'] == 'ce' else
            HardPixelLoss(float(case['thresh']), int(case['min_kept']), ignore))
    return {'types': [loss, loss], 'coef': [1, float(case['aux_weight'])]}


@pytest.mark.parametrize('case', [pytest.param(case, id=name) for name, case in golden('imas_sup_loss_*.npz')])
def test_sup_loss(case):
    heads = [key for key in ('logits', 'aux_logits') if key in case]
    outputs = [tensor(case[key], grad=True) for key in heads]
    losses = {key: value[:len(heads)] for key, value in criterion(case).items()}
    loss = sum(loss_computation(outputs, tensor(case['label']), None, losses))
    loss.backward()
    close(loss.item(), np.nan_to_num(case['loss']), rtol=1e-4, atol=1e-6)
    for key, output in zip(heads, outputs):
        close(output.grad, case[f'grad_{key}'], rtol=1e-3, atol=1e-7)


def test_nothing_labeled():
    logits = paddle.randn([1, 3, 4, 4])
    logits.stop_gradient = False
    for min_kept in (0, 5, 100):
        loss = HardPixelLoss(0.7, min_kept)(logits, paddle.full([1, 4, 4], 255, 'int64'))
        loss.backward()
        assert loss.item() == 0
        assert not logits.grad.any()
