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
        partner (str): what is pasted: 'other', an image of a second unlabeled batch; 'reversed', of the same batch.

    Attributes:
        views (int): strong views.
    """

    views = 1

    def __init__(self, task, conf_thresh=0.95, sup_weight=0.5, strong_weight=0.5, box_prob=0.5, box_area=(0.02, 0.4),
                 box_ratio=(0.3, 3.3333), partner='other'):
        super().__init__(task)
        self.streams = mixing_streams(partner)
        self.conf_thresh, self.sup_weight, self.strong_weight = conf_thresh, sup_weight, strong_weight
        self.box = box_prob, box_area, box_ratio

    def step(self, batch, clock):
        labeled, first, second = batch['labeled'], batch['unlabeled'], partner_batch(batch)
        pasted = *self.pseudo_label(second['weak']), second['valid']                        # in eval mode
        outputs, own, losses = self.weak_pass(labeled['img'], first)                        # in train mode
        losses['sup'] = self.sup_weight * self.supervised(labeled, outputs)

        images, targets = [], []
        n, _, *size = first['weak'].shape
        for name in ['strong', 'strong_2'][:self.views]:
            box = gated_boxes(clock.rng(f'{name} box'), n, size, *self.box)
            images.append(paste(box, second[name], first[name]))
            targets.append([paste(box, inside, outside) for inside, outside in zip(pasted, own)])
        strong = self.model(paddle.concat(images))[0].split(self.views)
        for name, logits, target in zip(('s1', 's2'), strong, targets):
            loss = confident_cross_entropy(logits, *target, self.conf_thresh)
            losses[name] = self.strong_weight / self.views * loss
        conf, valid = own[1:]
        return losses, {'kept': share((conf >= self.conf_thresh) & valid, valid), 'conf': conf.mean()}

    def weak_pass(self, labeled, unlabeled):
        """Labeled images and weak views go through the network together.

        Args:
            labeled (Tensor): [M, 3, H, W].
            unlabeled (dict[str, Tensor]): a batch of the unlabeled stream.

        Returns:
            tuple: what the model says of labeled images; pseudo labels, confidence and valid [N, H, W] of the weak
            views; and the loss terms this pass is good for.
        """
        outputs = self.model(joined(labeled, unlabeled['weak']))
        return split_outputs(outputs, len(labeled)), (*decide(outputs[0][len(labeled):]), unlabeled['valid']), {}

    def explain(self, unlabeled, clock):
        pseudo, conf = self.pseudo_label(unlabeled['weak'])
        return pseudo, conf, (conf >= self.conf_thresh) & unlabeled['valid']


def split_outputs(outputs, m):
    """The outputs of a model for the first m images."""
    return paddle.utils.map_structure(lambda output: output[:m], outputs)
