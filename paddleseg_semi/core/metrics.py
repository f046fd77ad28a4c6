"""Figures of merit of a segmentation: integer counts on the device, scores from them on the host."""

from collections import namedtuple

import numpy as np
import paddle
import paddle.distributed as dist
import paddle.nn.functional as F

Scores = namedtuple('Scores', 'class_iou miou acc class_precision class_recall kappa class_dice mdice')

_BINS, _LIMIT = 1 << 14, 20.  # of Roc: log-odds in [-20, 20], in steps of 0.0024


def confusion_matrix(pred, label, num_classes, ignore_index=255):
    """Counts pixels by true and predicted class. A pixel whose label is ignored or no class is not counted.

    Args:
        pred (Tensor): predicted classes, integers in [0, C), any shape.
        label (Tensor): true classes, int32 or int64, as many pixels.

    Returns:
        Tensor: int64 [C, C], indexed [label, pred].
    """
    pred, label = pred.flatten().astype('int64'), label.flatten().astype('int64')
    valid = (label != ignore_index) & (label >= 0) & (label < num_classes)
    cell = paddle.where(valid, label * num_classes + pred, paddle.full_like(label, num_classes**2))
    return paddle.bincount(cell, minlength=num_classes**2 + 1)[:-1].reshape([num_classes, num_classes])


def scores(matrix):
    """All figures of a confusion matrix.

    Args:
        matrix (Tensor|ndarray): [C, C] pixel counts indexed [label, pred].

    Returns:
        Scores: class_* are float64 [C], the others floats in [0, 1] (kappa in [-1, 1]). Means are over all C
            classes; whatever has nothing to divide by, such as the IoU of a class neither true nor predicted, is 0.
    """
    matrix = np.asarray(matrix, dtype='float64')
    hit, pred, label, total = matrix.diagonal(), matrix.sum(0), matrix.sum(1), matrix.sum()
    iou, dice, acc = _ratio(hit, pred + label - hit), _ratio(2 * hit, pred + label), _ratio(hit.sum(), total)
    chance = _ratio(pred @ label, total**2)
    return Scores(iou, iou.mean(), float(acc), _ratio(hit, pred), _ratio(hit, label),
                  float(_ratio(acc - chance, 1 - chance)), dice, dice.mean())



def _ratio(a, b):
    return np.divide(a, b, out=np.zeros(np.shape(b)), where=np.asarray(b) != 0)


class Roc:
    """Counts pixels by class score. The area depends on their order only, so a fine histogram replaces the pixels.

    Args:
        num_classes (int): C.
        ignore_index (int): label of pixels that do not count.
    """

    def __init__(self, num_classes, ignore_index=255):
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.counts = paddle.zeros([num_classes, 2, _BINS], dtype='int64')  # the rest and the class itself

    def add(self, logit, label):
        """Args: logit (Tensor): [N, C, H, W]. label (Tensor): int64, N·H·W of them."""
        label = label.flatten()
        valid = (label != self.ignore_index) & (label >= 0) & (label < self.num_classes)
        log_prob = F.log_softmax(logit.astype('float32'), axis=1).transpose([1, 0, 2, 3]).flatten(1)
        odds = log_prob - paddle.log((-paddle.expm1(log_prob)).clip(min=1e-12))  # order is kept, also close to 0 and 1
        bins = ((odds.clip(-_LIMIT, _LIMIT) / _LIMIT + 1) / 2 * (_BINS - 1)).round().astype('int64')
        for c in range(self.num_classes):
            cell = paddle.where(valid, (label == c).astype('int64') * _BINS + bins[c],
                                paddle.full_like(label, 2 * _BINS))
            self.counts[c] += paddle.bincount(cell, minlength=2 * _BINS + 1)[:-1].reshape([2, _BINS])

    def area(self):
        """Sums over all ranks.

        Returns:
            float: probability that a pixel of a class scores above a pixel of the rest (ties count one half), mean over
                the classes that have both; 0 when there is none.
        """
        if dist.get_world_size() > 1:
            dist.all_reduce(self.counts)
        rest, own = self.counts.numpy().astype('float64').transpose(1, 0, 2)  # [C, bins] each
        pairs = rest.sum(1) * own.sum(1)
        wins = (own * (rest.cumsum(1) - rest / 2)).sum(1)
        return float(np.mean(wins[pairs > 0] / pairs[pairs > 0])) if pairs.any() else 0.
