"""Losses over chosen pixels of the whole batch.

When no pixel is chosen, each is 0 with zero gradient, still connected to the graph.
"""

import paddle
import paddle.nn.functional as F

_NOT_KEPT = 1 << 20  # no class has this number; a negative ignore_index would make Paddle average over all pixels


def masked_cross_entropy(logits, label, keep, weight=None):
    """Cross entropy, averaged over the kept pixels.

    .. math:: \\frac{\\sum_{i \\in keep} w_{y_i} (-\\log p_{i, y_i})}{\\sum_{i \\in keep} w_{y_i}}

    Args:
        logits (Tensor): [N, C, H, W], before the softmax.
        label (Tensor): [N, H, W], int32 or int64; 0..C-1 where `keep` is True, anything elsewhere.
        keep (Tensor): [N, H, W], bool.
        weight (Tensor, optional): [C], float32, one factor per class. Default: all 1.

    Returns:
        Tensor: scalar.
    """
    return _cross_entropy(logits, label, keep, weight, 'mean')


def pixel_cross_entropy(logits, label, keep):
    """Cross entropy of every pixel, 0 with zero gradient where it is not kept.

    For losses that divide by something else than the number of kept pixels.

    Args:
        logits (Tensor): [N, C, H, W], before the softmax.
        label (Tensor): [N, H, W], int32 or int64; 0..C-1 where `keep` is True, anything elsewhere.
        keep (Tensor): [N, H, W], bool.

    Returns:
        Tensor: [N, H, W].
    """
    return _cross_entropy(logits, label, keep, None, 'none').reshape(label.shape)


def _cross_entropy(logits, label, keep, weight, reduction):
    label = paddle.where(keep, label, paddle.full_like(label, _NOT_KEPT))
    # Not in mixed precision: the mean adds to the count of pixels, and float16 ends at 65504.
    with paddle.amp.auto_cast(enable=False):
        # Channels last: Paddle's kernel is a quarter faster there, the transposition included.
        return F.cross_entropy(logits.astype('float32').transpose([0, 2, 3, 1]), label, weight=weight,
                               ignore_index=_NOT_KEPT, reduction=reduction)


def masked_bce_with_logits(logits, target, keep):
    """Binary cross entropy of logits, averaged over the kept pixels.

    Args:
        logits (Tensor): [N, 1, H, W], before the sigmoid.
        target (float|Tensor): 0..1; one number for all pixels, or a tensor shaped like `logits`.
        keep (Tensor): [N, H, W] or [N, 1, H, W], bool.

    Returns:
        Tensor: scalar.
    """
    if not isinstance(target, paddle.Tensor):
        target = paddle.full_like(logits, target)
    keep = keep.reshape(logits.shape).astype(logits.dtype)
    # `keep` as the weight: an ignored target such as 255 must not reach the sum
    total = F.binary_cross_entropy_with_logits(logits, target, weight=keep, reduction='sum')
    return total / keep.sum().clip(min=1)
