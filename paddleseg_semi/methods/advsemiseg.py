"""AdvSemiSeg (Hung et al., "Adversarial Learning for Semi-Supervised Semantic Segmentation", BMVC 2018)."""

import paddle
import paddle.nn.functional as F

from paddleseg_semi.datasets.streams import Labeled, Unlabeled
from paddleseg_semi.losses.adversarial import fool, one_hot, tell_apart, trusted
from paddleseg_semi.losses.masked import masked_cross_entropy
from paddleseg_semi.methods.base import Method
from paddleseg_semi.methods.pseudo import Pseudo
from paddleseg_semi.models.discriminator import Discriminator
from paddleseg_semi.models.modes import evaluating, frozen
from paddleseg_semi.ranges import AT_LEAST_ONE, START, SWITCH, WEIGHT
from paddleseg_semi.registries import METHODS


@METHODS.add_component
class AdvSemiSeg(Method):
    """A discriminator learns to tell label maps from predictions; the segmenter learns to fool it, and where it does
    so on unlabeled images, trains on its own prediction.

    Both are updated once per batch, the discriminator on the predictions made before the segmenter's update.

    Args:
        task (Task): what is to be learned.
        adv_weight (float): weight of the adversarial term on labeled images.
        semi_adv_weight (float): the same on unlabeled images.
        semi_weight (float): weight of the self-training cross entropy.
        mask_threshold (float): T_semi, the confidence, 0..1, from which a pixel trains on its prediction; above 1 none
        semi_start (int|float): when self-training starts, in updates (5000) or as a share of the run (0.25).
        semi_start_adv (int|float): when unlabeled images come in at all.
        d_remain (bool): the discriminator also sees predictions on unlabeled images as fakes.
        ndf (int): channels of its first layer.
        reference_quirks (bool): as the published code, drop the adversarial term of a batch in which no pixel is
            trusted, and let padding count as image.
    """

    renamed = {'lambda_adv': 'adv_weight', 'lambda_semi_adv': 'semi_adv_weight', 'lambda_semi': 'semi_weight'}
    ranges = {'adv_weight': WEIGHT, 'semi_adv_weight': WEIGHT, 'semi_weight': WEIGHT, 'mask_threshold': WEIGHT,
              'semi_start': START, 'semi_start_adv': START, 'd_remain': SWITCH, 'ndf': AT_LEAST_ONE,
              'reference_quirks': SWITCH}

    def __init__(self, task, adv_weight=0.01, semi_adv_weight=0.001, semi_weight=0.1, mask_threshold=0.2,
                 semi_start=0.25, semi_start_adv=0.25, d_remain=False, ndf=64, reference_quirks=False):
        super().__init__(task)
        self.discriminator = Discriminator(task.num_classes, ndf)
        self.adv_weight, self.semi_adv_weight, self.semi_weight = adv_weight, semi_adv_weight, semi_weight
        self.mask_threshold, self.semi_start, self.start = mask_threshold, semi_start, semi_start_adv
        self.d_remain, self.reference_quirks = d_remain, reference_quirks
        self.streams = {'labeled': Labeled(), 'unlabeled': Unlabeled(padding=reference_quirks),
                        'ground_truth': Labeled()}

    def players(self):
        return {'model': self.model, 'discriminator': self.discriminator}

    def semi_step(self, batch, clock):
        if self.semi_weight <= 0 and self.semi_adv_weight <= 0:
            return self._terms(batch)
        return self._terms(batch, *self._unlabeled(batch['unlabeled'], clock))              # eq. 4 and 5 on X_u

    def labeled_step(self, batch, clock):
        return self._terms(batch)

    def _terms(self, batch, semi_losses=None, fake_u=None, stats=None):
        labeled = batch['labeled']
        known = labeled['label'] != self.ignore_index                                       # [N, H, W]

        logits = self.model(labeled['img'])
        prob = F.softmax(logits[0], axis=1)                                                 # [N, C, H, W]
        with frozen(self.discriminator):
            d_labeled = self.discriminator(prob)                                            # [N, 1, H, W]
        losses = {'sup': self.supervised(labeled, logits),
                  'adv': self.adv_weight * fool(d_labeled, known), **(semi_losses or {})}

        fake, keep_fake = prob.detach(), known                                              # eq. 2
        if self.d_remain and fake_u is not None:
            fake, keep_fake = paddle.concat([fake, fake_u[0]]), paddle.concat([known, fake_u[1]])
        real_label = batch['ground_truth']['label']
        keep_real = real_label != self.ignore_index
        d_real = self.discriminator(one_hot(real_label, self.num_classes, keep_real))
        real_term, fake_term = tell_apart(d_real, keep_real, self.discriminator(fake), keep_fake)
        losses.update(disc_fake=fake_term / 2, disc_real=real_term / 2)

        return losses, {**(stats or {}), 'd_labeled': F.sigmoid(d_labeled.detach()).mean(),
                        'd_real': F.sigmoid(d_real.detach()).mean()}

    def _unlabeled(self, unlabeled, clock):
        """The terms of unlabeled images, what the discriminator sees of them, and statistics."""
        valid = unlabeled['valid']
        logit = self.model(unlabeled['weak'])[0]                                            # [N, C, H, W]
        prob = F.softmax(logit, axis=1)
        with frozen(self.discriminator):
            d_logits = self.discriminator(prob)                                             # [N, 1, H, W]
        conf, trust = trusted(d_logits, self.mask_threshold)                                # [N, H, W]
        pseudo = Pseudo(prob.detach().argmax(1), conf, valid)
        losses, stats = {'semi_adv': self.semi_adv_weight * fool(d_logits, valid)}, {'d_unlabeled': conf.mean()}
        if self.semi_weight > 0 and clock.reached(self.semi_start):
            keep = trust & valid
            stats['kept'] = pseudo.kept(keep)
            losses['semi'] = self.semi_weight * masked_cross_entropy(logit, pseudo.label, keep)
            if self.reference_quirks:
                losses['semi_adv'] *= keep.any().astype(losses['semi_adv'].dtype)
        return losses, (prob.detach(), valid), stats

    def explain(self, unlabeled, clock):
        with evaluating(self.model), paddle.no_grad():
            prob = F.softmax(self.model(unlabeled['weak'])[0], axis=1)
            conf, trust = trusted(self.discriminator(prob), self.mask_threshold)
        started = paddle.full_like(trust, clock.reached(self.semi_start) and clock.reached(self.start))
        return Pseudo(prob.argmax(1), conf, unlabeled['valid']), trust & unlabeled['valid'] & started
