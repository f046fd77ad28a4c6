"""U2PL (Wang et al., "Semi-Supervised Semantic Segmentation Using Unreliable Pseudo-Labels", CVPR 2022)."""

import paddle
import paddle.distributed as dist
import paddle.nn.functional as F
from paddle import nn

from paddleseg_semi.datasets.streams import Labeled, Unlabeled
from paddleseg_semi.losses.adversarial import one_hot
from paddleseg_semi.losses.contrast import (
    Contrast,
    assign_roles,
    entropy,
    percentiles,
    reliable_cross_entropy,
    shrink,
    spilled_one_hot,
)
from paddleseg_semi.methods.base import Method
from paddleseg_semi.methods.common import joined
from paddleseg_semi.methods.pseudo import Pseudo
from paddleseg_semi.models.bank import Bank
from paddleseg_semi.models.ema import EMA
from paddleseg_semi.models.modes import evaluating
from paddleseg_semi.models.projector import Projector
from paddleseg_semi.models.tap import Tap, find_classifier, new_probe
from paddleseg_semi.ranges import (
    AT_LEAST_ONE,
    COUNT,
    PERCENT,
    POSITIVE,
    SHARE,
    START,
    SWITCH,
    TEXT,
    WEIGHT,
    OneOf,
)
from paddleseg_semi.registries import METHODS
from paddleseg_semi.transforms.mixing import PARTNERS, class_masks, half_boxes, partners, paste

MIXES = ('cutmix', 'cutout', 'classmix', 'none')


