"""FixMatch, UniMatch and UniMatch V2 against numbers from the authors' code."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from conftest import close, golden, tensor
from paddle import nn
from scripted import CLOCK, compare, leaf, task

from paddleseg_semi.core import val
from paddleseg_semi.core.metrics import confusion_matrix
from paddleseg_semi.core.testing import Testing
from paddleseg_semi.methods import fixmatch
from paddleseg_semi.methods.fixmatch import FixMatch
from paddleseg_semi.methods.pseudo import Pseudo
from paddleseg_semi.methods.unimatch import UniMatch
from paddleseg_semi.methods.unimatch_v2 import UniMatchV2, complementary
from paddleseg_semi.transforms.mixing import paste


def play(monkeypatch, method, case, boxes):
    """One step of a method whose networks were told what to say, with the boxes and images of a case."""
    given = iter([tensor(case[box] == 1) for box in boxes])
    monkeypatch.setattr(fixmatch, 'gated_boxes', lambda *_: next(given))
    n, _, height, width = case['logits_u_w'].shape
    blank = paddle.zeros([n, 3, height, width])
    batch = {name: {'weak': blank, 'strong': tensor(case.get(f'img_s1{key}', blank.numpy())),
                    'strong_2': tensor(case.get(f'img_s2{key}', blank.numpy())),
                    'valid': tensor(case[f'ignore_mask{key}'] != 255)}
             for name, key in (('unlabeled', ''), ('mix', '_mix')) if f'ignore_mask{key}' in case}
    label = tensor(case['label_x'])
    batch['labeled'] = {'img': paddle.zeros([len(label), 3, *label.shape[1:]]), 'label': label}
    result = method.step(batch, CLOCK)
    assert not method.model.says
    return result


@pytest.mark.parametrize('name, case', golden('unimatch_fixmatch_loss*.npz'))
def test_fixmatch(name, case, monkeypatch):
    x, strong = leaf(case['logits_x']), leaf(case['logits_u_s'])
    weak = leaf(case['logits_u_w'])
    method = FixMatch(task(x.shape[1]), float(case['conf_thresh']))
    method.model.says = [tensor(case['logits_u_w_mix']), [x, weak], strong]
    losses, stats = play(monkeypatch, method, case, ['cutmix_box'])
    assert method.model.modes == [False, True, True]
    close(stats['kept'].item(), case['mask_ratio'])
    compare(losses, {'sup': case['loss_x'] / 2, 's1': case['loss_s'] / 2, None: case['loss']},
            [(x, case['grad_x']), (strong, case['grad_s']), (weak, np.zeros(weak.shape))])


@pytest.mark.parametrize('name, case', golden('unimatch_loss*.npz'))
def test_unimatch(name, case, monkeypatch):
    x, weak, disturbed = (leaf(case[f'logits_{key}']) for key in ('x', 'u_w', 'u_fp'))
    s1, s2 = leaf(case['logits_u_s1']), leaf(case['logits_u_s2'])
    method = UniMatch(task(x.shape[1]), float(case['conf_thresh']))
    method.model.says = [tensor(case['logits_u_w_mix']), [x, weak, paddle.zeros_like(x), disturbed], [s1, s2]]
    losses, stats = play(monkeypatch, method, case, ['cutmix_box1', 'cutmix_box2'])
    assert method.model.modes == [False, True, True]
    shown = method.model.shown
    assert len(shown[1]) == 2 * (len(x) + len(weak))  # features of the clean batch, then of the disturbed one
    for images, wanted in zip(shown[2].split(2), ('img_s1_mixed', 'img_s2_mixed')):
        np.testing.assert_array_equal(images.numpy(), case[wanted].astype('float32'))
    close(stats['kept'].item(), case['mask_ratio'])
    compare(losses, {'sup': case['loss_x'] / 2, 's1': case['loss_s1'] / 8, 's2': case['loss_s2'] / 8,
                     'fp': case['loss_fp'] / 4, None: case['loss']},
            [(x, case['grad_x']), (weak, case['grad_u_w']), (disturbed, case['grad_fp']), (s1, case['grad_s1']),
             (s2, case['grad_s2'])])


@pytest.mark.parametrize('name, case', golden('unimatch_v2_loss*.npz'))
def test_unimatch_v2(name, case, monkeypatch):
    x, s1, s2 = (leaf(case[f'logits_{key}']) for key in ('x', 'u_s1', 'u_s2'))
    method = UniMatchV2(task(x.shape[1]), float(case['conf_thresh']))
    method.teacher.net.says, method.model.says = [tensor(case['logits_u_w'])], [x, [s1, s2]]
    losses, stats = play(monkeypatch, method, case, ['cutmix_box1', 'cutmix_box2'])
    assert method.teacher.net.modes == [False] and method.model.modes == [True, True]
    close(stats['kept'].item(), case['mask_ratio'])
    compare(losses, {'sup': case['loss_x'] / 2, 's1': case['loss_s1'] / 4, 's2': case['loss_s2'] / 4,
                     None: case['loss']}, [(x, case['grad_x']), (s1, case['grad_s1']), (s2, case['grad_s2'])])


@pytest.mark.parametrize('name, case', golden('unimatch_v2_loss*.npz'))
def test_fixmatch_with_a_teacher(name, case, monkeypatch):
    """The baseline of UniMatch V2: its first view alone, which then has the weight of both."""
    x, strong = leaf(case['logits_x']), leaf(case['logits_u_s1'])
    method = FixMatch(task(x.shape[1]), float(case['conf_thresh']), partner='reversed', ema_decay=0.996)
    method.teacher.net.says, method.model.says = [tensor(case['logits_u_w'])], [x, strong]
    losses, stats = play(monkeypatch, method, case, ['cutmix_box1'])
    assert method.teacher.net.modes == [False] and method.model.modes == [True, True]
    assert method.deployed is method.teacher.net
    close(stats['kept'].item(), case['mask_ratio'])
    compare(losses, {'sup': case['loss_x'] / 2, 's1': case['loss_s1'] / 2},
            [(x, case['grad_x']), (strong, 2 * case['grad_s1'])])


@pytest.mark.parametrize('name, case', golden('unimatch_v2_compdrop*.npz'))
def test_complementary_dropout(name, case):
    pairs, channels = case['bernoulli'].shape
    untouched = np.zeros(pairs, bool)
    untouched[case['perm'][:pairs // 2]] = True
    scale = complementary(tensor(case['bernoulli'] == 1), tensor(untouched))
    np.testing.assert_array_equal(scale.numpy(), case['channel_scale'])
    for level in (key for key in case if key.startswith('feature_')):
        dropped = tensor(case[level]) * scale.unsqueeze(1)
        close(dropped.numpy(), case[level.replace('feature', 'dropped')], rtol=1e-6, atol=0)


@pytest.mark.parametrize('name, case', golden('unimatch_loss*.npz') + golden('unimatch_v2_loss*.npz'))
def test_what_is_pasted(name, case):
    own = Pseudo.of(tensor(case['logits_u_w']), tensor(case['ignore_mask'] != 255))
    if 'logits_u_w_mix' in case:
        other = Pseudo.of(tensor(case['logits_u_w_mix']), tensor(case['ignore_mask_mix'] != 255))
        np.testing.assert_array_equal(own.label.numpy(), case['pseudo_w'])
        close(own.conf.numpy(), case['conf_w'], rtol=1e-5, atol=0)
    else:
        other = own.each(lambda value: value.flip(0))
    for k in (1, 2):
        box = tensor(case[f'cutmix_box{k}'] == 1)
        images = tensor(case[f'img_s{k}'])
        seconds = tensor(case[f'img_s{k}_mix']) if f'img_s{k}_mix' in case else images.flip(0)
        np.testing.assert_array_equal(paste(box, seconds, images).numpy(), case[f'img_s{k}_mixed'].astype('float32'))
        mixed = own.pasted(box, other)
        np.testing.assert_array_equal(mixed.label.numpy(), case[f'pseudo_mixed{k}'])
        close(mixed.conf.numpy(), case[f'conf_mixed{k}'], rtol=1e-5, atol=0)
        np.testing.assert_array_equal(mixed.valid.numpy(), case[f'ignore_mixed{k}'] != 255)


class Images(paddle.io.Dataset):
    """The images of a case as a PaddleSeg data set in mode 'val'."""

    def __init__(self, case):
        self.case, self.num_classes, self.ignore_index = case, len(case['kernel']), 255
        self.file_list = [[f'image {i}', f'label {i}'] for i in range(len(case['image']))]

    def __len__(self):
        return len(self.file_list)

    def __getitem__(self, i):
        return {'img': self.case['image'][i], 'label': self.case['label'][i][None], 'trans_info': []}


@pytest.mark.parametrize('name, case', golden('unimatch_eval*.npz'))
@pytest.mark.parametrize('protocol', ['v1_whole', 'v1_slide', 'v2_whole', 'v2_slide'])
def test_evaluation(name, case, protocol, monkeypatch):
    class Net(nn.Layer):
        def forward(self, x):
            gain = tensor(case['gain']) @ x.mean([2, 3]).unsqueeze(2)                       # [N, C, 1]
            return [F.conv2d(x, tensor(case['kernel']), padding=1) + gain.unsqueeze(3)]

    def count(pred, *args):
        preds.append(pred.numpy()[0, 0])
        return confusion_matrix(pred, *args)

    crop, preds = int(case['crop']), []
    window = {'is_slide': True, 'crop_size': [crop] * 2, 'stride': [crop * 2 // 3] * 2}
    keys = {'v2_whole': {'size_divisor': 14}, 'v1_slide': {**window, 'shrinking': True},
            'v2_slide': {**window, 'average_probs': True}}
    monkeypatch.setattr(val, 'confusion_matrix', count)
    miou, _, class_iou, _, _ = val.evaluate(Net(), Images(case), Testing(**keys.get(protocol, {})), print_detail=False)
    np.testing.assert_array_equal(preds, case[f'{protocol}_pred'])
    close(class_iou * 100, case[f'{protocol}_iou'], rtol=1e-5)
    close(miou * 100, case[f'{protocol}_miou'], rtol=1e-5)
