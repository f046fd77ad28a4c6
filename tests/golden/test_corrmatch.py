"""CorrMatch against numbers from the authors' code."""

import numpy as np
import paddle
import pytest
from conftest import close, golden, tensor
from paddle import nn
from scripted import CLOCK, compare, leaf, task

from paddleseg_semi.methods import corrmatch
from paddleseg_semi.methods.corrmatch import CorrMatch, spread_labels
from paddleseg_semi.methods.pseudo import Pseudo
from paddleseg_semi.models.correlation import Correlation, region_masks


def bits(case, key):
    """Masks [..., H, W] whose rows were packed into bytes."""
    return np.unpackbits(case[key], axis=-1)[..., :int(case['corr_map_width'])].astype(bool)


@pytest.mark.parametrize('name, case', golden('corrmatch_corr*.npz'))
def test_correlation(name, case):
    feature, logits = leaf(case['feature']), leaf(case['logits'])
    correlation = Correlation(3, logits.shape[1], hidden=feature.shape[1])
    for layer, key in ((correlation.first, '1'), (correlation.second, '2')):
        layer.weight.set_value(case[f'w{key}'])
        layer.bias.set_value(case[f'b{key}'])
    spread, rows = correlation.propagate(feature, logits)
    close(spread.numpy(), case['corr_out'])
    close(rows.sum([2, 3]).numpy(), np.ones(rows.shape[:2]))
    masks = region_masks(rows.index_select(tensor(case['index']), 1), logits.shape[2:])
    safe = ~bits(case, 'unsafe')
    np.testing.assert_array_equal(masks.numpy()[safe], bits(case, 'corr_map')[safe])
    spread.sum().backward()
    assert logits.grad is None and float(feature.grad.abs().sum()) > 0


def test_no_region_where_all_places_are_equally_alike():
    assert not region_masks(paddle.full([1, 2, 3, 4], 1 / 12), [9, 10]).any()


class Step(CorrMatch):
    """A method for one step of a case: what its networks and its correlation say is prescribed."""

    def __init__(self, case, **knobs):
        super().__init__(task(case['logits_x'].shape[1]), float(case['thresh_init']), **knobs)
        self.correlation = Said()


class Said(nn.Layer):
    def forward(self, feature, logits):
        spread = self.says.pop(0)
        spread = paddle.concat(spread) if isinstance(spread, list) else spread
        assert spread.shape == logits.shape and len(feature) == len(logits)
        return spread, paddle.zeros([len(logits), 4, 2, 2])


def play(monkeypatch, case, method):
    """One step of a method; returns losses, statistics, leaves by name, and what became of labels."""
    names = ('x', 'u_w', 'u_fp', 'x_corr', 'u_w_corr', 'u_s1', 'u_s1_corr')
    leaves = {key: leaf(case[f'logits_{key}']) for key in names}
    method.model.says = [tensor(case['logits_u_w_mix']),
                         [leaves['x'], leaves['u_w'], paddle.zeros_like(leaves['x']), leaves['u_fp']], leaves['u_s1']]
    method.correlation.says = [[leaves['x_corr'], leaves['u_w_corr']], leaves['u_s1_corr']]
    box, masks = tensor(case['cutmix_box'] == 1), tensor(bits(case, 'corr_map'))
    seen = {}

    def watched(label, sure, *rest):
        result = spread_labels(label, sure, *rest)
        seen.update(label=label, sure=sure, spread=result)
        return result

    monkeypatch.setattr(corrmatch, 'gated_boxes', lambda *_: box)
    monkeypatch.setattr(corrmatch, 'region_masks', lambda rows, size: masks)
    monkeypatch.setattr(corrmatch, 'spread_labels', watched)
    blank = paddle.zeros([len(leaves['u_w']), 3, *leaves['u_w'].shape[2:]])
    batch = {name: {'weak': blank, 'strong': blank, 'valid': tensor(case[key] != 255)}
             for name, key in (('unlabeled', 'ignore_mask'), ('mix', 'ignore_mask_mix'))}
    label = tensor(case['label_x'])
    batch['labeled'] = {'img': paddle.zeros([len(label), 3, *label.shape[1:]]), 'label': label}
    losses, stats = method.step(batch, CLOCK)
    assert not method.model.says and not method.correlation.says and method.model.modes == [False, True, True]
    return losses, stats, leaves, seen


