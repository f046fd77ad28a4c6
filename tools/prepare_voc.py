"""Prepares PASCAL VOC 2012 with the SBD masks ("trainaug"): 10582 training images, none twice, none of them in val."""

import os

from cli import Parser, run

TRAIN, VAL, TRAIN_AUG = 1464, 1449, 10582
DOWNLOAD = '''
 1. VOCtrainval_11-May-2012.tar (2 GB) from http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ ; unpack it so that
    {root}/VOC2012/JPEGImages exists.
 2. The masks of SBD, in one of two forms:
    a) a folder SegmentationClassAug of 12031 (or 10582) PNG masks, as many segmentation projects share it; move it to
       {root}/VOC2012/SegmentationClassAug ; or
    b) benchmark.tgz (1.4 GB), http://home.bharathh.info/pubs/codes/SBD/download.html ; unpack it anywhere and add
       --sbd_dir <folder>/benchmark_RELEASE/dataset
Then start this tool again.'''

parser = Parser('Make the lists (and, from SBD, the masks) of VOC 2012 trainaug.')
parser.add_argument('--voc_dir', default='data/VOCdevkit', help='folder that holds VOC2012')
parser.add_argument('--sbd_dir', help="SBD's folder that holds cls/*.mat; only for masks that are missing")


def main(args):
    from paddleseg_semi.core.common import make_folder
    from paddleseg_semi.errors import InputError
    voc = os.path.join(args.voc_dir, 'VOC2012')
    sets, aug = os.path.join(voc, 'ImageSets', 'Segmentation'), os.path.join(voc, 'SegmentationClassAug')
    for path in (os.path.join(voc, 'JPEGImages'), os.path.join(voc, 'SegmentationClass'), sets):
        if not os.path.isdir(path):
            print(DOWNLOAD.format(root=args.voc_dir))
            raise InputError(f'{path}: no such folder. Follow the steps above, or set --voc_dir.')
    train, val = (names(os.path.join(sets, f'{part}.txt')) for part in ('train', 'val'))
    if args.sbd_dir:
        convert(args.sbd_dir, aug, skip={*train, *val})
    masks = stems(aug, '.png') if os.path.isdir(aug) else set()
    if not masks:
        print(DOWNLOAD.format(root=args.voc_dir))
        raise InputError(f'{aug}: no masks there. Follow the steps above.')
    extra = sorted(masks - {*train, *val})
    check(train, val, extra, stems(os.path.join(voc, 'JPEGImages'), '.jpg'))
    for folder in (sets, args.voc_dir):
        make_folder(folder, '--voc_dir')
    folders = [('SegmentationClass', train), ('SegmentationClassAug', extra)]
    write(os.path.join(sets, 'aug.txt'), extra)
    pairs = [f'VOC2012/JPEGImages/{name}.jpg VOC2012/{folder}/{name}.png' for folder, part in folders for name in part]
    write(os.path.join(args.voc_dir, 'train_aug.txt'), pairs)
    write(os.path.join(args.voc_dir, 'val.txt'),
          [f'VOC2012/JPEGImages/{name}.jpg VOC2012/SegmentationClass/{name}.png' for name in val])


def check(train, val, extra, images):
    """The counts that papers state, or an InputError that says what is off."""
    from paddleseg_semi.errors import InputError
    for part, found, wanted in (('train.txt', train, TRAIN), ('val.txt', val, VAL)):
        if len(found) != wanted or len(set(found)) != wanted:
            raise InputError(f'ImageSets/Segmentation/{part}: {len(set(found))} different names in {len(found)} lines, '
                             f'expected {wanted}. Take it anew from VOCtrainval_11-May-2012.tar.')
    both = set(train) & set(val)
    if both:
        raise InputError(f'{min(both)} is in train.txt and in val.txt. Take both anew from '
                         'VOCtrainval_11-May-2012.tar.')
    if len(train) + len(extra) != TRAIN_AUG:
        raise InputError(f'{len(train)} images of train.txt and {len(extra)} others with masks are '
                         f'{len(train) + len(extra)}, expected {TRAIN_AUG}. Is SegmentationClassAug complete, and '
                         'without masks of other images?')
    without = sorted({*train, *extra, *val} - images)
    if without:
        raise InputError(f'JPEGImages/{without[0]}.jpg: no such file ({len(without)} images missing). Unpack '
                         'VOCtrainval_11-May-2012.tar again.')


def convert(sbd_dir, folder, skip):
    """SBD's .mat files → PNG masks; existing ones and the names in `skip` are left alone."""
    from PIL import Image
    from scipy.io import loadmat

    from paddleseg_semi import files
    from paddleseg_semi.core.common import make_folder
    from paddleseg_semi.errors import InputError
    source = os.path.join(sbd_dir, 'cls')
    if not os.path.isdir(source):
        raise InputError(f'--sbd_dir {sbd_dir}: has no folder cls. Give .../benchmark_RELEASE/dataset.')
    make_folder(folder, '--voc_dir')
    todo = sorted(stems(source, '.mat') - skip - stems(folder, '.png'))
    for number, name in enumerate(todo, 1):
        try:
            mask = loadmat(os.path.join(source, f'{name}.mat'))['GTcls']['Segmentation'][0, 0]
        except Exception as error:  # a damaged file can raise almost anything
            raise InputError(f'{source}/{name}.mat: holds no mask ({type(error).__name__}: {error}). Unpack SBD '
                             'again.') from None
        path = os.path.join(folder, f'{name}.png')
        with files.replacing(path, durable=False) as part:
            Image.fromarray(mask.astype('uint8')).save(part, 'PNG')
        if number % 500 == 0 or number == len(todo):
            print(f'masks from SBD: {number}/{len(todo)}')


def names(path):
    from paddleseg_semi.datasets import lists
    return [line for _, line in lists.lines(path)]


def stems(folder, suffix):
    return {name[:-len(suffix)] for name in os.listdir(folder) if name.endswith(suffix)}


def write(path, lines):
    from paddleseg_semi import files
    files.write(path, ''.join(f'{line}\n' for line in lines))
    print(f'{path}: {len(lines)} lines')


if __name__ == '__main__':
    run(main, parser)
