"""Turns weights published for PyTorch or MXNet into a Paddle file. Needs neither; executes nothing the file says."""

import importlib
import os
from collections.abc import Callable
from typing import NamedTuple

from cli import Parser, run


class Architecture(NamedTuple):
    """A network whose weights can be converted.

    Attributes:
        rules (list[tuple[str, str]]): see `torch_file.paddle_names`.
        classifier (str, optional): a tensor, by its new name, whose first dimension is the number of classes. None for
            a backbone.
        build (Callable): number of classes (None for a backbone) -> nn.Layer.
        hint (str): what the user has to know to use the weights.
        reader (str): the module of `paddleseg_semi.models` that reads the file.
    """

    rules: list
    classifier: str
    build: Callable
    hint: str
    reader: str = 'torch_file'


def _deeplabv2(num_classes):
    from paddleseg_semi.models.deeplabv2 import DeepLabV2
    from paddleseg_semi.models.resnet_caffe import ResNet101_caffe
    return DeepLabV2(num_classes, ResNet101_caffe())


def _backbone(module, name, also=''):
    """A backbone whose layers have the names of PyTorch's."""
    def build(_):
        return getattr(importlib.import_module(f'paddleseg_semi.models.{module}'), name)()

    return Architecture(rules=[], classifier=None, build=build,
                        hint=f'Use them as model.backbone.pretrained of recipes whose backbone is {name}{also}.')


def _resnet38d(_):
    from paddleseg_semi.models.resnet38d import ResNet38d
    return ResNet38d()


def _sbnet(num_classes):
    from paddleseg_semi.models.sbnet import SBNet
    return SBNet(num_classes, _resnet38d(None))


def _seam(num_classes):
    net = _sbnet(num_classes)
    del net.boundary
    return net


def _affinitynet(_):
    from paddleseg_semi.models.affinity import AffinityNet
    return AffinityNet(_resnet38d(None))


_SBNET = [(r'^fc8\.', 'seam.classifier.'), (r'^f8_3\.', 'seam.reduce.0.'), (r'^f8_4\.', 'seam.reduce.1.'),
          (r'^f9\.', 'seam.embed.'), (r'^fuse_canny_edge\.', 'boundary.fuse.'),
          *((rf'^edge_layer\.conv{name}\.', f'boundary.reduce.{i}.0.') for i, name in enumerate('1356')),
          *((rf'^edge_layer\.conv8_{name}\.', f'boundary.reduce.{i}.2.') for i, name in enumerate('1356')),
          (r'^edge_layer\.rcab\.body\.3\.conv_du\.', 'boundary.attend.squeeze.'),
          (r'^edge_layer\.rcab\.', 'boundary.attend.'), (r'^edge_layer\.', 'boundary.'),
          (r'^(?!seam\.|boundary\.)', 'backbone.')]

ARCHITECTURES = {
    'deeplabv2_resnet101_caffe': Architecture(
        rules=[(r'^layer5\.conv2d_list\.', 'head.branches.'), (r'^(?!head\.)', 'backbone.')],
        classifier='head.branches.0.weight',
        build=_deeplabv2,
        hint='Use them with DeepLabV2, backbone ResNet101_caffe, and Normalize with mean [0.4811, 0.4575, 0.4079] and '
             'std [0.003922, 0.003922, 0.003922]. Trained AdvSemiSeg weights want dilations [6, 12].'),
    'resnet38d': Architecture(
        rules=[(r'^(arg|aux):', ''), (r'_(weight|gamma)$', '.weight'), (r'_beta$', '.bias'),
               (r'_(?:moving_)?mean$', '._mean'), (r'_(?:moving_)?var$', '._variance'),
               (r'^res(\d)a_', r'b\1.conv_'), (r'^res(\d)b(\d)_', r'b\1_\2.conv_'),
               (r'^bn(\d)a_', r'b\1.bn_'), (r'^bn(\d)b(\d)_', r'b\1_\2.bn_')],
        classifier=None, build=_resnet38d, reader='mxnet_file',
        hint='Use them as model.backbone.pretrained of recipes whose backbone is ResNet38d.'),
    'sbnet_resnet38d': Architecture(
        rules=_SBNET, classifier='seam.classifier.weight', build=_sbnet,
        hint='Use them with SBNet, backbone ResNet38d, and Normalize with the mean and deviation of ImageNet.'),
    'seam_resnet38d': Architecture(
        rules=_SBNET, classifier='seam.classifier.weight', build=_seam,
        hint='Use them as model.pretrained of SBNet, backbone ResNet38d, which has a boundary branch besides, and '
             'Normalize with the mean and deviation of ImageNet.'),
    'affinitynet_resnet38d': Architecture(
        rules=[*((rf'^f8_{i + 3}\.', f'reduce.{i}.') for i in range(3)), (r'^f9\.', 'embed.'),
               (r'^(?!reduce\.|embed\.)', 'backbone.')],
        classifier=None, build=_affinitynet,
        hint='Use them with AffinityNet, backbone ResNet38d, and Normalize with the mean and deviation of ImageNet.'),
    'resnet50_deepstem': _backbone('resnet_deepstem', 'ResNet50_deepstem'),
    'resnet101_deepstem': _backbone('resnet_deepstem', 'ResNet101_deepstem'),
    'resnet18': _backbone('resnet_plain', 'ResNet18_plain'),
    'resnet50': _backbone('resnet_plain', 'ResNet50_plain'),
    'resnet101': _backbone('resnet_plain', 'ResNet101_plain'),
    'wide_resnet50_2': _backbone('resnet_plain', 'WideResNet50_plain'),
    'vgg16': _backbone('vgg16', 'VGG16', ' or VGG16_LargeFOV'),
}

parser = Parser(__doc__)
parser.add_argument('--arch', required=True, choices=sorted(ARCHITECTURES), help='the network')
parser.add_argument('--model_path', required=True, help='the .pth or .params file')
parser.add_argument('--save_path', required=True, help='the .pdparams file to write')


def main(args):
    import paddle

    from paddleseg_semi.errors import InputError
    from paddleseg_semi.files import replacing
    from paddleseg_semi.models.torch_file import paddle_names
    from paddleseg_semi.models.weights import assign

    arch = ARCHITECTURES[args.arch]
    reader = importlib.import_module(f'paddleseg_semi.models.{arch.reader}')
    state = paddle_names(reader.read(args.model_path), arch.rules)
    classifier = state.get(arch.classifier)
    if arch.classifier and (classifier is None or classifier.ndim != 4 or not classifier.size):
        raise InputError(f'{args.model_path}: has no classifier ({arch.classifier} in our names), so it is not of '
                         f'{args.arch}.')
    classes = len(classifier) if arch.classifier else None
    net = arch.build(classes)
    count = assign(net, state, args.model_path)
    if os.path.isdir(args.save_path):
        raise InputError(f'--save_path {args.save_path}: is a folder. Give the file to write, such as model.pdparams.')
    try:
        with replacing(args.save_path) as part:
            paddle.save(net.state_dict(), part)
    except OSError as error:
        raise InputError(f'--save_path {args.save_path}: cannot be written ({error.strerror}).') from None
    unused = [name for name in state if name not in net.state_dict()]
    print(f'{count} tensors converted' + (f', {classes} classes' if classes else '')
          + (f'; {len(unused)} not used, the first is {unused[0]}' if unused else ''))
    print(arch.hint)
    print(f'Weights saved to {args.save_path}')


if __name__ == '__main__':
    run(main, parser)
