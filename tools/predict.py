"""Predicts images: the classes over the photo, and as palette PNG whose pixel values are the classes."""

import os

from cli import Parser, add_network_flags, add_test_flags, build_network, run, testing_of

parser = Parser(__doc__)
add_network_flags(parser)
parser.add_argument('--image_path', required=True, help='an image, a folder, or a text list of images')
parser.add_argument('--save_dir', default='./output/result', help='where the results go')
parser.add_argument('--device_id', type=int, default=0, help='which GPU')
add_test_flags(parser, 'aug_pred')
parser.add_argument('--custom_color', nargs='+', type=int, help='R G B of class 0, R G B of class 1, …')


def main(args):
    if args.device_id:  # before Paddle looks at the cards
        visible = os.environ.get('CUDA_VISIBLE_DEVICES', '').split(',')
        os.environ['CUDA_VISIBLE_DEVICES'] = visible[args.device_id] if args.device_id < len(visible) else \
            str(args.device_id)
    from paddleseg.transforms import Compose
    from paddleseg.utils import logger

    from paddleseg_semi.core.common import check_class_count, list_images, make_folder
    from paddleseg_semi.core.predict import predict
    from paddleseg_semi.errors import InputError
    color = args.custom_color
    if color and (len(color) % 3 or len(color) > 768 or not all(0 <= value <= 255 for value in color)):
        raise InputError(f'--custom_color {" ".join(map(str, color))}: give three numbers of 0 to 255 per class, of at '
                         'most 256 classes.')
    images = list_images(args.image_path)
    config, builder, model = build_network(args)
    testing = testing_of(args, config, 'aug_pred')
    classes = config.classes(config.num_classes)
    if color:
        classes = classes._replace(colors=[*color, *classes.colors[len(color):]])
    check_class_count(len(classes.names))
    make_folder(args.save_dir)
    transforms = Compose(builder.val_transforms, img_channels=config.val_dataset_cfg.get('img_channels', 3))
    for folder in predict(model, transforms, images, args.save_dir, classes, testing):
        logger.info(f'Written: {folder}')


if __name__ == '__main__':
    run(main, parser)
