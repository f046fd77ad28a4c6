"""Reading and changing the inside of models."""

import paddle
import pytest
from paddle import nn
from paddleseg.cvlibs import manager
from paddleseg.models import BiSeNetV2, DeepLabV3P, FastSCNN, PPLiteSeg, SegFormer

from paddleseg_semi.errors import InputError
from paddleseg_semi.models.tap import Tap, find_classifier, find_fork, new_probe

NUM_CLASSES = 5


def backbone(name, **kwargs):
    return manager.BACKBONES[name](**kwargs)


@pytest.mark.parametrize('build, layer', [
    (lambda: DeepLabV3P(NUM_CLASSES, backbone('ResNet18_vd', output_stride=16), (0, 3)), 'head.decoder.conv'),
    (lambda: PPLiteSeg(NUM_CLASSES, backbone('STDC1')), 'seg_heads.0.conv_out'),
    (lambda: SegFormer(NUM_CLASSES, backbone('MixVisionTransformer_B0'), 64), 'linear_pred'),
    (lambda: BiSeNetV2(NUM_CLASSES), 'head.conv_1x1'),
    (lambda: FastSCNN(NUM_CLASSES), 'classifier.conv'),
], ids=['DeepLabV3P', 'PPLiteSeg', 'SegFormer', 'BiSeNetV2', 'FastSCNN'])
def test_find_classifier(build, layer):
    net = build()
    net.train()
    before = {name: value.numpy() for name, value in net.state_dict().items()}
    found = find_classifier(net, NUM_CLASSES)
    assert found == layer
    assert net.training
    assert all((before[name] == value.numpy()).all() for name, value in net.state_dict().items())
    net.eval()
    with Tap(net, found) as tap, paddle.no_grad():
        net(new_probe(64))
    weight = dict(net.named_sublayers())[found].weight
    assert tap.value.shape[1] == weight.shape[1]


class Hidden(nn.Layer):
    """What classifies here is no convolution."""

    def __init__(self):
        super().__init__()
        self.body, self.scale = nn.Conv2D(3, NUM_CLASSES, 3, padding=1), nn.Conv2D(NUM_CLASSES, 1, 1)

    def forward(self, x):
        feature = self.body(x)
        return [feature * self.scale(feature)]


def test_not_found_names_candidates():
    with pytest.raises(InputError, match='Hidden.*body, scale'):
        find_classifier(Hidden(), NUM_CLASSES)


def test_unknown_layer_names_the_nearest():
    with pytest.raises(InputError, match='Did you mean "scale"'):
        Tap(Hidden(), 'scales')


@pytest.mark.parametrize('side', ['input', 'output'])
def test_edit_changes_the_pass_and_keeps_the_graph(side):
    net, x = Hidden(), new_probe(8)
    plain = net(x)[0]
    with Tap(net, 'scale', side, lambda value: value * 2) as tap:
        doubled = net(x)[0]
    bias = net.scale.bias if side == 'input' else 0
    assert paddle.allclose(doubled - net.body(x) * bias, 2 * (plain - net.body(x) * bias), atol=1e-5)
    tap.value.sum().backward()
    assert net.body.weight.grad is not None
    assert paddle.equal_all(net(x)[0], plain)  # outside of the block nothing is changed


def test_fork_behind_the_backbone_or_before_the_classifier():
    assert find_fork(SegFormer(NUM_CLASSES, backbone('MixVisionTransformer_B0'), 64), NUM_CLASSES) == (
        'backbone', 'output')
    assert find_fork(FastSCNN(NUM_CLASSES), NUM_CLASSES) == ('classifier.conv', 'input')
    assert find_fork(FastSCNN(NUM_CLASSES), NUM_CLASSES, 'feature_fusion') == ('feature_fusion', 'output')
    with pytest.raises(InputError, match='candidates: db, sb'):
        find_fork(BiSeNetV2(NUM_CLASSES), NUM_CLASSES, 'db')


def test_static_graphs_are_refused():
    with pytest.raises(InputError, match='to_static_training'):
        Tap(paddle.jit.to_static(Hidden()), 'scale')
