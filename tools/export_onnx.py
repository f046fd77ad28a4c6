"""Converts an exported segmenter to ONNX, for deploy/python/infer_onnx.py or any other ONNX runtime."""

from cli import Parser, add_cpu_flags, run

parser = Parser(__doc__)
parser.add_argument('--config', required=True, help='deploy.yaml, as tools/export.py writes it')
parser.add_argument('--save_dir', default='./output/onnx_model', help='where model.onnx and its deploy.yaml go')
parser.add_argument('--opset_version', type=int, default=17, help='version of the ONNX operators, 11 to 19')
parser.add_argument('--image_path', help='photos to compare both models on: an image, a folder or a text list '
                    '(default: patches of color)')
add_cpu_flags(parser)


def main(args):
    from paddleseg.utils import logger

    from paddleseg_semi.core.common import list_images
    from paddleseg_semi.deploy.convert import to_onnx
    from paddleseg_semi.runtime import tune_cpu
    tune_cpu(args.cpu_threads, not args.no_cpu_tuning)
    photos = [path for path, _ in list_images(args.image_path)] if args.image_path else []
    found = to_onnx(args.config, args.save_dir, args.opset_version, photos, args.cpu_threads or 1)
    logger.info(f'Compared with Paddle Inference: {found}')
    logger.info(f'Written: {args.save_dir}')


if __name__ == '__main__':
    run(main, parser)
