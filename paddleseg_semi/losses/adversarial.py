"""The terms of adversarial segmentation (Hung et al., 2018; Mittal et al., 2019): a discriminator tells label maps from
predictions.

Its logits are positive where a map looks like a one-hot label map and negative where it looks predicted.
"""

import paddle
import paddle.nn.functional as F

from paddleseg_semi.losses.masked import masked_bce_with_logits


def one_hot(label, num_classes, keep):
    """A label map as the discriminator sees it.

    Args:
        label (Tensor): [N, H, W], int32 or int64.
        num_classes (int): C.
        keep (Tensor): [N, H, W], bool. Other pixels are all zero: no class, not even the first.

    Returns:
        Tensor: [N, C, H, W], float32, 0 or 1.
    """
    label = paddle.where(keep, label, paddle.full_like(label, -1))
    classes = paddle.arange(num_classes, dtype=label.dtype).reshape([1, -1, 1, 1])
    return (label.unsqueeze(1) == classes).astype('float32')


def fool(d_logits, keep):
    """The segmenter's term: its predictions shall look like label maps (the paper's L_adv, eq. 4).

    Args:
        d_logits (Tensor): [N, 1, H, W], the discriminator on predicted probabilities.
        keep (Tensor): [N, H, W], bool, the pixels that count.

    Returns:
        Tensor: scalar.
    """
    return masked_bce_with_logits(d_logits, 1., keep)


def tell_apart(d_real, keep_real, d_fake, keep_fake):
    """The discriminator's two terms: label maps against (detached) predictions (the paper's L_D, eq. 2).

    The authors' code trains it with the mean of the two.

    Args:
        d_real (Tensor): [N, 1, H, W], the discriminator on one-hot label maps; or [N, 1], one logit per map.
        keep_real (Tensor): [N, H, W], or [N, 1], bool, the logits of `d_real` that count.
        d_fake (Tensor): [M, 1, H, W] or [M, 1], the discriminator on predicted probabilities.
        keep_fake (Tensor): [M, H, W] or [M, 1], bool, the logits of `d_fake` that count.

    Returns:
        tuple[Tensor, Tensor]: scalars, for the real and for the fake maps.
    """
    return masked_bce_with_logits(d_real, 1., keep_real), masked_bce_with_logits(d_fake, 0., keep_fake)


def trusted(d_logits, threshold):
    """Where the discriminator takes a prediction for a label map (the indicator of the paper's L_semi, eq. 5).

    Args:
        d_logits (Tensor): [N, 1, H, W], the discriminator on predicted probabilities.
        threshold (float): T_semi, 0..1. A confidence equal to it is trusted.

    Returns:
        tuple[Tensor, Tensor]: the confidence [N, H, W], 0..1, without gradient; the trusted pixels [N, H, W], bool.
    """
    conf = F.sigmoid(d_logits.detach()).squeeze(1)
    return conf, conf >= threshold


def feature_distance(real, fake):
    """How far the discriminator's features of predictions are from those of label maps (feature matching): the mean
    over channels of the absolute difference of the batches' means.

    Args:
        real (Tensor): [N, K, 1, 1], pooled features of label maps.
        fake (Tensor): [M, K, 1, 1], of predictions.

    Returns:
        Tensor: scalar.
    """
    return (real.mean(0) - fake.mean(0)).abs().mean()


def to_unit_range(img, high=None):
    """Images as a discriminator sees them beside probabilities: 0..1, by one range for the whole batch.

    Args:
        img (Tensor): [N, 3, H, W], of any range.
        high (Tensor, optional): scalar, what becomes 1. Default: the largest value.

    Returns:
        Tensor: [N, 3, H, W]; 0 for a batch of one color.
    """
    with paddle.no_grad():
        low = img.min()
        span = (img.max() if high is None else high) - low
    return (img - low) / paddle.where(span == 0, paddle.ones_like(span), span)
