"""s4GAN (Mittal, Tatarchenko, Brox, "Semi-Supervised Semantic Segmentation with High- and Low-level Consistency", TPAMI
2019). Its branch of image-level labels is `MLMT`, in a file of its own."""

import paddle
import paddle.nn.functional as F

from paddleseg_semi.datasets.streams import Labeled, Unlabeled
from paddleseg_semi.losses.adversarial import feature_distance, one_hot, tell_apart, to_unit_range
from paddleseg_semi.losses.masked import masked_cross_entropy
from paddleseg_semi.methods.base import Method
from paddleseg_semi.methods.pseudo import Pseudo
from paddleseg_semi.models.discriminator import ImageDiscriminator
from paddleseg_semi.models.modes import evaluating, frozen
from paddleseg_semi.ranges import AT_LEAST_ONE, DECAY, SHARE, START, SWITCH, WEIGHT
from paddleseg_semi.registries import METHODS


@METHODS.add_component
class S4GAN(Method):
    """A discriminator learns to tell photos with their label maps from photos with predictions. Predictions shall give
    it the features of label maps, and an unlabeled photo that it takes for a labeled one trains on its own prediction.

    Both are updated once per batch, the discriminator on the predictions made before the segmenter's update.

    Args:
        task (Task): what is to be learned.
        fm_weight (float): weight of the distance of the discriminator's features.
        semi_weight (float): weight of the self-training cross entropy.
        threshold (float): 0..1, the discriminator's probability that a prediction is a label map, above which the photo
            trains on it.
        semi_start (int|float): when self-training starts, in updates (1) or as a share of the run (0.25).
        ndf (int): channels of the discriminator's first layer.
        dropout (float): share of the channels that are dropped in its first three layers.
        reference_quirks (bool): as the published code, judge unlabeled photos under dropout, let padding train, and
            scale the photos of label maps by the largest value of the labeled batch.
    """

    ranges = {'fm_weight': WEIGHT, 'semi_weight': WEIGHT, 'threshold': SHARE, 'semi_start': START,
              'ndf': AT_LEAST_ONE, 'dropout': DECAY, 'reference_quirks': SWITCH}

    def __init__(self, task, fm_weight=0.1, semi_weight=1.0, threshold=0.6, semi_start=1, ndf=64, dropout=0.5,
                 reference_quirks=False):
        super().__init__(task)
        self.discriminator = ImageDiscriminator(task.num_classes, ndf, dropout, task.img_channels)
        self.fm_weight, self.semi_weight, self.threshold = fm_weight, semi_weight, threshold
        self.semi_start, self.reference_quirks = semi_start, reference_quirks
        self.streams = {'labeled': Labeled(), 'unlabeled': Unlabeled(padding=reference_quirks),
                        'ground_truth': Labeled()}

    def players(self):
        return {'model': self.model, 'discriminator': self.discriminator}

    def semi_step(self, batch, clock):
        unlabeled = batch['unlabeled']
        logits = self.model(unlabeled['weak'])[0]                                           # [N, C, H, W]
        fake = self._shown(logits, unlabeled['weak'])
        with frozen(self.discriminator):
            d_unlabeled, features = self.discriminator(fake)                                # [N, 1], [N, K, 1, 1]
        score = F.sigmoid(d_unlabeled.detach()) if self.reference_quirks else self._score(fake)
        pseudo = self._pseudo(logits, score, unlabeled['valid'])
        keep = self._keep(pseudo, clock)

        disc, d_real, real_features = self._discriminator_terms(batch, fake)
        losses = {'sup': self.supervised(batch['labeled']),
                  'fm': self.fm_weight * feature_distance(real_features.detach(), features),
                  'semi': self.semi_weight * masked_cross_entropy(logits, pseudo.label, keep), **disc}
        return losses, {'kept': pseudo.kept(keep), 'd_unlabeled': score.mean(), 'd_real': d_real}

    def labeled_step(self, batch, clock):
        """The discriminator starts to learn on predictions of labeled photos; later it sees none of these."""
        labeled = batch['labeled']
        logits = self.model(labeled['img'])
        disc, d_real, _ = self._discriminator_terms(batch, self._shown(logits[0], labeled['img']))
        return {'sup': self.supervised(labeled, logits), **disc}, {'d_real': d_real}

    def _discriminator_terms(self, batch, fake):
        """Its two terms, its mean confidence in label maps, and their features [N, K, 1, 1]."""
        truth = batch['ground_truth']
        maps = one_hot(truth['label'], self.num_classes, truth['label'] != self.ignore_index)
        with paddle.no_grad():
            high = batch['labeled']['img'].max() if self.reference_quirks else None
        d_real, features = self.discriminator(paddle.concat([maps, to_unit_range(truth['img'], high)], axis=1))
        d_fake, _ = self.discriminator(fake.detach())
        real_term, fake_term = tell_apart(d_real, paddle.ones_like(d_real, 'bool'),
                                          d_fake, paddle.ones_like(d_fake, 'bool'))
        return {'disc_fake': fake_term / 2, 'disc_real': real_term / 2}, F.sigmoid(d_real.detach()).mean(), features

    def explain(self, unlabeled, clock):
        with evaluating(self.model), paddle.no_grad():
            logits = self.model(unlabeled['weak'])[0]
        score = self._score(self._shown(logits, unlabeled['weak']))
        pseudo = self._pseudo(logits, score, unlabeled['valid'])
        return pseudo, self._keep(pseudo, clock)

    @staticmethod
    def _pseudo(logits, score, valid):
        """Pseudo: what the logits [N, C, H, W] say; all pixels of a photo are as sure as the score [N, 1] of it."""
        return Pseudo(logits.detach().argmax(1), score.unsqueeze(2).expand(valid.shape), valid)

    def _keep(self, pseudo, clock):
        started = clock.reached(self.semi_start) and clock.reached(self.start)
        return convincing(pseudo, self.threshold) if started else paddle.zeros_like(pseudo.valid)

    @staticmethod
    def _shown(logits, img):
        """A prediction with its photo, as the discriminator sees it: [N, C + 3, H, W]."""
        return paddle.concat([F.softmax(logits, axis=1), to_unit_range(img)], axis=1)

    @paddle.no_grad()
    def _score(self, maps):
        """[N, 1], 0..1: how much maps with photos look like label maps. Not by the chance of dropout."""
        with evaluating(self.discriminator):
            return F.sigmoid(self.discriminator(maps)[0])


def convincing(pseudo, threshold):
    """The valid pixels of the photos whose prediction passes for a label map.

    Args:
        pseudo (Pseudo): its `conf` is the discriminator's.
        threshold (float): 0..1. A score equal to it does not pass.

    Returns:
        Tensor: [N, H, W], bool.
    """
    return (pseudo.conf > threshold) & pseudo.valid
