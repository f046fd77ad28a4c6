"""What methods that mix unlabeled images have in common."""

import paddle
import paddle.nn.functional as F

from paddleseg_semi.errors import InputError, nearest
from paddleseg_semi.losses.masked import masked_cross_entropy
from paddleseg_semi.transforms.mixing import PARTNERS


def mixing_streams(partner):
    """The streams of a method that mixes unlabeled images in pairs.

    Args:
        partner (str): 'other': the second image comes from an unlabeled stream shuffled on its own; 'reversed': image i
            of the batch is paired with image N - 1 - i; 'same': with another crop of itself.

    Returns:
        dict[str, str]: name → kind, see `Method.streams`.
    """
    if partner not in PARTNERS:
        raise InputError(f'method.partner: {partner}: known are {", ".join(PARTNERS)}.{nearest(partner, PARTNERS)}')
    streams = {'labeled': 'labeled', 'unlabeled': 'unlabeled'}
    second = {'other': 'unlabeled', 'same': 'again'}
    return {**streams, 'mix': second[partner]} if partner in second else streams


def partner_batch(batch):
    """The batch that is mixed into the unlabeled one.

    Args:
        batch (dict[str, dict[str, Tensor]]): of the streams of :func:`mixing_streams`.

    Returns:
        dict[str, Tensor]: keys and shapes of `batch['unlabeled']`.
    """
    return batch['mix'] if 'mix' in batch else {key: value.flip(0) for key, value in batch['unlabeled'].items()}


def decide(logits):
    """Pseudo labels, without gradient.

    Args:
        logits (Tensor): [N, C, H, W].

    Returns:
        tuple[Tensor, Tensor]: labels [N, H, W] int64 and their probability [N, H, W] float32, 0..1.
    """
    logits = logits.detach()
    pseudo = logits.argmax(1)
    return pseudo, F.softmax(logits, axis=1).take_along_axis(pseudo.unsqueeze(1), 1).squeeze(1)


def share(keep, valid=None):
    """Share of kept pixels, for the log.

    Args:
        keep (Tensor): bool, any shape.
        valid (Tensor, optional): bool, same shape: the pixels that count. Default: all.

    Returns:
        Tensor: scalar, 0..1; 0 when no pixel counts.
    """
    return keep.astype('float32').mean() if valid is None else \
        (keep & valid).astype('float32').sum() / valid.astype('float32').sum().clip(min=1)


def confident_cross_entropy(logits, pseudo, conf, valid, thresh):
    """FixMatch's loss: doubtful pixels drop out of the numerator only.

    .. math:: \\frac{\\sum_i 1[conf_i \\ge thresh] 1[valid_i] CE_i}{\\sum_i 1[valid_i]}

    Args:
        logits (Tensor): [N, C, H, W].
        pseudo (Tensor): [N, H, W], int64.
        conf (Tensor): [N, H, W], float32, 0..1.
        valid (Tensor): [N, H, W], bool.
        thresh (float): 0..1.

    Returns:
        Tensor: scalar; 0 with zero gradient when nothing is confident.
    """
    keep = (conf >= thresh) & valid
    return masked_cross_entropy(logits, pseudo, keep) * share(keep, valid)


def joined(labeled, unlabeled):
    """Labeled and unlabeled images as one batch: batch normalization sees both.

    Args:
        labeled (Tensor): [M, 3, H, W].
        unlabeled (Tensor): [N, 3, H, W].

    Returns:
        Tensor: [M + N, 3, H, W].
    """
    if labeled.shape[1:] != unlabeled.shape[1:]:
        raise InputError(f'labeled crops are {labeled.shape[2:]}, unlabeled ones {unlabeled.shape[2:]}, but go through '
                         'the network together. Give semi.unlabeled.weak the crop size of train_dataset.')
    return paddle.concat([labeled, unlabeled])
