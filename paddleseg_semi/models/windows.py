"""Sliding windows as iMAS evaluates with."""

import paddle
import paddle.nn.functional as F
from paddle import nn


class Windows(nn.Layer):
    """A network that looks at an image through overlapping windows and adds up its probabilities.

    Differs from PaddleSeg's `is_slide` in that windows at the border are smaller, not shifted back, and that
    probabilities are added, not logits. For evaluation: `core.val.evaluate(Windows(net, 769), dataset)`.

    Args:
        net (nn.Layer): a segmenter that takes images of any size.
        crop_size (int): side of a window in pixels. The next one begins two thirds of it further.
    """

    def __init__(self, net, crop_size):
        super().__init__()
        self.net, self.crop_size = net, crop_size

    @paddle.no_grad()
    def forward(self, x):
        """
        Args:
            x (Tensor): [N, 3, H, W].

        Returns:
            list[Tensor]: one element, sums of probabilities [N, C, H, W].
        """
        height, width = x.shape[2:]
        step, total = self.crop_size * 2 // 3, 0.
        for top in range(0, height, step):
            for left in range(0, width, step):
                prob = F.softmax(self.net(x[:, :, top:top + self.crop_size, left:left + self.crop_size])[0], axis=1)
                bottom, right = top + prob.shape[2], left + prob.shape[3]
                total += F.pad(prob, [left, width - right, top, height - bottom])
        return [total]
