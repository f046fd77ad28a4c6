"""Which images of a data set keep their masks, and which are used without."""

import hashlib
import math
import os
from dataclasses import dataclass

import numpy as np
import yaml
from paddleseg.utils import logger

from paddleseg_semi import files, safe
from paddleseg_semi.datasets import lists
from paddleseg_semi.errors import InputError


@dataclass(frozen=True)
class Split:
    """The labeled and the unlabeled part of a training set.

    Attributes:
        labeled (list[int]): positions in `base.file_list`, ascending.
        unlabeled (list[str]): image paths; may be files that the data set does not list.
        digest (str): sha256 of the sorted ids (paths relative to `dataset_root`) of both parts: equal for equal splits.
        source (str): where the split came from.
        seed (int, optional): what it was drawn with.
        label_ratio (float, optional): what it was drawn with.
    """
    labeled: list
    unlabeled: list
    digest: str
    source: str
    seed: int | None = None
    label_ratio: float | None = None

    @classmethod
    def draw(cls, base, label_ratio, seed):
        """Draws `int(label_ratio * N)` labeled images. With one seed, smaller splits are part of larger ones.

        Args:
            base (paddle.io.Dataset): a PaddleSeg data set with N images in `file_list`.
            label_ratio (float): in (0, 1).
            seed (int): of NumPy's default generator.

        Raises:
            InputError: a ratio outside (0, 1) or not a number, or one that leaves no labeled image.
        """
        label_ratio = check_ratio(label_ratio)
        total = len(base.file_list)
        count = labeled_count(total, label_ratio)
        if total and not count:
            raise InputError(f'label_ratio {label_ratio}: leaves no labeled image of {total}. '
                             f'Give at least {math.ceil(1e4 / total) / 1e4:g}.')
        return cls.draw_count(base, count, seed, label_ratio=label_ratio)

    @classmethod
    def draw_count(cls, base, count, seed, presence=None, label_ratio=None):
        """Draws a number of labeled images.

        Args:
            base (paddle.io.Dataset): a PaddleSeg data set with N images.
            count (int): of labeled images, 1..N-1.
            seed (int): of NumPy's default generator.
            presence (np.ndarray, optional): [N, C] bool, which classes an image holds. If given, the draw is
                stratified: rare classes choose first, so that each class is labeled somewhere when `count` allows it.
            label_ratio (float, optional): for the record.
        """
        lists.check_unique(base)
        total = len(base.file_list)
        if not 0 < count < total:
            raise InputError(f'{count} labeled images of {total}: give 1 to {total - 1}.')
        if seed < 0:
            raise InputError(f'--seed {seed}: give a whole number of at least 0.')
        order = np.random.default_rng(seed).permutation(total)
        if presence is not None:
            order = rare_first(order, presence)
        return _complete(cls, base, order[:count].tolist(), 'drawn', seed=int(seed), label_ratio=label_ratio)

    @classmethod
    def read(cls, path, base, label_ratio=None):
        """Reads a split.

        Args:
            path (str): a list of the labeled images (all others are unlabeled); a folder with `labeled.txt` and maybe
                `unlabeled.txt`, as `write` makes it; or a pickled permutation of 0..N-1, whose first
                `int(label_ratio * N)` are labeled. A line of a list is 'id', 'image' or 'image label'; an image is
                found by its path relative to `dataset_root`, or else by its name. Unlabeled ones may be other files.
            base (paddle.io.Dataset): a PaddleSeg data set with N images.
            label_ratio (float, optional): for pickles.

        Raises:
            InputError: an unknown image, one listed twice or in both parts, an empty list, not a permutation.
        """
        if label_ratio is not None:
            label_ratio = check_ratio(label_ratio)
        if os.path.isfile(path) and _is_pickle(path):
            return _complete(cls, base, _read_permutation(path, base, label_ratio), path, label_ratio=label_ratio)
        is_folder = os.path.isdir(path)
        labeled_file = os.path.join(path, 'labeled.txt') if is_folder else path
        if is_folder and not os.path.isfile(labeled_file):
            raise InputError(f'{path}: a split folder needs labeled.txt, and this one has none.')
        index = lists.ImageIndex(base)
        line_of = _read_labeled(labeled_file, index)
        expected = labeled_count(len(base.file_list), label_ratio or 0)
        if label_ratio is not None and expected != len(line_of):
            logger.warning(f'label_ratio {label_ratio} would label {expected} images; {path} labels {len(line_of)} '
                           'and is used as it is.')
        unlabeled_file = os.path.join(path, 'unlabeled.txt')
        if not is_folder or not os.path.exists(unlabeled_file):
            return _complete(cls, base, line_of, path)
        unlabeled = _read_unlabeled(unlabeled_file, base, index, labeled_file, line_of)
        return _complete(cls, base, line_of, path, unlabeled)

    @classmethod
    def with_raw(cls, base, source, split=None):
        """Unlabeled images from outside.

        Args:
            base (paddle.io.Dataset): a PaddleSeg data set.
            source (str): a folder with images at any depth, or a list file. Labeled images in a folder are left out.
            split (Split, optional): whose labeled part to take; default: all images of `base` are labeled.
        """
        if split is None:
            lists.check_unique(base)
        labeled = range(len(base.file_list)) if split is None else split.labeled
        unlabeled = lists.raw_images(source, lists.root_of(base))
        known = set(lists.identities(base.file_list[i][0] for i in labeled))
        keep = [name not in known for name in lists.identities(unlabeled)]
        if os.path.isdir(source):
            unlabeled = [path for path, kept in zip(unlabeled, keep) if kept]
        elif not all(keep):
            raise InputError(f'{source}: {unlabeled[keep.index(False)]} is labeled as well. Remove it from this list.')
        if not unlabeled:
            raise InputError(f'{source}: every image in this folder is labeled. Give a folder of other images.')
        origin = {} if split is None else {'seed': split.seed, 'label_ratio': split.label_ratio}
        source = source if split is None else f'{split.source}; unlabeled: {source}'
        return _complete(cls, base, labeled, source, unlabeled, **origin)

    def write(self, folder, base):
        """Writes `labeled.txt` ('image label' per line: a list that PaddleSeg reads), `unlabeled.txt` ('image') and
        `split.yml` (where the split came from, counts, digest), each complete or not at all.

        Paths are relative to `dataset_root` where they are below it, else absolute; a TAB separates when a path has
        blanks.
        """
        about = {'source': self.source, 'seed': self.seed, 'label_ratio': self.label_ratio,
                 'labeled': len(self.labeled), 'unlabeled': len(self.unlabeled), 'sha256': self.digest}
        unlabeled = (_written(path, base) + '\n' for path in self.unlabeled)
        write_pairs(os.path.join(folder, 'labeled.txt'), base, self.labeled)
        lists.write(os.path.join(folder, 'unlabeled.txt'), unlabeled)
        lists.write(os.path.join(folder, 'split.yml'), [yaml.safe_dump(about, sort_keys=False)])


