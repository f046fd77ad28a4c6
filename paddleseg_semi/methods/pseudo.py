"""What is said of images without masks, and how it trains."""

from typing import NamedTuple

import paddle
import paddle.nn.functional as F

from paddleseg_semi.losses.masked import masked_cross_entropy
from paddleseg_semi.transforms.mixing import paste


class Pseudo(NamedTuple):
    """Pseudo labels of a batch.

    Attributes:
        label (Tensor): [N, H, W], int64, 0..C-1: the likeliest class.
        conf (Tensor): [N, H, W], float32, 0..1: its probability.
        valid (Tensor): [N, H, W], bool: False where a transform padded.
    """

    label: paddle.Tensor
    conf: paddle.Tensor
    valid: paddle.Tensor

    @classmethod
    def of(cls, logits, valid=None):
        """Those of a network's answer, without gradient.

        Args:
            logits (Tensor): [N, C, H, W].
            valid (Tensor, optional): [N, H, W], bool. Default: all pixels are.

        Returns:
            Pseudo: of every pixel.
        """
        logits = logits.detach()
        label = logits.argmax(1)
        conf = F.softmax(logits, axis=1).take_along_axis(label.unsqueeze(1), 1).squeeze(1)
        return cls(label, conf, paddle.ones_like(label, dtype='bool') if valid is None else valid)

    def each(self, change):
        """Pseudo: all three maps after the same change, such as another order of the images."""
        return Pseudo(*map(change, self))

    def pasted(self, mask, other):
        """Pseudo: `other` where the mask [N, H, W] is True, these elsewhere."""
        return Pseudo(*(paste(mask, inside, outside) for inside, outside in zip(other, self)))

    def sure(self, thresh):
        """Tensor: [N, H, W], bool: valid pixels whose probability is at least `thresh`."""
        return (self.conf >= thresh) & self.valid

    def kept(self, keep):
        """Tensor: scalar, 0..1: the share of the valid pixels that is kept ([N, H, W], bool); 0 when none is valid."""
        return (keep & self.valid).astype('float32').sum() / self.valid.astype('float32').sum().clip(min=1)

    def loss(self, logits, thresh):
        """FixMatch's cross entropy: doubtful pixels drop out of the numerator only.

        .. math:: \\frac{\\sum_i 1[conf_i \\ge thresh] 1[valid_i] CE_i}{\\sum_i 1[valid_i]}

        Args:
            logits (Tensor): [N, C, H, W], of the view that learns.
            thresh (float): 0..1.

        Returns:
            Tensor: scalar; 0 with zero gradient when nothing is sure.
        """
        keep = self.sure(thresh)
        return masked_cross_entropy(logits, self.label, keep) * self.kept(keep)
