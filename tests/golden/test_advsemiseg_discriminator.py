import pytest
from conftest import close, golden_cases, tensor

from paddleseg_semi.models.discriminator import Discriminator


@pytest.mark.parametrize('case', golden_cases('advsemiseg_discriminator*.npz'))
def test_forward_and_backward(case):
    num_classes, ndf = (int(n) for n in case['dims'][:2])
    net = Discriminator(num_classes, ndf)
    net.set_state_dict({key[2:]: array for key, array in case.items() if key.startswith('w_')})
    low = []
    net.classifier.register_forward_post_hook(lambda layer, inputs, output: low.append(output))
    x = tensor(case['x'], grad=True)
    y = net(x)
    close(low[0], case['y'])
    close(y, case['y_up'])
    y.backward(tensor(case['g']))
    close(x.grad, case['gx'])
    for name, param in net.named_parameters():
        close(param.grad, case[f'gw_{name}'])