def write_pairs(path, base, positions=None, separator=None):
    """Writes images and masks of a data set, 'image mask' per line: a list that PaddleSeg reads.

    Args:
        path (str): the list.
        base (paddle.io.Dataset): a PaddleSeg data set, to whose root paths are relative where they are below it.
        positions (Sequence[int], optional): of the images. Default: all.
        separator (str, optional): between the two. Default: a blank, or a TAB when a path has blanks.
    """
    positions = range(len(base.file_list)) if positions is None else positions
    pairs = [[_written(name, base) for name in base.file_list[i][:2]] for i in positions]
    separator = separator or ('\t' if any(' ' in name for pair in pairs for name in pair) else ' ')
    lists.write(path, (separator.join(pair) + '\n' for pair in pairs))


def _written(path, base):
    root = lists.root_of(base)
    inside = lists.relative(path, root)
    return os.path.abspath(path) if root and inside == path else inside


def check_ratio(value):
    """The label ratio as a float.

    Raises:
        InputError: not a number in (0, 1).
    """
    try:
        ratio = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        ratio = math.nan
    if 0 < ratio < 1:
        return ratio
    raise InputError(f'label_ratio {value}: give a number above 0 and below 1, such as 0.125; '
                     'for fully supervised training leave --label_ratio out.')


def labeled_count(total, label_ratio):
    """Labeled images of `total`: the product, cut off (1322 of 10582 at 1/8)."""
    return int(label_ratio * total)


