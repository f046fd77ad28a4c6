"""Validation images out of the labeled ones, for a recipe that has none."""

import copy

import numpy as np
from paddleseg.datasets import Dataset
from paddleseg.transforms import Compose

from paddleseg_semi.datasets import checks
from paddleseg_semi.datasets.split import rare_first, recounted

LEAST = 10           # labeled images of which some can be held out
_EVERY, _FEWEST = 5, 3
_OPENED = 1000       # masks that are opened to see which classes they have; of more, no class will be left out
_KEPT = ('Resize', 'ResizeByLong', 'ResizeByShort', 'ResizeRangeScaling', 'LimitLong', 'Normalize')


def positions(base, labeled, seed):
    """Which labeled images are held out: every fifth, at least 3, if possible with every class among them, and none
    that is the only one of a class.

    Args:
        base (paddle.io.Dataset): a PaddleSeg data set in mode 'train'.
        labeled (Sequence[int]): positions of at least `LEAST` images with masks.
        seed (int): of the run.

    Returns:
        list[int]: positions, ascending.
    """
    count = max(len(labeled) // _EVERY, _FEWEST)
    order = np.random.default_rng((seed, len(labeled))).permutation(len(labeled))
    if len(labeled) <= _OPENED:
        presence = checks.class_presence(base, labeled)                                     # [N, C]
        sole = presence[:, presence.sum(0) == 1].any(1)
        spare = order[~sole[order]]
        order = np.concatenate([rare_first(spare, presence), order[sole[order]]])
    return sorted(labeled[k] for k in order[:count].tolist())


def held_out(base, split, seed, transforms):
    """Takes validation images out of a training set.

    Args:
        base (paddle.io.Dataset): a PaddleSeg data set in mode 'train'; without a split, the images leave its list.
        split (Split, optional): which images are labeled. Default: all.
        seed (int): of the run.
        transforms (list): of validation.

    Returns:
        tuple[Split, paddle.io.Dataset]: the split without them (None without a split), and a data set of them in mode
            'val'.
    """
    labeled = list(range(len(base.file_list))) if split is None else split.labeled
    held = positions(base, labeled, seed)
    val = copy.copy(base)
    val.mode, val.transforms = 'val', Compose(transforms, img_channels=base.transforms.img_channels)
    val.file_list = [base.file_list[k] for k in held]
    kept = sorted({*labeled} - {*held})
    if split is not None:
        return recounted(split, base, kept), val
    base.file_list = [base.file_list[k] for k in kept]
    return None, val


def transforms_of(section):
    """list[dict]: of a train_dataset's transforms those that make no choice: resizing before any crop, `Normalize`."""
    return [copy.deepcopy(op) for op in section.get('transforms') or []
            if isinstance(op, dict) and op.get('type') in _KEPT]


def possible(section, count):
    """bool: whether images of a train_dataset (its section of a recipe) with `count` labeled ones can be held out."""
    return section.get('type') == Dataset.__name__ and count >= LEAST


def section_of(train, path):
    """dict: the val_dataset section of a recipe for images that were held out.

    Args:
        train (dict): the train_dataset section.
        path (str): the list of the images.
    """
    same = ('dataset_root', 'num_classes', 'img_channels', 'ignore_index')
    return {'type': Dataset.__name__, 'mode': 'val', 'val_path': path, 'separator': '\t',
            'transforms': transforms_of(train), **{key: train[key] for key in same if key in train}}

