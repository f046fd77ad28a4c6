import numpy as np
import pytest
from conftest import close, golden_cases, tensor

from paddleseg_semi.losses.adversarial import fool, one_hot, tell_apart

CASES = golden_cases('advsemiseg_labels*.npz')


@pytest.mark.parametrize('case', CASES)
def test_one_hot(case):
    keep = case['label'] != case['ignore_index']
    np.testing.assert_array_equal(~keep, case['ignore_mask'])
    maps = one_hot(tensor(case['label']), int(case['num_classes']), tensor(keep))
    assert maps.numpy().dtype == 'float32'
    np.testing.assert_array_equal(maps, case['one_hot'])


@pytest.mark.parametrize('case', CASES)
def test_discriminator_targets(case):
    """The target maps of the reference and our masks give the same loss: binary cross entropy in plain NumPy."""
    keep = tensor(~case['ignore_mask'])
    logits = np.random.default_rng(0).normal(size=case['d_label_0'].shape).astype('float32')
    real, fake = tell_apart(tensor(logits), keep, tensor(logits), keep)
    for ours, target in ((real, case['d_label_1']), (fake, case['d_label_0']),
                         (fool(tensor(logits), keep), case['d_label_1'])):
        counted = target != case['ignore_index']
        prob = 1 / (1 + np.exp(-logits[counted].astype('float64')))
        wanted = -np.log(np.where(target[counted] == 1, prob, 1 - prob))
        close(ours, wanted.sum() / max(len(wanted), 1))
