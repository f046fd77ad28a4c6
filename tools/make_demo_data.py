"""Renders a small segmentation data set: scattered shapes on clutter. No network, seconds, same bytes for one seed."""

import os
import sys

from cli import Parser, run

parser = Parser('Make the demo data set: 5 shape classes and background, with lists that PaddleSeg reads.')
parser.add_argument('--save_dir', default='data/demo', help='where to')
parser.add_argument('--num_train', type=int, default=240, help='training images')
parser.add_argument('--num_val', type=int, default=80, help='validation images')
parser.add_argument('--size', type=int, nargs=2, default=[160, 128], metavar=('W', 'H'), help='pixels')
parser.add_argument('--seed', type=int, default=0, help='another seed, another data set')


def main(args):
    import numpy as np

    from paddleseg_semi.core.common import make_folder
    from paddleseg_semi.datasets.demo import CLASSES, scene
    from paddleseg_semi.errors import InputError
    for name, value, least in (('num_train', args.num_train, 1), ('num_val', args.num_val, 1),
                               ('size', min(args.size), 32), ('seed', args.seed, 0)):
        if value < least:
            raise InputError(f'--{name} {value}: give at least {least}.')
    for name in ('images', 'labels'):
        make_folder(os.path.join(args.save_dir, name))
    tags = []
    for part, (name, count) in enumerate((('train', args.num_train), ('val', args.num_val))):
        pairs = []
        for i in range(count):
            image, mask = scene(np.random.default_rng((args.seed, part, i)), *args.size)
            pairs.append((f'images/{name}_{i:05d}.jpg', f'labels/{name}_{i:05d}.png'))
            save(args.save_dir, *pairs[-1], image, mask)
            tags.append(' '.join([pairs[-1][0], *(str(c) for c in np.unique(mask) if c)]))
            if sys.stderr.isatty() and (i + 1) % 20 == 0:
                print(f'\r{name}: {i + 1}/{count}', end='', file=sys.stderr)
        write_lines(args.save_dir, f'{name}.txt', map(' '.join, pairs))
    write_lines(args.save_dir, 'tags.txt', tags)
    write_lines(args.save_dir, 'classes.txt', CLASSES)
    print(f'{args.save_dir}: train.txt ({args.num_train} images), val.txt ({args.num_val}), tags.txt, classes.txt')


def save(folder, image_name, mask_name, image, mask):
    import cv2
    from PIL import Image

    from paddleseg_semi.core.common import save_bytes
    from paddleseg_semi.datasets.demo import PALETTE
    save_bytes(cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1], os.path.join(folder, image_name))
    label = Image.fromarray(mask, 'P')
    label.putpalette(sum(PALETTE, ()))
    label.save(os.path.join(folder, mask_name))


def write_lines(folder, name, lines):
    with open(os.path.join(folder, name), 'w') as file:
        file.writelines(f'{line}\n' for line in lines)


if __name__ == '__main__':
    run(main, parser)
