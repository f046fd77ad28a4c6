"""Is the data what the training takes it for? `quick` before step one, `full` for tools/check_data.py."""

import copy
import os
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from paddleseg.datasets import Dataset
from paddleseg.utils import logger, progbar

from paddleseg_semi import images
from paddleseg_semi.datasets import lists
from paddleseg_semi.errors import InputError


def list_files(section):
    """Checks the list file of a `type: Dataset` section before PaddleSeg reads it (which stops without naming a line).

    Args:
        section (dict): `train_dataset` or `val_dataset` of a config.

    Returns:
        str: the list file, or None for other types of data sets.

    Raises:
        InputError: missing folder or file, or the first bad line.
    """
    if section.get('type') != 'Dataset':
        return None
    mode, root = str(section.get('mode', 'train')).lower(), section.get('dataset_root')
    if not root or not os.path.isdir(root):
        raise InputError(f'dataset_root "{root}": no such folder. Set it in the recipe (paths are relative to the '
                         'folder the tool is started in).')
    path = section.get(f'{mode}_path')
    if not path:
        raise InputError(f'A data set of type Dataset in mode "{mode}" needs {mode}_path, its list file.')
    check_list_file(path, root, section.get('separator', ' '), need_label=mode != 'test')
    return path


def check_list_file(path, root, separator=' ', need_label=True):
    """Checks the form of a PaddleSeg list file: 'image label' or 'image' per line, no blank line.

    Args:
        path (str): the list.
        root (str): the folder its paths are relative to.
        separator (str): between the columns.
        need_label (bool): whether the second column must be there.

    Raises:
        InputError: no such file, an empty one, the first line that PaddleSeg would not take.
    """
    if separator == '':
        raise InputError(f'{path}: the separator is empty. Give the character between image and label, such as "\\t".')
    number = 0
    for number, line in lists.lines(path, as_is=True):
        if line.startswith('\ufeff'):
            raise InputError(f'{path}:{number}: begins with a mark of byte order, which PaddleSeg takes for a part of '
                             'the name. Save the list as UTF-8 without it ("BOM").')
        columns = line.split(separator)
        if not line:
            raise InputError(f'{path}:{number}: a blank line, which PaddleSeg does not take. Remove it.')
        if len(columns) > 2 or len(columns) < 1 + need_label or not all(columns):
            other = next((mark for mark in '\t, ' if mark != separator and len(line.split(mark)) == 2), None)
            remedy = 'Write one image and one mask.' if other is None else f'Set separator: {other!r} in the recipe.'
            raise InputError(f'{path}:{number}: "{line}" has {len(columns)} columns separated by {separator!r}, '
                             f'expected image and label. {remedy}')
        if number == 1 and not os.path.isfile(os.path.join(root, columns[0])) and os.path.isfile(columns[0]):
            raise InputError(f'{path}:1: "{columns[0]}" is not under dataset_root "{root}", but without it the file '
                             'exists. Make the paths of the list relative to dataset_root, or set that to ".".')
    if not number:
        raise InputError(f'{path}: the list is empty. Write one "image{separator}label" per line.')


def quick(base, split=None, val=None, train_list=None, val_list=None, name='labeled'):
    """Checks that take seconds, for a million images too: lists, overlaps, existence of all files, contents of a few.

    Args:
        base (paddle.io.Dataset): the PaddleSeg training set.
        split (Split, optional): its parts; None: all is labeled.
        val (paddle.io.Dataset, optional): the PaddleSeg validation set.
        train_list, val_list (str, optional): their list files, to name lines (see `list_files`).
        name (str): what `base` is: 'labeled'; 'tagged' (no mask is opened); 'boundary'.

    Raises:
        InputError: the first problem found.
    """
    parts = _parts(base, split, val, train_list, val_list, name)
    for problem in _list_problems(parts):
        if problem.fatal:
            raise InputError(problem.text)
        logger.warning(problem.text)
    for part in parts:
        some = list(range(len(part.images)))
        some = some[:4] + random.Random(0).sample(some[4:], min(8, len(some[4:])))
        for k in some:
            problems, _ = part.look(k)
            if problems:
                raise InputError(f'{problems[0]} tools/check_data.py finds all such files.')


@dataclass
class Report:
    """What `full` found.

    Attributes:
        problems (list[str]): what keeps a training from running as intended.
        warnings (list[str]): what may be intended.
        images (dict[str, int]): part ('labeled', 'unlabeled', 'val') → number of images.
        sizes (dict[str, str]): part → 'WxH' or 'WxH to WxH'.
        pixels (dict[str, np.ndarray]): part → [C] int64, pixels of every class ('labeled' and 'val').
        presence (dict[str, np.ndarray]): part → [C] int64, images that hold the class; 'tagged': that have its tag.
    """
    problems: list = field(default_factory=list)
    warnings: list = field(default_factory=list)
    images: dict = field(default_factory=dict)
    sizes: dict = field(default_factory=dict)
    pixels: dict = field(default_factory=dict)
    presence: dict = field(default_factory=dict)


