"""CorrMatch (Sun et al., "CorrMatch: Label Propagation via Correlation Matching for Semi-Supervised Semantic
Segmentation", CVPR 2024)."""

import paddle
import paddle.distributed as dist
from paddle import nn
from paddleseg.core.train import loss_computation

from paddleseg_semi.losses.consistency import consistency
from paddleseg_semi.methods.common import joined, partner_batch
from paddleseg_semi.methods.pseudo import Pseudo
from paddleseg_semi.methods.unimatch import UniMatch
from paddleseg_semi.models.correlation import Correlation, as_map, region_masks
from paddleseg_semi.models.modes import evaluating
from paddleseg_semi.models.tap import Tap, new_probe
from paddleseg_semi.ranges import AT_LEAST_ONE, SHARE, SWITCH, WEIGHT
from paddleseg_semi.registries import METHODS
from paddleseg_semi.runtime import to_device
from paddleseg_semi.transforms.mixing import gated_boxes, paste


@METHODS.add_component
class CorrMatch(UniMatch):
    """How alike the places of an image are spreads labels twice: logits from place to place, and the label of most of
    a region to all of it. What is confident enough is learned as well.

    .. math:: L = \\frac12 [\\frac12 L_x + \\frac12 L_x^c + \\frac14 L_s + \\frac14 L_{kl} + \\frac14 L_{fp}
        + \\frac18 (L_s^c + L_w^c)]

    Args:
        task (Task): what is to be learned.
        conf_thresh (float): probability, 0..1, from which a pixel trains on its pseudo label, at the start.
        thresh_decay (float): 0..1, memory of the threshold, per update; it follows the mean over the classes seen of
            their greatest confidence. 1: it stays.
        sup_weight (float): of the loss on labeled images.
        sup_corr_weight (float): of the same loss on logits spread by the correlation.
        strong_weight (float): of the loss on the strong view.
        kl_weight (float): of the divergence of strong from weak probabilities.
        feature_weight (float): of the loss on disturbed features.
        corr_weight (float): of the loss on spread logits, for the strong and for the weak view each.
        regions (int): places of an image whose regions are looked at.
        stride (int): pixels per place of the correlation; features that are finer are averaged.
        feature_drop (float): probability, 0..1, with which a channel is dropped.
        feature_layer (str, optional): layer whose output is disturbed and correlated (the last level of several).
            Default: the model's `backbone`; where it has none, the input of the classifier.
        box_prob, box_area, box_ratio, partner: of CutMix, see `FixMatch`.
        reference_quirks (bool): as the published code, let strong views diverge from the weak view without the box
            that was pasted, update the threshold on pixels valid after the pasting, and never choose the last place.
    """

    views = 1

    ranges = {**{key: kind for key, kind in UniMatch.ranges.items() if key not in ('ema_decay', 'align_decay')},
              'thresh_decay': SHARE, 'sup_corr_weight': WEIGHT, 'kl_weight': WEIGHT, 'corr_weight': WEIGHT,
              'regions': AT_LEAST_ONE, 'stride': AT_LEAST_ONE, 'reference_quirks': SWITCH}

    def __init__(self, task, conf_thresh=0.85, thresh_decay=0.999, sup_weight=0.25, sup_corr_weight=0.25,
                 strong_weight=0.125, kl_weight=0.125, feature_weight=0.125, corr_weight=0.0625, regions=128, stride=8,
                 feature_drop=0.5, feature_layer=None, box_prob=0.5, box_area=(0.02, 0.4), box_ratio=(0.3, 3.3333),
                 partner='other', reference_quirks=False):
        super().__init__(task, conf_thresh, sup_weight, strong_weight, feature_weight, feature_drop, feature_layer,
                         box_prob, box_area, box_ratio, partner)
        probe = new_probe(channels=task.img_channels)
        with evaluating(self.model), paddle.no_grad(), Tap(self.model, *self.fork) as tap:
            self.model(probe)
        width = as_map(last_level(tap.value), probe.shape[2:]).shape[1]
        self.correlation = Correlation(width, task.num_classes, stride)
        self.register_buffer('thresh', paddle.full([], conf_thresh))
        self.thresh_decay, self.regions, self.reference_quirks = thresh_decay, regions, reference_quirks
        self.sup_corr_weight, self.corr_weight, self.kl_weight = sup_corr_weight, corr_weight, kl_weight

    def players(self):
        """One player: the recipe's optimizer trains the correlation with the model."""
        return {'model': nn.LayerDict({'model': self.model, 'correlation': self.correlation})}

    def labeled_step(self, batch, clock):
        outputs, spread, _ = self._look(batch['labeled']['img'])
        return self._labeled_terms(batch['labeled'], outputs, spread), {}

    def semi_step(self, batch, clock):
        labeled, first, second = batch['labeled'], batch['unlabeled'], partner_batch(batch)
        m, n = len(labeled['img']), len(first['weak'])
        with evaluating(self.model), paddle.no_grad():
            other = self.model(second['weak'])[0]
        outputs, spread, rows = self._look(joined(labeled['img'], first['weak']), self.disturb)
        logits, disturbed = outputs[0][m:m + n].detach(), outputs[0][-n:]
        box = gated_boxes(clock.rng('strong box'), n, logits.shape[2:], *self.box)          # [N, H, W], True: second
        (strong, *_), strong_spread, _ = self._look(paste(box, second['strong'], first['strong']))

        own = Pseudo.of(logits, first['valid'])
        mixed = own.pasted(box, Pseudo.of(other, second['valid']))
        self._move_threshold(own._replace(valid=mixed.valid) if self.reference_quirks else own)
        keep = mixed.sure(self.thresh)
        masks = self._regions(rows[m:], logits.shape[2:], clock) & (mixed.valid & ~box).unsqueeze(1)
        label, wide = spread_labels(mixed.label, keep, masks, self.thresh, self.num_classes)
        regional = Pseudo(label, wide.astype('float32'), mixed.valid)                       # sure where it trains
        weak = logits if self.reference_quirks else paste(box, other, logits)
        divergence = consistency(strong, weak, 'kld') * keep.astype('float32')              # [N, H, W]

        losses = {**self._labeled_terms(labeled, outputs, spread[:m]),
                  's1': self.strong_weight * regional.loss(strong, 1.),
                  'kl': self.kl_weight * divergence.sum() / mixed.valid.astype('float32').sum().clip(min=1),
                  'fp': self.feature_weight * own.loss(disturbed, self.thresh),
                  'corr_s': self.corr_weight * regional.loss(strong_spread, 1.),
                  'corr_w': self.corr_weight * own.loss(spread[m:], self.thresh)}
        return losses, {'kept': own.kept(own.sure(self.thresh)), 'conf': own.conf.mean(), 'thresh': self.thresh.clone(),
                        'added': mixed.kept(wide & ~keep)}

    def _look(self, img, edit=None):
        """Outputs of the model, its logits spread by the correlation [N, C, H, W], and the correlation."""
        with Tap(self.model, *self.fork, edit) as tap:
            outputs = self.model(img)
        return outputs, *self.correlation(last_level(tap.value), outputs[0][:len(img)])

    def _labeled_terms(self, labeled, outputs, spread):
        main = {key: value[:1] for key, value in self.sup_losses.items()}
        term, = loss_computation([spread], labeled['label'], labeled.get('edge'), main)
        return {**self.labeled_term(labeled, outputs), 'sup_corr': self.sup_corr_weight * term}

    @paddle.no_grad()
    @paddle.amp.auto_cast(enable=False)     # a step of a thousandth is lost in float16
    def _move_threshold(self, pseudo):
        """Towards the mean of the greatest confidence of each class that some rank sees on a valid pixel."""
        conf = pseudo.conf * pseudo.valid.astype('float32')
        best = paddle.zeros([self.num_classes]).put_along_axis(pseudo.label.flatten(), conf.flatten(), 0, 'amax')
        if dist.get_world_size() > 1:
            dist.all_reduce(best, dist.ReduceOp.MAX)
        seen = (best > 0).astype('float32').sum()
        moved = self.thresh_decay * self.thresh + (1 - self.thresh_decay) * best.sum() / seen.clip(min=1)
        paddle.assign(paddle.where(seen > 0, moved, self.thresh), self.thresh)

    def _regions(self, rows, size, clock):
        """Regions of places drawn once for all images, [N, K, H, W] bool."""
        places = rows.shape[1]
        last = max(places - 1, 1) if self.reference_quirks else places
        chosen = to_device(clock.rng('regions').integers(0, last, self.regions))
        return region_masks(rows.detach().index_select(chosen, 1), size)

    def explain(self, unlabeled, clock):
        pseudo = self.pseudo_label(unlabeled['weak'], unlabeled['valid'])
        return pseudo, pseudo.sure(self.thresh)


