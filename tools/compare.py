"""Results of several models side by side: a picture (photo, truth, one column per model) and a table of IoU."""

import os

from cli import Parser, run

parser = Parser(__doc__)
parser.add_argument('--config', required=True, help='recipe whose val_dataset the results belong to')
parser.add_argument('--results', required=True, nargs='+', metavar='FOLDER',
                    help='a folder of results of deploy/python/infer.py for each model, called like the model')
parser.add_argument('--save_dir', default='./output/compare', help='gets compare.png and compare.md')
parser.add_argument('--rows', type=int, default=4, help='photos in the picture, evenly spaced over the data set')


def main(args):
    import numpy as np
    import paddle
    from paddleseg.utils import logger

    from paddleseg_semi.core import pictures
    from paddleseg_semi.core.common import make_folder
    from paddleseg_semi.core.metrics import confusion_matrix, scores
    from paddleseg_semi.core.report import markdown
    from paddleseg_semi.cvlibs import SemiBuilder, SemiConfig
    from paddleseg_semi.errors import InputError

    config = SemiConfig(args.config)
    if not config.val_dataset_cfg:
        raise InputError(f'{args.config}: has no val_dataset, whose masks results are compared with.')
    dataset = SemiBuilder(config).val_dataset
    names = [os.path.basename(os.path.normpath(folder)) for folder in args.results]
    shown = set(np.linspace(0, len(dataset.file_list) - 1, max(args.rows, 1)).astype(int))
    counts, rows, seen, classes = [0] * len(names), [], set(), config.classes(dataset.num_classes)
    for position, (photo, mask) in enumerate(dataset.file_list):
        name = os.path.splitext(os.path.relpath(photo, dataset.dataset_root))[0] + '.png'
        files = [mask, *(os.path.join(folder, name) for folder in args.results)]
        images = [_open(file) for file in files]
        masks = [np.array(image) for image in images]
        for file, pred in zip(files[1:], masks[1:]):
            if pred.shape != masks[0].shape or pred.max() >= dataset.num_classes:
                raise InputError(f'{file}: is {list(pred.shape)} with values to {pred.max()}, but {mask} is '
                                 f'{list(masks[0].shape)} and has {dataset.num_classes} classes. Give masks of '
                                 'class ids.')
        truth, *preds = (paddle.to_tensor(mask, 'int64') for mask in masks)
        counts = [count + confusion_matrix(pred, truth, dataset.num_classes, dataset.ignore_index)
                  for count, pred in zip(counts, preds)]
        if position in shown:
            pixels = np.array(_open(photo).convert('RGB'))
            rows.append([pixels, *(pictures.over(pixels, mask, classes) for mask in masks)])
            seen.update(*(np.unique(mask).tolist() for mask in masks))

    figures = [scores(count.numpy()) for count in counts]
    table = [[f'IoU of {name}', *(f'{f.class_iou[k]:.4f}' for f in figures)]
              for k, name in enumerate(classes.names)]
    table += [['mIoU', *(f'{figure.miou:.4f}' for figure in figures)]]
    text = '\n'.join(markdown(['', *names], table))
    make_folder(args.save_dir)
    with open(os.path.join(args.save_dir, 'compare.md'), 'w', encoding='utf-8') as file:
        file.write(text + '\n')
    picture = pictures.sheet([(['photo', 'truth', *names], rows)], rows[0][0].shape[1::-1], classes, seen)
    pictures.save(picture, os.path.join(args.save_dir, 'compare.png'))
    print(text)
    for name, figure in zip(names[1:], figures[1:]):
        gain = figure.miou - figures[0].miou
        print(f'{name}: {gain:+.4f} mIoU against {names[0]}, one run each, {len(dataset.file_list)} images. '
              + ('Higher, by one run.' if gain > 0 else 'It did NOT help.'))
    for file in ('compare.png', 'compare.md'):
        logger.info(f'Written: {os.path.join(args.save_dir, file)}')


def _open(path):
    from PIL import Image

    from paddleseg_semi.errors import InputError
    try:
        image = Image.open(path)
        image.load()
        return image
    except Exception as error:  # a damaged file can raise almost anything
        raise InputError(f'{path}: cannot be read as an image ({getattr(error, "strerror", None) or "damaged"}).') \
            from None


if __name__ == '__main__':
    run(main, parser)
