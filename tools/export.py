"""Writes a trained segmenter as a static model, with the deploy.yaml that deploy/python/infer.py reads."""

import os

from cli import Parser, add_network_flags, build_network, run

parser = Parser(__doc__)
add_network_flags(parser)
parser.add_argument('--save_dir', default='./output/inference_model', help='where the files go')
parser.add_argument('--input_shape', nargs='+', type=int, metavar='N C H W',
                    help='fixes the input; -1 is any size (default: any batch of any size)')
parser.add_argument('--output_op', default='argmax', choices=['argmax', 'softmax', 'none'],
                    help='what follows the logits')
parser.add_argument('--without_argmax', action='store_true', help='older spelling of --output_op none')
parser.add_argument('--with_softmax', action='store_true', help='older spelling of --output_op softmax')
parser.add_argument('--for_fd', action='store_true', help="FastDeploy's names: inference.*, inference.yml")


def main(args):
    os.environ['PADDLESEG_EXPORT_STAGE'] = 'True'  # PaddleSeg then builds plain batch norm instead of SyncBatchNorm
    from paddleseg.utils import logger

    from paddleseg_semi.core.export import export
    config, builder, model = build_network(args)
    val = config.val_dataset_cfg
    transforms = config.dic.get('export', {}).get('transforms', val.get('transforms', []))
    output_op = 'softmax' if args.with_softmax else 'none' if args.without_argmax else args.output_op
    shape = args.input_shape or [-1, val.get('img_channels', 3), -1, -1]
    for path in export(model, args.save_dir, transforms, shape, output_op, args.for_fd):
        logger.info(f'Written: {path}')


if __name__ == '__main__':
    run(main, parser)
