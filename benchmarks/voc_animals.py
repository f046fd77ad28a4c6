"""Lays out data/voc_animals for the study: a folder with the photos, and the lists that are drawn from theirs.

    python benchmarks/voc_animals.py --source <folder> --save_dir data/voc_animals

The source holds images/, labels/, train.txt, extra.txt, val.txt and splits/classic_<n>.txt; its photos are linked,
not copied. Written are all.txt, which is train.txt and extra.txt, the one training list; and below `lists`:

- <masks>_seed<n>/labeled.txt: which of them keep their masks. Seed 0 has the published lists, 1 and 2 draw as many,
  stratified, from train.txt. 437 is train.txt itself;
- tuning.txt: 60 photos of train.txt that are in no list but the last; tuning_31/ is seed 0's 31 without these among the
  unlabeled.
"""

import os
import subprocess
import sys
import tempfile

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
sys.path.insert(0, os.path.join(ROOT, 'tools'))
from cli import Parser, run

parser = Parser('Lay out the data of the study on PASCAL VOC animals.')
parser.add_argument('--source', required=True, help='folder with images, labels and lists')
parser.add_argument('--save_dir', default='data/voc_animals', help='where the links and lists go')

PUBLISHED = {31: 92, 65: 183, 104: 366, 222: 732}   # masks whose photos are here → masks of the published list
DRAWN = {31: (1, 2), 104: (1, 2)}                   # masks → seeds
TUNING = 60


def main(args):
    from paddleseg_semi.errors import InputError
    source, out = os.path.abspath(args.source), args.save_dir
    if not os.path.isfile(os.path.join(source, 'train.txt')):
        raise InputError(f'--source {args.source}: has no train.txt.')
    os.makedirs(out, exist_ok=True)
    for name in ('images', 'labels', 'val.txt'):
        if not os.path.lexists(os.path.join(out, name)):
            os.symlink(os.path.join(source, name), os.path.join(out, name))
    train, extra = (read(os.path.join(source, f'{name}.txt')) for name in ('train', 'extra'))
    published = {masks: read(os.path.join(source, f'splits/classic_{n}.txt')) for masks, n in PUBLISHED.items()}

    write(out, 'all.txt', [*train, *extra])
    for masks, lines in published.items():
        write(out, f'lists/{masks}_seed0/labeled.txt', lines)
    write(out, 'lists/437_seed0/labeled.txt', train)
    tuning = aside(train, published.values())
    pool = [line for line in train if line not in tuning]
    write(out, 'lists/tuning.txt', tuning)
    write(out, 'lists/tuning_31/labeled.txt', published[31])
    write(out, 'lists/tuning_31/unlabeled.txt',
          [line.split()[0] for line in [*train, *extra] if line not in {*tuning, *published[31]}])
    for masks, seeds in DRAWN.items():
        for seed in seeds:
            write(out, f'lists/{masks}_seed{seed}/labeled.txt', draw(source, pool, masks, seed))
    print(f'{out}: {len(train) + len(extra)} photos, {len(tuning)} of them for tuning')


def aside(train, lists):
    """The photos for tuning: every k-th of those that are in no list."""
    taken = {line for lines in lists for line in lines}
    free = [line for line in train if line not in taken]
    return [free[i * len(free) // TUNING] for i in range(TUNING)]


def draw(source, pool, masks, seed):
    """What tools/split_dataset.py draws from some lines of a list."""
    with tempfile.TemporaryDirectory() as folder:
        write(folder, 'pool.txt', pool)
        subprocess.run([sys.executable, os.path.join(ROOT, 'tools/split_dataset.py'), '--dataset_root', source,
                        '--train_path', os.path.join(folder, 'pool.txt'), '--num_classes', '7', '--stratified',
                        '--num_labeled', str(masks), '--seed', str(seed), '--save_dir', folder],
                       check=True, capture_output=True)
        return read(os.path.join(folder, 'labeled.txt'))


def read(path):
    with open(path, encoding='utf-8') as file:
        return file.read().splitlines()


def write(folder, name, lines):
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w', encoding='utf-8') as file:
        file.writelines(f'{line}\n' for line in lines)


if __name__ == '__main__':
    run(main, parser)
