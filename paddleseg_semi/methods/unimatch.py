"""UniMatch (Yang et al., "Revisiting Weak-to-Strong Consistency in Semi-Supervised Segmentation", CVPR 2023)."""

import paddle
import paddle.nn.functional as F

from paddleseg_semi.methods.common import joined, partner_batch
from paddleseg_semi.methods.fixmatch import FixMatch
from paddleseg_semi.models.tap import Tap, find_fork, new_probe
from paddleseg_semi.ranges import DECAY, TEXT, WEIGHT
from paddleseg_semi.registries import METHODS


@METHODS.add_component
class UniMatch(FixMatch):
    """FixMatch with two strong views, and a third one whose features, not colors, are disturbed.

    Args:
        task (Task): what is to be learned.
        conf_thresh (float): probability, 0..1, from which a pixel trains on its pseudo label.
        sup_weight (float): of the loss on labeled images.
        strong_weight (float): of the loss on strong views, shared among them.
        feature_weight (float): of the loss on disturbed features.
        feature_drop (float): probability, 0..1, with which a channel is dropped.
        feature_layer (str, optional): layer whose output is disturbed. Default: the model's `backbone`, all of its
            levels; where it has none, the input of the classifier.
        box_prob, box_area, box_ratio, partner: of CutMix, see `FixMatch`.
        ema_decay, align_decay (float, optional): of a teacher and of an alignment, see `FixMatch`. Default: none.
    """

    views = 2
    ranges = {**FixMatch.ranges, 'feature_weight': WEIGHT, 'feature_drop': DECAY, 'feature_layer': TEXT}

    def __init__(self, task, conf_thresh=0.95, sup_weight=0.5, strong_weight=0.25, feature_weight=0.25,
                 feature_drop=0.5, feature_layer=None, box_prob=0.5, box_area=(0.02, 0.4), box_ratio=(0.3, 3.3333),
                 partner='other', ema_decay=None, align_decay=None):
        super().__init__(task, conf_thresh, sup_weight, strong_weight, box_prob, box_area, box_ratio, partner,
                         ema_decay, align_decay)
        self.feature_weight, self.feature_drop = feature_weight, feature_drop
        self.fork = find_fork(self.model, task.num_classes, feature_layer, new_probe(channels=task.img_channels))

    def weak_pass(self, batch, clock):
        labeled, first, second = batch['labeled'], batch['unlabeled'], partner_batch(batch)
        other = self.teach(second)                                                          # in eval mode
        with Tap(self.model, *self.fork, self.disturb):
            outputs = self.model(joined(labeled['img'], first['weak']))
        m, n = len(labeled['img']), len(first['weak'])
        own = self.teach(first, looks=True) if self.teacher else \
            self.guided(outputs[0][m:m + n], first['valid'], looks=True)
        losses, guides = self.labeled_term(labeled, outputs), self.guides(own, other, first, second, clock)
        losses['fp'] = self.feature_weight * sum(guide.loss(outputs[0][-n:]) for guide in guides)
        return losses, guides

    def disturb(self, features):
        """Appends a copy of the batch with channels dropped, per image and level on its own: clean and disturbed
        features pass the rest of the network, and its batch normalization, together."""
        def double(level):
            channels = 2 if level.ndim == 3 else 1          # tokens [N, L, C] or a map [N, C, H, W]
            return paddle.concat([level, F.dropout(level, self.feature_drop, axis=[0, channels])])

        return paddle.utils.map_structure(double, features)
