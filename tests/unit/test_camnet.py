"""CAMNet, its plain backbones, and the crops it is trained on."""

import random

import numpy as np
import paddle
import pytest
from conftest import close
from paddle import nn
from paddle.vision.models import resnet, vgg
from paddleseg.transforms import Normalize

from paddleseg_semi.core.cams import cams
from paddleseg_semi.core.export import export
from paddleseg_semi.errors import InputError
from paddleseg_semi.models.camnet import CAMNet, score_planes, stretch
from paddleseg_semi.models.modes import evaluating
from paddleseg_semi.models.resnet_plain import (
    PlainResNet,
    ResNet18_plain,
    ResNet50_plain,
    ResNet101_plain,
    WideResNet50_plain,
)
from paddleseg_semi.models.tap import Tap
from paddleseg_semi.models.vgg16 import VGG16
from paddleseg_semi.transforms.geometry import RandomResizedCrop


class Features(nn.Layer):
    feat_channels = [4]

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(3, 4, 3, stride=2, padding=1)

    def forward(self, x):
        return [nn.functional.relu(self.conv(x))]


@pytest.mark.parametrize('kwargs', [{}, {'pool_size': 3, 'hidden': (6, 5), 'dropout': 0.5}])
def test_grad_cam_is_the_gradient(kwargs):
    """Also with dropout, up to a factor that stretching takes away."""
    paddle.seed(1)
    net, x = CAMNet(4, Features(), **kwargs), paddle.randn([2, 3, 17, 13])
    with Tap(net, 'backbone', 'output') as tap:
        logits, maps = net.classify(x)
    feature = tap.value[-1]
    for c in range(3):
        grad, = paddle.grad(logits[:, c].sum(), feature, retain_graph=True)
        wanted = nn.functional.relu((grad.mean([2, 3], keepdim=True) * feature).sum(1, keepdim=True))
        close(stretch(maps[:, c:c + 1], [17, 13]).numpy(), stretch(wanted, [17, 13]).numpy())


def test_gradients_of_both_kinds():
    for kind in ('gcam', 'cam'):
        net = CAMNet(4, Features(), kind)
        stretch(net.classify(paddle.randn([2, 3, 16, 16]))[1], [16, 16]).square().sum().backward()
        assert net.backbone.conv.weight.grad is not None
        assert (net.fc.weight.grad is None) == (kind == 'gcam')


def test_a_constant_map_is_zero():
    maps = paddle.full([1, 2, 3, 3], 5.)
    maps.stop_gradient = False
    out = stretch(maps, [6, 6])
    out.sum().backward()
    assert not out.any() and np.isfinite(maps.grad.numpy()).all()


def test_shows_what_it_finds():
    paddle.seed(1)
    net, x = CAMNet(4, Features()), paddle.randn([2, 3, 16, 16])
    net.fc.bias.set_value(np.array([-99, 99, -99], 'float32'))
    with evaluating(net), paddle.no_grad():
        pred = net(x)[0].argmax(1)
        assert set(pred.unique().tolist()) == {0, 2}
        net.tag_threshold = 0
        close(net(x)[0].numpy(), score_planes(net.attend(x)[1], 0.3).numpy())


def test_an_exported_one_takes_any_batch(tmp_path):
    net = CAMNet(4, Features())
    export(net, str(tmp_path), [{'type': 'Normalize'}], output_op='none')
    net.eval()
    static = paddle.jit.load(str(tmp_path / 'model'))
    for shape in ([1, 3, 17, 13], [3, 3, 24, 16]):
        x = paddle.randn(shape)
        close(static(x), net(x)[0], atol=1e-5)


def test_maps_of_tags():
    """At one scale, what inference makes of an image is what the method trains."""
    paddle.seed(1)
    net, image = CAMNet(4, Features()), np.random.default_rng(0).integers(0, 255, [17, 23, 3]).astype('uint8')
    maps = cams(net, image, np.array([1, 0, 1]), Normalize(), scales=[1.0], flip=False)
    with evaluating(net), paddle.no_grad():
        x = Normalize()({'img': image.astype('float32')})['img'].transpose(2, 0, 1)[None]
        wanted = net.attend(paddle.to_tensor(x))[1][0].numpy()
    assert list(maps) == [1, 3]
    for number, found in maps.items():
        close(found, wanted[number - 1], atol=1e-3)


def test_background_wins_where_nothing_is():
    planes = score_planes(paddle.to_tensor([[[[0., 0.2, 0.3]], [[0., 0.1, 0.9]]]]), 0.3)
    assert planes.argmax(1).flatten().tolist() == [0, 0, 2]
    assert score_planes(paddle.zeros([1, 2, 1, 1]), 0.).argmax(1).item() == 0


