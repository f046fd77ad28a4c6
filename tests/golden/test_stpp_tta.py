"""Multi-scale and mirrored scoring of a network that is one convolution."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from conftest import close, golden, tensor

from paddleseg_semi.core.testing import Testing

SCALES = (0.5, 0.75, 1.0, 1.5, 2.0)  # the fact sheet's, and the default of the stage


@pytest.fixture(params=golden('stpp_tta*.npz'), ids=lambda file: file[0])
def case(request):
    return request.param[1]


def net(case):
    class Convolution(paddle.nn.Layer):
        def forward(self, img):
            return [F.conv2d(img, tensor(case['kernel']), padding=1)]
    return Convolution()


def test_sum_of_ten_maps(case):
    scores = Testing().scores(net(case), tensor(case['image']), SCALES, flip=True)
    close(scores, case['scores_tta'], rtol=1e-5)
    np.testing.assert_array_equal(scores.argmax(1), case['pred_tta'])


def test_one_map(case):
    logits = tensor(case['logits_single'])
    close(Testing().scores(net(case), tensor(case['image'])), F.softmax(logits, axis=1), rtol=1e-5)


def test_defaults_of_the_stage():
    from paddleseg_semi.stages.pseudo_label import PseudoLabel
    stage = PseudoLabel('run/best_model', 'unlabeled.txt')
    assert tuple(stage.scales) == SCALES and stage.flip is True
