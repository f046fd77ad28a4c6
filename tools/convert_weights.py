"""Turns weights published for PyTorch or MXNet into a Paddle file. Needs neither; executes nothing the file says."""

import os
from collections.abc import Callable
from typing import NamedTuple

from cli import Parser, run


class Architecture(NamedTuple):
    """A network whose weights can be converted.

    Attributes:
        build (Callable): number of classes, whether the file has an auxiliary head → nn.Layer.
        hint (str): what the user has to know to use the weights.
        classifier (str, optional): a tensor, by our name, whose first dimension is the number of classes. Default: it
            is a backbone.
    """

    build: Callable
    hint: str
    classifier: str = None


def _backbone(name, also='', **settings):
    def build(*_):
        from paddleseg.cvlibs import manager

        import paddleseg_semi
        paddleseg_semi.register()
        return manager.BACKBONES[name](**settings)

    more = ''.join(f', {key}: {value}' for key, value in settings.items())
    return Architecture(build, f'Use them as model.backbone.pretrained of recipes whose backbone is {name}{also}'
                        f'{more}.')


def _model(name, backbone, classifier, hint, aux=False, without=None, **settings):
    """A network on a backbone; `aux` is a setting of it, `without` a part that the file does not have."""
    def build(classes, has_aux=False):
        from paddleseg.cvlibs import manager

        import paddleseg_semi
        paddleseg_semi.register()
        more = {**settings, **({'aux': has_aux} if aux else {}), **({'num_classes': classes} if classifier else {})}
        net = manager.MODELS[name](backbone=ARCHITECTURES[backbone].build(), **more)
        if without:
            delattr(net, without)
        return net

    return Architecture(build, hint, classifier)


def _deeplabv3p(backbone, recipes, opts, **settings):
    """DeepLabV3+ of a method; only what decides about shapes has to be right."""
    opts = ' '.join(['--opts', f'model.backbone.type={backbone.replace("resnet", "ResNet")}', *opts])
    return _model('SemiDeepLabV3P', backbone, f'decoder.classifier.{8 if "dropout" in settings else 6}.weight',
                  f'Evaluate them by tools/val.py --model_path with a recipe in {recipes}, {opts}.', aux=True,
                  **settings)


def _dpt(size):
    return _model('DPT', f'dinov2_{size}', 'head.scratch.output_conv.2.weight',
                  'Evaluate them by tools/val.py --model_path with a recipe in configs/dinov2, --opts '
                  f'model.backbone.type=DINOv2_{size}.')


_NORMALIZE = 'Normalize with the mean and deviation of ImageNet.'
ARCHITECTURES = {
    'deeplabv2_resnet101_caffe': _model(
        'DeepLabV2', 'resnet101_caffe', 'head.branches.0.weight',
        'Use them with DeepLabV2, backbone ResNet101_caffe, and Normalize with mean [0.4811, 0.4575, 0.4079] and '
        'std [0.003922, 0.003922, 0.003922]. Trained AdvSemiSeg weights want dilations [6, 12].'),
    'sbnet_resnet38d': _model('SBNet', 'resnet38d', 'seam.classifier.weight',
                              'Use them with SBNet, backbone ResNet38d, and ' + _NORMALIZE),
    'seam_resnet38d': _model('SBNet', 'resnet38d', 'seam.classifier.weight',
                             'Use them as model.pretrained of SBNet, backbone ResNet38d, which has a boundary branch '
                             'besides, and ' + _NORMALIZE, without='boundary'),
    'affinitynet_resnet38d': _model('AffinityNet', 'resnet38d', None,
                                    'Use them with AffinityNet, backbone ResNet38d, and ' + _NORMALIZE),
    **{f'{method}_{backbone}': _deeplabv3p(f'{backbone}_deepstem', f'configs/{method}', opts, **settings)
       for backbone in ('resnet50', 'resnet101') for method, opts, settings in (
           ('u2pl', [], {'low_channels': 256, 'head_kernel': 3, 'conv_bias': True, 'dropout': 0.1}),
           ('imas', [], {}),  # AugSeg's too
           ('unimatch', ['model.backbone.ceil_mode=False'], {}),
           ('cps', ['model.backbone.ceil_mode=False', 'model.aspp_slope=0.01'], {}))},
    **{f'unimatch_v2_{size}': _dpt(size) for size in ('small', 'base', 'large', 'giant')},
    **{f'dinov2_{size}': _backbone(f'DINOv2_{size}') for size in ('small', 'base', 'large', 'giant')},
    **{f'dinov2_{size}_reg4': _backbone(f'DINOv2_{size}', registers=4) for size in ('small', 'base', 'large', 'giant')},
    **{f'efficientnet_lite{k}': _backbone(f'EfficientNetLite{k}') for k in (0, 1, 2)},
    'resnet38d': _backbone('ResNet38d'),
    'resnet101_caffe': _backbone('ResNet101_caffe'),
    'resnet50_deepstem': _backbone('ResNet50_deepstem'),
    'resnet101_deepstem': _backbone('ResNet101_deepstem'),
    'resnet18': _backbone('ResNet18_plain'),
    'resnet50': _backbone('ResNet50_plain'),
    'resnet101': _backbone('ResNet101_plain'),
    'wide_resnet50_2': _backbone('WideResNet50_plain'),
    'vgg16': _backbone('VGG16', ' or VGG16_LargeFOV'),
}

parser = Parser(__doc__)
parser.add_argument('--arch', required=True, choices=sorted(ARCHITECTURES), help='the network')
parser.add_argument('--model_path', required=True, help='the .pth, .safetensors, .pdparams or .params file')
parser.add_argument('--save_path', required=True, help='the .pdparams file to write')
parser.add_argument('--net', choices=['student', 'teacher'], help='of a file with both. Default: the teacher')


def main(args):
    import paddle

    from paddleseg_semi.errors import InputError
    from paddleseg_semi.files import replacing
    from paddleseg_semi.models import weight_files
    from paddleseg_semi.models.weights import assign, find

    arch = ARCHITECTURES[args.arch]
    with paddle.LazyGuard():  # names alone
        names = arch.build(2)
    state = find(names, weight_files.read(args.model_path), args.model_path, args.net)
    classifier = state.get(arch.classifier)
    if arch.classifier and (classifier is None or classifier.ndim != 4 or not classifier.size):
        raise InputError(f'{args.model_path}: has no classifier ({arch.classifier} in our names), so it is not of '
                         f'{args.arch}.')
    classes = len(classifier) if arch.classifier else None
    net = arch.build(classes, any(name.startswith('aux.') for name in state))
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
