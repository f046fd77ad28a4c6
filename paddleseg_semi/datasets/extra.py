"""Lists of images and masks that are trained on beside the labeled images: pseudo labels on disk."""

import os

import paddle
from paddleseg.datasets import Dataset

from paddleseg_semi.datasets import checks, lists
from paddleseg_semi.errors import InputError


class ExtraLabeled(Dataset):
    """A list of 'image label', paths absolute or relative to the list's folder; a blank, a TAB or a comma in between.

    Args:
        path (str): the list.
        base (paddle.io.Dataset): the PaddleSeg data set whose classes it has.
        transforms (list): what its images and masks pass.

    Raises:
        InputError: no such list, an empty one, a line that is not 'image label'.
    """

    def __init__(self, path, base, transforms):
        first = next(lists.lines(path), (0, ''))[1]
        root = os.path.dirname(path) or '.'
        possible = [mark for mark in checks.SEPARATORS if checks.is_pair(first, mark)] or [' ']
        separator = next((mark for mark in possible if all(
            os.path.isfile(os.path.join(root, column)) for column in first.split(mark))), possible[0])
        checks.check_list_file(path, root, separator, key=None)
        super().__init__('train', root, transforms, base.num_classes, base.transforms.img_channels, path,
                         separator=separator, ignore_index=base.ignore_index, edge=getattr(base, 'edge', False))
        self.list_file = path


class Joined(paddle.io.Dataset):
    """PaddleSeg data sets one after the other; each keeps its transforms.

    Args:
        datasets (Sequence[paddle.io.Dataset]): at least one; the first says how many classes there are.
    """

    def __init__(self, datasets):
        super().__init__()
        self.num_classes, self.ignore_index = datasets[0].num_classes, datasets[0].ignore_index
        self.file_list = [item for dataset in datasets for item in dataset.file_list]
        self.places = [(dataset, i) for dataset in datasets for i in range(len(dataset.file_list))]

    def __len__(self):
        return len(self.places)

    def __getitem__(self, position):
        dataset, i = self.places[position]
        return dataset[i]


def read_list(path):
    """Reads what `write_list` wrote.

    Args:
        path (str): the list.

    Returns:
        list[tuple[str, str]]: image, and the file that goes with it.

    Raises:
        InputError: no such list, an empty one, a line of another form.
    """
    root, items = os.path.dirname(path) or '.', []
    for number, line in lists.lines(path):
        columns = line.split('\t' if '\t' in line else ' ')
        if len(columns) != 2:
            raise InputError(f'{path}:{number}: "{line}" has {len(columns)} columns, expected an image and its file.')
        items.append(tuple(os.path.join(root, column) for column in columns))
    if not items:
        raise InputError(f'{path}: the list is empty.')
    return items


def write_list(path, items, root):
    """Writes a list that `ExtraLabeled` reads, complete or not at all.

    Args:
        path (str): the list.
        items (list[tuple[str, str]]): image and mask.
        root (str): the folder masks are written relative to; images are written absolute.
    """
    items = [(os.path.abspath(image), lists.relative(mask, root)) for image, mask in items]
    separator = '\t' if any(' ' in name for item in items for name in item) else ' '
    lists.write(path, (separator.join(item) + '\n' for item in items))
