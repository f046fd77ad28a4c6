"""Looks at the pseudo labels of the same crops at every milestone, so that two looks compare."""

from functools import cached_property

import numpy as np
import paddle

from paddleseg_semi.core.metrics import confusion_matrix, scores
from paddleseg_semi.datasets.streams.loading import SPARES, batches

_SIZE = 32  # crops: 3 % is one crop


class Probe:
    """A fixed sample of unlabeled crops, and what a method makes of it. Nothing of it reaches the training.

    Args:
        stream (UnlabeledStream): with masks, the pseudo labels are compared with the truth.
        batch_size (int): crops per pass.
        seed (int): of the crops.
        num_classes (int): C.
        ignore_index (int): the label that counts nowhere.
        labeled (LabeledStream, optional): what the shares of the classes are compared with.
    """

    def __init__(self, stream, batch_size, seed, num_classes, ignore_index=255, labeled=None):
        self.labeled, self.seed = labeled, seed
        self.stream, self.num_classes, self.ignore_index = stream, num_classes, ignore_index
        count = min(_SIZE, len(stream))
        places = np.linspace(0, len(stream) - 1, count).round().astype(int).tolist()    # all parts of a video
        spares = range(1, min(SPARES, len(stream) - 1) + 1)
        samples = [(place, int(np.random.default_rng((seed, place)).integers(2**31)),
                    *((place + k) % len(stream) for k in spares)) for place in places]
        self.order = [samples[first:first + batch_size] for first in range(0, count, batch_size)]

    @cached_property
    def labeled_shares(self):
        """np.ndarray: [C], 0..1, shares of the classes in crops of labeled images; None without."""
        if self.labeled is None:
            return None
        count = np.zeros(self.num_classes, 'int64')
        for place in np.linspace(0, len(self.labeled) - 1, min(2 * _SIZE, len(self.labeled))).round().astype(int):
            sample = self.labeled[int(place), self.seed]
            if 'label' in sample:  # what cannot be read is said by the training
                label = sample['label'][sample['label'] != self.ignore_index]
                count += np.bincount(label, minlength=self.num_classes)
        return count / max(count.sum(), 1)

    def batches(self):
        """Yields dict[str, Tensor]: `weak`, `valid` and, if the stream has masks, `truth` [N, H, W] int64."""
        return batches(self.stream, self.order)

    def look(self, method, clock):
        """What a method makes of the crops now.

        Args:
            method (Method): any with unlabeled images.
            clock (Clock): now.

        Returns:
            tuple[dict[str, float], np.ndarray, dict[str, float]]: `crops`; of the valid pixels, the share `kept`, the
            mean `conf`, and the `gap`, the share on which teacher and student disagree (if there is a teacher); the
            share of each class [C] among the kept pseudo labels; and against the truth (empty without masks) `Acc` and
            `mIoU` of all pseudo labels, `kept_Acc` of those kept.
        """
        total = {}
        for batch in self.batches():
            for name, value in self._count(method, batch, clock).items():
                total[name] = total.get(name, 0) + value
        total = {name: value.numpy().astype('float64') for name, value in total.items()}
        valid = max(total['valid'], 1)
        pseudo = {'crops': float(sum(map(len, self.order))),
                  **{name: float(total[name] / valid) for name in ('kept', 'conf', 'gap') if name in total}}
        oracle = {}
        if 'all_matrix' in total:
            found = scores(total['all_matrix'])
            oracle = {'Acc': found.acc, 'kept_Acc': scores(total['kept_matrix']).acc, 'mIoU': float(found.miou)}
        return pseudo, total['classes'] / max(total['kept'], 1), oracle

    def _count(self, method, batch, clock):
        (pseudo, conf, valid), keep = method.explain(batch, clock)
        none = paddle.full_like(pseudo, self.num_classes)
        count = {'valid': valid.sum(), 'kept': keep.sum(), 'conf': (conf * valid.astype('float32')).sum(),
                 'classes': paddle.bincount(paddle.where(keep, pseudo, none).flatten(),
                                            minlength=self.num_classes + 1)[:-1]}
        if method.deployed is not method.model:
            count['gap'] = ((method.pseudo_label(batch['weak']).label != pseudo) & valid).sum()
        if 'truth' in batch:
            truth, ignore = batch['truth'], paddle.full_like(pseudo, self.ignore_index)
            for name, mask in (('all_matrix', valid), ('kept_matrix', keep)):
                count[name] = confusion_matrix(pseudo, paddle.where(mask, truth, ignore), self.num_classes,
                                               self.ignore_index)
        return count
