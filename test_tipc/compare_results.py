"""Scores predicted masks and compares the figures with stored ones, of the precision in the folder's name."""

import glob
import os
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
sys.path[:0] = [ROOT, os.path.join(ROOT, 'tools')]

from cli import Parser, run

parser = Parser(__doc__)
parser.add_argument('--metric_file', required=True, help='stored figures, or a pattern; fp32, fp16 or int8 in the name')
parser.add_argument('--predict_dir', required=True, help='masks of deploy/python/infer.py: a folder or a pattern')
parser.add_argument('--gt_dir', required=True, help='true masks: a folder, or a list "image mask"')
parser.add_argument('--num_classes', type=int, help='default: as many as the stored file has')
parser.add_argument('--atol', type=float, default=1e-3, help='absolute tolerance')
parser.add_argument('--rtol', type=float, default=1e-3, help='relative tolerance')
parser.add_argument('--write', action='store_true', help='store the figures of one folder in --metric_file instead')

PRECISIONS = ('fp32', 'fp16', 'int8')


def main(args):
    from paddleseg_semi.errors import InputError
    folders = sorted(glob.glob(args.predict_dir))
    if args.num_classes is not None and args.num_classes < 1:
        raise InputError(f'--num_classes {args.num_classes}: give a whole number of at least 1.')
    truth = true_masks(args.gt_dir)
    if not folders:
        raise InputError(f'--predict_dir {args.predict_dir}: no such folder. Run the inference first.')
    if args.write:
        if len(folders) > 1 or not args.num_classes:
            raise InputError('--write: give one --predict_dir, and --num_classes.')
        with open(args.metric_file, 'w', encoding='utf-8') as file:
            file.writelines(f'{key}: {value}\n' for key, value in score(folders[0], truth, args.num_classes).items())
        print(f'Written: {args.metric_file}')
        return 0
    stored = {precision: path for path in glob.glob(args.metric_file) for precision in PRECISIONS
              if precision in os.path.basename(path)}
    different = 0
    for folder in folders:
        precision = next((p for p in PRECISIONS if p in os.path.basename(folder)), None)
        if precision not in stored:
            raise InputError(f'--metric_file {args.metric_file}: no figures of {precision}, for {folder}.')
        wanted, num_classes = read(stored[precision])
        found = score(folder, truth, args.num_classes or num_classes)
        wrong = [f'{key} is {found[key]} and not {value}' for key, value in wanted.items()
                 if not abs(found[key] - value) <= args.atol + args.rtol * abs(value)]
        different += bool(wrong)
        print(f'Assert allclose {"failed" if wrong else "passed"}! The results of {folder} and {stored[precision]} are '
              f'{"in" * bool(wrong)}consistent!{" " * bool(wrong)}{"; ".join(wrong)}')
    return int(different > 0)


def true_masks(path):
    """{name without extension: file} of a folder's PNGs, or of the second words of a list's lines."""
    from paddleseg_semi.errors import InputError
    if os.path.isdir(path):
        files = glob.glob(os.path.join(path, '**', '*.png'), recursive=True)
    elif os.path.isfile(path):
        with open(path, encoding='utf-8') as file:
            lines = [line.split() for line in file if line.strip()]
        if any(len(line) != 2 for line in lines):
            raise InputError(f'--gt_dir {path}: a line is no "image mask".')
        files = [os.path.join(os.path.dirname(path), mask) for _, mask in lines]
    else:
        raise InputError(f'--gt_dir {path}: no such folder or list.')
    return {_stem(file): file for file in files}


def read(path):
    """Stored figures and the number of their classes; InputError where a file has none."""
    from paddleseg_semi.errors import InputError
    try:
        with open(path, encoding='utf-8') as lines:
            stored = dict(line.strip().split(': ', 1) for line in lines if line.strip())
        figures = {key: float(value) for key, value in stored.items() if not key.startswith('Class')}
        return figures, len(stored['Class IoU'].strip('[]').split())
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f'--metric_file {path}: holds no figures as --write stores them ({error}).') from None


def score(folder, truth, num_classes):
    """Figures of all predictions in a folder, under the names of PaddleSeg's stored files.

    Raises:
        InputError: a prediction without a true mask, or none at all.
    """
    import numpy as np
    import paddle
    from PIL import Image

    from paddleseg_semi.core.metrics import confusion_matrix, scores
    from paddleseg_semi.errors import InputError
    files = glob.glob(os.path.join(folder, '**', '*.png'), recursive=True)
    matrix = np.zeros([num_classes, num_classes], 'int64')
    for file in files:
        if _stem(file) not in truth:
            raise InputError(f'{file}: --gt_dir has no mask {_stem(file)}.png.')
        pred, label = (paddle.to_tensor(np.array(Image.open(path)).astype('int64'))
                       for path in (file, truth[_stem(file)]))
        matrix += confusion_matrix(pred, label, num_classes).numpy()
    if not files:
        raise InputError(f'{folder}: no mask in it.')
    found = scores(matrix)
    with np.printoptions(linewidth=10**6):
        return {'#Images': len(files), 'mIoU': float(found.miou), 'Acc': found.acc, 'Kappa': found.kappa,
                'Class IoU': str(found.class_iou), 'Class Acc': str(found.class_precision)}


def _stem(path):
    return os.path.splitext(os.path.basename(path))[0]


if __name__ == '__main__':
    run(main, parser)
