"""PrevMatch (Shin et al., "Revisiting and Maximizing Temporal Knowledge in Semi-supervised Semantic Segmentation",
arXiv 2405.20610)."""

import math

import numpy as np
import paddle

from paddleseg_semi.errors import InputError
from paddleseg_semi.losses.masked import pixel_cross_entropy
from paddleseg_semi.methods.fixmatch import Guide
from paddleseg_semi.methods.unimatch import UniMatch
from paddleseg_semi.models.pool import Pool
from paddleseg_semi.ranges import AT_LEAST_ONE, SHARE, START, SWITCH, WEIGHT, OneOf
from paddleseg_semi.registries import METHODS

RULES, RAMPS = ('schedule', 'best'), ('triangle', 'cosine')


@METHODS.add_component
class PrevMatch(UniMatch):
    """UniMatch with a second guide: what earlier copies of the network say together, a few at a time, drawn and
    weighted at random.

    .. math:: L = \\frac{L_x + L_{std} + \\lambda L_{prev}}{2 + \\lambda}, \\quad
        L_{std} = \\frac14 L_{s1} + \\frac14 L_{s2} + \\frac12 L_{fp}

    with the same three terms in :math:`L_{prev}`; :math:`\\lambda = 0` as long as there is no copy.

    Args:
        task (Task): what is to be learned.
        conf_thresh (float): probability, 0..1, from which a pixel trains on its pseudo label.
        prev_thresh (float): the same for the labels of earlier copies.
        prev_average (bool): these labels train everywhere, each image as much as the copies are sure of it on average;
            there is no `prev_thresh` then.
        prev_weight (float): of the loss on these labels, beside λ.
        ramp (str): λ rises from 0 to 1 and falls again, as a 'triangle' or as a 'cosine'.
        rule (str): which copies are kept. 'schedule': one after every so many updates; 'best': those with a better mIoU
            on validation images than all before, which then take part in the training.
        every (int|float): of 'schedule', in updates (1000) or as a share of the run (0.05).
        pool_start (int|float): no copy is kept before, in the same units.
        pool_size (int): copies kept, the newest ones.
        members (int): asked in a step, at most.
        random_count (bool): one to `members` of them, drawn; False: as many as there are.
        sup_weight (float): of the loss on labeled images.
        strong_weight (float): of the loss on strong views, shared among them.
        feature_weight (float): of the loss on disturbed features.
        feature_drop (float): probability, 0..1, with which a channel is dropped.
        feature_layer (str, optional): layer whose output is disturbed, see `UniMatch`.
        box_prob, box_area, box_ratio, partner: of CutMix, see `FixMatch`.
        ema_decay, align_decay (float, optional): of a teacher and of an alignment, see `FixMatch`; the copies are the
            teacher's, if there is one. Default: none.
        reference_quirks (bool): as the published code, with `prev_average` train on padding too, and give every image
            the confidence of all together.
    """

    ranges = {**UniMatch.ranges, 'prev_thresh': SHARE, 'prev_average': SWITCH, 'prev_weight': WEIGHT,
              'ramp': OneOf(RAMPS), 'rule': OneOf(RULES), 'every': START, 'pool_start': START,
              'pool_size': AT_LEAST_ONE, 'members': AT_LEAST_ONE, 'random_count': SWITCH, 'reference_quirks': SWITCH}

    def __init__(self, task, conf_thresh=0.95, prev_thresh=0.9, prev_average=False, prev_weight=1.0, ramp='triangle',
                 rule='schedule', every=0.05, pool_start=0, pool_size=8, members=3, random_count=True, sup_weight=0.5,
                 strong_weight=0.25, feature_weight=0.25, feature_drop=0.5, feature_layer=None, box_prob=0.5,
                 box_area=(0.02, 0.4), box_ratio=(0.3, 3.3333), partner='other', ema_decay=None, align_decay=None,
                 reference_quirks=False):
        super().__init__(task, conf_thresh, sup_weight, strong_weight, feature_weight, feature_drop, feature_layer,
                         box_prob, box_area, box_ratio, partner, ema_decay, align_decay)
        if every <= 0:
            raise InputError(f'method.every: {every}: give a number above 0.')
        self.pool = Pool(pool_size)
        self.register_buffer('best', paddle.zeros([], 'float64'))  # mIoU of the newest copy under the rule 'best'
        self.prev_thresh, self.prev_average, self.prev_weight, self.ramp = prev_thresh, prev_average, prev_weight, ramp
        self.rule, self.every, self.pool_start = rule, every, pool_start
        self.needs_evaluation = 'rule: best' if rule == 'best' else None
        self.members, self.random_count, self.reference_quirks = members, random_count, reference_quirks

    def expect(self, state):
        self.pool.expect(self.deployed, state.get('pool.entered'))

    def semi_step(self, batch, clock):
        losses, stats = super().semi_step(batch, clock)
        lam, filled = self.lam(clock), len(self.pool.places()) / self.pool.limit
        return ({name: 2 / (2 + lam) * loss for name, loss in losses.items()},
                {**stats, 'lam': paddle.full([], lam), 'pool': paddle.full([], filled)})

    def lam(self, clock):
        """float: λ in this step; 0 as long as there is no copy."""
        return triangle_or_cosine(clock.iter, clock.iters, self.ramp) if self.pool.places() else 0.

    def guides(self, own, other, first, second, clock):
        return super().guides(own, other, first, second, clock) + self.earlier(first, second, clock)

    def earlier(self, first, second, clock):
        """The copies of the network as a guide: a list of none or one.

        Args:
            first, second (dict[str, Tensor]): unlabeled images, and those that are pasted into them.
            clock (Clock): for the draws: who is asked, and with what weight.
        """
        places = self.pool.places()
        if not places:
            return []
        rng = clock.rng('members')
        count = min(rng.integers(1, self.members + 1) if self.random_count else self.members, len(places))
        asked = [places[i] for i in rng.permutation(len(places))[:count]]
        logits = self.pool(paddle.concat([first['weak'], second['weak']]), asked, rng.dirichlet(np.ones(count)))
        own, other = logits.split(2)
        guide = Guide if not self.prev_average else Smeared if self.reference_quirks else Averaged
        return [guide(self.guided(own, first['valid']), self.guided(other, second['valid']),
                      self.prev_weight * self.lam(clock), self.prev_thresh)]

    def after_update(self, clock):
        super().after_update(clock)
        now, period = clock.since(self.pool_start), clock.iter - clock.since(self.every)    # updates
        before, after = (math.floor(updates / period + 1e-9) for updates in (now - 1, now))
        if self.rule == 'schedule' and after > max(before, 0):
            self.pool.push(self.deployed)

    def after_evaluation(self, scores, clock):
        if self.rule == 'best' and scores['mIoU'] > self.best:
            paddle.assign(paddle.full([], scores['mIoU'], 'float64'), self.best)
            if clock.reached(self.pool_start):
                self.pool.push(self.deployed)


