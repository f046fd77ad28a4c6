"""iMAS (Zhao et al., "Instance-specific and Model-adaptive Supervision for Semi-supervised Semantic Segmentation",
CVPR 2023)."""

import paddle

from paddleseg_semi.datasets.streams import Labeled, Unlabeled
from paddleseg_semi.losses.hardness import agreement, weighted_cross_entropy
from paddleseg_semi.methods.common import LateTeacher, joined
from paddleseg_semi.ranges import SHARE, SHARES, START, SWITCH, WEIGHT
from paddleseg_semi.registries import METHODS
from paddleseg_semi.transforms.mixing import centered_boxes, paste


@METHODS.add_component
class IMAS(LateTeacher):
    """A student learns an image from its averaged teacher the more, and more distorted, the better they agree on it.

    The agreement gamma of student and teacher on the weak view, 0..1 per image, weighs the loss of the image, blends
    its weak view with the strong one, and decides on CutMix and on who is mixed with whom.

    Args:
        task (Task): what is to be learned.
        unsup_weight (float): lambda_u, weight of the two terms of unlabeled images.
        conf_thresh (float): tau, the probability, 0..1, from which a pixel trains and counts as confident.
        ema_decay (float): of the teacher, 0..1.
        teacher_start (int|float): until then the teacher is an exact copy of the student; in updates (620) or as a
            share of the run (0.0125). The paper's first epoch of 80.
        semi_start (int|float): when unlabeled images come in, in the same units.
        box_share (Sequence[float]): range of the share of each side that a CutMix box takes.
        class_weighted (bool): weigh the IoU of a class by its size; False: the plain mean.
        ignore_background (bool): class 0 has no weight in it.
        reference_quirks (bool): as in the published code, padding of unlabeled images counts as image.
    """

    ranges = {'unsup_weight': WEIGHT, 'conf_thresh': SHARE, 'ema_decay': SHARE, 'teacher_start': START,
              'semi_start': START, 'box_share': SHARES, 'class_weighted': SWITCH, 'ignore_background': SWITCH,
              'reference_quirks': SWITCH}

    def __init__(self, task, unsup_weight=3.0, conf_thresh=0.95, ema_decay=0.996, teacher_start=0.0125, semi_start=0,
                 box_share=(0.1, 0.9), class_weighted=True, ignore_background=True, reference_quirks=False):
        super().__init__(task, conf_thresh, ema_decay, teacher_start)
        self.unsup_weight, self.start, self.box_share = unsup_weight, semi_start, box_share
        self.streams = {'labeled': Labeled(), 'unlabeled': Unlabeled(views=1, padding=reference_quirks)}
        self.weighting = {'class_weighted': class_weighted, 'ignore_background': ignore_background}

    def semi_step(self, batch, clock):
        labeled, unlabeled = batch['labeled'], batch['unlabeled']
        weak, valid = unlabeled['weak'], unlabeled['valid']
        pseudo = self.pseudo_label(weak, valid, self.teacher.net)
        own = self.pseudo_label(weak, valid)                                                # the student's
        gamma = agreement(pseudo.label, pseudo.conf, own.label, own.conf, self.num_classes, self.conf_thresh, valid,
                          **self.weighting)                                                 # [N]
        keep = pseudo.sure(self.conf_thresh)                                                # [N, H, W]

        alpha = gamma.reshape([-1, 1, 1, 1])
        views, targets = [alpha * unlabeled['strong'] + (1 - alpha) * weak], [(pseudo.label, keep)]
        rng = clock.rng('cutmix')
        # The one place that waits for the device: the size of the student's batch depends on the answer.
        if gamma.mean() > rng.random():
            mask = centered_boxes(rng, len(weak), weak.shape[2:], self.box_share)
            partner = opposite(gamma)
            mixed, *target = [paste(mask, value[partner], value) for value in (weak, pseudo.label, keep)]
            views, targets = [mixed, *views], [target, *targets]

        # The weak view trains nothing itself; it is there for the statistics of batch normalization.
        logits = self.model(joined(labeled['img'], paddle.concat([weak, *views])))
        supervised = [output[:len(labeled['img'])] for output in logits]
        outputs = logits[0][len(labeled['img']) + len(weak):].split(len(views))             # [N, C, H, W] each
        terms = [self.unsup_weight / len(views) * weighted_cross_entropy(output, *target, gamma)
                 for output, target in zip(outputs, targets)]
        losses = {'sup': self.supervised(labeled, supervised), 'strong': terms[-1]}
        if len(terms) > 1:
            losses['mix'] = terms[0]
        return losses, {'kept': pseudo.kept(keep), 'conf': pseudo.conf.mean(), 'agreement': gamma.mean(),
                        'mixed': paddle.full([], len(views) - 1.)}


def opposite(gamma):
    """Partners in CutMix: the hardest image meets the easiest, the second hardest the second easiest, and so on.

    Args:
        gamma (Tensor): [N], agreement.

    Returns:
        Tensor: [N], int64, whose pixels each image takes; in the middle of an odd batch, its own.
    """
    order = gamma.argsort(stable=True)
    return order.flip(0)[order.argsort()]
