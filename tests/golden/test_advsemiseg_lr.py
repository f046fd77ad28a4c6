import numpy as np
import paddle
import pytest
from conftest import close, golden_cases
from paddleseg.cvlibs import manager

CASES = golden_cases('advsemiseg_lr*.npz')


def schedule(case):
    return paddle.optimizer.lr.PolynomialDecay(float(case['base_lr']), int(case['num_steps']), end_lr=0,
                                               power=float(case['power']))


@pytest.mark.parametrize('case', CASES)
def test_sequence(case):
    """Stepped after each update, as the trainer does."""
    rate, rates = schedule(case), []
    for _ in range(int(case['iters'].max()) + 1):
        rates.append(rate())
        rate.step()
    close(np.array(rates)[case['iters']], case['lr'], atol=0)


@pytest.mark.parametrize('case', CASES)
def test_the_head_learns_faster(case):
    """`custom_cfg` of PaddleSeg's optimizers finds DeepLabV2's classifier by its name."""
    backbone = manager.BACKBONES['CaffeResNet'](layers=(1, 1, 1, 1))
    net = manager.MODELS['DeepLabV2'](num_classes=2, backbone=backbone, dilations=(6,))
    rate = schedule(case)
    multiplier = float(case['head_multiplier'])
    optimizer = manager.OPTIMIZERS['SGD'](custom_cfg=[{'name': 'head', 'lr_mult': multiplier}])(net, rate)
    body, head = net.backbone.conv1.weight, net.head.branches[0].weight
    for k, wanted in zip(case['iters'].tolist(), case['lr']):
        rate.step(k)
        for param in (body, head):
            param.set_value(paddle.zeros_like(param))
        (body.sum() + head.sum()).backward()
        optimizer.step()
        optimizer.clear_grad()
        np.testing.assert_allclose(body, -wanted, rtol=1e-4)
        np.testing.assert_allclose(head, -wanted * multiplier, rtol=1e-4)
