import os
import pickle

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from conftest import close, tensor
from paddleseg.cvlibs import manager

from paddleseg_semi import compat
from paddleseg_semi.errors import InputError

LOSSES = manager.LOSSES


def example(ignored=0.3, num_classes=4):
    rng = np.random.default_rng(0)
    label = rng.integers(num_classes, size=(2, 6, 5))
    label[rng.random(label.shape) < ignored] = 255
    return rng.normal(size=(2, num_classes, 6, 5)).astype('float32'), label


def by_hand(logits, label, weight, top_k, semantic=1.):
    """PaddleSeg's average in NumPy: losses and class weights of all pixels, or of the hardest."""
    counted = label != 255
    known = np.where(counted, label, 0)
    log_prob = logits - np.log(np.exp(logits.astype('float64')).sum(1, keepdims=True))
    coef = np.ones(len(logits[0])) if weight is None else np.asarray(weight)
    loss = -np.take_along_axis(log_prob, known[:, None], 1)[:, 0] * coef[known] * counted * semantic
    if top_k == 1.0:
        return loss.sum() / max((coef[known] * counted).sum(), 1e-12)
    hardest = np.argsort(-loss.ravel())[:int(top_k * loss.size)]
    return loss.ravel()[hardest].mean() / coef[known].ravel()[hardest].mean()


@pytest.mark.parametrize('weight', [None, [0.5, 1., 2., 4.]])
@pytest.mark.parametrize('top_k, ignored', [(1.0, 0.3), (1.0, 0.), (0.25, 0.3), (1.0, 1.)])
def test_cross_entropy_by_hand(weight, top_k, ignored):
    logits, label = example(ignored)
    x = tensor(logits, grad=True)
    loss = LOSSES['CrossEntropyLoss'](weight=weight, top_k_percent_pixels=top_k)(x, tensor(label))
    close(loss, by_hand(logits, label, weight, top_k))
    loss.backward()
    assert bool((x.grad.abs().sum() > 0).item()) == (ignored < 1)
    assert np.isfinite(x.grad.numpy()).all()
    assert not x.grad.numpy()[np.broadcast_to((label == 255)[:, None], logits.shape)].any()


def test_pixel_weights_and_int32_labels():
    logits, label = example()
    semantic = np.random.default_rng(1).random(label.shape).astype('float32')
    loss = LOSSES['CrossEntropyLoss']()(tensor(logits), tensor(label.astype('int32')), tensor(semantic))
    close(loss, by_hand(logits, label, None, 1.0, semantic))


def test_average_over_ignored_pixels_too():
    logits, label = example()
    loss = LOSSES['CrossEntropyLoss'](avg_non_ignore=False)(tensor(logits), tensor(label))
    close(loss, by_hand(logits, label, None, 1.0) * (label != 255).mean())


def test_what_is_built_on_it():
    logits, label = example()
    x, y = tensor(logits, grad=True), tensor(label)
    plain = LOSSES['CrossEntropyLoss']()
    mixed = LOSSES['MixedLoss']([plain, LOSSES['DiceLoss']()], [0.5, 2.])(x, y)
    close(sum(mixed), 0.5 * plain(x, y) + 2. * LOSSES['DiceLoss']()(x, y))
    teacher = x.detach() * 2
    soft = -(F.softmax(teacher, 1) * F.log_softmax(x, 1)).sum(1).numpy()
    close(LOSSES['DistillCrossEntropyLoss']()(x, teacher, y), soft[label != 255].mean())


@pytest.mark.parametrize('min_kept, thresh', [(20, 0.1), (20, 0.6), (1000, 0.1)])
def test_ohem_by_hand(min_kept, thresh):
    """The mean over pixels less sure than `thresh`, or than the `min_kept`-th least sure one."""
    logits, label = example()
    valid = label != 255
    prob = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    prob = np.take_along_axis(prob, np.where(valid, label, 0)[:, None], 1)[:, 0][valid]
    if min_kept < valid.sum():
        prob = prob[prob < max(thresh, np.sort(prob)[min_kept - 1])]
    loss = LOSSES['OhemCrossEntropyLoss'](thresh=thresh, min_kept=min_kept)(tensor(logits), tensor(label))
    close(loss, -np.log(prob).mean())


