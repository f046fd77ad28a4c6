"""How good class activation maps are, for every score the background might get."""

import csv

import numpy as np

from paddleseg_semi import files
from paddleseg_semi.core.metrics import scores

THRESHOLDS = tuple(np.arange(60) / 100)


class BackgroundCurve:
    """mIoU of score maps of classes, as a function of a constant score of the background. All thresholds share one
    pass: a pixel is of its best class for thresholds below that class's score, and background for the others.

    Args:
        num_classes (int): C.
        ignore_index (int, optional): label of pixels that do not count. Default: 255.
        thresholds (Sequence[float], optional): T rising scores, at least 0. Default: 0, 0.01, … 0.59.
    """

    def __init__(self, num_classes, ignore_index=255, thresholds=THRESHOLDS):
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.thresholds = np.asarray(thresholds, 'float32')
        # pixels by the number of thresholds below their score, true class, best class; the counts of ranks may be added
        self.counts = np.zeros([len(self.thresholds) + 1, num_classes, num_classes], 'int64')

    def add(self, classes, maps, label):
        """
        Args:
            classes (Sequence[int]): K ids above 0, in rising order; there may be none.
            maps (np.ndarray): [K, H, W] float32.
            label (np.ndarray): [H, W] uint8, the truth.
        """
        if len(classes):
            found = np.asarray(classes)[maps.argmax(0)]
            below = np.searchsorted(self.thresholds, maps.max(0))
        else:
            found = below = np.zeros(label.shape, 'int64')
        valid = (label != self.ignore_index) & (label < self.num_classes)
        cells = np.ravel_multi_index((below[valid], label[valid], found[valid]), self.counts.shape)
        self.counts += np.bincount(cells, minlength=self.counts.size).reshape(self.counts.shape)

    def scores(self):
        """list[Scores]: of `core.metrics`, one per threshold."""
        above = self.counts[::-1].cumsum(0)[::-1][1:]                                       # [T, true, best]
        matrices = above.copy()
        matrices[:, :, 0] += self.counts.sum((0, 2)) - above.sum(2)
        return [scores(matrix) for matrix in matrices]

    def best(self):
        """tuple[float, float]: the threshold with the greatest mIoU, and that mIoU (0..1)."""
        mious = [score.miou for score in self.scores()]
        top = int(np.argmax(mious))
        return round(float(self.thresholds[top]), 6), float(mious[top])

    def write(self, path, names=None):
        """Writes `<path>.csv`, percentages with a row per threshold, and `<path>.png`, the curve.

        Args:
            path (str): without suffix.
            names (Sequence[str], optional): C class names. Default: their ids.

        Returns:
            list[str]: the two files.
        """
        rows = [[f'{threshold:.4g}', *(f'{100 * value:.4f}' for value in (score.miou, *score.class_iou))]
                for threshold, score in zip(self.thresholds, self.scores())]
        table, plot = path + '.csv', path + '.png'
        with files.replacing(table) as part, open(part, 'w', newline='', encoding='utf-8') as file:
            csv.writer(file).writerows([['background score', 'mIoU', *(names or range(self.num_classes))], *rows])
        _plot([float(row[0]) for row in rows], [float(row[1]) for row in rows], plot)
        return [table, plot]


def _plot(thresholds, mious, path):
    from matplotlib.figure import Figure  # slow to import; VisualDL brings it along
    figure = Figure(figsize=(6, 4))
    axes = figure.add_subplot(xlabel='score of the background', ylabel='mIoU, %')
    axes.plot(thresholds, mious)
    top = int(np.argmax(mious))
    axes.plot(thresholds[top], mious[top], 'o', label=f'{mious[top]:.2f} at {thresholds[top]:.2f}')
    axes.legend()
    axes.grid(alpha=0.3)
    with files.replacing(path) as part:
        figure.savefig(part, format='png', dpi=100)
