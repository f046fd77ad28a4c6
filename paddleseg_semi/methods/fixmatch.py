"""FixMatch (Sohn et al., NeurIPS 2020) for segmentation, as the baseline of UniMatch has it."""

from typing import NamedTuple

import paddle

from paddleseg_semi.methods.base import Method
from paddleseg_semi.methods.common import PARTNERS, joined, mixing_streams, partner_batch
from paddleseg_semi.methods.pseudo import Pseudo
from paddleseg_semi.models.alignment import Alignment
from paddleseg_semi.models.ema import EMA
from paddleseg_semi.models.modes import evaluating
from paddleseg_semi.ranges import DECAY, POSITIVE, SHARE, SHARES, WEIGHT, OneOf, Pair
from paddleseg_semi.registries import METHODS
from paddleseg_semi.transforms.mixing import gated_boxes, paste


class Guide(NamedTuple):
    """Somebody whom the strong views follow.

    Attributes:
        own (Pseudo): of the unlabeled images.
        other (Pseudo): of those that are pasted into them.
        weight (float): of its loss.
        thresh (float): probability, 0..1, from which it is followed.
    """

    own: Pseudo
    other: Pseudo
    weight: float
    thresh: float

    def loss(self, logits, box=None):
        """Weighted loss of a view.

        Args:
            logits (Tensor): [N, C, H, W].
            box (Tensor, optional): [N, H, W], bool, where the other images were pasted. Default: nowhere.

        Returns:
            Tensor: scalar.
        """
        return self.weight * self.follow(self.own if box is None else self.own.pasted(box, self.other), logits)

    def follow(self, pseudo, logits):
        """Tensor: what following these labels costs, a scalar."""
        return pseudo.loss(logits, self.thresh)


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
        align_decay (float, optional): pseudo labels are made from probabilities that are aligned with the class shares
            of the masks, see `Alignment`, whose memory it is. Default: they are not.

    Attributes:
        views (int): strong views.
    """

    views = 1
    ranges = {'conf_thresh': SHARE, 'sup_weight': WEIGHT, 'strong_weight': WEIGHT, 'box_prob': SHARE,
              'box_area': SHARES, 'box_ratio': Pair(POSITIVE), 'partner': OneOf(PARTNERS), 'ema_decay': SHARE,
              'align_decay': DECAY}

    def __init__(self, task, conf_thresh=0.95, sup_weight=0.5, strong_weight=0.5, box_prob=0.5, box_area=(0.02, 0.4),
                 box_ratio=(0.3, 3.3333), partner='other', ema_decay=None, align_decay=None):
        super().__init__(task)
        self.streams = mixing_streams(partner, self.views)
        self.conf_thresh, self.sup_weight, self.strong_weight = conf_thresh, sup_weight, strong_weight
        self.box = box_prob, box_area, box_ratio
        self.teacher = None if ema_decay is None else EMA(self.model, ema_decay)
        self.alignment = None if align_decay is None else Alignment(task.num_classes, align_decay)

    @property
    def deployed(self):
        return self.teacher.net if self.teacher else self.model

    def after_update(self, clock):
        if self.teacher:
            self.teacher.update(self.model, clock.iter - 1)

    def labeled_step(self, batch, clock):
        labeled = batch['labeled']
        return self.labeled_term(labeled, self.model(labeled['img'])), {}

    def semi_step(self, batch, clock):
        first, second = batch['unlabeled'], partner_batch(batch)
        losses, guides = self.weak_pass(batch, clock)
        images, boxes = [], []
        n, _, *size = first['weak'].shape
        for name in ['strong', 'strong_2'][:self.views]:
            boxes.append(gated_boxes(clock.rng(f'{name} box'), n, size, *self.box))         # [N, H, W], True: second
            images.append(paste(boxes[-1], second[name], first[name]))
        strong = self.strong_pass(paddle.concat(images), clock).split(self.views)
        for name, logits, box in zip(('s1', 's2'), strong, boxes):
            losses[name] = self.strong_weight / self.views * sum(guide.loss(logits, box) for guide in guides)
        own, _, _, thresh = guides[0]
        return losses, {'kept': own.kept(own.sure(thresh)), 'conf': own.conf.mean()}

    def weak_pass(self, batch, clock):
        """What can be learned before any strong view is seen, and who guides the strong views.

        Args:
            batch (dict[str, dict[str, Tensor]]): as given to `step`.
            clock (Clock): as given to `step`.

        Returns:
            tuple[dict[str, Tensor], list[Guide]]: loss terms; and the guides, of which the log speaks of the first.
        """
        labeled, first, second = batch['labeled'], batch['unlabeled'], partner_batch(batch)
        if self.teacher:
            own = self.teach(first, looks=True)
            other = self.teach(second) if 'mix' in batch else own.each(lambda value: value.flip(0))
            outputs = self.model(labeled['img'])
        else:
            other = self.teach(second)                                                      # in eval mode
            outputs = self.model(joined(labeled['img'], first['weak']))                     # in train mode
            own = self.guided(outputs[0][len(labeled['img']):], first['valid'], looks=True)
        return self.labeled_term(labeled, outputs), self.guides(own, other, first, second, clock)

    def guides(self, own, other, first, second, clock):
        """Whom the views follow.

        Args:
            own, other (Pseudo): of the unlabeled images, and of those that are pasted into them.
            first, second (dict[str, Tensor]): these images.
            clock (Clock): as given to `step`.

        Returns:
            list[Guide]: the first one is spoken of in the log.
        """
        return [Guide(own, other, 1., self.conf_thresh)]

    def labeled_term(self, labeled, outputs):
        """The loss on labeled images, which come first in the outputs of the model."""
        if self.alignment:
            self.alignment.see_labels(labeled['label'], labeled['label'] != self.ignore_index)
        ours = paddle.utils.map_structure(lambda output: output[:len(labeled['img'])], outputs)
        return {'sup': self.sup_weight * self.supervised(labeled, ours)}

    def teach(self, part, looks=False):
        """Pseudo: what the deployed network says of a batch of the unlabeled stream, in eval mode; see `guided`."""
        with evaluating(self.deployed), paddle.no_grad():
            return self.guided(self.deployed(part['weak'])[0], part['valid'], looks)

    def guided(self, logits, valid, looks=False):
        """Pseudo: of logits [N, C, H, W], aligned if they are to be; `looks`: the alignment takes note of them."""
        if self.alignment:
            if looks:
                self.alignment.see_logits(logits.detach(), valid)
            logits = logits.detach() + self.alignment.shift()
        return Pseudo.of(logits, valid)

    def strong_pass(self, img, clock):
        """Logits [V * N, C, H, W] of the strong views."""
        return self.model(img)[0]

    def explain(self, unlabeled, clock):
        pseudo = self.teach(unlabeled)
        return pseudo, pseudo.sure(self.conf_thresh)