@pytest.mark.parametrize('name, options, extra', [
    ('OhemEdgeAttentionLoss', {'edge_threshold': 0., 'min_kept': 20}, 'edge'),
    ('PointCrossEntropyLoss', {}, 'points'),
    ('RelaxBoundaryLoss', {}, None),
    ('RMILoss', {'num_classes': 4}, None),
    ('DualTaskLoss', {}, None),
])
def test_the_other_losses_that_mixed_types(name, options, extra):
    rng = np.random.default_rng(0)
    label = rng.integers(4, size=(2, 24, 24))
    label[:, :3] = 255
    x = tensor(rng.normal(size=(2, 4, 24, 24)).astype('float32'), grad=True)
    logits = x
    if extra == 'edge':
        logits = [x, tensor(np.ones((2, 1, 24, 24), 'float32'))]
    elif extra == 'points':
        x = tensor(rng.normal(size=(2, 4, 30)).astype('float32'), grad=True)
        logits = [x, tensor(rng.random((2, 30, 2)).astype('float32'))]
    loss = LOSSES[name](**options)(logits, tensor(label))
    loss.backward()
    assert np.isfinite(loss.numpy()).all() and np.isfinite(x.grad.numpy()).all() and x.grad.numpy().any()


def test_dice_leaves_the_label_alone():
    logits, label = example()
    y = tensor(label)
    first = LOSSES['DiceLoss']()(tensor(logits), y)
    np.testing.assert_array_equal(y, label)
    close(LOSSES['DiceLoss']()(tensor(logits), y), first)


def test_applying_twice_changes_nothing():
    loss, load = LOSSES['CrossEntropyLoss'], paddle.load
    before = loss, loss._post_process_loss, LOSSES['DiceLoss'].forward
    compat.apply()
    loss = LOSSES['CrossEntropyLoss']
    assert (loss, loss._post_process_loss, LOSSES['DiceLoss'].forward) == before
    assert paddle.load is load, "the repair is PaddleSeg's alone"


class Hostile:
    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (self.proof,)


@pytest.mark.parametrize('build', [
    lambda path: manager.BACKBONES['ResNet18_vd'](pretrained=path),
    lambda path: manager.MODELS['UNet'](num_classes=2, pretrained=path),
    lambda path: manager.MODELS['UNetPlusPlus'](in_channels=3, num_classes=2, pretrained=path),
    lambda path: manager.BACKBONES['VisionTransformer'](32, embed_dim=8, depth=1, num_heads=2, pretrained=path),
], ids=['backbone', 'model', 'imported_by_name', 'transformer'])
def test_pretrained_files_are_not_executed(tmp_path, build):
    path, proof = tmp_path / 'model.pdparams', str(tmp_path / 'executed')
    path.write_bytes(pickle.dumps({'conv.weight': Hostile(proof)}))
    with pytest.raises(InputError, match='refused'):
        build(str(path))
    assert not os.path.exists(proof)


def test_pretrained_weights_load_and_skip_another_classifier(tmp_path):
    path = str(tmp_path / 'model.pdparams')
    source = manager.MODELS['UNet'](num_classes=2)
    paddle.save(source.state_dict(), path)
    net = manager.MODELS['UNet'](num_classes=3, pretrained=path)
    name = next(iter(source.state_dict()))
    np.testing.assert_array_equal(net.state_dict()[name], source.state_dict()[name])
    assert list(net.cls.weight.shape)[0] == 3


def test_missing_pretrained_file():
    with pytest.raises(InputError, match='nowhere.pdparams'):
        manager.BACKBONES['ResNet18_vd'](pretrained='nowhere.pdparams')
