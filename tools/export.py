"""Writes a trained segmenter as a static model, with the deploy.yaml that deploy/python/infer.py reads."""

import os

from cli import Parser, add_network_flags, build_network, run, true_or_false

parser = Parser(__doc__)
add_network_flags(parser)
parser.add_argument('--save_dir', default='./output/inference_model', help='where the files go')
parser.add_argument('--export_net', metavar='NAME',
                    help="which network of the method, from the method.pdparams of a checkpoint: student, teacher, "
                    'model_2 … (default: the one the method deploys, model.pdparams)')
parser.add_argument('--input_shape', nargs='+', type=int, metavar='N C H W',
                    help='fixes the input; -1 is any size (default: any batch of any size)')
parser.add_argument('--output_op', default='argmax', choices=['argmax', 'softmax', 'none'],
                    help='what follows the logits')
parser.add_argument('--without_argmax', action='store_true', help='older spelling of --output_op none')
parser.add_argument('--with_softmax', action='store_true', help='older spelling of --output_op softmax')
parser.add_argument('--fuse_preprocess', action='store_true',
                    help='the model takes uint8 RGB images [N, H, W, 3] and normalizes them itself')
parser.add_argument('--old_ir', action='store_true',
                    help="Paddle 2's model.pdmodel instead of model.json, for the networks that Paddle 3 can write so")
parser.add_argument('--for_fd', action='store_true', help="FastDeploy's names: inference.*, inference.yml")
parser.add_argument('--verify', type=true_or_false, default=True,
                    help='run the exported model before it is kept, and compare it with the network')


def main(args):
    os.environ['PADDLESEG_EXPORT_STAGE'] = 'True'  # PaddleSeg then builds plain batch norm instead of SyncBatchNorm
    from paddleseg.utils import logger

    from paddleseg_semi.core.common import check_class_count
    from paddleseg_semi.core.export import export
    from paddleseg_semi.core.facts import about
    from paddleseg_semi.errors import InputError
    if args.export_net and not args.model_path:
        raise InputError(f'--export_net {args.export_net}: give --model_path too, the folder of a run or checkpoint.')
    config, builder, model = build_network(args, args.export_net)
    check_class_count(config.num_classes or 0)
    val, tested = config.val_dataset_cfg, config.test_config
    transforms = config.dic.get('export', {}).get('transforms', val.get('transforms', []))
    output_op = 'softmax' if args.with_softmax else 'none' if args.without_argmax else args.output_op
    channels = val.get('img_channels', 3)
    shape = args.input_shape or [-1, channels, -1, -1]
    if shape[1:2] != [channels]:
        raise InputError(f'--input_shape {" ".join(map(str, shape))}: give N C H W; the images of the recipe have '
                         f'{channels} channels.')
    divisor = tested.get('size_divisor')

    def check(path):
        normalize = args.fuse_preprocess and builder.build_component(
            next(cfg for cfg in reversed(transforms) if cfg['type'] == 'Normalize'))
        verify(path, args, model, photo(builder), normalize, divisor)

    for path in export(model, args.save_dir, transforms, shape, output_op, args.for_fd, args.old_ir,
                       args.fuse_preprocess, divisor, about(config, args.model_path, args.export_net),
                       check if args.verify else None):
        logger.info(f'Written: {path}')
    if tested.get('is_slide'):
        window = ' '.join(f'--{key} {tested[key][0]} {tested[key][1]}' for key in ('crop_size', 'stride'))
        window += ' --average_probs' if tested.get('average_probs') else ''
        logger.info(f'The recipe is tested with a sliding window: give --is_slide {window} to infer.py as well.')


def photo(builder):
    """The first photo of val_dataset, or where there is none yet, patches of color.

    Returns:
        tuple: name, and float32 [h, w, C] as OpenCV reads it, 0..255.
    """
    import cv2
    import numpy as np

    from paddleseg_semi import images
    from paddleseg_semi.errors import InputError
    channels = builder.config.val_dataset_cfg.get('img_channels', 3)
    try:
        path = builder.val_dataset.file_list[0][0]
        image = images.read(path, channels)[..., ::-1 if channels == 3 else slice(None)]
    except InputError:
        image = None
    if image is None or channels not in (1, 3):
        path, image = 'patches of color', cv2.resize(
            np.random.default_rng(0).integers(0, 256, (6, 8, channels)).astype('float32'), (320, 240))
    return path, image.astype('float32')


def verify(path, args, model, image, normalize, size_divisor):
    """Runs what was exported and compares it with the network.

    Args:
        path (str): the deploy.yaml.
        args (Namespace): the flags.
        model (nn.Layer): the network.
        image (tuple): from `photo`.
        normalize (Callable, optional): what was fused.
        size_divisor (int, optional): of the recipe's test_config.

    Raises:
        RunError: it says something else, or cannot be run.
    """
    from paddleseg.utils import logger

    from paddleseg_semi.core.verify import TOLERANCE, compare
    from paddleseg_semi.deploy.backends import PaddleBackend
    from paddleseg_semi.deploy.bundle import Bundle
    from paddleseg_semi.errors import RunError
    bundle = Bundle.read(path)
    prepared = bundle.transforms({'img': image[1]})['img'].transpose(1, 2, 0)

    def load():
        return PaddleBackend(bundle, args.device, args.cpu_threads or 1).run

    found = compare(model, load, prepared, bundle.input_shape, bundle.output_op, normalize, size_divisor)
    if not found.holds:
        raise RunError(f'{args.save_dir}: not written, because the exported model says something else than the '
                       f'network: {found}; allowed is {TOLERANCE:g} of the largest. --verify False writes it anyway.')
    logger.info(f'Verified with {image[0]}, images {" and ".join(map(str, found.shapes))}: {found}')


if __name__ == '__main__':
    run(main, parser)