def full(base, split=None, val=None, train_list=None, val_list=None, name='labeled'):
    """All checks on all files. Masks of the unlabeled part are not opened.

    Args: as `quick`.

    Returns:
        Report: what was found.
    """
    report = Report()
    parts = _parts(base, split, val, train_list, val_list, name)
    for problem in _list_problems(parts, every=True):
        (report.problems if problem.fatal else report.warnings).append(problem.text)
    for part in parts:
        sizes, classes = set(), part.base.num_classes
        pixels, presence = np.zeros(classes, 'int64'), np.zeros(classes, 'int64')
        for problems, look in _in_parallel(part.look, len(part.images), f'Reading the {part.name} images'):
            report.problems += problems
            if look:
                sizes.add(look.size)
            if look and part.labels:
                pixels += look.counts
                presence += look.counts > 0
        report.images[part.name] = len(part.images)
        ends = sorted(sizes, key=lambda size: (size[0] * size[1], size))
        report.sizes[part.name] = ' to '.join(f'{w}x{h}' for w, h in ends[:1] + ends[1:][-1:])
        if part.labels:
            report.pixels[part.name], report.presence[part.name] = pixels, presence
    absent = np.flatnonzero(report.pixels.get('labeled', np.ones(0)) == 0).tolist()
    if absent:
        report.warnings.append(f'No labeled image holds class {", ".join(map(str, absent))}: it cannot be learned. '
                               'Draw another split (tools/split_dataset.py --stratified), or check num_classes.')
    return report


def class_presence(base, positions=None):
    """Which classes images hold, from their masks.

    Args:
        base (paddle.io.Dataset): a PaddleSeg data set.
        positions (Sequence[int], optional): of N images. Default: all.

    Returns:
        np.ndarray: [N, num_classes] bool.

    Raises:
        InputError: the first image or mask that cannot be used.
    """
    parts = _parts(base) if positions is None else [_listed('labeled', base, positions, None)]
    for problem in _list_problems(parts):
        raise InputError(problem.text)
    rows = []
    for problems, look in _in_parallel(parts[0].look, len(parts[0].images), 'Reading the masks'):
        if problems:
            raise InputError(problems[0])
        rows.append(look.counts > 0)
    return np.stack(rows)


@dataclass
class _Problem:
    text: str
    fatal: bool = True


@dataclass
class _Look:
    """What one image is: size (width, height); counts [C] int64, pixels of each class, None without mask."""
    size: tuple
    counts: np.ndarray = None


@dataclass
class _Part:
    """Images of one use: 'labeled', 'boundary', 'val'; without labels (masks stay untouched) 'unlabeled', 'tagged'."""
    name: str
    base: Dataset
    images: list
    labels: list = None
    positions: list = None  # in base.file_list
    list_file: str = None

    def where(self, k):
        """'file:line: ' of image k. PaddleSeg takes no blank lines, so a position is a line."""
        return f'{self.list_file}:{self.positions[k] + 1}: ' if self.list_file and self.positions is not None else ''

    def look(self, k):
        """Opens image k and its mask: (list[str] of problems, _Look or None). Says nothing of missing files."""
        image = self.images[k]
        if not all(map(os.path.exists, (image, *(self.labels or ())[k:k + 1]))):
            return [], None
        try:
            if self.labels and _decodes_itself(self.base):
                size, mask = _own_decoding(self.base, self.positions[k])
            else:
                # All of it is decoded: a truncated file shows only then.
                size = images.read(image).shape[1::-1]
                mask = self.labels and images.read_mask(self.labels[k])
        except Exception as error:  # data sets raise all kinds
            text = str(error) if isinstance(error, InputError) else f'{image}: cannot be read ({error}).'
            return [f'{self.where(k)}{text} Replace the file or remove its line.'], None
        if not self.labels:
            return [], _Look(size)
        problem = _mask_problem(mask, size, image, self.labels[k], self.base)
        if problem:
            return [self.where(k) + problem], None
        known = mask[mask < self.base.num_classes]
        return [], _Look(size, np.bincount(known[known >= 0].astype('int64'), minlength=self.base.num_classes))


def _parts(base, split=None, val=None, train_list=None, val_list=None, name='labeled'):
    """That of `base` first."""
    positions = range(len(base.file_list)) if split is None else split.labeled
    parts = [_listed(name, base, positions, train_list)]
    if split is not None:
        parts.append(_Part('unlabeled', base, split.unlabeled))
    if val is not None:
        parts.append(_listed('val', val, range(len(val.file_list)), val_list))
    return parts


