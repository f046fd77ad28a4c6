"""From SBNet's network to class activation maps, to labels, to figures."""

import csv

import numpy as np
import paddle
import pytest
from conftest import close, golden, golden_cases, tensor
from paddle import nn
from paddleseg.transforms import Normalize
from PIL import Image

from paddleseg_semi.core.cams import cams, label_of, with_background
from paddleseg_semi.core.curve import BackgroundCurve
from paddleseg_semi.core.metrics import confusion_matrix, scores

NORMALIZE = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Toy(nn.Layer):
    """A linear map of every pixel; its first output is the background's."""

    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = tensor(weight[:, :, None, None]), tensor(bias)

    def class_maps(self, x):
        return nn.functional.conv2d(x, self.weight, self.bias)[:, 1:]


@pytest.mark.parametrize('case', golden_cases('sbnet_infer*.npz', 'img', 'count'))
def test_cams(case):
    image = case['image']
    for scale in case['scales']:
        view = case[f'scaled_{round(100 * scale):03d}']
        assert np.array_equal(Image.fromarray(image).resize(view.shape[1::-1], Image.BICUBIC), view)
    found = cams(Toy(case['toy_weight'], case['toy_bias']), image, case['label'], NORMALIZE, case['scales'].tolist())
    assert list(found) == (case['cam_keys'] + 1).tolist()
    close(np.stack(list(found.values())), case['cam'], rtol=0, atol=2e-5)
    label = label_of(list(found), np.stack(list(found.values())), len(case['toy_bias']), background=0.26)
    assert (label != case['cam_pred_026']).mean() < 0.01
    assert cams(Toy(case['toy_weight'], case['toy_bias']), image, 0 * case['label'], NORMALIZE) == {}


@pytest.mark.parametrize('alpha', [4, 24])
@pytest.mark.parametrize('case', golden_cases('sbnet_infer*.npz', 'img', 'count'))
def test_scores_after_the_crf(case, alpha):
    from paddleseg_semi.core.crf import dense_crf
    classes, maps = with_background((case['cam_keys'] + 1).tolist(), case['cam'], alpha)
    assert classes == case[f'crf{alpha}_keys'].tolist()
    close(dense_crf(maps, case['image']), case[f'crf{alpha}'], rtol=0, atol=5e-4)


def cases():
    return [pytest.param(case, id=name) for name, case in golden('sbnet_eval*.npz')]


@pytest.mark.parametrize('case', cases())
def test_labels(case):
    found = scores(confusion_matrix(tensor(case['pred'].astype('int64')), tensor(case['gt'].astype('int64')),
                                    len(case['categories'])))
    close(100 * found.class_iou, case['png_iou_percent'], rtol=0, atol=1e-9)
    close(100 * found.miou, case['png_miou_percent'], rtol=0, atol=1e-9)


def stored(maps):
    """A map that is -1 everywhere stands for a class without one."""
    classes = np.flatnonzero((maps != -1).any((1, 2)))
    return classes, maps[classes]


@pytest.mark.parametrize('case', cases())
def test_score_maps(case):
    total = len(case['categories'])
    matrix = 0
    for maps, label in zip(case['dict_scores'], case['gt']):
        pred = label_of(*stored(maps), total)
        matrix += confusion_matrix(tensor(pred.astype('int64')), tensor(label.astype('int64')), total)
    close(100 * scores(matrix).class_iou, case['dict_iou_percent'], rtol=0, atol=1e-9)
    close(100 * scores(matrix).miou, case['dict_miou_percent'], rtol=0, atol=1e-9)


@pytest.mark.parametrize('case', cases())
def test_curve(case, tmp_path):
    curve = BackgroundCurve(len(case['categories']), thresholds=case['curve_thresholds'])
    for maps, label in zip(case['cam_scores'], case['gt']):
        classes, maps = stored(maps)
        curve.add(classes + 1, maps, label)
    found = curve.scores()
    close([100 * score.miou for score in found], case['curve_miou_percent'], rtol=0, atol=1e-9)
    close([100 * score.class_iou for score in found], case['curve_iou_percent'], rtol=0, atol=1e-9)
    top = case['curve_miou_percent'].argmax()
    close(curve.best(), [case['curve_thresholds'][top], case['curve_miou_percent'][top] / 100], rtol=1e-6)

    table, plot = curve.write(str(tmp_path / 'curve'), case['categories'].tolist())
    with open(table, newline='') as file:
        head, *rows = csv.reader(file)
    assert head == ['background score', 'mIoU', *case['categories']]
    close(np.array(rows, 'float64')[:, 1], case['curve_miou_percent'], rtol=0, atol=1e-4)
    with Image.open(plot) as picture:
        assert picture.size == (600, 400) and len(np.unique(np.asarray(picture))) > 10


def test_curve_of_images_without_classes():
    curve = BackgroundCurve(3, thresholds=(0., 0.5))
    curve.add([], np.zeros([0, 2, 2], 'float32'), np.array([[0, 1], [0, 255]], 'uint8'))
    curve.add([2], np.full([1, 2, 2], 0.5, 'float32'), np.full([2, 2], 2, 'uint8'))
    assert [score.acc for score in curve.scores()] == [6 / 7, 2 / 7]
    assert paddle.is_grad_enabled()
