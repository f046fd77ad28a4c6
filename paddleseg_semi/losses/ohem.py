"""Cross entropy of the hardest pixels, as the semi-supervised papers have it on Cityscapes."""

import paddle
from paddle import nn
from paddleseg.cvlibs import manager

from paddleseg_semi.losses.masked import pixel_cross_entropy


@manager.LOSSES.add_component
class HardPixelLoss(nn.Layer):
    """The mean over pixels whose true class has a probability of at most `thresh`, and at least over the `min_kept`
    least probable ones.

    PaddleSeg's OhemCrossEntropyLoss leaves out the pixels that equal the threshold; this one keeps them, as CPS, U2PL
    and iMAS do. A batch with fewer than `min_kept` labeled pixels, and `min_kept` 0, is plain cross entropy.

    Args:
        thresh (float, optional): probability, 0..1. Default: 0.7.
        min_kept (int, optional): pixels of the batch of one rank. Default: 100000.
        ignore_index (int, optional): label that does not count. Default: 255.
    """

    def __init__(self, thresh=0.7, min_kept=100000, ignore_index=255):
        super().__init__()
        self.thresh, self.min_kept, self.ignore_index = thresh, min_kept, ignore_index

    def forward(self, logit, label):
        """
        Args:
            logit (Tensor): [N, C, H, W].
            label (Tensor): [N, H, W] or [N, 1, H, W], int64.

        Returns:
            Tensor: scalar; 0 when no pixel is labeled.
        """
        label = label.reshape([-1, *logit.shape[2:]])
        known = label != self.ignore_index
        loss = pixel_cross_entropy(logit, label, known)                                     # [N, H, W]
        keep = known.astype(loss.dtype)
        if self.min_kept > 0:
            prob = (-loss.detach()).exp()                                                   # 1 where ignored
            last = paddle.kthvalue(prob.flatten(), min(self.min_kept, prob.size))[0]
            few = known.astype('int64').sum() < self.min_kept
            keep = keep * ((prob <= last.clip(min=self.thresh)) | few).astype(loss.dtype)
        return (loss * keep).sum() / keep.sum().clip(min=1)
