"""AffinityNet, from the scores of two CRFs to the walk it is trained for; refused in one line when files are wrong."""

import numpy as np
import pytest
from paddle import nn
from paddleseg.cvlibs import manager
from PIL import Image

from paddleseg_semi.core.walk import refine
from paddleseg_semi.cvlibs import SemiBuilder, SemiConfig
from paddleseg_semi.datasets.maps import write_maps


class OneConvolution(nn.Layer):
    """A backbone of two features, at an eighth and a sixteenth of the size."""

    def __init__(self, in_channels=3, stride=8):
        super().__init__()
        self.feat_channels = [6, 7]
        self.fine = nn.Conv2D(in_channels, 6, stride, stride)
        self.coarse = nn.Conv2D(6, 7, 2, 2)

    def forward(self, x):
        feature = self.fine(x)
        return [feature, self.coarse(feature)]


def scores_of(toy, i, alpha):
    """Classes and maps of a CRF that is sure of the mask, but for a frame."""
    mask = np.asarray(Image.open(toy.mask(i)))
    classes = np.unique(np.append(mask[mask < 255], 0))
    maps = np.stack([mask == c for c in classes]).astype('float32') * 0.9
    maps[:, :8] = 0.1
    maps[0, :8] = 0.3 / alpha
    return classes, maps


def write_scores(toy, i, **folders):
    for folder, alpha in folders.items():
        write_maps(str(toy.folder / folder / f'images/{i:02d}.npz'), *scores_of(toy, i, alpha))


@pytest.fixture
def scored(toy, monkeypatch):
    """A toy whose training images have scores and no masks."""
    monkeypatch.setitem(manager.BACKBONES.components_dict, 'OneConvolution', OneConvolution)
    for i in range(12):
        write_scores(toy, i, low=1, high=24)
        toy.mask(i).unlink()
    (toy.folder / 'data/train.txt').write_text(''.join(f'images/{i:02d}.jpg\n' for i in range(12)))
    toy.recipe.update(
        semi={'scores': {'low': 'low', 'high': 'high'}}, method={'type': 'Affinity', 'radius': 3}, val_dataset=None,
        model={'type': 'AffinityNet', 'backbone': {'type': 'OneConvolution'}, 'backbone_indices': [0, 1],
               'channels': [4, 5]})
    toy.recipe['train_dataset']['transforms'] = [
        {'type': 'RandomPlacedCrop', 'crop_size': [56, 40]}, {'type': 'RandomHorizontalFlip'}, {'type': 'Normalize'}]
    toy.recipe.pop('loss')
    return toy


def test_trains_and_resumes(scored, capfd):
    assert scored.train('--log_iters', 1) == 0
    out = capfd.readouterr().out
    assert 'scored 12 images, batch 2' in out and 'epoch: 1, iter: 6/6' in out
    assert all(f' {name}: ' in out for name in ('bg', 'same', 'diff', 'kept'))
    whole = scored.files('iter_6')
    for number in ('4', '6'):
        assert scored.train('--iters', 6, '--save_interval', number, '--resume_model', 'latest') == 0
    assert scored.files('iter_6') == whole


def test_labels_of_a_sample(scored):
    """Cells of the mask's classes where scores are sure, unknown in the frame where they are not."""
    scored.recipe['train_dataset']['transforms'] = [
        {'type': 'RandomPaddingCrop', 'crop_size': [64, 48]}, {'type': 'Normalize'}]
    scored.flags()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(scored.folder)
        builder = SemiBuilder(SemiConfig('recipe.yml'))
        sample = builder.stream_sizes(builder.method(), None)['scored'][0][1, 0]
    label = sample['label']
    assert label.shape == (6, 8) and label.dtype == np.int64
    assert set(np.unique(label)) <= {0, 1, 2, 255}
    assert (label[:, 6:] == 255).all() and (label[5] == 255).all(), 'padding'
    assert (label[0, :6] == 255).all(), 'the frame'
    assert (label[1:5, :6] != 255).any()


def test_a_trained_network_refines(scored):
    assert scored.train() == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(scored.folder)
        builder = SemiBuilder(SemiConfig('run/config.yml'))
        net = builder.new_model()
        builder.load_weights(net, 'run/iter_6/model.pdparams')
    cams = np.zeros([2, 40, 50], 'float32')
    cams[:, 8:32, 8:32] = 0.5
    found = refine(net, np.random.default_rng(0).standard_normal((3, 40, 50), 'float32'), cams)
    assert found.shape == (3, 40, 50) and found.dtype == np.float32
    assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1


@pytest.fixture
def wrong(scored, refused):
    """Checks that training is refused. `refused` uses the same toy."""
    return refused


@pytest.mark.parametrize('section, says', [
    ({}, 'Affinity needs the scores of two CRFs: set semi.scores.low'),
    ({'scores': 'low'}, 'Affinity needs the scores of two CRFs'),
    ({'scores': {'low': 'low'}}, 'Affinity needs the scores of two CRFs'),
    ({'scores': {'low': 'low', 'hihg': 'high'}}, 'unknown key "semi.scores.hihg". Did you mean "high"?'),
    ({'scores': {'low': 'low', 'high': 'none'}}, 'none/images/00.npz: no such file (12 missing files)')])
def test_wrong_section(scored, wrong, section, says):
    scored.recipe['semi'] = section
    wrong(says=says)


@pytest.mark.parametrize('keys, says', [
    ({'backbone_indices': [0, 2]}, 'model.backbone_indices: [0, 2]: OneConvolution has the features 0 to 1'),
    ({'channels': [4]}, 'model.channels: [4]: give one number per feature')])
def test_wrong_model(scored, wrong, keys, says):
    scored.recipe['model'].update(keys)
    wrong(says=says)


def test_wrong_radius(scored, wrong):
    scored.recipe['method']['radius'] = 1
    wrong(says='method.radius: 1: give a whole number of at least 2')


def fails(toy, capfd, *says):
    """The first step ends the run with one line."""
    capfd.readouterr()
    assert toy.train() == 2
    err = capfd.readouterr().err
    assert err.count('\n') == 1 and all(words in err for words in says), err


def test_wrong_steps(scored, capfd):
    crop = scored.recipe['train_dataset']['transforms'][0]
    crop['crop_size'] = [56, 44]
    fails(scored, capfd, 'crops are (44, 56): give them sides that are multiples of 8')
    crop['crop_size'] = [56, 32]
    fails(scored, capfd, 'method.radius: 3: nothing in a crop of [32, 56]', 'at least 40 pixels')
    crop['crop_size'] = [64, 48]
    scored.recipe['model']['backbone']['stride'] = 4
    fails(scored, capfd, 'gives features of [12, 16], not [6, 8]', 'output stride 8')


@pytest.mark.parametrize('change, says', [
    (lambda path, classes, maps: path.write_bytes(b'no archive'), 'holds no score maps'),
    (lambda path, classes, maps: write_maps(str(path), classes, maps[:, 1:]), 'low/images/'),
    (lambda path, classes, maps: write_maps(str(path), classes + 1, maps), 'Both need the same, background (0) first')],
    ids=['damaged', 'size', 'classes'])
def test_wrong_files(scored, capfd, change, says):
    with np.load(scored.folder / 'high/images/03.npz') as file:
        classes, maps = file['classes'], file['maps']
    for i in range(12):  # any may be read first
        change(scored.folder / f'high/images/{i:02d}.npz', classes, maps)
    fails(scored, capfd, says)