def last_level(features):
    """Tensor: the deepest of a backbone's features."""
    return paddle.utils.flatten(features)[-1]


@paddle.no_grad()
def spread_labels(label, sure, masks, thresh, num_classes):
    """Gives a region the label of nearly all of its sure pixels, if nearly all of its pixels are sure.

    One region after the other, in all images at a time: later ones count the labels that earlier ones wrote.

    Args:
        label (Tensor): [N, H, W], int64, 0..C-1.
        sure (Tensor): [N, H, W], bool.
        masks (Tensor): [N, K, H, W], bool, the regions.
        thresh (Tensor): scalar, 0..1: "nearly all".
        num_classes (int): C.

    Returns:
        tuple[Tensor, Tensor]: the labels [N, H, W] int64; and `sure` together with the regions relabeled, bool.
    """
    shape, label, masks = label.shape, label.flatten(1), masks.flatten(2)
    counted = masks & sure.flatten(1).unsqueeze(1)                                          # [N, K, HW]
    votes = counted.astype('float32').sum(-1)
    dense = (votes > 0) & (votes / masks.astype('float32').sum(-1).clip(min=1) >= thresh)   # [N, K]
    wide = sure.flatten(1)
    # The one place that waits for the device: each region costs a pass over the images, and most are dense in none.
    some = paddle.nonzero(dense.any(0)).flatten()
    if not len(some):
        return label.reshape(shape), sure
    masks, counted, votes, dense = (value.index_select(some, 1) for value in (masks, counted, votes, dense))
    for region, voters, count, is_dense in zip(*(value.unbind(1) for value in (masks, counted, votes, dense))):
        ballot = paddle.zeros([shape[0], num_classes]).put_along_axis(label, voters.astype('float32'), 1, 'add')
        winner = ballot.argmax(1, keepdim=True)                                             # [N, 1]
        agreed = is_dense & (ballot.amax(1) / count.clip(min=1) > thresh)
        written = region & agreed.unsqueeze(1)
        label, wide = paddle.where(written, winner, label), wide | written
    return label.reshape(shape), wide.reshape(shape)
