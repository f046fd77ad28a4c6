"""EADER (Stammes et al., "Find it if You Can: End-to-End Adversarial Erasing for Weakly-Supervised Semantic
Segmentation", 2020)."""

import paddle
import paddle.nn.functional as F

from paddleseg_semi.datasets.streams import ImageLevel
from paddleseg_semi.errors import InputError
from paddleseg_semi.losses.erasing import erase, mining
from paddleseg_semi.methods.base import Method
from paddleseg_semi.models.camnet import CAMNet, stretch
from paddleseg_semi.models.modes import frozen
from paddleseg_semi.ranges import AT_LEAST_ONE, LAYER, POSITIVE, SHARE, SWITCH, WEIGHT
from paddleseg_semi.registries import METHODS


@METHODS.add_component
class EADER(Method):
    """What the localizer attends to is erased; the adversary looks for the class in the rest, and the localizer learns
    to attend until it finds nothing there.

    The two take turns. The player whose turn it is not gets no gradient and does not move, but its batch normalization
    goes on collecting statistics.

    Args:
        task (Task): what is to be learned; its model must be a CAMNet.
        adversary (nn.Layer): a PaddleSeg backbone, to which a classifier is added. None: the localizer alone.
        steps_localizer (int): updates of the localizer before the adversary's turn.
        steps_adversary (int): updates of the adversary before the localizer's turn.
        am_weight (float): weight of attention mining; larger: larger regions.
        reg_weight (float): weight of the mean attention, which keeps regions small.
        omega (float): steepness of the erasing mask.
        sigma (float): the attention, 0..1, that erases half.
        share_weights (bool): the localizer is its own adversary and never pauses.
        reference_quirks (bool): as the published code, mine the logit, not the probability, with shared weights.
    """

    renamed = {'alpha': 'am_weight', 'beta': 'reg_weight'}
    streams = {'tagged': ImageLevel()}
    ranges = {'adversary': LAYER, 'steps_localizer': AT_LEAST_ONE, 'steps_adversary': AT_LEAST_ONE,
              'am_weight': WEIGHT, 'reg_weight': WEIGHT, 'omega': POSITIVE, 'sigma': SHARE, 'share_weights': SWITCH,
              'reference_quirks': SWITCH}

    def __init__(self, task, adversary=None, steps_localizer=200, steps_adversary=200, am_weight=0.05,
                 reg_weight=1e-5, omega=100., sigma=0.5, share_weights=False, reference_quirks=False):
        super().__init__(task)
        if not isinstance(self.model, CAMNet):
            raise InputError(f'model.type: {type(self.model).__name__}: EADER trains a CAMNet; its backbone may be '
                             'any.')
        if adversary is not None and share_weights:
            raise InputError('method.share_weights: makes the localizer its own adversary. Remove method.adversary.')
        self.adversary = None if adversary is None else CAMNet(task.num_classes, adversary)
        self.steps_localizer, self.steps_adversary = steps_localizer, steps_adversary
        self.am_weight, self.reg_weight, self.omega, self.sigma = am_weight, reg_weight, omega, sigma
        self.share_weights, self.reference_quirks = share_weights, reference_quirks

    def players(self):
        return {'model': self.model} if self.adversary is None else {'model': self.model, 'adversary': self.adversary}

    def adversary_trains(self, clock):
        """bool: whose turn it is."""
        return self.adversary is not None and \
            clock.iter % (self.steps_localizer + self.steps_adversary) >= self.steps_localizer

    def step(self, batch, clock):
        img, tags = batch['tagged']['img'], batch['tagged']['tags']
        hunting = self.adversary_trains(clock)
        present = batch['tagged'].get('present')                                            # [n, 2]: image, class
        if present is None:
            present = paddle.nonzero(tags)
        image, target = present[:, 0], present[:, 1]

        with paddle.set_grad_enabled(not hunting):
            logits, maps = self.model.classify(img)                                         # [N, C-1], [N, C-1, h, w]
            maps = stretch(maps.gather_nd(present).unsqueeze(1), img.shape[2:])             # [n, 1, H, W]
            erased, mask = erase(img.gather(image), maps, self.omega, self.sigma)           # [n, 3, H, W]
        losses = {}
        stats = {'kept': mask.detach().mean(), 'conf': F.sigmoid(logits.detach()).gather_nd(present).mean()}
        if not hunting:
            losses['loc'] = F.binary_cross_entropy_with_logits(logits, tags)
            losses['reg'] = self.reg_weight * maps.mean()
        rival = self.model if self.share_weights else self.adversary
        if rival is not None:
            idle = [] if hunting or self.share_weights else [rival]
            with frozen(*idle):
                score = rival.classify(erased)[0]                                           # [n, C-1]
            prob = F.sigmoid(score)
            if hunting:                                              # all classes of the image, not only the erased one
                losses['adv'] = F.binary_cross_entropy_with_logits(score, tags.gather(image))
            else:
                raw = self.share_weights and self.reference_quirks
                losses['am'] = self.am_weight * mining(score if raw else prob, target)
            stats['found'] = mining(prob.detach(), target)
        return losses, stats
