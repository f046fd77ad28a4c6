"""The loss of AffinityNet (Ahn and Kwak, CVPR 2018)."""

import paddle

_LEAST = 1e-5  # keeps logarithms and quotients finite


def pair_sets(source, target, unknown=255):
    """The three kinds of pairs that the labels of their pixels decide; the others are unknown.

    Args:
        source (Tensor): integers that broadcast to those of `target`: label of one end, 0 is background.
        target (Tensor): the other's.
        unknown (int, optional): the label that counts nowhere. Default: 255.

    Returns:
        tuple[Tensor, Tensor, Tensor]: bool, shaped as `target`: both background; the same class; different classes.
    """
    known = (source != unknown) & (target != unknown)
    same = known & (source == target)
    return same & (source == 0), same & (source != 0), known & (source != target)


def affinity_losses(affinity, background, same, different):
    """Pairs of one label shall be alike, others not (the paper's eq. 5 to 7; a mean over each kind of pair).

    .. math:: -mean_{bg} \\log a, \\quad -mean_{same} \\log a, \\quad -mean_{different} \\log(1 - a)

    Args:
        affinity (Tensor): float32, 0..1, any shape.
        background, same, different (Tensor): bool, the same shape; see :func:`pair_sets`.

    Returns:
        tuple[Tensor, Tensor, Tensor]: scalars; 0 with zero gradient where there is no such pair.
    """
    alike, unlike = -paddle.log(affinity + _LEAST), -paddle.log(1 + _LEAST - affinity)
    return _mean(alike, background), _mean(alike, same), _mean(unlike, different)


def _mean(values, keep):
    keep = keep.astype(values.dtype)
    return (values * keep).sum() / (keep.sum() + _LEAST)
