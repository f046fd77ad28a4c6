"""AugSeg (Zhao et al., "Augmentation Matters: A Simple-yet-Effective Approach to Semi-supervised Semantic
Segmentation", CVPR 2023)."""

import math

import paddle
import paddle.nn.functional as F

from paddleseg_semi.datasets.streams import Labeled, Unlabeled
from paddleseg_semi.losses.contrast import entropy
from paddleseg_semi.losses.masked import masked_cross_entropy
from paddleseg_semi.methods.common import LateTeacher, check_crops, joined
from paddleseg_semi.methods.pseudo import Pseudo
from paddleseg_semi.ranges import DECAY, POSITIVE, SHARE, START, SWITCH, WEIGHT, Two
from paddleseg_semi.registries import METHODS
from paddleseg_semi.runtime import to_device
from paddleseg_semi.transforms.mixing import centered_boxes, paste


@METHODS.add_component
class AugSeg(LateTeacher):
    """A mean teacher and two augmentations: colors changed by a random number of operations, and CutMix that brings
    labeled images, masks included, into those of which the teacher is unsure.

    .. math:: L = L_x + \\lambda_u L_u

    Args:
        task (Task): what is to be learned.
        unsup_weight (float): lambda_u, weight of the loss on unlabeled images.
        conf_thresh (float): tau, the teacher's probability, 0..1, from which a pixel trains.
        ema_decay (float): of the teacher, 0..1.
        teacher_start (int|float): until then the teacher is an exact copy of the student; in updates (620) or as a
            share of the run (0.0125). The paper's first epoch of 80.
        inject_beta (Sequence[float]): parameters of the beta distribution of the share of an image that a box with a
            labeled one leaves.
        mix_beta (Sequence[float]): the same for the box with another unlabeled image.
        weak_statistics (bool): weak views pass the student too, for the statistics of batch normalization.
        reference_quirks (bool): as the published code, padding of unlabeled images counts as image.
    """

    ranges = {'unsup_weight': WEIGHT, 'conf_thresh': SHARE, 'ema_decay': DECAY, 'teacher_start': START,
              'inject_beta': Two(POSITIVE), 'mix_beta': Two(POSITIVE), 'weak_statistics': SWITCH,
              'reference_quirks': SWITCH}

    def __init__(self, task, unsup_weight=1.0, conf_thresh=0.95, ema_decay=0.999, teacher_start=0.0125,
                 inject_beta=(8, 2), mix_beta=(4, 4), weak_statistics=False, reference_quirks=False):
        super().__init__(task, conf_thresh, ema_decay, teacher_start)
        self.unsup_weight, self.inject_beta, self.mix_beta = unsup_weight, inject_beta, mix_beta
        self.weak_statistics = weak_statistics
        self.streams = {'labeled': Labeled(), 'unlabeled': Unlabeled(views=1, padding=reference_quirks)}

    def semi_step(self, batch, clock):
        labeled, unlabeled = batch['labeled'], batch['unlabeled']
        weak, valid = unlabeled['weak'], unlabeled['valid']
        check_crops(labeled['img'], weak)
        with paddle.no_grad():
            logits = self.teacher(weak)[0]
        pseudo, certain = Pseudo.of(logits, valid), certainty(logits, valid)                # [N, H, W], [N]
        label = labeled['label']
        true = Pseudo(label, paddle.ones_like(label, 'float32'), paddle.ones_like(label, 'bool'))
        img, *mixed = self._mix((unlabeled['strong'], *pseudo), (labeled['img'], *true), certain, clock)
        mixed = Pseudo(*mixed)
        keep = mixed.sure(self.conf_thresh) & (mixed.label != self.ignore_index)

        others = [weak, img] if self.weak_statistics else [img]
        outputs = self.model(joined(labeled['img'], paddle.concat(others)))
        m, n = len(labeled['img']), len(img)
        loss = masked_cross_entropy(outputs[0][-n:], mixed.label, keep) * mixed.kept(keep)
        losses = {'sup': self.supervised(labeled, [output[:m] for output in outputs]),
                  'unsup': self.unsup_weight * loss}
        return losses, {'kept': pseudo.kept(pseudo.sure(self.conf_thresh)), 'conf': pseudo.conf.mean(),
                        'certainty': certain.mean(), 'trained': mixed.kept(keep)}

    def _mix(self, own, true, certain, clock):
        """Boxes of labeled images into copies of the unlabeled ones; boxes of the copies into the unlabeled ones.

        Args:
            own (tuple[Tensor]): [N, ...], of unlabeled images.
            true (tuple[Tensor]): [M, ...], the same of labeled ones.
            certain (Tensor): [N]: the surer the teacher, the rarer a labeled box.
            clock (Clock): for the draws.

        Returns:
            list[Tensor]: shaped like `own`.
        """
        rng, n, size = clock.rng('mix'), len(own[0]), own[0].shape[2:]
        order = rng.permutation(n)
        boxes = [centered_boxes(rng, n, size, [math.sqrt(1 - rng.beta(*beta))] * 2, margin=8)
                 for beta in (self.inject_beta, self.mix_beta)]
        inject = boxes[0] & (to_device(rng.random(n).astype('float32')) > certain).unsqueeze([1, 2])
        given, order = to_device(order % len(true[0])), to_device(order)
        return [paste(boxes[1], paste(inject, theirs[given], mine)[order], mine) for theirs, mine in zip(true, own)]


@paddle.no_grad()
def certainty(logits, valid):
    """How sure a network is of an image.

    .. math:: s = mean_{i \\in valid} (1 - \\frac{H(p_i)}{\\log C}) \\max_c p_{i, c}

    Args:
        logits (Tensor): [N, C, H, W].
        valid (Tensor): [N, H, W], bool, the pixels that count.

    Returns:
        Tensor: [N], float32, 0..1; 0 for an image without a pixel that counts.
    """
    prob = F.softmax(logits, axis=1)
    sure = (1 - entropy(prob) / math.log(prob.shape[1])) * prob.amax(1) * valid.astype('float32')
    return sure.sum([1, 2]) / valid.astype('float32').sum([1, 2]).clip(min=1)
