"""Draws which images of a data set keep their masks, and writes the split as text lists."""

from cli import Parser, run

parser = Parser('Draw a labeled/unlabeled split; train with it by --split_ids <save_dir>.')
parser.add_argument('--config', help='recipe whose train_dataset is split')
parser.add_argument('--dataset_root', help='without --config: the folder the list is relative to')
parser.add_argument('--train_path', help='without --config: the list, "image label" per line')
parser.add_argument('--separator', default=' ', help='without --config: between image and label (default: a blank)')
parser.add_argument('--num_classes', type=int, help='without --config, for --stratified')
size = parser.add_mutually_exclusive_group(required=True)
size.add_argument('--label_ratio', help='labeled part, above 0 and below 1')
size.add_argument('--num_labeled', type=int, help='labeled images')
parser.add_argument('--seed', type=int, default=0, help='another seed, another split')
parser.add_argument('--stratified', action='store_true',
                    help='choose so that every class is labeled when possible, rare ones first (opens all masks)')
parser.add_argument('--save_dir', default='split', help='where to write labeled.txt, unlabeled.txt and split.yml')
parser.add_argument('--opts', nargs='+', help='changes to the recipe, key=value')


def main(args):
    from paddleseg_semi.core.common import make_folder
    from paddleseg_semi.datasets import checks
    from paddleseg_semi.datasets.split import Split, check_ratio, labeled_count
    base = dataset(args)
    if args.num_labeled is None and not args.stratified:
        split = Split.draw(base, args.label_ratio, args.seed)
    else:
        ratio = None if args.label_ratio is None else check_ratio(args.label_ratio)
        count = args.num_labeled if ratio is None else labeled_count(len(base.file_list), ratio)
        presence = checks.class_presence(base) if args.stratified else None
        split = Split.draw_count(base, count, args.seed, presence, ratio)
        if args.stratified:
            report(presence, split.labeled)
    make_folder(args.save_dir)
    split.write(args.save_dir, base)
    print(f'{args.save_dir}: labeled.txt ({len(split.labeled)} images), unlabeled.txt ({len(split.unlabeled)}), '
          'split.yml')


def dataset(args):
    """The training set of the recipe, or of the list."""
    from paddleseg.datasets import Dataset

    from paddleseg_semi.cvlibs import SemiBuilder, SemiConfig
    from paddleseg_semi.datasets import checks
    from paddleseg_semi.errors import InputError
    if args.config:
        return SemiBuilder(SemiConfig(args.config, opts=args.opts)).train_dataset
    if not args.dataset_root or not args.train_path:
        raise InputError('Give --config, or both --dataset_root and --train_path.')
    if args.stratified and (args.num_classes or 0) < 1:
        raise InputError('--stratified without --config needs --num_classes of at least 1.')
    section = {'mode': 'train', 'dataset_root': args.dataset_root, 'train_path': args.train_path,
               'separator': args.separator.replace('\\t', '\t')}
    checks.list_files({'type': 'Dataset', **section})
    return Dataset(transforms=[], num_classes=args.num_classes if args.stratified else 1, **section)


def report(presence, labeled):
    """Images per class, in all and in the labeled part."""
    print('class    images   labeled')
    for c, (total, drawn) in enumerate(zip(presence.sum(0), presence[labeled].sum(0))):
        print(f'{c:5d} {total:9d} {drawn:9d}')


if __name__ == '__main__':
    run(main, parser)
