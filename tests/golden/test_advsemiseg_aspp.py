import numpy as np
import pytest
from conftest import close, golden_cases, tensor

from paddleseg_semi.models.deeplabv2 import DeepLabV2Head


@pytest.mark.parametrize('case', golden_cases('advsemiseg_aspp*.npz'))
@pytest.mark.parametrize('variant, branches', [('two_branch', 2), ('four_branch', 4)])
def test_forward_and_backward(case, variant, branches):
    num_classes, in_channels = case['w0'].shape[:2]
    head = DeepLabV2Head(in_channels, num_classes, case['dilations'][:branches].tolist())
    for k, conv in enumerate(head.branches):
        conv.weight.set_value(case[f'w{k}'])
        conv.bias.set_value(case[f'b{k}'])
    x = tensor(case['x'], grad=True)
    y = head(x)
    close(y, case[f'y_{variant}'])
    y.backward(tensor(case['g']))
    close(x.grad, case[f'gx_{variant}'])
    for k, conv in enumerate(head.branches):  # a branch sees the same gradient whether or not others are added
        close(conv.weight.grad, case[f'gw{k}_four_branch'])
        close(conv.bias.grad, case[f'gb{k}_four_branch'])
    assert np.abs(case['y_two_branch'] - case['y_four_branch']).max() > 1e-2, 'the case cannot tell the variants apart'
