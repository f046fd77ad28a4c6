"""Makes an int8 model of an exported segmenter: of a model.onnx, or of the model.pdmodel of an export with --old_ir."""

from cli import Parser, add_cpu_flags, run

parser = Parser(__doc__)
parser.add_argument('--config', required=True, help='deploy.yaml, as tools/export_onnx.py or export.py writes it')
parser.add_argument('--image_path', required=True,
                    help='photos such as the model will see, best those it was trained on: a folder or a text list')
parser.add_argument('--num_images', type=int, default=32, help='how many of them, evenly spread')
parser.add_argument('--save_dir', default='./output/int8_model', help='where the model and its deploy.yaml go')
add_cpu_flags(parser)

_LOW = 0.95  # share of equal pixels


def main(args):
    from paddleseg.utils import logger

    from paddleseg_semi.core.common import list_images
    from paddleseg_semi.deploy.quantize import quantize
    from paddleseg_semi.errors import InputError
    from paddleseg_semi.runtime import tune_cpu
    if args.num_images < 1:
        raise InputError(f'--num_images {args.num_images}: give a whole number of at least 1.')
    tune_cpu(args.cpu_threads, not args.no_cpu_tuning)
    photos = [path for path, _ in list_images(args.image_path)]
    count = min(args.num_images, len(photos))
    photos = [photos[i * len(photos) // count] for i in range(count)]
    found = quantize(args.config, args.save_dir, photos, args.cpu_threads or 1)
    logger.info(f'Compared with the model in float32 on these {len(photos)} photos: {found}')
    if found.equal < _LOW:
        logger.warning('That is a lot of difference. Measure the int8 model on validation images before it is used; '
                       'more photos, or more varied ones, may help.')
    logger.info(f'Written: {args.save_dir}')


if __name__ == '__main__':
    run(main, parser)
