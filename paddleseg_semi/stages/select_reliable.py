"""Which images a training was sure of early (ST++: Yang et al., CVPR 2022)."""

import glob
import os
import re

import numpy as np
import paddle.distributed as dist
from paddleseg.utils import logger

from paddleseg_semi.core.common import progress_bar
from paddleseg_semi.datasets import lists
from paddleseg_semi.errors import InputError
from paddleseg_semi.registries import STAGES
from paddleseg_semi.stages.images import read_mask
from paddleseg_semi.stages.pseudo_label import Labeler


@STAGES.add_component
class SelectReliable:
    """Sorts images by how well the predictions of earlier checkpoints agree with the last one: the mean over them of
    the mIoU of an image, over the classes that either of two predictions has.

    Products: reliable.txt and unreliable.txt (images, best first), scores.csv, and <iter_N>/ with the predictions.

    Args:
        checkpoints (str): pattern of the iter_N folders of one training run.
        files (str): the images: a folder, or a list of paths relative to the dataset_root of that run.
        count (int): checkpoints used, evenly spaced, the last one included; at least 2.
        keep (float): share of the images that is reliable, 0..1.
        threshold (float, optional): reliable are instead all images with at least this score, 0..1.
    """

    def __init__(self, checkpoints, files, count=3, keep=0.5, threshold=None):
        if not isinstance(count, int) or count < 2:
            raise InputError(f'count: {count}: give a whole number of at least 2; predictions are compared.')
        for name, value in (('keep', keep), ('threshold', threshold)):
            if value is not None and not (isinstance(value, (int, float)) and 0 <= value <= 1):
                raise InputError(f'{name}: {value}: give a number from 0 to 1.')
        self.checkpoints, self.files, self.count, self.keep, self.threshold = checkpoints, files, count, keep, threshold

    def inputs(self):
        labelers = self._labelers()
        return [[labeler.inputs() for labeler in labelers], labelers[0].images(self.files), self.keep, self.threshold]

    def run(self, out_dir):
        labelers = self._labelers()
        images, num_classes = labelers[0].images(self.files), labelers[0].builder.train_dataset.num_classes
        masks = []  # one network at a time is in memory
        for labeler in labelers:
            folder = os.path.join(out_dir, os.path.basename(os.path.dirname(labeler.weights)))
            items = labeler.label(images, folder)
            images = [image for image, _ in items]  # without those that cannot be read
            masks.append([mask for _, mask in items])
        if dist.get_rank() == 0:
            self._write(out_dir, [lists.relative(image, labelers[0].root) for image in images],
                        _scores(masks, num_classes))

    def _labelers(self):
        run, pattern = os.path.split(self.checkpoints.rstrip('/'))
        number = {folder: int(match[1]) for folder in glob.glob(os.path.join(glob.escape(run), pattern))
                  if (match := re.search(r'iter_(\d+)$', folder))}
        folders = sorted(number, key=number.get)
        if len(folders) < self.count:
            raise InputError(f'{self.checkpoints}: {len(folders)} iter_N folders, but count is {self.count}. Give the '
                             'training a shorter save_interval or a larger keep_checkpoint_max.')
        return [Labeler(folders[len(folders) * k // self.count - 1]) for k in range(1, self.count + 1)]

    def _write(self, out_dir, images, scores):
        order = np.argsort(-scores, kind='stable')
        if self.threshold is None:
            reliable = int(len(order) * self.keep)
        else:
            reliable = int((scores >= self.threshold).sum())
        for name, part in (('reliable.txt', order[:reliable]), ('unreliable.txt', order[reliable:])):
            lists.write(os.path.join(out_dir, name), (images[i] + '\n' for i in part))
        lists.write(os.path.join(out_dir, 'scores.csv'), ['image,score\n', *(
            f'"{images[i]}",{scores[i]:.6f}\n' for i in order)])
        logger.info(f'Reliable: {reliable} of {len(order)} images, scores {scores[order[0]]:.4f} to '
                    f'{scores[order[max(reliable, 1) - 1]]:.4f}; the lowest is {scores[order[-1]]:.4f}.')


def _scores(masks, num_classes):
    scores = np.zeros(len(masks[0]))
    bar = progress_bar(len(scores))
    for i, files in enumerate(zip(*masks)):
        scores[i] = reliability([read_mask(file) for file in files], num_classes)
        bar.update(i + 1)
    return scores


def reliability(preds, num_classes):
    """Mean over k < K of mIoU(P_k, P_K), over the classes present in either.

    Args:
        preds (Sequence[np.ndarray]): K label maps [H, W] of one image, oldest checkpoint first.
        num_classes (int): C.

    Returns:
        float: 0..1.
    """
    return float(np.mean([np.nanmean(class_iou(pred, preds[-1], num_classes)) for pred in preds[:-1]]))


def class_iou(pred, label, num_classes):
    """Args:
        pred (np.ndarray): classes 0..C-1, integers of any shape.
        label (np.ndarray): the same; pixels that are no class do not count.
        num_classes (int): C.

    Returns:
        np.ndarray: [C] float64, NaN for a class in neither.
    """
    known = (label >= 0) & (label < num_classes)
    cells = label[known].astype('int64') * num_classes + pred[known]
    matrix = np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)
    hit, union = matrix.diagonal(), matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    return np.divide(hit, union, out=np.full(num_classes, np.nan), where=union > 0)
