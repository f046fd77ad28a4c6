"""MLMT, multi-label mean teacher: the branch of s4GAN that says which classes a photo shows (Mittal et al., 2019)."""

import paddle
import paddle.nn.functional as F

from paddleseg_semi.datasets.streams import Labeled, Unlabeled
from paddleseg_semi.losses.adversarial import one_hot
from paddleseg_semi.methods.mean_teacher import TEACHER_BN, MeanTeacher
from paddleseg_semi.models.gated import class_logits
from paddleseg_semi.ranges import DECAY, START, WEIGHT, OneOf
from paddleseg_semi.registries import METHODS


@METHODS.add_component
class MLMT(MeanTeacher):
    """A classifier of whole photos learns the classes of the masks, and on unlabeled photos to agree with its own
    moving average. Any PaddleSeg model serves: its logits, averaged over the photo, are those of the classes.

    It needs no pixel to be right: `Gated` takes the classes it does not find out of the result of a segmenter.

    Args:
        task (Task): what is to be learned.
        cons_weight (float): of the consistency term, once it is fully there.
        cons_start (int|float): when it begins to grow from 0, in updates (1000) or as a share of the run (0.1).
        rampup (int|float): for how long it grows, linearly, in the same units.
        ema_decay (float): of the teacher, per update.
        teacher_bn (str): as in `MeanTeacher`.
    """

    ranges = {'cons_weight': WEIGHT, 'cons_start': START, 'rampup': START, 'ema_decay': DECAY,
              'teacher_bn': OneOf(TEACHER_BN)}

    def __init__(self, task, cons_weight=1.0, cons_start=0.1, rampup=0.5, ema_decay=0.999, teacher_bn='batch'):
        super().__init__(task, cons_weight, rampup, ema_decay, ema_warmup=True, teacher_bn=teacher_bn)
        self.cons_start = cons_start
        self.streams = {'labeled': Labeled(), 'unlabeled': Unlabeled(views=1)}

    def after_update(self, clock):
        self.teacher.update(self.model, clock.iter)

    def weight_now(self, clock):
        updates = clock.iter - clock.since(self.rampup)
        return self.cons_weight * min(max(clock.since(self.cons_start), 0) / updates if updates > 0 else 1, 1)

    def supervised(self, labeled, logits=None):
        """Binary cross entropy of every class: does the crop show it? Crops without a known pixel do not count.

        Args and result as in `Method.supervised`.
        """
        logits = self.model(labeled['img']) if logits is None else logits
        known = labeled['label'] != self.ignore_index                                       # [N, H, W]
        shown = one_hot(labeled['label'], self.num_classes, known).sum([2, 3]) > 0          # [N, C]
        tags = shown.astype('float32')
        counts = known.any(axis=[1, 2]).astype('float32').unsqueeze(1)                      # [N, 1]
        total = F.binary_cross_entropy_with_logits(class_logits(logits[0]), tags, weight=counts, reduction='sum')
        return total / (counts.sum() * self.num_classes).clip(min=1)

    def semi_step(self, batch, clock):
        unlabeled = batch['unlabeled']
        wanted = class_logits(self.teach(unlabeled['weak']))                                # [N, C]
        logits = class_logits(self.model(unlabeled['strong'])[0])
        losses = {'sup': self.supervised(batch['labeled']),
                  'cons': self.weight_now(clock) * disagreement(logits, wanted)}
        found = F.sigmoid(wanted)
        return losses, {'kept': paddle.ones([]), 'conf': paddle.maximum(found, 1 - found).mean()}


def disagreement(logits, wanted):
    """1 - cos of the angle between the class logits of student and teacher, averaged over the photos.

    Args:
        logits (Tensor): [N, C], of the student.
        wanted (Tensor): [N, C], of the teacher; no gradient reaches them.

    Returns:
        Tensor: scalar, 0..2.
    """
    return (1 - F.cosine_similarity(logits, wanted.detach(), axis=1)).mean()
