import numpy as np
import pytest
from conftest import close, golden_cases, tensor

from paddleseg_semi.core.metrics import confusion_matrix, scores

IGNORE_INDEX = 255


@pytest.mark.parametrize('case', golden_cases('advsemiseg_metric*.npz'))
def test_iou(case):
    gt, pred = tensor(case['gt'].reshape(1, 1, -1)), tensor(case['pred'].reshape(1, 1, -1))
    matrix = confusion_matrix(pred, gt, int(case['num_classes']), IGNORE_INDEX)
    np.testing.assert_array_equal(matrix, case['confusion'])
    result = scores(matrix)
    close(result.class_iou, case['iou_all_classes'])
    close(result.miou, case['miou_over_all'])
    # the reference averages over the classes it hit at least once
    hit = np.diag(case['confusion']) > 0
    assert hit.sum() == case['num_counted_by_reference']
    close(np.asarray(result.class_iou)[hit].mean(), case['miou_reference'])