def _listed(name, base, positions, list_file):
    items = [base.file_list[i] for i in positions]
    labels = None if name == 'tagged' else [item[1] for item in items]
    if labels and None in labels:
        raise InputError(f'{list_file or name}: has no mask for {items[labels.index(None)][0]}. Write "image label" '
                         'per line (of a data set in mode "train" or "val").')
    return _Part(name, base, [item[0] for item in items], labels, positions, list_file)


def _list_problems(parts, every=False):
    """Yields what is wrong without opening an image: empty parts, images in two parts, missing files.

    Of missing files, only the first of a part is named unless `every` is asked for.
    """
    for part in parts:
        if not part.images:
            yield _Problem(f'The {part.name} part is empty ({type(part.base).__name__} in '
                           f'"{lists.root_of(part.base)}"). Check its list.')
    yield from _overlaps(parts)
    for part in parts:
        missing = _missing(part)
        for k, path in missing:
            count = '' if every else f' ({1 + sum(1 for _ in missing)} missing files in the {part.name} part)'
            yield _Problem(f'{part.where(k)}{path}: no such file{count}. Paths in lists are relative to dataset_root '
                           f'"{lists.root_of(part.base)}".')


def _overlaps(parts):
    labeled, others = parts[0], parts[1:]
    position = {name: k for k, name in enumerate(lists.identities(labeled.images))}
    val = next((part for part in others if part.name == 'val'), None)
    val_names = set(lists.identities(val.images)) if val else set()
    for part in others:
        both, leaked = [], 0
        for path, name in zip(part.images, lists.identities(part.images)):
            if name in position:
                both.append(path)
            leaked += part is not val and name in val_names
        if both:
            k = position[next(lists.identities(both))]
            supervised = part is val and len(others) == 1  # a toy set may well be validated on what it was trained on
            yield _Problem(f'{labeled.where(k)}{both[0]} is {labeled.name} and in the {part.name} part as well '
                           f'({len(both)} such images). Remove it from one of the two.', fatal=not supervised)
        if leaked:
            yield _Problem(f'{leaked} unlabeled images are validation images as well, which flatters the score.',
                           fatal=False)


def _missing(part):
    """Yields (k, path) of files that do not exist. Folders are listed once instead of asking for every file."""
    folders = {}
    for paths in (part.images, part.labels or ()):
        for k, path in enumerate(paths):
            folder, name = lists.halves(path)
            if folder not in folders:
                folders[folder] = set(os.listdir(folder or '.')) if os.path.isdir(folder or '.') else ()
            if name not in folders[folder]:
                yield k, path


def _decodes_itself(base):
    """Whether a data set changes its masks while reading (ADE20K subtracts 1): then its own reading is looked at."""
    return hasattr(base, 'transforms') and type(base).__getitem__ is not Dataset.__getitem__


def _own_decoding(base, position):
    """(width, height) and mask [H, W] as the data set reads them, without its transforms."""
    plain = copy.copy(base)
    plain.transforms = copy.copy(base.transforms)
    plain.transforms.transforms = []
    sample = plain[position]
    return sample['img'].shape[:0:-1], np.asarray(sample['label']).squeeze()


def _mask_problem(mask, size, image, label, base):
    if mask.ndim != 2:
        return (f'{label}: is an RGB mask ({"x".join(map(str, mask.shape))}). Masks hold one class id per pixel: '
                'convert the colors to ids and save a grayscale or palette PNG.')
    if mask.dtype == bool:
        return (f'{label}: has 1 bit per pixel, with which transforms of PaddleSeg fail. Save it as a grayscale or '
                'palette PNG of 8 bits.')
    if mask.shape[::-1] != size:
        return (f'{image} is {size[0]}x{size[1]}, but its mask {label} is {mask.shape[1]}x{mask.shape[0]}. '
                'Give both the same size.')
    values = np.flatnonzero(np.bincount(mask.ravel())) if mask.dtype == 'uint8' else np.unique(mask)
    foreign = values[(values != base.ignore_index) & ((values < 0) | (values >= base.num_classes))]
    if len(foreign):
        hint = 'Is it saved as 0 and 255 instead of 0 and 1?' if set(values.tolist()) == {0, 255} else \
            'Is it a colored or RGB mask saved as gray, or does num_classes leave out the background?'
        return (f'{label}: has label {foreign[0]}, but num_classes is {base.num_classes} and ignore_index '
                f'{base.ignore_index}. {hint}')
    return None


def _in_parallel(function, count, what):
    """Yields function(0) … function(count - 1), with a progress bar. Decoders release Python's lock, so threads do."""
    logger.info(f'{what}: {count}')
    bar = progbar.Progbar(target=count, verbose=1 if count else 0, interval=0.5)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for start in range(0, count, 256):
            numbers = range(start, min(start + 256, count))
            yield from pool.map(function, numbers)
            bar.update(numbers.stop)

