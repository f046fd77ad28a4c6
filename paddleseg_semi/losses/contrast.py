"""Reliable pixels train, unreliable ones tell classes apart (U2PL: Wang et al., CVPR 2022).

Nothing here waits for the device: what the data decide the size of is masked, or sampled to a fixed size.
"""

from typing import NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F

from paddleseg_semi.losses.masked import masked_cross_entropy
from paddleseg_semi.runtime import to_device


def entropy(prob):
    """Entropy of predictions: how unsure they are.

    .. math:: H = -\\sum_c p_c \\log p_c

    Args:
        prob (Tensor): [N, C, H, W], sums to 1 over the classes.

    Returns:
        Tensor: [N, H, W], in nats.
    """
    return -(prob * (prob + 1e-10).log()).sum(1)


@paddle.no_grad()
def percentiles(values, keep, percents):
    """Percentiles of chosen values, interpolated linearly, as np.percentile has them.

    The positions between the sorted values are computed in float64: a percentile that falls on a value is that value.

    Args:
        values (Tensor): any shape, float32.
        keep (Tensor): the same shape, bool, the values that count.
        percents (Sequence[float]): 0..100 each.

    Returns:
        list[Tensor]: one scalar each, of the values' dtype; inf when no value counts.
    """
    order = paddle.where(keep, values, paddle.full_like(values, float('inf'))).flatten().sort()
    last = (keep.astype('int64').sum() - 1).clip(min=0)
    position = last.astype('float64') * to_device(np.array(percents, 'float64') / 100)
    below = position.floor()
    low, high = (order.index_select(place.astype('int64')).astype('float64') for place in (below, position.ceil()))
    between = low + (high - low) * (position - below)
    return paddle.where(position > below, between, low).astype(values.dtype).unbind()  # inf - inf would be NaN


def reliable_cross_entropy(logits, label, keep):
    """Cross entropy of the reliable pixels, the heavier the fewer they are: the mean is divided by the share kept.

    .. math:: \\frac{NHW}{|keep|} \\cdot \\frac{1}{|keep|} \\sum_{i \\in keep} -\\log p_{i, y_i}

    Args:
        logits (Tensor): [N, C, H, W], before the softmax.
        label (Tensor): [N, H, W], int64, pseudo labels.
        keep (Tensor): [N, H, W], bool, the reliable pixels.

    Returns:
        Tensor: scalar; 0 with zero gradient when no pixel is reliable.
    """
    weight = keep.size / keep.astype('float32').sum().clip(min=1)
    return weight * masked_cross_entropy(logits, label, keep)


def spilled_one_hot(label, num_classes, keep):
    """One-hot labels as the authors' program makes them: the first image gets the labels of all, the others none.

    Where another image is not kept, the first gets class 0.

    Args:
        label (Tensor): [N, H, W], int64.
        num_classes (int): C.
        keep (Tensor): [N, H, W], bool. Pixels not kept in the first image have no class.

    Returns:
        Tensor: [N, C, H, W], bool.
    """
    label = paddle.where(keep, label, paddle.zeros_like(label))
    union = (label.unsqueeze(1) == paddle.arange(num_classes).reshape([1, -1, 1, 1])).any(0) & keep[0]
    return paddle.concat([union.unsqueeze(0), paddle.zeros([len(label) - 1, *union.shape], 'bool')])


