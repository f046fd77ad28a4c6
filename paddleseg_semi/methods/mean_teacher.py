"""Mean teacher (Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017), for segmentation."""

import math

import paddle

from paddleseg_semi.datasets.streams import Labeled, Unlabeled
from paddleseg_semi.losses.consistency import consistency
from paddleseg_semi.methods.base import Method
from paddleseg_semi.methods.pseudo import Pseudo
from paddleseg_semi.models.ema import EMA
from paddleseg_semi.ranges import SHARE, START, SWITCH, WEIGHT, OneOf
from paddleseg_semi.registries import METHODS

TEACHER_BN = ('batch', 'running')


@METHODS.add_component
class MeanTeacher(Method):
    """The student follows the probabilities of its own moving average, on labeled and unlabeled images alike.

    Args:
        task (Task): what is to be learned.
        cons_weight (float): of the consistency term, a mean over pixels and classes.
        rampup (int|float): until then the weight grows as exp(-5 (1 - t / T)^2): updates (1000) or, below 1.0, a share
            of the run (0.25).
        ema_decay (float): of the teacher, per update.
        ema_warmup (bool): start with a faster teacher, min(1 - 1 / (t + 1), ema_decay).
        teacher_bn (str): 'batch': the teacher runs in train mode and keeps batch statistics of its own; 'running': in
            eval mode, with the average of the student's.
        reference_quirks (bool): as the published code, let void pixels and padding count.
    """

    renamed = {'weight': 'cons_weight'}
    ranges = {'cons_weight': WEIGHT, 'rampup': START, 'ema_decay': SHARE, 'ema_warmup': SWITCH,
              'teacher_bn': OneOf(TEACHER_BN), 'reference_quirks': SWITCH}

    def __init__(self, task, cons_weight=100.0, rampup=0, ema_decay=0.99, ema_warmup=False, teacher_bn='batch',
                 reference_quirks=False):
        super().__init__(task)
        self.teacher = EMA(self.model, ema_decay, ema_warmup, 'own' if teacher_bn == 'batch' else 'average')
        self.cons_weight, self.rampup = cons_weight, rampup
        self.teacher_bn, self.reference_quirks = teacher_bn, reference_quirks
        self.streams = {'labeled': Labeled(), 'unlabeled': Unlabeled(padding=reference_quirks)}

    @property
    def deployed(self):
        return self.teacher.net

    def after_update(self, clock):
        self.teacher.update(self.model, clock.iter - 1)

    def weight_now(self, clock):
        """float: the weight of the consistency term in this step."""
        left = -clock.since(self.rampup)                                                    # updates
        growth = math.exp(-5 * (left / (left + clock.iter)) ** 2) if left > 0 else 1
        return self.cons_weight * growth

    @paddle.no_grad()
    def teach(self, img):
        """What the teacher says.

        Args:
            img (Tensor): [N, 3, H, W].

        Returns:
            Tensor: logits [N, C, H, W], without gradient.
        """
        if self.teacher_bn == 'running':
            return self.teacher(img)[0]
        self.teacher.net.train()
        return self.teacher.net(img)[0]

    def labeled_step(self, batch, clock):
        if self.teacher_bn == 'batch':
            self.teach(batch['labeled']['img'])     # for its running statistics
        return super().labeled_step(batch, clock)

    def semi_step(self, batch, clock):
        labeled, unlabeled = batch['labeled'], batch['unlabeled']
        outputs = self.model(labeled['img'])
        pairs = [(outputs[0], self.teach(labeled['img'])),
                 (self.model(unlabeled['weak'])[0], self.teach(unlabeled['weak']))]
        known = labeled['label'] != self.ignore_index
        keep = [paddle.ones_like(known) if self.reference_quirks else known, unlabeled['valid']]
        # One sum over all pixels: mixed precision would add two of them in float16, which ends at 65504.
        distance = paddle.concat([consistency(*pair).flatten() for pair in pairs])
        count = paddle.concat([mask.flatten() for mask in keep]).astype('float32')
        cons = (distance * count).sum() / (count.sum() * self.num_classes).clip(min=1)
        losses = {'sup': self.supervised(labeled, outputs), 'cons': self.weight_now(clock) * cons}
        pseudo = Pseudo.of(pairs[1][1], unlabeled['valid'])
        return losses, {'kept': pseudo.kept(keep[1]), 'conf': pseudo.conf.mean()}

    def explain(self, unlabeled, clock):
        pseudo = self.pseudo_label(unlabeled['weak'], unlabeled['valid'], self.teacher.net)
        return pseudo, pseudo.valid
