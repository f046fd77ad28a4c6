"""Hardness and the weighted loss of unlabeled images."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from conftest import close, golden, tensor

from paddleseg_semi.losses.hardness import agreement, confident_share, weighted_cross_entropy, weighted_iou

HARDNESS = [pytest.param(case, id=name) for name, case in golden('imas_hardness_*.npz')]
UNSUP = [pytest.param(case, id=name) for name, case in golden('imas_unsup_loss_*.npz')]


def said(logits):
    """Label and confidence of every pixel."""
    logits = tensor(logits)
    return logits.argmax(1), F.softmax(logits, axis=1).max(1)


@pytest.mark.parametrize('case', HARDNESS)
def test_hardness(case):
    threshold, num_classes = float(case['thresh']), case['teacher_logits'].shape[1]
    (teacher, conf_t), (student, conf_s) = said(case['teacher_logits']), said(case['student_logits'])
    weighting = {'class_weighted': bool(case['weighted']), 'ignore_background': bool(case['ignore_background'])}
    valid = paddle.ones(teacher.shape, 'bool')

    by_teacher, by_student = weighted_iou(teacher, student, num_classes, valid, **weighting)
    share_t, share_s = confident_share(conf_t, threshold, valid), confident_share(conf_s, threshold, valid)
    gamma = agreement(teacher, conf_t, student, conf_s, num_classes, threshold, valid, **weighting)
    close(by_teacher, case['wiou_teacher_weighted'], rtol=1e-5, atol=1e-7)
    close(by_student, case['wiou_student_weighted'], rtol=1e-5, atol=1e-7)
    close(share_s, case['ratio_student'], rtol=1e-5, atol=0)
    close(gamma, case['hardness_v1'], rtol=1e-5, atol=1e-7)
    defined = np.isfinite(case['hardness_v2'])  # the authors' second version, which they do not use
    second = (share_t * by_teacher + share_s * by_student) / (share_t + share_s)
    close(second.numpy()[defined], case['hardness_v2'][defined], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('case', HARDNESS)
def test_padding_does_not_count(case):
    """Pixels outside `valid` may say anything; an image without valid pixels has hardness 0."""
    (teacher, conf_t), (student, conf_s) = said(case['teacher_logits']), said(case['student_logits'])
    num_classes, threshold = case['teacher_logits'].shape[1], float(case['thresh'])
    half = teacher.shape[1] // 2
    valid = paddle.zeros(teacher.shape, 'bool')
    valid[1:, :half] = True
    cropped = [array[1:, :half] for array in (teacher, conf_t, student, conf_s)]
    gamma = agreement(teacher, conf_t, student, conf_s, num_classes, threshold, valid)
    close(gamma[1:], agreement(*cropped, num_classes, threshold, valid[1:, :half]), rtol=1e-6, atol=0)
    assert gamma[0].item() == 0


@pytest.mark.parametrize('case', UNSUP)
def test_unsup_loss(case):
    label, conf = tensor(case['pseudo_label']), tensor(case['conf'])
    keep = (conf >= float(case['thresh'])) & (label != 255)
    np.testing.assert_array_equal(np.where(keep, label, 255), case['target_after'])
    logits = tensor(case['logits'], grad=True)
    weight = tensor(case['hardness'] if case['use_hardness'] else np.ones_like(case['hardness']))
    loss = weighted_cross_entropy(logits, label, keep, weight)
    loss.backward()
    close(loss.item(), np.nan_to_num(case['loss']), rtol=1e-4, atol=1e-6)
    close(logits.grad, case['grad_logits'], rtol=1e-3, atol=1e-7)


def test_nothing_kept():
    logits = paddle.randn([2, 3, 4, 4])
    logits.stop_gradient = False
    nothing = paddle.zeros([2, 4, 4], 'bool')
    loss = weighted_cross_entropy(logits, paddle.full([2, 4, 4], 255, 'int64'), nothing, paddle.ones([2]))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()
