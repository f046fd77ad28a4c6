"""Evaluation by windows that shrink at the border."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from conftest import close, golden, tensor
from paddle import nn

from paddleseg_semi.core.metrics import confusion_matrix, scores
from paddleseg_semi.core.testing import Testing


class Tiny(nn.Layer):
    def __init__(self, case):
        super().__init__()
        self.weight, self.bias, self.sizes = tensor(case['weight']), tensor(case['bias']), []

    def forward(self, x):
        self.sizes.append(list(x.shape[2:]))
        return [F.interpolate(F.conv2d(x, self.weight, self.bias, stride=4, padding=1), x.shape[2:], mode='bilinear',
                              align_corners=True)]


@pytest.mark.parametrize('case', [pytest.param(case, id=name) for name, case in golden('imas_evaluate_*.npz')])
def test_evaluate(case):
    net, num_classes, batch = Tiny(case), int(case['num_classes']), int(case['batch'])
    crop, sizes = int(case['crop']), case['window_sizes'].tolist()
    windows = Testing(is_slide=True, shrinking=True, crop_size=(crop, crop), stride=(crop * 2 // 3,) * 2).network(net)
    matrix, differ = paddle.zeros([num_classes, num_classes], 'int64'), 0
    for start in range(0, len(case['images']), batch):
        several = slice(start, start + batch)
        pred = windows(tensor(case['images'][several]))[0].argmax(1)
        differ += (pred.numpy() != case['pred'][several]).sum()
        matrix += confusion_matrix(pred, tensor(case['labels'][several]), num_classes)
        assert net.sizes[-len(sizes):] == sizes
    assert differ <= 1e-3 * case['pred'].size  # two classes may tie
    hit = matrix.diagonal().numpy()
    close(hit, case['intersection'], rtol=0, atol=differ)
    close((matrix.sum(0) + matrix.sum(1)).numpy() - hit, case['union'], rtol=0, atol=2 * differ)
    close(scores(matrix).miou, case['miou'], rtol=0, atol=1e-3)
    close(scores(matrix).class_iou, case['iou'], rtol=0, atol=1e-6 if differ == 0 else 1e-2)
    assert np.isfinite(case['iou']).all()