@METHODS.add_component
class U2PL(Method):
    """Where the teacher is sure, its labels train the student. Where it is not, it still knows what a pixel is *not*:
    such pixels are kept per class, as negatives of a contrastive loss.

    Args:
        task (Task): what is to be learned.
        warmup (int|float): labeled images only until then, in updates (500) or as a share of the run (0.0125).
        teacher_start (int|float): from `warmup` until then the teacher is a copy of the student, after it a follower.
        epochs (int): the percentiles move so many times in a run.
        ema_decay (float): of the teacher, 0..1.
        unsup_weight (float): λ_u.
        contra_weight (float): λ_c.
        keep_percent (float): share of the pixels, 0..100, whose pseudo labels train at the start; 100 at the end.
        alpha (float): α_0, share of the pixels, 0..100, that are anchors for being sure, and as many keys for being
            unsure, at the start; 0 at the end.
        mix (str): what is done to unlabeled images: 'cutmix', 'cutout', 'classmix' or 'none'.
        mix_prob (float): how often, 0..1; one decision for a batch.
        partner (str): with which image of the batch: 'next', 'reversed' or 'same', itself.
        feature_layer (str, optional): the input of this layer is projected; null finds the classifier.
        rep_channels (int): D, what it is projected to, in each of three layers.
        num_queries (int): anchors per class and step.
        num_negatives (int): keys per anchor.
        temperature (float): τ.
        low_rank (int): r_l, rank from which a class is one the pixel is not; at most C - 1.
        high_rank (int): r_h, rank from which it is too far off to teach anything.
        anchor_threshold (float): δ_p, probability of its class, 0..1, above which a pixel is an anchor.
        key_threshold (float): δ_n, probability below which it can be a key.
        unsure_keys (bool): keys are among the `alpha` least sure pixels; False: anywhere.
        paper_keys (bool): keys of a class come from all pixels that are not of it, as the paper says, and not only
            from those pseudo-labeled so, as the authors' program has it.
        bank_size (int): keys stored per class.
        bank_first (int): keys stored of class 0.
        keys_per_step (int): at most so many keys of a class are stored per step and rank.
        prototype_decay (float): positives remember earlier steps with up to this weight, 0..1; 0: they do not.
        reference_quirks (bool): as the published program, give all labels of a batch to its first image, compare
            anchors of class i with keys of the i-th class present, divide λ_c by the number of ranks, and let padding
            count as image.
    """

    renamed = {('partner', 'other'): 'next'}
    ranges = {'warmup': START, 'teacher_start': START, 'epochs': AT_LEAST_ONE, 'ema_decay': SHARE,
              'unsup_weight': WEIGHT, 'contra_weight': WEIGHT, 'keep_percent': PERCENT, 'alpha': PERCENT,
              'mix': OneOf(MIXES), 'mix_prob': SHARE, 'partner': OneOf(PARTNERS), 'feature_layer': TEXT,
              'rep_channels': AT_LEAST_ONE, 'num_queries': AT_LEAST_ONE, 'num_negatives': AT_LEAST_ONE,
              'temperature': POSITIVE, 'low_rank': COUNT, 'high_rank': COUNT, 'anchor_threshold': SHARE,
              'key_threshold': SHARE, 'unsure_keys': SWITCH, 'paper_keys': SWITCH, 'bank_size': AT_LEAST_ONE,
              'bank_first': AT_LEAST_ONE, 'keys_per_step': AT_LEAST_ONE, 'prototype_decay': SHARE,
              'reference_quirks': SWITCH}

    def __init__(self, task, warmup=0.0125, teacher_start=0.025, epochs=80, ema_decay=0.99, unsup_weight=1.,
                 contra_weight=0.1, keep_percent=80, alpha=20, mix='cutmix', mix_prob=0.5, partner='next',
                 feature_layer=None, rep_channels=256, num_queries=256, num_negatives=50, temperature=0.5, low_rank=3,
                 high_rank=20, anchor_threshold=0.3, key_threshold=1., unsure_keys=True, paper_keys=False,
                 bank_size=30000, bank_first=50000, keys_per_step=2048, prototype_decay=0., reference_quirks=False):
        super().__init__(task)
        probe = new_probe(channels=task.img_channels)
        self.feature_layer = feature_layer or find_classifier(self.model, task.num_classes, probe)
        with evaluating(self.model), paddle.no_grad(), Tap(self.model, self.feature_layer) as tap:
            self.model(probe)
        self.projector = Projector(tap.value.shape[1], rep_channels, rep_channels)
        self.teacher = EMA(self._student(), ema_decay, buffers='own')
        self.bank = Bank([bank_first] + [bank_size] * (task.num_classes - 1), rep_channels)
        if prototype_decay:
            self.register_buffer('prototypes', paddle.zeros([task.num_classes, 1, rep_channels]))
        self.contrast = Contrast(num_queries, num_negatives, temperature, keys_per_step, by_position=reference_quirks)
        self.ranks = {'low_rank': min(low_rank, task.num_classes - 1), 'high_rank': high_rank,
                      'threshold': anchor_threshold, 'negative_threshold': key_threshold, 'any_label': paper_keys}
        self.start, self.teacher_start, self.epochs = warmup, teacher_start, epochs
        self.unsup_weight, self.contra_weight = unsup_weight, contra_weight
        self.keep_percent, self.alpha, self.unsure_keys = keep_percent, alpha, unsure_keys
        self.mix, self.mix_prob, self.partner = mix, mix_prob, partner
        self.prototype_decay, self.reference_quirks = prototype_decay, reference_quirks
        self.streams = {'labeled': Labeled(), 'unlabeled': Unlabeled(padding=reference_quirks)}
        self._teaches = False

    def _student(self):
        return nn.LayerDict({'model': self.model, 'projector': self.projector})

    def players(self):
        """One player: the recipe's optimizer trains the projector with the model."""
        return {'model': self._student()}

    @property
    def deployed(self):
        return self.teacher.net['model'] if self._teaches else self.model

    def semi_step(self, batch, clock):
        labeled = batch['labeled']
        if clock.since(self.start) < 1:  # the first of these steps
            self.teacher.update(self._student(), 0)
        img, pseudo, conf = self._pseudo_labeled(batch['unlabeled'], clock)                 # [B, H, W]
        img, count = joined(labeled['img'], img), len(labeled['img'])
        logits, _, rep = self._look(self._student(), img)
        with paddle.no_grad():  # in train mode: its statistics live on these passes alone
            self.teacher.net.train()
            logits_t, score_t, rep_t = self._look(self.teacher.net, img)
            unsure = entropy(F.softmax(logits_t[0][count:], axis=1))                        # [B, H, W]
        reliable, low, high = self._split(unsure, pseudo.valid, clock)

        known = paddle.concat([labeled['label'] != self.ignore_index, pseudo.valid])
        low, high = (paddle.concat([known[:count], mask]) for mask in (low, high))
        contra = self._contrast(rep, rep_t, score_t, paddle.concat([labeled['label'], pseudo.label]), known, low,
                                high, count, clock)
        losses = {'sup': self.supervised(labeled, [output[:count] for output in logits]),
                  'unsup': self.unsup_weight * reliable_cross_entropy(logits[0][count:], pseudo.label, reliable),
                  'contra': self.contra_weight * contra}
        return losses, {'kept': pseudo.kept(reliable), 'conf': conf.mean(), 'bank': self._filled()}

    def labeled_step(self, batch, clock):
        labeled = batch['labeled']
        with paddle.no_grad():
            self.teacher.net.train()  # for its running statistics
            self._look(self.teacher.net, labeled['img'])
        return {'sup': self.supervised(labeled)}, {}

    def _filled(self):
        """Tensor: scalar, 0..1, the share of the memory bank that is filled."""
        return self.bank.size.sum().astype('float32') / (len(self.bank.table) - 1)

    def _look(self, net, img):
        """A network's outputs, its logits at the size of the features, and the projected features."""
        model = net['model']
        with Tap(model, self.feature_layer) as feature, Tap(model, self.feature_layer, 'output') as output:
            logits = model(img)
        score, shape = output.value, [len(img), self.num_classes, *feature.value.shape[2:]]
        if not isinstance(score, paddle.Tensor) or list(score.shape) != shape:  # the layer named does not classify
            score = F.interpolate(logits[0], shape[2:], mode='bilinear', align_corners=True)
        return logits, score, net['projector'](feature.value)

    def _pseudo_labeled(self, unlabeled, clock):
        """Unlabeled images as the student sees them, its teacher's labels, and their confidence before mixing."""
        img = unlabeled['weak']
        pseudo = self.pseudo_label(img, unlabeled['valid'], self.teacher.net['model'])
        rng = clock.rng('mix')
        if self.mix == 'none' or rng.random() >= self.mix_prob:
            return img, pseudo, pseudo.conf
        if self.mix == 'classmix':
            mask = class_masks(rng, paste(~pseudo.valid, -1, pseudo.label), self.num_classes)
        else:
            mask = half_boxes(rng, len(img), img.shape[2:])
        if self.mix == 'cutout':
            return paste(mask, 0., img), pseudo._replace(valid=pseudo.valid & ~mask), pseudo.conf
        mixed = pseudo.pasted(mask, pseudo.each(lambda value: partners(value, self.partner)))
        return paste(mask, partners(img, self.partner), img), mixed, pseudo.conf

    def _split(self, unsure, known, clock):
        """By entropy: reliable pixels, those sure to be anchors, those unsure enough to be keys; all [B, H, W] bool."""
        left = 1 - clock.iter * self.epochs // clock.iters / self.epochs
        alpha = self.alpha * left
        percents = 100 - (100 - self.keep_percent) * left, alpha, 100 - alpha
        keep, low, high = percentiles(unsure, known, percents)
        return known & (unsure < keep), known & (unsure <= low), known & (unsure >= high) if self.unsure_keys else known

    def _contrast(self, rep, rep_t, score_t, label, known, low, high, count, clock):
        """The contrastive loss at the size of the features."""
        label, known, low, high = (shrink(maps, rep.shape[2:]) for maps in (label, known, low, high))
        if self.reference_quirks:
            classes = paddle.concat([spilled_one_hot(label[part], self.num_classes, known[part])
                                     for part in (slice(None, count), slice(count, None))])
        else:
            classes = one_hot(label, self.num_classes, known) > 0
        roles = assign_roles(classes, F.softmax(score_t, axis=1), low, high, count, **self.ranks)
        ranks = dist.get_world_size()
        if not self.prototype_decay:
            loss, _ = self.contrast.loss(rep, rep_t, roles, self.bank)
        else:
            decay = min(1 - 1 / max(clock.since(self.start), 1.), self.prototype_decay)
            loss, prototypes = self.contrast.loss(rep, rep_t, roles, self.bank, self.prototypes, decay)
            if ranks > 1:  # what a checkpoint holds is the same on every rank
                dist.all_reduce(prototypes)
            paddle.assign(prototypes / ranks, self.prototypes)
        return loss / ranks if self.reference_quirks else loss

    def after_update(self, clock):
        before = clock.since(self.start) - 1  # the clock has ticked
        self._teaches = before >= 0
        if self._teaches:
            self.teacher.update(self._student(), before if clock.since(self.teacher_start) >= 1 else 0)

    def explain(self, unlabeled, clock):
        net = self.teacher.net['model'] if clock.reached(self.start) else self.model
        with evaluating(net), paddle.no_grad():
            logits = net(unlabeled['weak'])[0]
            reliable, _, _ = self._split(entropy(F.softmax(logits, axis=1)), unlabeled['valid'], clock)
        return Pseudo.of(logits, unlabeled['valid']), reliable & paddle.full_like(reliable, clock.reached(self.start))