@pytest.mark.parametrize('kwargs, says', [({'attention': 'gradcam'}, 'Did you mean "gcam"'),
                                          ({'attention': 'cam', 'hidden': (4,)}, 'cam needs a classifier directly')])
def test_refuses(kwargs, says):
    with pytest.raises(InputError, match=says):
        CAMNet(4, Features(), **kwargs)


def test_plain_resnet_is_that_of_paddle():
    theirs, ours = resnet.ResNet(resnet.BasicBlock, 18, num_classes=0, with_pool=False), ResNet18_plain()
    ours.set_state_dict(theirs.state_dict())
    x = paddle.randn([2, 3, 32, 32])
    with evaluating(ours, theirs), paddle.no_grad():
        close(ours(x)[-1].numpy(), theirs(x).numpy())


@pytest.mark.parametrize('build, block, depth, width', [
    (ResNet18_plain, resnet.BasicBlock, 18, 64), (ResNet50_plain, resnet.BottleneckBlock, 50, 64),
    (ResNet101_plain, resnet.BottleneckBlock, 101, 64), (WideResNet50_plain, resnet.BottleneckBlock, 50, 128)])
def test_plain_resnets_have_their_names(build, block, depth, width):
    with paddle.LazyGuard():  # no numbers are drawn
        theirs, ours = resnet.ResNet(block, depth, width, num_classes=0, with_pool=False), build()

    def shapes(net):
        return [(name, list(param.shape)) for name, param in net.named_parameters()]
    assert shapes(ours) == shapes(theirs)
    assert ours.feat_channels == [64 * 2 ** k * block.expansion for k in range(4)]


@pytest.mark.parametrize('output_stride, dilations, strides', [
    (8, [1, 2, 2, 4], [1, 1]), (16, [1, 1, 1, 2], [2, 1]), (32, [1, 1, 1, 1], [2, 2])])
def test_dilation(output_stride, dilations, strides):
    """The first block of a stage keeps the dilation of the stage before."""
    with paddle.LazyGuard():
        net = PlainResNet((1, 1, 2, 2), output_stride=output_stride)
    convs = [block.conv2 for block in (*net.layer3, *net.layer4)]
    assert [conv._dilation[0] for conv in convs] == [conv._padding for conv in convs] == dilations
    assert [conv._stride[0] for conv in convs[::2]] == strides
    assert [stage[0].downsample[0]._stride[0] for stage in (net.layer3, net.layer4)] == strides


def test_resnet_refuses():
    with pytest.raises(InputError, match='output_stride: 8'):
        ResNet18_plain(output_stride=8)


def test_vgg16_is_that_of_paddle():
    with paddle.LazyGuard():
        theirs, ours, large = vgg.vgg16(num_classes=0, with_pool=False), VGG16(), VGG16(large_fov=True)
    assert str(ours.features) == str(theirs.features)
    assert list(ours.state_dict()) == list(large.state_dict()) == list(theirs.state_dict())


def test_random_resized_crop():
    crop = RandomResizedCrop([32, 24], area=[0.2, 0.5])
    random.seed(0)
    shares = []
    for _ in range(200):
        rows, columns = crop._draw(100, 150)
        height, width = rows.stop - rows.start, columns.stop - columns.start
        assert min(rows.start, columns.start) >= 0 and rows.stop <= 100 and columns.stop <= 150
        assert 0.73 <= width / height <= 1.36
        shares.append(height * width / 15000)
    assert 0.19 <= min(shares) < 0.25 and 0.45 < max(shares) <= 0.51

    image = np.tile(np.arange(100, dtype='float32')[:, None, None], [1, 150, 3])
    data = crop({'img': image, 'label': image[..., 0].astype('uint8'), 'gt_fields': ['label']})
    assert data['img'].shape == (24, 32, 3) and data['img'].dtype == 'float32' and data['label'].shape == (24, 32)
    assert np.abs(data['img'][..., 0] - data['label']).max() <= 3, 'image and mask show the same part'


@pytest.mark.parametrize('height, width, wanted', [(300, 10, (13, 10)), (10, 300, (10, 13)), (10, 11, (10, 11))])
def test_crop_of_a_narrow_image(height, width, wanted):
    rows, columns = RandomResizedCrop([8, 8], area=[1, 1])._draw(height, width, attempts=0)
    assert (rows.stop - rows.start, columns.stop - columns.start) == wanted
    assert abs(rows.start + rows.stop - height) <= 1 and abs(columns.start + columns.stop - width) <= 1


@pytest.mark.parametrize('kwargs', [{'crop_size': 8}, {'crop_size': [8]}, {'crop_size': [8, 8], 'area': [0.5, 0.2]}])
def test_crop_refuses(kwargs):
    with pytest.raises((ValueError, TypeError)):
        RandomResizedCrop(**kwargs)
