"""Finds the photos and masks of a folder that belong together, and writes the lists a recipe needs."""

import os

from cli import Parser, run

parser = Parser('Write train.txt (and val.txt) of the photos that have masks; the others are unlabeled.')
parser.add_argument('--images', required=True, help='folder of photos, searched with all below it')
parser.add_argument('--masks', required=True, help='folder of masks, called like their photos')
parser.add_argument('--save_dir', required=True, help='where the lists go')
parser.add_argument('--dataset_root', default=None, help='folder that holds both, to which paths are relative (found)')
parser.add_argument('--val_ratio', type=float, default=0., help='share of the photos with masks for val.txt, 0 to 0.5; '
                    'without, training itself holds out every fifth when it evaluates')


def main(args):
    from paddleseg_semi.datasets import lists
    from paddleseg_semi.errors import InputError
    if not 0 <= args.val_ratio <= 0.5:
        raise InputError(f'--val_ratio {args.val_ratio}: give a number of 0 to 0.5.')
    for flag in ('images', 'masks'):
        if not os.path.isdir(getattr(args, flag)):
            raise InputError(f'--{flag} {getattr(args, flag)}: no such folder.')
    images, masks = (paths(folder) for folder in (args.images, args.masks))
    if os.path.commonpath([os.path.abspath(args.masks), os.path.abspath(args.images)]) == os.path.abspath(args.images):
        images = {name: path for name, path in images.items() if path not in masks.values()}
    root = args.dataset_root or os.path.commonpath([os.path.abspath(args.images), os.path.abspath(args.masks)])
    both = sorted(images.keys() & masks.keys())
    if not both:
        raise InputError(f'--masks {args.masks}: no mask is called like a photo of {args.images} (photos begin with '
                         f'{min(images, default="none")}, masks with {min(masks, default="none")}). Rename them.')
    step = round(1 / args.val_ratio) if args.val_ratio else 0
    val = both[step - 1::step] if step else []
    written = {'train.txt': [name for name in both if name not in {*val}], 'val.txt': val}
    pairs = {name: [[relative(images[name], root), relative(masks[name], root)] for name in names]
             for name, names in written.items()}
    blanks = any(' ' in path for rows in pairs.values() for row in rows for path in row)
    for name, rows in pairs.items():
        if rows:
            lists.write(os.path.join(args.save_dir, name), [('\t' if blanks else ' ').join(row) + '\n' for row in rows])
    raw = [images[name] for name in sorted(images.keys() - masks.keys())]
    if raw:
        lists.write(os.path.join(args.save_dir, 'unlabeled.txt'), [relative(path, root) + '\n' for path in raw])
    lost = sorted(masks.keys() - images.keys())
    print(f'{len(written["train.txt"])} photos with masks for training, {len(val)} for validation, {len(raw)} without')
    if lost:
        print(f'{len(lost)} masks have no photo, the first is {masks[lost[0]]}')
    print(recipe(args.save_dir, root, bool(val), bool(raw), blanks))


def paths(folder):
    """dict[str, str]: path below the folder without suffix → path, of its image files."""
    from paddleseg_semi.datasets import lists
    from paddleseg_semi.errors import InputError
    found = {}
    for path in lists.images_below(folder):
        name = os.path.splitext(os.path.relpath(path, folder))[0].replace(os.sep, '/')
        if found.setdefault(name, path) != path:
            raise InputError(f'{folder}: {found[name]} and {path} have one name. Rename one of them.')
    return found


def relative(path, root):
    return os.path.relpath(os.path.abspath(path), os.path.abspath(root)).replace(os.sep, '/')


def recipe(save_dir, root, has_val, has_raw, blanks):
    """str: the lines of a recipe that name the lists."""
    def section(key, mode):
        extra = ', separator: "\\t"' if blanks else ''
        return (f'{key}: {{dataset_root: {os.path.relpath(root)}, {mode}_path: '
                f'{os.path.join(save_dir, mode + ".txt")}{extra}}}')

    lines = [section('train_dataset', 'train'), section('val_dataset', 'val') if has_val else 'val_dataset: null']
    if has_raw:
        lines.append(f'semi: {{unlabeled: {os.path.join(save_dir, "unlabeled.txt")}}}')
    return 'For your recipe:\n' + '\n'.join(f'    {line}' for line in lines)


if __name__ == '__main__':
    run(main, parser)
