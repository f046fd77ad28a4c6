"""Mean Teacher and CutMix-Seg against numbers from the authors' code."""

import numpy as np
import paddle
import pytest
from conftest import close, golden, tensor
from paddle import nn
from scripted import CLOCK, compare, leaf, task

from paddleseg_semi.methods import cutmix_seg
from paddleseg_semi.methods.cutmix_seg import CutMixSeg
from paddleseg_semi.methods.mean_teacher import MeanTeacher
from paddleseg_semi.methods.pseudo import Pseudo
from paddleseg_semi.models.ema import EMA
from paddleseg_semi.transforms.mixing import paste


def full(like, value=True):
    return paddle.full([like.shape[0], *like.shape[2:]], value, 'bool')


@pytest.mark.parametrize('name, case', golden('mean_teacher_mse*.npz'))
def test_mean_teacher(name, case):
    method = MeanTeacher(task(case['student_sup'].shape[1]), float(case['unsup_weight']), reference_quirks=True)
    sup, unsup = leaf(case['student_sup']), leaf(case['student_unsup'])
    method.model.says = [sup, unsup]
    method.teacher.net.says = [tensor(case['teacher_sup']), tensor(case['teacher_unsup'])]
    labeled = {'img': paddle.zeros([len(sup), 3, *sup.shape[2:]]), 'label': tensor(case['label_sup'])}
    unlabeled = {'weak': paddle.zeros([len(unsup), 3, *unsup.shape[2:]]), 'valid': full(unsup)}
    losses, _ = method.step({'labeled': labeled, 'unlabeled': unlabeled}, CLOCK)
    assert method.teacher.net.modes == [True, True]
    compare(losses, {'sup': case['loss_sup'], 'cons': case['loss_cons'], None: case['loss']},
            [(sup, case['grad_student_sup']), (unsup, case['grad_student_unsup'])])


@pytest.mark.parametrize('name, case', golden('mean_teacher_mse*.npz'))
def test_void_and_padding_do_not_count(name, case):
    """Where we differ from the published code."""
    method = MeanTeacher(task(case['student_sup'].shape[1]))
    sup, unsup = leaf(case['student_sup']), leaf(case['student_unsup'])
    method.model.says = [sup, unsup]
    method.teacher.net.says = [tensor(case['teacher_sup']), tensor(case['teacher_unsup'])]
    labeled = {'img': paddle.zeros([len(sup), 3, *sup.shape[2:]]), 'label': tensor(case['label_sup'])}
    unlabeled = {'weak': paddle.zeros([len(unsup), 3, *unsup.shape[2:]]), 'valid': full(unsup, False)}
    losses, stats = method.step({'labeled': labeled, 'unlabeled': unlabeled}, CLOCK)
    losses['cons'].backward()
    assert stats['kept'].item() == 0
    assert (unsup.grad.numpy() == 0).all()
    void = np.broadcast_to(case['label_sup'][:, None] == 255, sup.shape)
    assert (sup.grad.numpy()[void] == 0).all() and (sup.grad.numpy()[~void] != 0).any()


@pytest.mark.parametrize('name, case', golden('mean_teacher_cutmix*.npz'))
def test_cutmix(name, case, monkeypatch):
    student = leaf(case['student_logits'])
    method = CutMixSeg(task(student.shape[1]), conf_thresh=float(case['conf_thresh']),
                       conf_per_pixel=bool(case['conf_per_pixel']), distance=str(case['loss_name']))
    mask = tensor(case['mix_mask'][:, 0] == 1)
    monkeypatch.setattr(cutmix_seg, 'toggled_boxes', lambda *_: mask)
    labeled = leaf(np.zeros_like(case['student_logits']))
    method.model.says = [labeled, student]
    method.teacher.net.says = [tensor(case['teacher_logits_0']), tensor(case['teacher_logits_1'])]
    shape = [len(student), 3, *student.shape[2:]]
    unlabeled, mix = ({'weak': paddle.zeros(shape), 'strong': paddle.full(shape, k, 'float32'),
                       'valid': tensor(case[f'valid_{k}'][:, 0] == 1)} for k in (0, 1))
    batch = {'labeled': {'img': paddle.zeros(shape), 'label': full(student).astype('int64')}, 'unlabeled': unlabeled,
             'mix': mix}
    losses, stats = method.step(batch, CLOCK)
    assert method.teacher.net.modes == [False, False]
    np.testing.assert_array_equal(method.model.shown[1].numpy()[:, 0], mask.numpy())
    np.testing.assert_array_equal(paste(mask, mix['valid'], unlabeled['valid']).numpy(), case['valid_mixed'][:, 0] == 1)
    losses.pop('sup')
    compare(losses, {'cons': case['loss']}, [(student, case['grad_student'])])


@pytest.mark.parametrize('name, case', golden('mean_teacher_cutmix*.npz'))
def test_cutmix_confidence(name, case):
    mask = tensor(case['mix_mask'][:, 0] == 1)
    conf = Pseudo.of(paste(mask, tensor(case['teacher_logits_1']), tensor(case['teacher_logits_0']))).conf
    close((conf >= float(case['conf_thresh'])).astype('float32').mean().item(), case['conf_rate'], rtol=1e-5)


@pytest.mark.parametrize('name, case', golden('mean_teacher_ema*.npz'))
def test_ema(name, case):
    class Weight(nn.Layer):
        def __init__(self, value):
            super().__init__()
            self.weight = self.create_parameter([len(value)])
            self.weight.set_value(value)

    net = Weight(case['student'][0])
    constant = EMA(net, float(case['alpha']), warmup=False)
    warm = EMA(net, float(case['cap']), warmup=True)
    for step, weight in enumerate(case['student']):
        net.weight.set_value(weight)
        if step:
            constant.update(net, step)
        warm.update(net, step)
        close(constant.net.weight.numpy(), case['teacher_constant'][step], rtol=1e-5, atol=1e-6)
        close(warm.net.weight.numpy(), case['teacher_warm'][step], rtol=1e-5, atol=1e-6)
