"""Erasing what a classifier has looked at, and what EADER (Stammes et al., 2021) asks of the rest."""

import paddle.nn.functional as F


def erase(img, maps, omega=100., sigma=0.5):
    """Takes the attended region softly out of images: what is erased gets the value 0, the mean color.

    The mask is :math:`sigmoid(\\omega (A - \\sigma))`, and the image :math:`x (1 - mask)`.

    Args:
        img (Tensor): normalized images [N, 3, H, W].
        maps (Tensor): attention [N, 1, H, W], 0..1.
        omega (float, optional): steepness of the mask. Default: 100.
        sigma (float, optional): the attention, 0..1, that erases half. Default: 0.5.

    Returns:
        tuple[Tensor, Tensor]: the images; the mask [N, 1, H, W], 0..1.
    """
    mask = F.sigmoid(omega * (maps - sigma))
    return img * (1 - mask), mask


def mining(score, target):
    """Attention mining: the mean score of the class that was erased, which has to vanish.

    Args:
        score (Tensor): [N, K], probabilities of the classes in the erased images.
        target (Tensor): [N] int64, the class erased from each.

    Returns:
        Tensor: scalar.
    """
    return score.take_along_axis(target.unsqueeze(1), 1).mean()
