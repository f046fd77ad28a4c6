"""FixMatch and UniMatch against numbers from the authors' code."""

import numpy as np
import paddle
import pytest
from conftest import close, golden, tensor
from scripted import CLOCK, compare, leaf, task

from paddleseg_semi.methods import fixmatch
from paddleseg_semi.methods.common import decide
from paddleseg_semi.methods.fixmatch import FixMatch
from paddleseg_semi.methods.unimatch import UniMatch
from paddleseg_semi.transforms.mixing import paste


def play(monkeypatch, method, case, boxes, weak, strong):
    """One step of a method with the logits, boxes and images of a case; returns losses and statistics."""
    boxes = [tensor(case[box] == 1) for box in boxes]
    given = iter(boxes)
    monkeypatch.setattr(fixmatch, 'gated_boxes', lambda *_: next(given))
    method.model.says = [tensor(case['logits_u_w_mix']), weak, strong]
    n, _, height, width = case['logits_u_w'].shape
    blank = paddle.zeros([n, 3, height, width])
    batch = {name: {'weak': blank, 'strong': tensor(case.get(f'img_s1{key}', blank.numpy())),
                    'strong_2': tensor(case.get(f'img_s2{key}', blank.numpy())),
                    'valid': tensor(case[f'ignore_mask{key}'] != 255)}
             for name, key in (('unlabeled', ''), ('mix', '_mix'))}
    label = tensor(case['label_x'])
    batch['labeled'] = {'img': paddle.zeros([len(label), 3, *label.shape[1:]]), 'label': label}
    result = method.step(batch, CLOCK)
    assert method.model.modes == [False, True, True]
    assert not method.model.says
    return result


@pytest.mark.parametrize('name, case', golden('unimatch_fixmatch_loss*.npz'))
def test_fixmatch(name, case, monkeypatch):
    x, strong = leaf(case['logits_x']), leaf(case['logits_u_s'])
    weak = leaf(case['logits_u_w'])
    method = FixMatch(task(x.shape[1]), float(case['conf_thresh']))
    losses, stats = play(monkeypatch, method, case, ['cutmix_box'], [x, weak], strong)
    close(stats['kept'].item(), case['mask_ratio'])
    compare(losses, {'sup': case['loss_x'] / 2, 's1': case['loss_s'] / 2, None: case['loss']},
            [(x, case['grad_x']), (strong, case['grad_s']), (weak, np.zeros(weak.shape))])


@pytest.mark.parametrize('name, case', golden('unimatch_loss*.npz'))
def test_unimatch(name, case, monkeypatch):
    x, weak, disturbed = (leaf(case[f'logits_{key}']) for key in ('x', 'u_w', 'u_fp'))
    s1, s2 = leaf(case['logits_u_s1']), leaf(case['logits_u_s2'])
    method = UniMatch(task(x.shape[1]), float(case['conf_thresh']))
    losses, stats = play(monkeypatch, method, case, ['cutmix_box1', 'cutmix_box2'],
                         [x, weak, paddle.zeros_like(x), disturbed], [s1, s2])
    shown = method.model.shown
    assert len(shown[1]) == 2 * (len(x) + len(weak))  # features of the clean batch, then of the disturbed one
    for images, wanted in zip(shown[2].split(2), ('img_s1_mixed', 'img_s2_mixed')):
        np.testing.assert_array_equal(images.numpy(), case[wanted].astype('float32'))
    close(stats['kept'].item(), case['mask_ratio'])
    compare(losses, {'sup': case['loss_x'] / 2, 's1': case['loss_s1'] / 8, 's2': case['loss_s2'] / 8,
                     'fp': case['loss_fp'] / 4, None: case['loss']},
            [(x, case['grad_x']), (weak, case['grad_u_w']), (disturbed, case['grad_fp']), (s1, case['grad_s1']),
             (s2, case['grad_s2'])])


@pytest.mark.parametrize('name, case', golden('unimatch_loss*.npz'))
def test_pseudo_labels(name, case):
    own, inside = decide(tensor(case['logits_u_w'])), decide(tensor(case['logits_u_w_mix']))
    np.testing.assert_array_equal(own[0].numpy(), case['pseudo_w'])
    close(own[1].numpy(), case['conf_w'], rtol=1e-5, atol=0)
    for k in (1, 2):
        box = tensor(case[f'cutmix_box{k}'] == 1)
        np.testing.assert_array_equal(paste(box, inside[0], own[0]).numpy(), case[f'pseudo_mixed{k}'])
        close(paste(box, inside[1], own[1]).numpy(), case[f'conf_mixed{k}'], rtol=1e-5, atol=0)
        ignored = paste(box, tensor(case['ignore_mask_mix']), tensor(case['ignore_mask']))
        np.testing.assert_array_equal(ignored.numpy(), case[f'ignore_mixed{k}'])