@pytest.mark.parametrize('name, case', golden('corrmatch_loss*.npz'))
def test_step(name, case, monkeypatch):
    method = Step(case, reference_quirks=True)
    losses, stats, leaves, seen = play(monkeypatch, case, method)
    close(method.thresh.item(), case['thresh_after'], rtol=1e-6, atol=0)
    np.testing.assert_array_equal(seen['sure'].numpy(), case['conf_filter'])
    np.testing.assert_array_equal(seen['label'].numpy(), case['pseudo_before'])
    np.testing.assert_array_equal(seen['spread'][0].numpy(), case['pseudo_after'])
    np.testing.assert_array_equal(seen['spread'][1].numpy(), case['filter_after'])
    wanted = {'sup': case['loss_x'] / 4, 'sup_corr': case['loss_x_corr'] / 4, 's1': case['loss_s1'] / 8,
              'kl': case['loss_kl'] / 8, 'fp': case['loss_fp'] / 8, 'corr_s': case['loss_corr_s'] / 16,
              'corr_w': case['loss_corr_w'] / 16, None: case['loss']}
    grads = [(leaves[key], case[f'grad_{key}']) for key in leaves]
    if not np.isfinite(case['loss']):  # nothing valid is no loss; theirs is 0 / 0
        wanted, grads = {key: np.nan_to_num(value) for key, value in wanted.items() if key}, []
    compare(losses, wanted, grads)


@pytest.mark.parametrize('name, case', golden('corrmatch_loss*.npz'))
def test_step_without_quirks(name, case, monkeypatch):
    """By default, probabilities inside the box are the partner's, and unmixed pixels move the threshold."""
    method = Step(case)
    losses, _, _, seen = play(monkeypatch, case, method)
    logits, box = (case[key].astype('float64') for key in ('logits_u_w', 'cutmix_box'))
    prob = softmax(logits)
    conf, label, valid = prob.max(1), prob.argmax(1), case['ignore_mask'] != 255
    best = [conf[valid & (label == c)].max() for c in np.unique(label[valid])]
    thresh = float(case['thresh_init']) * 0.999 + np.mean(best) * 0.001 if best else float(case['thresh_init'])
    close(method.thresh.item(), thresh, rtol=1e-6, atol=0)

    box = box[:, None] == 1
    target = np.where(box, softmax(case['logits_u_w_mix'].astype('float64')), prob)
    divergence = (target * (np.log(target) - np.log(softmax(case['logits_u_s1'].astype('float64'))))).sum(1)
    mixed = np.where(box[:, 0], case['ignore_mask_mix'], case['ignore_mask']) != 255
    close(losses['kl'].item(), (divergence * seen['sure'].numpy()).sum() / max(mixed.sum(), 1) / 8, atol=1e-7)


def softmax(logits):
    power = np.exp(logits - logits.max(1, keepdims=True))
    return power / power.sum(1, keepdims=True)


@pytest.mark.parametrize('name, case', golden('corrmatch_thresh*.npz'))
def test_threshold(name, case):
    method = CorrMatch(task(case['logits'].shape[2]), float(case['thresh_init']), float(case['momentum']))
    for logits, ignore, wanted in zip(case['logits'], case['ignore_mask'], case['thresh']):
        method._move_threshold(Pseudo.of(tensor(logits), tensor(ignore != 255)))
        close(method.thresh.item(), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize('quirks', [False, True])
def test_every_place_may_be_drawn(quirks):
    """By theirs, the last one never is."""
    method, rows = CorrMatch(task(3), regions=200, reference_quirks=quirks), paddle.eye(6).reshape([1, 6, 2, 3])
    masks = method._regions(rows, [2, 3], CLOCK)                                            # of place i, place i itself
    assert masks.shape == [1, 200, 2, 3] and masks.flatten(2).astype('int64').sum(-1).tolist() == [[1] * 200]
    assert masks.flatten(2).any(1).tolist() == [[True] * 5 + [not quirks]]


@pytest.mark.parametrize('thresh', [0.3, 0.6, 0.9])
@pytest.mark.parametrize('order', [1, -1])
def test_later_regions_see_what_earlier_ones_wrote(thresh, order):
    rng = np.random.default_rng(0)
    label, sure = rng.integers(0, 3, (2, 7, 8)) * (rng.random((2, 7, 8)) < 0.4), rng.random((2, 7, 8)) < 0.8
    masks = rng.random((2, 40, 7, 8))[:, ::order] < rng.random((2, 40, 1, 1))
    found = spread_labels(tensor(label), tensor(sure), tensor(masks), tensor(np.float32(thresh)), 3)
    wanted, wide = label.copy(), sure.copy()
    for image, regions in enumerate(masks):
        for region in regions:
            voters = region & sure[image]
            votes = np.bincount(wanted[image][voters], minlength=3)
            if voters.any() and voters.sum() / region.sum() >= thresh and votes.max() / votes.sum() > thresh:
                wanted[image][region] = votes.argmax()
                wide[image] |= region
    assert (wanted != label).any() and (wide & ~sure).any() if thresh < 0.9 else True
    np.testing.assert_array_equal(found[0].numpy(), wanted)
    np.testing.assert_array_equal(found[1].numpy(), wide)
