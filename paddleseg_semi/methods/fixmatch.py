"""FixMatch (Sohn et al., NeurIPS 2020) for segmentation, as the baseline of UniMatch has it."""

import paddle

from paddleseg_semi.cvlibs.manager import METHODS
from paddleseg_semi.methods.base import Method
from paddleseg_semi.methods.common import (
    confident_cross_entropy,
    decide,
    joined,
    mixing_streams,
    partner_batch,
    share,
)
from paddleseg_semi.models.ema import EMA
from paddleseg_semi.transforms.mixing import gated_boxes, paste


@METHODS.add_component
class FixMatch(Method):
    """What the network is sure of on the weak view is what it has to say about the strong one, into which a box of
    another image may be pasted.

    Args:
        task (Task): what is to be learned.
        conf_thresh (float): probability, 0..1, from which a pixel trains on its pseudo label.
        sup_weight (float): of the loss on labeled images.
        strong_weight (float): of the loss on strong views, shared among them.
        box_prob (float): of a box in a strong view, 0..1.
        box_area (Sequence[float]): range of its area as a share of the image.
        box_ratio (Sequence[float]): range of its height over its width.
        partner (str): what is pasted: 'other', an image of a second unlabeled batch; 'reversed', of the same batch;
            'same', another crop of the image itself.
        ema_decay (float, optional): of a teacher that makes the pseudo labels and is deployed, per update, after a
            start with min(1 - 1 / (t + 1), ema_decay). Default: the network teaches itself.

    Attributes:
        views (int): strong views.
    """

    views = 1

    def __init__(self, task, conf_thresh=0.95, sup_weight=0.5, strong_weight=0.5, box_prob=0.5, box_area=(0.02, 0.4),
                 box_ratio=(0.3, 3.3333), partner='other', ema_decay=None):
        super().__init__(task)
        self.streams = mixing_streams(partner)
        self.conf_thresh, self.sup_weight, self.strong_weight = conf_thresh, sup_weight, strong_weight
        self.box = box_prob, box_area, box_ratio
        self.teacher = None if ema_decay is None else EMA(self.model, ema_decay)

    @property
    def deployed(self):
        return self.teacher.net if self.teacher else self.model

    def after_update(self, clock):
        if self.teacher:
            self.teacher.update(self.model, clock.iter - 1)

    def pseudo_label(self, img, net=None):
        return super().pseudo_label(img, net or self.deployed)

    def labeled_step(self, batch, clock):
        labeled = batch['labeled']
        return self.labeled_term(labeled, self.model(labeled['img'])), {}

    def semi_step(self, batch, clock):
        first, second = batch['unlabeled'], partner_batch(batch)
        losses, own, pasted = self.weak_pass(batch)
        images, targets = [], []
        n, _, *size = first['weak'].shape
        for name in ['strong', 'strong_2'][:self.views]:
            box = gated_boxes(clock.rng(f'{name} box'), n, size, *self.box)
            images.append(paste(box, second[name], first[name]))
            targets.append([paste(box, inside, outside) for inside, outside in zip(pasted, own)])
        strong = self.strong_pass(paddle.concat(images), clock).split(self.views)
        for name, logits, target in zip(('s1', 's2'), strong, targets):
            loss = confident_cross_entropy(logits, *target, self.conf_thresh)
            losses[name] = self.strong_weight / self.views * loss
        conf, valid = own[1:]
        return losses, {'kept': share((conf >= self.conf_thresh) & valid, valid), 'conf': conf.mean()}

    def weak_pass(self, batch):
        """What can be learned before any strong view is seen.

        Args:
            batch (dict[str, dict[str, Tensor]]): as given to `step`.

        Returns:
            tuple: loss terms; (pseudo labels, confidence, valid), each [N, H, W], of the unlabeled images; and of
            those that are pasted into them.
        """
        labeled, first = batch['labeled'], batch['unlabeled']
        if self.teacher:
            own = *self.pseudo_label(first['weak']), first['valid']
            pasted = (*self.pseudo_label(batch['mix']['weak']), batch['mix']['valid']) if 'mix' in batch else \
                [value.flip(0) for value in own]
            return self.labeled_term(labeled, self.model(labeled['img'])), own, pasted
        second = partner_batch(batch)
        pasted = *self.pseudo_label(second['weak']), second['valid']                        # in eval mode
        outputs = self.model(joined(labeled['img'], first['weak']))                         # in train mode
        m = len(labeled['img'])
        return self.labeled_term(labeled, outputs), (*decide(outputs[0][m:]), first['valid']), pasted

    def labeled_term(self, labeled, outputs):
        """The loss on labeled images, which come first in the outputs of the model."""
        ours = paddle.utils.map_structure(lambda output: output[:len(labeled['img'])], outputs)
        return {'sup': self.sup_weight * self.supervised(labeled, ours)}

    def strong_pass(self, img, clock):
        """Logits [V * N, C, H, W] of the strong views."""
        return self.model(img)[0]

    def explain(self, unlabeled, clock):
        pseudo, conf = self.pseudo_label(unlabeled['weak'])
        return pseudo, conf, (conf >= self.conf_thresh) & unlabeled['valid']
