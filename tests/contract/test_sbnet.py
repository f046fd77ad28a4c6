"""SBNet in the trainer: it trains with and without boundary maps, and a resumed run ends with the same bytes."""

import shutil
import sys

import cv2
import numpy as np
import pytest

from paddleseg_semi.core.trainer import Trainer

MODEL = {'type': 'SBNet', 'num_classes': 3, 'affinity_indices': [0, 1], 'affinity_channels': [4, 4],
         'boundary_indices': [0, 3], 'boundary_channels': 8,
         'backbone': {'type': 'MobileNetV3_small_x0_35'}}


@pytest.fixture
def tagged(toy):
    """A toy with tags instead of masks, and label maps made of its masks, the rim unknown."""
    (toy.folder / 'maps/images').mkdir(parents=True)
    lines = []
    for i in range(12):
        label = cv2.imread(str(toy.mask(i)), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(toy.folder / f'maps/images/{i:02d}.png'), label)
        lines.append(' '.join([f'images/{i:02d}.jpg', *(str(c) for c in np.unique(label) if 0 < c < 255)]))
        toy.mask(i).unlink()
    kept = [line for line in lines if ' ' in line]
    (toy.folder / 'data/tags.txt').write_text('\n'.join(kept))
    (toy.folder / 'data/train.txt').write_text('\n'.join(line.split()[0] for line in kept))
    toy.recipe.update(model=MODEL, method={'type': 'SBNet'}, semi={'tags': 'data/tags.txt'}, iters=4)
    toy.recipe.pop('loss')
    toy.recipe['train_dataset']['transforms'] = [
        {'type': 'RandomLongSide', 'sides': [40, 64]}, {'type': 'RandomHorizontalFlip'},
        {'type': 'RandomPlacedCrop', 'crop_size': [48, 48]}, {'type': 'Normalize'}]
    return toy


@pytest.mark.parametrize('boundary', [None, 'maps'])
def test_resume_is_exact(tagged, boundary, capfd, monkeypatch):
    tagged.recipe['semi']['boundary'] = boundary
    flags = ['--do_eval', '--log_iters', 1, '--save_interval', 2]
    assert tagged.train(*flags) == 0
    out = capfd.readouterr().out
    assert (', ct: ' in out) == (', smooth: ' in out) == (boundary is not None) and ', tags_right: ' in out
    wanted = tagged.files('iter_4', 'best_model')

    shutil.rmtree(tagged.folder / 'run')
    milestone = Trainer.milestone
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, 'milestone', lambda self, batch: (milestone(self, batch), sys.exit()))
        assert tagged.train(*flags) == 0
    assert not (tagged.folder / 'run/iter_4').exists()
    assert tagged.train(*flags, '--resume_model', 'latest') == 0
    assert tagged.files('iter_4', 'best_model') == wanted


def test_other_models_are_refused(tagged, refused):
    tagged.recipe['model'] = {'type': 'DeepLabV3', 'num_classes': 3, 'backbone_indices': [3],
                              'backbone': {'type': 'MobileNetV3_small_x0_35'}}
    refused(says='model: DeepLabV3: the method SBNet trains the model SBNet')
