"""CPS, with and without CutMix, and its OHEM against numbers from the authors' code."""

import numpy as np
import paddle
import pytest
from conftest import close, golden, golden_cases, tensor
from scripted import CLOCK, compare, leaf, task

from paddleseg_semi.losses.ohem import HardPixelLoss
from paddleseg_semi.methods import cps
from paddleseg_semi.methods.cps import CPS
from paddleseg_semi.methods.pseudo import Pseudo


def images(logits, value=0.):
    return paddle.full([logits.shape[0], 3, *logits.shape[2:]], value)


def everywhere(logits):
    return paddle.ones([logits.shape[0], *logits.shape[2:]], 'bool')


def grads(case, **logits):
    return [(pair[k], case[f'grad_{key}_{k + 1}']) for key, pair in logits.items() for k in (0, 1)]


def total(losses, case):
    """The two terms of either kind as the file sums them."""
    close((losses['cps'] + losses['cps_2']).item(), case['loss_cps'], rtol=1e-5)
    return {'sup': case['loss_sup_1'], 'sup_2': case['loss_sup_2'], None: case['loss']}


@pytest.mark.parametrize('name, case', golden('cps_cutmix_loss*.npz'))
def test_with_cutmix(name, case, monkeypatch):
    sup, mixed = ([leaf(case[f'logits_{key}_{k}']) for k in (1, 2)] for key in ('sup', 'mix'))
    method = CPS(task(sup[0].shape[1]), float(case['cps_weight']), reference_quirks=True)
    nets = method.model, method.model_2
    for k, net in enumerate(nets):
        net.says = [tensor(case[f'logits_u{i}_{k + 1}']) for i in (0, 1)] + [mixed[k], sup[k]]
    mask = tensor(case['mix_mask'][:, 0] == 1)
    monkeypatch.setattr(cps, 'toggled_boxes', lambda *_: mask)
    labels = []
    loss = cps.masked_cross_entropy
    monkeypatch.setattr(cps, 'masked_cross_entropy', lambda *args: labels.append(args[1].numpy()) or loss(*args))
    u0, u1 = ({'weak': tensor(case[f'image_u{i}']), 'valid': everywhere(mixed[0])} for i in (0, 1))
    labeled = {'img': images(sup[0]), 'label': tensor(case['label_sup'])}
    losses, stats = method.step({'labeled': labeled, 'unlabeled': u0, 'mix': u1}, CLOCK)
    for net in nets:
        assert net.modes == [True] * 4
        np.testing.assert_array_equal(net.shown[2].numpy(), case['image_mixed'].astype('float32'))
    for label, wanted in zip(labels, ('pseudo_2', 'pseudo_1')):
        np.testing.assert_array_equal(label, case[wanted])
    compare(losses, total(losses, case), grads(case, mix=mixed, sup=sup))


@pytest.mark.parametrize('name, case', golden('cps_plain_loss*.npz'))
def test_without_cutmix(name, case):
    sup, unsup = ([leaf(case[f'logits_{key}_{k}']) for k in (1, 2)] for key in ('sup', 'unsup'))
    method = CPS(task(sup[0].shape[1]), float(case['cps_weight']), cutmix=False, reference_quirks=True)
    assert set(method.streams) == {'labeled', 'unlabeled'}
    for k, net in enumerate((method.model, method.model_2)):
        net.says = [sup[k], unsup[k]]
        both = np.concatenate([case[f'logits_{key}_{k + 1}'] for key in ('sup', 'unsup')])
        np.testing.assert_array_equal(Pseudo.of(tensor(both)).label.numpy(), case[f'pseudo_{k + 1}'])
    batch = {'labeled': {'img': images(sup[0]), 'label': tensor(case['label_sup'])},
             'unlabeled': {'weak': images(unsup[0]), 'valid': everywhere(unsup[0])}}
    losses, stats = method.step(batch, CLOCK)
    compare(losses, total(losses, case), grads(case, sup=sup, unsup=unsup))


@pytest.mark.parametrize('name, case', golden('cps_plain_loss*.npz'))
def test_padding_is_not_pseudo_labeled(name, case):
    """Where we differ from the published code."""
    sup, unsup = ([leaf(case[f'logits_{key}_{k}']) for k in (1, 2)] for key in ('sup', 'unsup'))
    method = CPS(task(sup[0].shape[1]), cutmix=False)
    method.model.says, method.model_2.says = [sup[0], unsup[0]], [sup[1], unsup[1]]
    batch = {'labeled': {'img': images(sup[0]), 'label': tensor(case['label_sup'])},
             'unlabeled': {'weak': images(unsup[0]), 'valid': ~everywhere(unsup[0])}}
    sum(method.step(batch, CLOCK)[0].values()).backward()
    void = np.broadcast_to(case['label_sup'][:, None] == 255, sup[0].shape)
    for k in (0, 1):
        assert (unsup[k].grad.numpy() == 0).all()
        assert (sup[k].grad.numpy()[void] == 0).all()


@pytest.mark.parametrize('case', golden_cases('cps_ohem*.npz', 'case', 'n_cases'))
def test_ohem(case):
    logits = leaf(case['logits'])
    loss = HardPixelLoss(float(case['thresh']), int(case['min_kept']))(logits, tensor(case['label']))
    compare({'ohem': loss}, {'ohem': case['loss']}, [(logits, case['grad'])])
    assert (logits.grad.numpy() != 0).any(1).sum() == case['kept']
