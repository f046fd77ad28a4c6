import numpy as np
import paddle
import pytest
from paddle import nn
from paddleseg.cvlibs import manager

from paddleseg_semi.errors import InputError
from paddleseg_semi.models.discriminator import Discriminator, ImageDiscriminator
from paddleseg_semi.models.gated import Gated, Tagger, class_logits, gate
from paddleseg_semi.models.resnet_plain import PlainResNet

BACKBONES, MODELS = manager.BACKBONES, manager.MODELS


def caffe(**kwargs):
    return BACKBONES['CaffeResNet'](layers=(1, 1, 1, 1), **kwargs)


@pytest.mark.parametrize('backbone', [
    caffe,
    lambda: BACKBONES['ResNet18_vd'](output_stride=8),
    lambda: BACKBONES['ResNet101_vd'](output_stride=8),
    lambda: BACKBONES['MobileNetV3_small_x0_5'](),
], ids=['caffe', 'resnet18_vd', 'resnet101_vd', 'mobilenet'])
def test_deeplabv2_over_any_backbone(backbone):
    net = MODELS['DeepLabV2'](num_classes=3, backbone=backbone(), dilations=(1, 2))
    logits, = net(paddle.randn([2, 3, 33, 47]))
    assert logits.shape == [2, 3, 33, 47]
    logits.mean().backward()
    first = next(param for param in net.backbone.parameters() if not param.stop_gradient)
    assert all(param.grad is not None for param in [first, *net.head.parameters()])


def test_deeplabv2_adds_its_branches():
    net = MODELS['DeepLabV2'](num_classes=2, backbone=caffe())
    net.eval()
    x = paddle.randn([1, 3, 33, 33])
    feature = net.backbone(x)[-1]
    parts = sum(branch(feature) for branch in net.head.branches)
    assert len(net.head.branches) == 4
    np.testing.assert_allclose(net.head(feature), parts, rtol=1e-5)


@pytest.mark.parametrize('size', [(65, 65), (40, 57)])
def test_deeplabv2_exports_for_any_size(tmp_path, size):
    net = MODELS['DeepLabV2'](num_classes=2, backbone=caffe(), dilations=(1,))
    net.eval()
    x = paddle.randn([1, 3, *size])
    wanted = net(x)[0].numpy()
    static = paddle.jit.to_static(net, input_spec=[paddle.static.InputSpec([None, 3, None, None])], full_graph=True)
    paddle.jit.save(static, str(tmp_path / 'model'))
    logits = paddle.jit.load(str(tmp_path / 'model'))(x)
    np.testing.assert_allclose(logits, wanted, atol=1e-4 * np.abs(wanted).max())


def test_caffe_resnet_stages():
    net = caffe()
    features = net(paddle.randn([1, 3, 65, 40]))
    assert [f.shape[1] for f in features] == net.feat_channels == [256, 512, 1024, 2048]
    assert [list(f.shape[2:]) for f in features] == [[17, 11], [9, 6], [9, 6], [9, 6]]


@pytest.mark.parametrize('freeze', [True, False])
def test_caffe_resnet_freezes_scale_and_shift_only(freeze):
    net = caffe(freeze_bn_affine=freeze)
    trained = {name for name, param in net.named_parameters() if not param.stop_gradient}
    assert ('layer1.0.bn2.weight' in trained, 'layer1.0.bn2.bias' in trained) == (not freeze, not freeze)
    assert 'layer1.0.conv2.weight' in trained and 'layer3.0.downsample.0.weight' in trained
    assert not any('_mean' in name for name in trained)
    before = net.bn1._mean.numpy().copy()
    net(paddle.randn([2, 3, 33, 33]))
    assert not np.array_equal(net.bn1._mean, before), 'running statistics follow the batches'


def test_resnet101_caffe_is_that_deep():
    net = BACKBONES['ResNet101_caffe']()
    assert [len(stage) for stage in (net.layer1, net.layer2, net.layer3, net.layer4)] == [3, 4, 23, 3]


