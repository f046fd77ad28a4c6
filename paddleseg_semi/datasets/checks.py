"""Is the data what the training takes it for? `quick` before step one, `full` for tools/check_data.py."""

import os
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from paddleseg.utils import logger, progbar

from paddleseg_semi.datasets import lists
from paddleseg_semi.datasets.looks import THUMBNAIL, Part, Summary
from paddleseg_semi.datasets.twins import twins
from paddleseg_semi.errors import InputError

SEPARATORS = '\t', ', ', ',', '; ', ';', ' '  # of lists, as they are looked for
_FEW, _MANY = 12, 1000  # images that `quick` opens of a part; that it opens where the masks of those are suspicious


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


def check_list_file(path, root, separator=' ', need_label=True, key='separator'):
    """Checks the form of a PaddleSeg list file: 'image label' or 'image' per line, no blank line.

    Args:
        path (str): the list.
        root (str): the folder its paths are relative to.
        separator (str): between the columns.
        need_label (bool): whether the second column must be there.
        key (str, optional): by which the recipe sets the separator of this list; None: by none.

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
        if len(columns) > 2 or len(columns) < 1 + need_label or not all(map(_is_clean, columns)):
            other = next((mark for mark in SEPARATORS if mark != separator and is_pair(line, mark)), None)
            remedy = 'Write one image and one mask.' if other is None else \
                f'Set {key}: {other!r} in the recipe.' if key else 'Separate the two by a blank or a TAB.'
            raise InputError(f'{path}:{number}: "{line}" has {len(columns)} columns separated by {separator!r}, '
                             f'expected image and label. {remedy}')
        if number == 1 and not os.path.isfile(os.path.join(root, columns[0])) and os.path.isfile(columns[0]):
            raise InputError(f'{path}:1: "{columns[0]}" is not under dataset_root "{root}", but without it the file '
                             'exists. Make the paths of the list relative to dataset_root, or set that to ".".')
    if not number:
        raise InputError(f'{path}: the list is empty. Write one "image{separator}label" per line.')


def is_pair(line, separator):
    """bool: a line is two names with this separator in between, and nothing around them."""
    columns = line.split(separator)
    return len(columns) == 2 and all(map(_is_clean, columns))


def _is_clean(name):
    return bool(name) and name == name.strip(' \t,;')


def quick(base, split=None, val=None, train_list=None, val_list=None, name='labeled'):
    """Checks that take seconds, for a million images too: lists, overlaps, existence of all files, contents of a few.

    Args:
        base (paddle.io.Dataset): the PaddleSeg training set.
        split (Split, optional): its parts; None: all is labeled.
        val (paddle.io.Dataset, optional): the PaddleSeg validation set.
        train_list, val_list (str, optional): their list files, to name lines (see `list_files`).
        name (str): what `base` is: 'labeled'; 'tagged' (no mask is opened); 'boundary'; 'extra 1', … (more masks).

    Raises:
        InputError: the first problem found.
    """
    parts = _parts(base, split, val, train_list, val_list, name)
    for problem in _list_problems(parts):
        if problem.fatal:
            raise InputError(problem.text)
        logger.warning(problem.text)
    for part in parts:
        _look_at_some(part)


def _look_at_some(part):
    """Opens a dozen images of a part, more if their masks are suspicious. Of unlabeled ones, a damaged one is passed
    over, as in training."""
    summary, damaged = Summary(part), []
    total = range(len(part.images))
    order = [*total[:4], *random.Random(0).sample(total[4:], len(total[4:_MANY]))]
    for number, k in enumerate(order):
        if number >= _FEW and not summary.suspicious and (summary.count or not damaged):
            break
        problems, look = part.look(k)
        if problems and part.name != 'unlabeled':
            raise InputError(f'{problems[0]} tools/check_data.py finds all such files.')
        damaged += problems
        if look:
            summary.add(k, look)
    if damaged and not summary.count:
        raise InputError(f'{damaged[0]} None of {len(damaged)} {part.name} images looked at can be used.')
    if part.name == 'labeled' and summary.problem():
        raise InputError(summary.problem())
    for text in (*damaged, *filter(None, [summary.problem()]), *summary.notes()):
        logger.warning(text)


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
        thumbnails (dict[str, np.ndarray]): part → [N, 16, 16] uint8.
    """
    problems: list = field(default_factory=list)
    warnings: list = field(default_factory=list)
    images: dict = field(default_factory=dict)
    sizes: dict = field(default_factory=dict)
    pixels: dict = field(default_factory=dict)
    presence: dict = field(default_factory=dict)
    thumbnails: dict = field(default_factory=dict)