def _complete(cls, base, labeled, source, unlabeled=None, **origin):
    """The split with these labeled positions; all other images are unlabeled by default."""
    labeled = sorted(labeled)
    if unlabeled is None:
        is_labeled = np.zeros(len(base.file_list), bool)
        is_labeled[labeled] = True
        unlabeled = [item[0] for item, known in zip(base.file_list, is_labeled.tolist()) if not known]
    if not labeled or not unlabeled:
        raise InputError(f'{source}: no {"un" if labeled else ""}labeled image is left of {len(base.file_list)}. '
                         'For fully supervised training give no split.')
    root = lists.root_of(base)
    digest = hashlib.sha256()
    for part in ((base.file_list[i][0] for i in labeled), unlabeled):
        for name in sorted(lists.relative(path, root) for path in part):
            digest.update(name.encode() + b'\n')
        digest.update(b'\n')
    return cls(labeled, unlabeled, digest.hexdigest(), source, **origin)


def recounted(split, base, labeled):
    """The same split with other labeled positions."""
    return _complete(Split, base, labeled, split.source, split.unlabeled, seed=split.seed,
                     label_ratio=split.label_ratio)


def rare_first(order, presence):
    """Moves images to the front that together hold every class; the rarest class chooses first.

    Args:
        order (np.ndarray): [M] of 0..N-1.
        presence (np.ndarray): [N, C] bool, which classes an image holds.

    Returns:
        np.ndarray: [M].
    """
    presence = presence[order]  # [N, C]
    frequency = presence.sum(0)
    covered, front = np.zeros(presence.shape[1], bool), []
    for c in np.argsort(frequency, kind='stable'):
        if frequency[c] and not covered[c]:
            gain = (presence & ~covered).sum(1) * presence[:, c]  # of the images with c, the one with most new classes
            front.append(int(gain.argmax()))
            covered |= presence[front[-1]]
    return np.concatenate([order[front], np.delete(order, front)])


def _read_labeled(path, index):
    line_of = {}  # position -> line number
    for number, line in lists.lines(path):
        image = lists.image_of(line)
        position = index.position(image, f'{path}:{number}')
        if position in line_of:
            raise InputError(f'{path}:{number}: "{image}" is listed twice, first in line {line_of[position]}. '
                             'Remove one.')
        line_of[position] = number
    if not line_of:
        raise InputError(f'{path}: the list of labeled images is empty.')
    return line_of


def _read_unlabeled(path, base, index, labeled_file, line_of):
    """Paths on disk. A line that is no image of the data set, or only shares the name of one, is a file of its own."""
    seen, folder = {}, None
    for number, line in lists.lines(path):
        image = lists.image_of(line)
        found = index.find(image)
        if image not in index.paths and (not found or os.path.isfile(os.path.join(index.root, image))):
            if folder is None:
                folder = lists.folder_of(image, (index.root, os.path.dirname(path)), f'{path}:{number}')
            file = os.path.join(folder, image)
        else:
            position = index.position(image, f'{path}:{number}')
            if position in line_of:
                raise InputError(f'{path}:{number}: "{image}" is labeled as well ({labeled_file}:{line_of[position]}). '
                                 'Remove it from one of the two.')
            file = base.file_list[position][0]
        if file in seen:
            raise InputError(f'{path}:{number}: "{image}" is listed twice, first in line {seen[file]}. Remove one.')
        seen[file] = number
    if not seen:
        raise InputError(f'{path}: the list is empty. Remove the file to use all images that are not labeled.')
    return list(seen)


def _is_pickle(path):
    with files.opened(path, 'rb') as file:
        return path.endswith(('.pkl', '.pickle')) or file.read(1) == b'\x80'


def _read_permutation(path, base, label_ratio):
    total = len(base.file_list)
    lists.check_unique(base)
    if label_ratio is None:
        raise InputError(f'{path}: a pickled permutation needs the ratio as well: give --label_ratio.')
    ids = safe.load(path)
    plain = isinstance(ids, np.ndarray) or isinstance(ids, (list, tuple)) and all(np.isscalar(item) for item in ids)
    ids = np.asarray(ids if plain else [0.5])  # a list of lists may hold one of them a billion times
    if ids.ndim != 1 or ids.dtype.kind not in 'iu':
        raise InputError(f'{path}: holds no list of whole numbers. Expected a permutation of 0..{total - 1}.')
    if len(ids) != total or not np.array_equal(np.sort(ids), np.arange(total)):
        raise InputError(f'{path}: {len(ids)} numbers, from {ids.min(initial=0)} to {ids.max(initial=0)}; expected '
                         f'every number of 0..{total - 1} once. Was it made for another training set?')
    return ids[:labeled_count(total, label_ratio)].tolist()
