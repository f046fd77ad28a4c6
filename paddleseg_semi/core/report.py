"""Results as files: all figures of one evaluation, and those of every evaluation of a run."""

import csv
import io
import json
import os
import re
from typing import NamedTuple

import numpy as np

from paddleseg_semi import files
from paddleseg_semi.core.metrics import scores
from paddleseg_semi.errors import RunError

_MEANS = {'mIoU': 'miou', 'Acc': 'acc', 'Kappa': 'kappa', 'Dice': 'mdice'}
_OF_CLASS = {'IoU': 'class_iou', 'Precision': 'class_precision', 'Recall': 'class_recall', 'Dice': 'class_dice'}
_WIDEST = 40  # classes whose confusion matrix can be looked at in a text


class Measured(NamedTuple):
    """What an evaluation has counted.

    Attributes:
        images (int): how many.
        matrix (np.ndarray): [C, C] int64 pixels, indexed [label, pred].
        auc (float, optional): area under the ROC curve, 0..1.
        right (list[tuple[int, float]]): position of an image in the data set, and the share of its pixels that are
            right, 0..1; of this rank's images, the lowest first.
    """

    images: int
    matrix: np.ndarray
    auc: float = None
    right: list = ()

    @property
    def scores(self):
        return scores(self.matrix)

    def lines(self, names=None):
        """list[str]: PaddleSeg's [EVAL] lines; with the names of the classes, one that has them."""
        found = self.scores
        auc = '' if self.auc is None else f' Auc_roc: {self.auc:.4f}'
        said = [f'[EVAL] #Images: {self.images} ' +
                ' '.join(f'{key}: {getattr(found, field):.4f}' for key, field in _MEANS.items()) + auc]
        for key in ('IoU', 'Precision', 'Recall'):
            with np.printoptions(suppress=True):
                said.append(f'[EVAL] Class {key}: \n{np.round(getattr(found, _OF_CLASS[key]), 4)}')
        return said + ([f'[EVAL] IoU by name: {named(names, found.class_iou)}'] if names else [])


def named(names, values):
    """str: 'sky 0.9512, road 0.4012', in one line whatever is in the names."""
    return ', '.join(f'{" ".join(str(name).split())} {value:.4f}' for name, value in zip(names, values))


def forgotten(share, labeled):
    """bool: a class has less than a tenth of its share of the masks among the kept pseudo labels.

    Args:
        share (float): of the kept pseudo labels, 0..1.
        labeled (float, optional): of the labeled pixels, 0..1.
    """
    return bool(labeled) and share < 0.1 * labeled


def write(folder, measured, names, about):
    """Writes val.json, val.csv and val.md.

    Args:
        folder (str): where to; made.
        measured (Measured): the evaluation.
        names (list[str]): of the C classes.
        about (dict): what was evaluated, and how; strings, numbers and lists of them.

    Returns:
        list[str]: the files.

    Raises:
        RunError: they cannot be written.
    """
    found = measured.scores
    means = {key: round(float(getattr(found, field)), 6) for key, field in _MEANS.items()}
    means.update({} if measured.auc is None else {'Auc_roc': round(measured.auc, 6)})
    rows = [{'name': name, **{key: round(float(getattr(found, field)[c]), 6) for key, field in _OF_CLASS.items()},
             'pixels': int(measured.matrix[c].sum())} for c, name in enumerate(names)]
    content = {
        'json': json.dumps({**about, 'images': measured.images, **means, 'classes': rows,
                            'confusion_matrix': measured.matrix.tolist()}, ensure_ascii=False, indent=1) + '\n',
        'csv': _csv([[*rows[0], *(f'as {name}' for name in names)],
                     *([*row.values(), *counts] for row, counts in zip(rows, measured.matrix.tolist()))]),
        'md': _markdown(measured, names, about, means, rows)}
    paths = [os.path.join(folder, f'val.{suffix}') for suffix in content]
    try:
        for path, text in zip(paths, content.values()):
            files.write(path, text)
    except OSError as error:
        raise RunError(f'{path}: cannot be written ({error.strerror}). --report_dir names another folder.') from None
    return paths


def _csv(rows):
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    return text.getvalue()


def _markdown(measured, names, about, means, rows):
    keys = [*_OF_CLASS]
    parts = [[f'{key}: {value}' for key, value in about.items() if value],
             [f'{measured.images} images. ' + ', '.join(f'{key} {value:.4f}' for key, value in means.items())],
             markdown(['class', *keys, 'pixels'],
                      [[row['name'], *(f'{row[key]:.4f}' for key in keys), str(row['pixels'])] for row in rows])]
    if len(names) <= _WIDEST:
        share = 100 * measured.matrix / np.maximum(measured.matrix.sum(1, keepdims=True), 1)
        parts += [['Of the pixels of a class (row), the percentage that was taken for each (column):'],
                  markdown(['', *names], [[name, *(f'{value:.1f}' for value in line)]
                                          for name, line in zip(names, share)])]
    return '\n\n'.join('  \n'.join(part) if part is parts[0] else '\n'.join(part) for part in parts if part) + '\n'


def markdown(header, rows):
    """list[str]: the lines of a table; the first column is text, the others are numbers."""
    rule = ['---', *['---:'] * (len(header) - 1)]
    cells = [[' '.join(str(cell).replace('|', '\\|').split()) for cell in row] for row in (header, rule, *rows)]
    return ['| ' + ' | '.join(row) + ' |' for row in cells]


class Record:
    """eval.csv of a run: one line for each evaluation of each network, `iter,network,mIoU,Acc,IoU/<class>,…`.

    A run that goes on from an earlier iteration drops what was recorded after it: the file is that of a run which was
    never interrupted.

    Args:
        path (str): the file.
        names (list[str]): of the classes.
        iteration (int): where the run is; 0 begins anew.
    """

    def __init__(self, path, names, iteration):
        self.path, self.header = path, ['iter', 'network', 'mIoU', 'Acc', *(f'IoU/{name}' for name in names)]
        self.rows = [row for row in self._read() if int(row[0]) <= iteration]
        if os.path.exists(path):
            self._write()

    def add(self, iteration, network, miou, acc, class_iou):
        """Adds a line. Args: network (str): 'model' or 'ema'. class_iou (np.ndarray): [C], 0..1."""
        self.rows.append([str(iteration), network, *(f'{value:.6f}' for value in (miou, acc, *class_iou))])
        self._write()

    def _write(self):
        files.write(self.path, _csv([self.header, *self.rows]))

    def _read(self):
        try:
            with open(self.path, encoding='utf-8', errors='replace', newline='') as file:
                rows = csv.reader(io.StringIO(file.read().replace('\0', ''), newline=''))
                return [row for row in rows if len(row) == len(self.header) and re.fullmatch('[0-9]{1,12}', row[0])]
        except (FileNotFoundError, csv.Error):
            return []