def test_pretrained_backbone_and_network(tmp_path):
    source = MODELS['DeepLabV2'](num_classes=2, backbone=caffe())
    paths = [str(tmp_path / name) for name in ('backbone.pdparams', 'network.pdparams')]
    paddle.save(source.backbone.state_dict(), paths[0])
    paddle.save(source.state_dict(), paths[1])
    whole = MODELS['DeepLabV2'](num_classes=5, backbone=caffe(), pretrained=paths[1])
    for net in (caffe(pretrained=paths[0]), whole.backbone):
        np.testing.assert_array_equal(net.layer4[0].conv2.weight, source.backbone.layer4[0].conv2.weight)


def test_discriminator_size():
    net = MODELS['Discriminator'](num_classes=21)
    assert sum(int(np.prod(param.shape)) for param in net.parameters()) == 2_783_169
    widths = [net.conv1, net.conv2, net.conv3, net.conv4, net.classifier]
    assert [conv.weight.shape[0] for conv in widths] == [64, 128, 256, 512, 1]
    for conv in widths:
        bound = np.prod(conv.weight.shape[1:]) ** -0.5
        for param in (conv.weight, conv.bias):
            assert np.abs(param.numpy()).max() <= bound
        assert conv.weight.numpy().std() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_discriminator_resizes_with_aligned_corners():
    net = Discriminator(2, ndf=2)
    low = []
    net.classifier.register_forward_post_hook(lambda layer, inputs, output: low.append(output.numpy()))
    y = net(paddle.rand([1, 2, 64, 97])).numpy()
    assert low[0].shape == (1, 1, 2, 3)
    np.testing.assert_allclose(y[:, :, ::63, ::48], low[0], rtol=1e-5)


def test_discriminator_refuses_small_maps():
    net = Discriminator(2, ndf=2)
    assert net(paddle.zeros([1, 2, 32, 40])).shape == [1, 1, 32, 40]
    with pytest.raises(InputError, match='at least 32x32 pixels and got 64x31'):
        net(paddle.zeros([1, 2, 64, 31]))


class Says(nn.Layer):
    """A model that gives the same logits whatever it sees, and remembers the size of that."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, x):
        self.size = x.shape[2:]
        return [self.logits]


def test_gated_takes_absent_classes_out():
    logits = paddle.to_tensor([[[[-3., 1.]], [[-2., 2.]], [[-1., 0.]]]] * 2)               # [2, 3, 1, 2]
    absent = paddle.to_tensor([[2., -5., -5.], [-5., -5., -5.]]).unsqueeze([2, 3]).expand([2, 3, 4, 4])
    classifier = Says(absent)
    for quirks, wanted in ((False, [[0, 0], [2, 1]]), (True, [[1, 0], [0, 0]])):
        model = Gated(3, Says(logits), classifier, 0.2, (8, 6), quirks)
        assert model(paddle.zeros([2, 3, 1, 2]))[0].argmax(1).squeeze(1).tolist() == wanted
        assert classifier.size == [8, 6]
    exact = paddle.to_tensor([[0.2, 0.1, 0.]])
    assert gate(logits[:1], exact, 0.2).argmax(1).flatten().tolist() == [0, 0]


def test_tagger_says_the_same_everywhere():
    backbone = PlainResNet([1, 1], bottleneck=False)
    model = Tagger(4, backbone)
    model.eval()
    x = paddle.randn([2, 3, 40, 48])
    logits = model(x)[0]
    assert logits.shape == [2, 4, 40, 48]
    wanted = model.head(backbone(x)[-1]).mean([2, 3])
    np.testing.assert_allclose(class_logits(logits), wanted, rtol=1e-4, atol=1e-5)
    assert (logits == logits[:, :, :1, :1]).all()


def test_image_discriminator_refuses_small_maps():
    with pytest.raises(InputError, match='at least 16x16'):
        ImageDiscriminator(2, 2)(paddle.zeros([1, 5, 15, 40]))
    logits, features = ImageDiscriminator(2, 2)(paddle.zeros([1, 5, 16, 40]))
    assert logits.shape == [1, 1] and features.shape == [1, 16, 1, 1]