def shrink(maps, size):
    """Nearest neighbors on a coarser grid, at rows ⌊i·H/h⌋ and columns ⌊j·W/w⌋.

    Args:
        maps (Tensor): [N, H, W], any dtype.
        size (Sequence[int]): h, w.

    Returns:
        Tensor: [N, h, w].
    """
    for axis, wanted in enumerate(size, 1):
        maps = maps.index_select(paddle.arange(wanted) * maps.shape[axis] // wanted, axis)
    return maps


class Roles(NamedTuple):
    """What each pixel is to each class; all [C, N*h*w], bool.

    Attributes:
        member (Tensor): sure to be of the class: the mean of these pixels is the positive.
        anchor (Tensor): members the teacher gives some probability: these train.
        key (Tensor): unlikely to be of the class: negatives.
    """

    member: paddle.Tensor
    anchor: paddle.Tensor
    key: paddle.Tensor


@paddle.no_grad()
def assign_roles(one_hot, prob, low, high, labeled, low_rank, high_rank, threshold, negative_threshold=1.,
                 any_label=False):
    """Members, anchors and negative keys of every class.

    A key of class c is an unreliable pixel of an unlabeled image that ranks c in [low_rank, high_rank) among the
    classes. The authors' program takes only those pseudo-labeled c; the paper, all of them, and pixels of labeled
    images that rank c below low_rank although they are of another class.

    Args:
        one_hot (Tensor): [N, C, h, w], bool, labels and pseudo labels; labeled images first.
        prob (Tensor): [N, C, h, w], the teacher's probabilities.
        low (Tensor): [N, h, w], bool, reliable pixels.
        high (Tensor): [N, h, w], bool, unreliable pixels; of labeled images, all with a label.
        labeled (int): how many images are labeled.
        low_rank (int): r_l. 0 is the most probable class.
        high_rank (int): r_h, beyond C the same as C.
        threshold (float): δ_p, probability above which a member is an anchor.
        negative_threshold (float, optional): δ_n, probability below which a pixel can be a key. Default: 1.
        any_label (bool, optional): keys as the paper has them. Default: False.

    Returns:
        Roles
    """
    member = one_hot & low.unsqueeze(1)
    top = _among_top(prob, low_rank)
    middle = _among_top(prob, high_rank) & ~top
    high = high.unsqueeze(1) & (prob < negative_threshold)
    if any_label:
        key = paddle.concat([(high & top & ~one_hot)[:labeled], (high & middle)[labeled:]])
    else:
        key = high & middle & one_hot
        key[:labeled] = False
    return Roles(*(mask.transpose([1, 0, 2, 3]).flatten(1) for mask in (member, member & (prob > threshold), key)))


def _among_top(prob, rank):
    """[N, C, h, w], bool: the classes of ranks below `rank`."""
    if rank >= prob.shape[1]:
        return paddle.ones_like(prob, 'bool')
    return prob >= prob.topk(rank, axis=1)[0][:, -1:]


def choose(mask, number):
    """Where the n-th True of each row is.

    Args:
        mask (Tensor): [C, P], bool.
        number (Tensor): [C, K], int64, from 0. A row without so many has P - 1.

    Returns:
        Tensor: [C, K], int64.
    """
    seen = mask.astype('int64').cumsum(1)
    return paddle.searchsorted(seen, number + 1).clip(max=mask.shape[1] - 1)


@paddle.no_grad()
def pack(features, mask, limit):
    """Features under the masks, a fixed number per class; of more than that, evenly spread ones.

    Args:
        features (Tensor): [P, D].
        mask (Tensor): [C, P], bool.
        limit (int): K, at least 1.

    Returns:
        tuple[Tensor, Tensor]: [C, K, D], of which the first of each class count, in their order; how many: [C], int64.
    """
    found = mask.astype('int64').sum(1)
    count = found.clip(max=limit)
    spread = paddle.arange(limit) * found.unsqueeze(1) // count.clip(min=1).unsqueeze(1)
    return _rows(features, choose(mask, spread)), count


def draw_uniformly(anchors, keys, num_queries, num_negatives):
    """Which anchors and keys of each class are compared, with replacement, by the device's generator.

    Args:
        anchors (Tensor): [C], int64, how many there are; 0 for a class that does not take part.
        keys (Tensor): [C], int64, how many there are.
        num_queries (int): Q.
        num_negatives (int): K, per query.

    Returns:
        tuple[Tensor, Tensor]: numbers of anchors [C, Q] and of keys [C, Q * K], int64, from 0; where there are none, 0.
    """
    def draw(high, number):
        high = high.unsqueeze(1)
        drawn = (paddle.rand([len(high), number]) * high.astype('float32')).astype('int64')
        return paddle.minimum(drawn, (high - 1).clip(min=0))  # float32 may round up

    return draw(anchors, num_queries), draw(keys, num_queries * num_negatives)


def info_nce(query, positive, negative, negative_norm, temperature):
    """How much less a query resembles its positive than its negatives, in cosines.

    .. math:: -\\frac{1}{Q} \\sum_q \\log \\frac{e^{\\cos(z_q, z^+) / \\tau}}{e^{\\cos(z_q, z^+) / \\tau} +
        \\sum_k e^{\\cos(z_q, z^-_{qk}) / \\tau}}

    Args:
        query (Tensor): [C, Q, D].
        positive (Tensor): [C, 1 or Q, D].
        negative (Tensor): [C, Q, K, D].
        negative_norm (Tensor): [C, Q, K], lengths of the negatives.
        temperature (float): τ.

    Returns:
        Tensor: [C], mean over the queries.
    """
    query, positive = F.normalize(query, axis=-1), F.normalize(positive, axis=-1)
    near = (query * positive).sum(-1, keepdim=True)                                                # [C, Q, 1]
    far = paddle.matmul(negative, query.unsqueeze(-1)).squeeze(-1) / negative_norm.clip(min=1e-8)  # [C, Q, K]
    logits = paddle.concat([near, far], -1) / temperature
    return F.cross_entropy(logits, paddle.zeros(logits.shape[:-1], 'int64'), reduction='none').reshape(
        logits.shape[:-1]).mean(-1)


class Contrast(NamedTuple):
    """How many pixels are compared, and how.

    Attributes:
        num_queries (int): anchors per class.
        num_negatives (int): keys per anchor.
        temperature (float): τ.
        keys_per_step (int): at most so many keys of a class enter the bank per step and rank.
        by_position (bool): as the authors' program, compare the anchors of class i with the keys of the i-th class
            that is present, and forget the momentum prototypes of classes that do not take part.
        sampler (Callable): as :func:`draw_uniformly`.
    """

    num_queries: int = 256
    num_negatives: int = 50
    temperature: float = 0.5
    keys_per_step: int = 2048
    by_position: bool = False
    sampler: object = draw_uniformly

    @paddle.amp.auto_cast(enable=False)  # sums over all pixels leave the range of float16
    def loss(self, rep, rep_teacher, roles, bank, prototypes=None, decay=0.):
        """Stores the new keys, then compares anchors with the positive and the keys of their class.

        .. math:: \\frac{1}{|present|} \\sum_{c\\ present} \\ell_c

        with :math:`\\ell_c` of :func:`info_nce`, 0 where a class has no anchors or no keys. One class alone is not
        compared with anything.

        Args:
            rep (Tensor): [N, D, h, w], the student's, with gradient.
            rep_teacher (Tensor): [N, D, h, w].
            roles (Roles): of the N*h*w pixels.
            bank (Bank): the keys; new ones are stored.
            prototypes (Tensor, optional): [C, 1 or Q, D], positives of earlier steps, all zero in the first.
            decay (float, optional): share of `prototypes` in the positives, 0..1. Default: 0.

        Returns:
            tuple[Tensor, Tensor]: the loss, and the positives to be kept as `prototypes`, [C, 1 or Q, D].
        """
        rep, rep_teacher = (maps.astype('float32').transpose([0, 2, 3, 1]).flatten(0, 2) for maps in (rep, rep_teacher))
        rep_teacher = rep_teacher.detach()
        bank.push(*pack(rep_teacher, roles.key, min(bank.limit(self.keys_per_step), len(rep))))

        anchors = roles.anchor.astype('int64').sum(1)
        present = roles.member.any(1)
        num_present = present.astype('int64').sum()
        classes = number = paddle.arange(len(present))
        if self.by_position:
            classes = paddle.where(present, number, number + len(number)).argsort() % len(number)
        takes_part = (anchors > 0) & (bank.size[classes] > 0) & (num_present > 1)
        takes_part &= number < num_present if self.by_position else present

        positive = _means(rep_teacher, roles.member).unsqueeze(1)                                  # [C, 1, D]
        if prototypes is not None:
            mixed = (1 - decay) * positive + decay * prototypes
            positive = paddle.where(prototypes.any(), mixed, positive.expand(mixed.shape))
            others = paddle.zeros_like(prototypes) if self.by_position else prototypes
            prototypes = paddle.where(takes_part.reshape([-1, 1, 1]), positive, others)

        queries, keys = self.sampler(anchors * takes_part.astype('int64'), bank.size[classes], self.num_queries,
                                     self.num_negatives)
        query = _rows(rep, choose(roles.anchor, queries))                                          # [C, Q, D]
        negative, norm = bank.take(classes, keys)
        shape = [len(present), self.num_queries, self.num_negatives]
        losses = info_nce(query, positive, negative.reshape([*shape, -1]), norm.reshape(shape), self.temperature)
        losses = paddle.where(takes_part, losses, paddle.zeros_like(losses))
        return losses.sum() / num_present.clip(min=1).astype(losses.dtype), prototypes


def _means(features, mask):
    """[C, D]: mean of the features [P, D] under each mask [C, P]; 0 where it is empty."""
    weight = mask.astype(features.dtype)
    return paddle.matmul(weight, features) / weight.sum(1, keepdim=True).clip(min=1)


def _rows(table, index):
    """[*index.shape, D]: rows of a table [P, D]."""
    return table.index_select(index.flatten()).reshape([*index.shape, -1])