def full(base, split=None, val=None, train_list=None, val_list=None, name='labeled', report=None):
    """All checks on all files. Masks of the unlabeled part are not opened.

    Args:
        report (Report, optional): of other sets, which is added to. Parts that are in it are not read again.
        Others as `quick`.

    Returns:
        Report: what was found.
    """
    report = report or Report()
    parts = _parts(base, split, val, train_list, val_list, name)
    for problem in _list_problems(parts, every=True):
        (report.problems if problem.fatal else report.warnings).append(problem.text)
    for part in parts:
        if part.name not in report.images:
            report.thumbnails[part.name] = _look_at_all(part, report)
    if val is not None:
        report.warnings += _alike(parts, report.thumbnails)
    absent = np.flatnonzero(report.pixels['labeled'] == 0) if name == 'labeled' else np.zeros(0, int)
    absent = absent[absent != base.ignore_index].tolist()
    if absent:
        report.warnings.append(f'No labeled image holds class {", ".join(map(str, absent))}: it cannot be learned. '
                               'Draw another split (tools/split_dataset.py --stratified), or check num_classes.')
    return report


def _look_at_all(part, report):
    """Opens all images of a part; returns their thumbnails [N, 16, 16], 0 of those that cannot be used."""
    summary, damaged = Summary(part), []
    small = np.zeros([len(part.images), THUMBNAIL, THUMBNAIL], 'uint8')
    looks = _in_parallel(part.look, len(part.images), f'Reading the {part.name} images')
    for k, (problems, look) in enumerate(looks):
        damaged += problems
        if look:
            summary.add(k, look)
            small[k] = look.thumbnail
    forgiven = part.name == 'unlabeled' and summary.count  # training goes on with others
    (report.warnings if forgiven else report.problems).extend(damaged)
    if summary.problem():
        (report.problems if part.name == 'labeled' else report.warnings).append(summary.problem())
    report.warnings += summary.notes()
    report.images[part.name] = len(part.images)
    ends = sorted(summary.sizes, key=lambda size: (size[0] * size[1], size))
    report.sizes[part.name] = ' to '.join(f'{w}x{h}' for w, h in ends[:1] + ends[1:][-1:])
    if part.labels:
        report.pixels[part.name], report.presence[part.name] = summary.pixels, summary.presence
    return small


def _alike(parts, thumbnails):
    """Yields a line where validation photos look like training photos of another name."""
    *training, val = parts
    for part in training:
        found = twins(thumbnails['val'], thumbnails[part.name])
        names = [lists.identities(photos) for photos in ([val.images[k] for k in found],
                                                         [part.images[k] for k in found.values()])]
        pairs = [pair for pair, name, other in zip(found.items(), *names) if name != other]
        if pairs:
            k, twin = pairs[0]
            yield (f'{len(pairs)} of {len(val.images)} validation photos look nearly the same as {part.name} photos of '
                   f'other names, which flatters the score (first: {val.images[k]} as {part.images[twin]}).')


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
    parts = _parts(base) if positions is None else [Part.listed('labeled', base, positions, None)]
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


def _parts(base, split=None, val=None, train_list=None, val_list=None, name='labeled'):
    """That of `base` first."""
    positions = range(len(base.file_list)) if split is None else split.labeled
    parts = [Part.listed(name, base, positions, train_list)]
    if split is not None:
        parts.append(Part('unlabeled', base, split.unlabeled))
    if val is not None:
        parts.append(Part.listed('val', val, range(len(val.file_list)), val_list))
    return parts


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
        for number, (k, path) in enumerate(missing):
            hint = '' if number else lists.advice(path)  # it lists a folder
            count = '' if every else f' ({1 + sum(1 for _ in missing)} missing files in the {part.name} part)'
            yield _Problem(f'{part.where(k)}{path}: no such file{count}.{hint} Paths in lists are relative to '
                           f'dataset_root "{lists.root_of(part.base)}".')


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


def _in_parallel(function, count, what):
    """Yields function(0) … function(count - 1), with a progress bar. Decoders release Python's lock, so threads do."""
    logger.info(f'{what}: {count}')
    bar = progbar.Progbar(target=count, verbose=1 if count else 0, interval=0.5)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for start in range(0, count, 256):
            numbers = range(start, min(start + 256, count))
            yield from pool.map(function, numbers)
            bar.update(numbers.stop)

