"""How hard an image is for a student and its teacher, and the loss weighed by it (iMAS, Zhao et al., CVPR 2023)."""

import paddle

from paddleseg_semi.losses.masked import pixel_cross_entropy


def weighted_iou(label_a, label_b, num_classes, valid, class_weighted=True, ignore_background=True):
    """IoU of two label maps, averaged over classes by the size each class has in one map or in the other.

    .. math:: wIoU^a = \\sum_c \\frac{N^a_c}{\\sum_k N^a_k} IoU_c

    and :math:`wIoU^b` with the pixel counts of the other map: the IoU is symmetric, its weights are not. A map
    without a pixel that counts has 0.

    Args:
        label_a (Tensor): [N, H, W], int64, 0..C-1.
        label_b (Tensor): [N, H, W], int64, 0..C-1.
        num_classes (int): C.
        valid (Tensor): [N, H, W], bool, the pixels that are looked at.
        class_weighted (bool, optional): False: the plain mean over the classes that occur, in both directions.
            Default: True.
        ignore_background (bool, optional): class 0 has no weight. Default: True.

    Returns:
        tuple[Tensor, Tensor]: :math:`wIoU^a` and :math:`wIoU^b`, each [N], float32, 0..1.
    """
    cells = (label_a * num_classes + label_b).flatten(1)
    counts = paddle.zeros([cells.shape[0], num_classes**2], 'int64')
    # Integers: exact whatever the order of the additions, and out of reach of mixed precision.
    counts = paddle.put_along_axis(counts, cells, valid.astype('int64').flatten(1), 1, reduce='add')
    counts = counts.reshape([-1, num_classes, num_classes])
    hit, size_a, size_b = counts.diagonal(axis1=1, axis2=2), counts.sum(2), counts.sum(1)   # [N, C]
    union = size_a + size_b - hit
    iou = _ratio(hit, union)
    if not class_weighted:
        plain = _ratio(iou.sum(1), (union > 0).astype('int64').sum(1))
        return plain, plain
    first = 1 if ignore_background else 0
    return tuple(_ratio((iou * size.astype(iou.dtype))[:, first:].sum(1), size[:, first:].sum(1))
                 for size in (size_a, size_b))


def confident_share(conf, threshold, valid):
    """Share of the valid pixels whose confidence reaches a threshold; 0 for an image without one.

    Args:
        conf (Tensor): [N, H, W], float32, 0..1.
        threshold (float): tau, 0..1.
        valid (Tensor): [N, H, W], bool.

    Returns:
        Tensor: [N], float32, 0..1.
    """
    return _ratio(((conf >= threshold) & valid).astype('int64').sum([1, 2]), valid.astype('int64').sum([1, 2]))


def agreement(label_a, conf_a, label_b, conf_b, num_classes, threshold, valid, **weighting):
    """The measure of hardness, gamma: **large for easy images**, on which both networks agree and are sure.

    .. math:: \\gamma = \\frac{1}{2} (wIoU^a \\rho^a + wIoU^b \\rho^b)

    with the confident shares :math:`\\rho`.

    Args:
        label_a (Tensor): [N, H, W], int64, what the first network predicts.
        conf_a (Tensor): [N, H, W], float32, its confidence, 0..1.
        label_b (Tensor): [N, H, W], int64, what the second network predicts.
        conf_b (Tensor): [N, H, W], float32, its confidence, 0..1.
        num_classes (int): C.
        threshold (float): tau, 0..1, see :func:`confident_share`.
        valid (Tensor): [N, H, W], bool, the pixels that are looked at.
        **weighting: `class_weighted` and `ignore_background` of :func:`weighted_iou`.

    Returns:
        Tensor: [N], float32, 0..1.
    """
    iou_a, iou_b = weighted_iou(label_a, label_b, num_classes, valid, **weighting)
    return (iou_a * confident_share(conf_a, threshold, valid) + iou_b * confident_share(conf_b, threshold, valid)) / 2


def weighted_cross_entropy(logits, label, keep, weight):
    """Cross entropy with one weight per image; the sum over kept pixels is divided by **all** pixels.

    .. math:: \\frac{1}{N} \\sum_i \\frac{\\gamma_i}{HW} \\sum_{j \\in keep_i} -\\log p_{i, j, y_{i, j}}

    Args:
        logits (Tensor): [N, C, H, W], before the softmax.
        label (Tensor): [N, H, W], int64; 0..C-1 where `keep` is True, anything elsewhere.
        keep (Tensor): [N, H, W], bool. Nothing kept: 0 with zero gradient.
        weight (Tensor): [N], float32.

    Returns:
        Tensor: scalar.
    """
    return (weight * pixel_cross_entropy(logits, label, keep).mean([1, 2])).mean()


def _ratio(part, whole):
    return part.astype('float32') / whole.clip(min=1).astype('float32')
