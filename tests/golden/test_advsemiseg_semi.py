import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from conftest import close, golden_cases, tensor

from paddleseg_semi.losses.adversarial import fool, trusted
from paddleseg_semi.losses.masked import masked_cross_entropy


@pytest.mark.parametrize('case', golden_cases('advsemiseg_semi*.npz'))
def test_trusted_pixels_and_pseudo_labels(case):
    d_up = F.interpolate(tensor(case['d_logits']), case['logits'].shape[2:], mode='bilinear', align_corners=True)
    close(d_up, case['d_up'])
    close(fool(d_up, paddle.ones(d_up.shape, dtype='bool')), case['loss_semi_adv'])

    for i, threshold in enumerate(case['mask_T']):
        logits = tensor(case['logits'], grad=True)
        conf, keep = trusted(d_up, float(threshold))
        close(conf, case['confidence'][:, 0])
        np.testing.assert_array_equal(~keep.numpy(), case['ignore_mask'][i])
        close(keep.astype('float32').mean(), case['semi_ratio'][i])
        pseudo = logits.argmax(1)
        np.testing.assert_array_equal(np.where(keep, pseudo, case['ignore_index']), case['pseudo_label'][i])
        loss = masked_cross_entropy(logits, pseudo, keep)
        close(loss, case['loss_semi'][i])
        loss.backward()
        if f'grad_T{threshold}' in case:
            close(logits.grad, case[f'grad_T{threshold}'])
        assert keep.any() or not logits.grad.numpy().any()
    assert any(f'grad_T{threshold}' in case for threshold in case['mask_T'])
