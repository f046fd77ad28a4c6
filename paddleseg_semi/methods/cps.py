"""CPS (Chen et al., "Semi-Supervised Semantic Segmentation with Cross Pseudo Supervision", CVPR 2021)."""

import paddle
from paddleseg.utils import logger

from paddleseg_semi.losses.masked import masked_cross_entropy
from paddleseg_semi.methods.base import Method
from paddleseg_semi.methods.common import PARTNERS, joined, mixing_streams, partner_batch
from paddleseg_semi.methods.pseudo import Pseudo
from paddleseg_semi.ranges import AT_LEAST_ONE, SHARES, SWITCH, WEIGHT, OneOf
from paddleseg_semi.registries import METHODS
from paddleseg_semi.transforms.mixing import paste, toggled_boxes


@METHODS.add_component
class CPS(Method):
    """Two networks that differ in their random start; each learns from the hard predictions of the other.

    Args:
        task (Task): what is to be learned.
        cps_weight (float): of the cross pseudo supervision (the paper's lambda).
        cutmix (bool): predict on two unlabeled images, train on a mixture of them; False: predict and train on the same
            ones, labeled images included.
        boxes (int): of the mixture; they toggle each other where they overlap.
        box_share (Sequence[float]): range of the area of a box as a share of the image.
        partner (str): what is pasted: 'other', an image of a second unlabeled batch; 'reversed', of the same batch;
            'same', another crop of the image itself.
        reference_quirks (bool): as the published code, let padding (and, without CutMix, void pixels) get pseudo
            labels.
    """

    renamed = {'weight': 'cps_weight'}
    ranges = {'cps_weight': WEIGHT, 'cutmix': SWITCH, 'boxes': AT_LEAST_ONE, 'box_share': SHARES,
              'partner': OneOf(PARTNERS), 'reference_quirks': SWITCH}

    def __init__(self, task, cps_weight=1.0, cutmix=True, boxes=3, box_share=(0.25, 0.5), partner='other',
                 reference_quirks=False):
        super().__init__(task)
        self.model_2 = task.new_model()
        weights = self.model_2.state_dict()
        if all((value == weights[name]).all() for name, value in self.model.state_dict().items()):
            logger.warning('CPS: both networks start from the same weights, so each learns what it says itself. Give '
                           'model.backbone.pretrained instead of model.pretrained.')
        self.streams = mixing_streams('reversed' if not cutmix else partner, padding=reference_quirks)
        self.cps_weight, self.cutmix, self.reference_quirks = cps_weight, cutmix, reference_quirks
        self.boxes, self.box_share = boxes, box_share

    def players(self):
        return {'model': self.model, 'model_2': self.model_2}

    def labeled_step(self, batch, clock):
        labeled = batch['labeled']
        return self._labeled_terms(labeled, [net(labeled['img']) for net in (self.model, self.model_2)]), {}

    def _labeled_terms(self, labeled, outputs):
        return {'sup': self.supervised(labeled, outputs[0]), 'sup_2': self.supervised(labeled, outputs[1])}

    def semi_step(self, batch, clock):
        labeled, nets = batch['labeled'], (self.model, self.model_2)
        if self.cutmix:
            teaching, learning, keep = self._mixed(nets, batch, clock)
            outputs = [net(labeled['img']) for net in nets]
        else:
            outputs = [net(labeled['img']) for net in nets]
            learning = teaching = [joined(output[0], net(batch['unlabeled']['weak'])[0])
                                   for net, output in zip(nets, outputs)]
            known = labeled['label'] != self.ignore_index
            keep = paddle.concat([paddle.ones_like(known) if self.reference_quirks else known,
                                  batch['unlabeled']['valid']])
        first, second = (Pseudo.of(logits, keep) for logits in teaching)                    # each guides the other
        losses = {**self._labeled_terms(labeled, outputs),
                  'cps': self.cps_weight * masked_cross_entropy(learning[0], second.label, keep),
                  'cps_2': self.cps_weight * masked_cross_entropy(learning[1], first.label, keep)}
        return losses, {'kept': first.kept(keep), 'conf': (first.conf.mean() + second.conf.mean()) / 2,
                        'agree': (first.label == second.label).astype('float32').mean()}

    def _mixed(self, nets, batch, clock):
        """What both networks say of the two images, mixed [N, C, H, W]; of the mixture; and where it is valid."""
        first, second = batch['unlabeled'], partner_batch(batch)
        n, _, *size = first['weak'].shape
        mask = toggled_boxes(clock.rng('mask'), n, size, self.box_share, self.boxes)        # [N, H, W], True: second
        with paddle.no_grad():  # in train mode, as in the paper: every pass moves the running statistics
            apart = [[net(part['weak'])[0] for part in (first, second)] for net in nets]
        img = paste(mask, second['weak'], first['weak'])
        return ([paste(mask, after, before) for before, after in apart], [net(img)[0] for net in nets],
                paste(mask, second['valid'], first['valid']))