class Averaged(Guide):
    """A guide that is followed everywhere, in each image as much as it is sure of it on average.

    .. math:: \\frac{\\sum_b a_b \\sum_{i \\in valid_b} CE_i}{\\sum_b |valid_b|}, \\quad
        a_b = mean_{i \\in valid_b} conf_i
    """

    def follow(self, pseudo, logits):
        sure, valid = self._sure(pseudo)
        loss = pixel_cross_entropy(logits, pseudo.label, pseudo.valid).sum([1, 2])          # [N]
        return (sure * loss).sum() / valid.sum().clip(min=1)

    def _sure(self, pseudo):
        """Mean confidence [N], and where the images are valid [N, H, W] float32."""
        valid = pseudo.valid.astype('float32')
        return (pseudo.conf * valid).sum([1, 2]) / valid.sum([1, 2]).clip(min=1), valid


class Smeared(Averaged):
    """The published form: the sum over all images, padding included, once more for the confidence of each of them."""

    def follow(self, pseudo, logits):
        sure, valid = self._sure(pseudo)
        everywhere = paddle.ones_like(pseudo.valid)
        return pixel_cross_entropy(logits, pseudo.label, everywhere).sum() * sure.sum() / valid.sum().clip(min=1)


def triangle_or_cosine(done, total, ramp):
    """Up from 0 to 1 in the first half, and down again.

    Args:
        done (int): 0..total-1.
        total (int): at least 1.
        ramp (str): 'triangle': straight; 'cosine': half a cosine each way.

    Returns:
        float: 0..1.
    """
    half = total // 2
    share = done / half if done < half else (total - done) / (total - half)
    return share if ramp == 'triangle' else 0.5 - 0.5 * math.cos(math.pi * share)
