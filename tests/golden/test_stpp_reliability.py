"""Reliability of images and the choice of the reliable half, against the official selection routine."""

import numpy as np
import pytest
from conftest import golden
from PIL import Image

from paddleseg_semi.stages.select_reliable import SelectReliable, class_iou, reliability


@pytest.fixture(params=golden('stpp_reliability*.npz'), ids=lambda file: file[0])
def case(request):
    return request.param[1]


def test_scores(case):
    num_classes = int(case['num_classes'])
    for i, preds in enumerate(case['pred'].transpose(1, 0, 2, 3)):
        pairs = [np.nanmean(class_iou(pred, preds[-1], num_classes)) for pred in preds[:-1]]
        np.testing.assert_allclose(pairs, case['pair_iou'][i], rtol=1e-9)
        np.testing.assert_allclose(reliability(preds, num_classes), case['reliability'][i], rtol=1e-9)


def test_reliable_half(case, tmp_path, monkeypatch):
    """The stage itself, on predictions that are there already."""
    images = [f'{i}.png' for i in range(len(case['reliability']))]

    class Labeler:
        root = ''

        def __init__(self, number):
            self.weights, self.number = f'run/iter_{number}/model.pdparams', number
            self.builder = self
            self.train_dataset = type('', (), {'num_classes': int(case['num_classes'])})

        def images(self, files):
            return images

        def label(self, images, folder):
            masks = [tmp_path / f'{self.number}_{image}' for image in images]
            for mask, pred in zip(masks, case['pred'][self.number]):
                Image.fromarray(pred).save(mask)
            return list(zip(images, masks))

    stage = SelectReliable('run/iter_*', 'unlabeled.txt', count=len(case['pred']))
    monkeypatch.setattr(stage, '_labelers', lambda: [Labeler(k) for k in range(len(case['pred']))])
    stage.run(str(tmp_path))
    for name in ('reliable', 'unreliable'):
        assert (tmp_path / f'{name}.txt').read_text().split() == [images[i] for i in case[name]]


def test_dataset_iou_with_void(case):
    iou = class_iou(case['pred'][-1], case['label'], int(case['num_classes']))
    np.testing.assert_allclose(iou, case['iou'], rtol=1e-9)
    np.testing.assert_allclose(np.nanmean(iou), case['miou'], rtol=1e-9)
