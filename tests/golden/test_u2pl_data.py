"""What surrounds U2PL: views of photos, learning rates, evaluation."""

import random

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from conftest import close, golden, tensor
from paddle import nn
from paddleseg import transforms as T
from paddleseg.core import infer

from paddleseg_semi.core.metrics import confusion_matrix, scores
from paddleseg_semi.transforms.geometry import CenterCrop, PadToCrop, RandomBalancedScale


def cases(topic):
    return [pytest.param(case, id=name) for name, case in golden(f'u2pl_{topic}_*.npz')]


@pytest.mark.parametrize('padding', [0, 255])
@pytest.mark.parametrize('case', cases('transforms'))
def test_weak_view(case, padding, monkeypatch):
    """The program pads masks with class 0; our recipes, with 255."""
    crop, mean = [int(case['crop'])] * 2, case['mean'].tolist()
    draws = case['draws'].tolist()
    monkeypatch.setattr(random, 'random', lambda: draws.pop(0))
    monkeypatch.setattr(np.random, 'randint', lambda low, high: int(draws.pop(0)))
    view = [*[RandomBalancedScale(case['scale'].tolist())] * int(case['use_scale']),
            *[T.RandomHorizontalFlip()] * int(case['flip']), PadToCrop(crop, mean, padding, center=True),
            T.RandomPaddingCrop(crop) if case['crop_type'] == 'rand' else CenterCrop(crop),
            T.Normalize((case['mean'] / 255).tolist(), (case['std'] / 255).tolist())]
    data = {'img': case['image'].astype('float32'), 'label': case['label'], 'gt_fields': ['label']}
    for op in view:
        data = op(data)
    assert not any(draws)  # an image of the size of the crop has one place
    close(data['img'].transpose(2, 0, 1), case['image_out'], rtol=0, atol=2e-4)
    different = data['label'] != case['label_out']
    assert not different.any() if padding == 0 else (data['label'][different] == 255).all()


@pytest.mark.parametrize('case', cases('lr'))
def test_learning_rates(case):
    """Every group has the schedule times its factor; a resumed run goes on where it was."""
    epoch = int(case['iters_per_epoch'])
    for group, base in enumerate(case['base_lr']):
        rate = paddle.optimizer.lr.PolynomialDecay(float(base), int(case['epochs']) * epoch, end_lr=0,
                                                   power=float(case['power']))
        rate.step(int(case['start_epoch']) * epoch)
        for wanted in case['lr'][:, group]:
            close(rate(), wanted, rtol=1e-9, atol=0)
            rate.step()


@pytest.mark.parametrize('case', cases('miou'))
def test_miou(case):
    num_classes = int(case['num_classes'])
    matrix = paddle.zeros([num_classes, num_classes], 'int64')
    for number in range(int(case['n_images'])):
        matrix += confusion_matrix(tensor(case[f'pred_{number:02d}']), tensor(case[f'label_{number:02d}']), num_classes)
    hit, pred, label = matrix.diagonal().numpy(), matrix.sum(0).numpy(), matrix.sum(1).numpy()
    assert (hit == case['intersection']).all()
    assert (pred + label - hit == case['union']).all()
    assert (label == case['target']).all()
    close(scores(matrix).class_iou, case['iou'], rtol=1e-9, atol=1e-9)
    close(scores(matrix).miou, case['miou'], rtol=1e-9, atol=1e-9)


class Tiny(nn.Layer):
    def __init__(self, case):
        super().__init__()
        self.weight, self.bias = tensor(case['weight']), tensor(case['bias'])

    def forward(self, x):
        logits = F.conv2d(x, self.weight, self.bias, stride=4, padding=1)
        return [F.interpolate(logits, x.shape[2:], mode='bilinear', align_corners=True)]


@pytest.mark.parametrize('case', cases('eval_slide'))
def test_sliding_windows(case):
    """`is_slide` with a stride of two thirds, after padding on all sides."""
    image, (height, width) = case['image'], case['crop'].tolist()
    padded = PadToCrop([width, height], (0, 0, 0), center=True)({'img': image[0].transpose(1, 2, 0)})['img']
    stride = [-(-side * 2 // 3) for side in (width, height)]
    logits = infer.slide_inference(Tiny(case), tensor(padded.transpose(2, 0, 1)[None]), (width, height), stride)
    top, left = ((big - small) // 2 for big, small in zip(padded.shape, image.shape[2:]))
    logits = logits.numpy()[0, :, top:top + image.shape[2], left:left + image.shape[3]]
    close(logits, case['logits'], atol=1e-4)
    assert (logits.argmax(0) == case['pred']).all()


@pytest.mark.parametrize('case', cases('eval_whole'))
def test_whole_images(case):
    logits = infer.inference(Tiny(case), tensor(case['image'])).numpy()[0]
    close(logits, case['logits'], atol=1e-4)
    assert (logits.argmax(0) == case['pred']).all()


def test_scale_is_balanced():
    random.seed(0)
    sides = [RandomBalancedScale()({'img': np.zeros((100, 80, 3), 'float32')})['img'].shape for _ in range(400)]
    assert all(50 <= height <= 200 and abs(width - height * 0.8) <= 1 for height, width, _ in sides)
    assert 160 < sum(height < 100 for height, *_ in sides) < 240
    with pytest.raises(ValueError):
        RandomBalancedScale((1.5, 2.0))
