"""Distribution alignment (Berthelot et al., "ReMixMatch", ICLR 2020), for the pixels of a segmentation."""

import paddle
import paddle.distributed as dist
import paddle.nn.functional as F
from paddle import nn

_RARE = 1e-3  # shares below it count as it: of a class that is hardly seen, the ratio says nothing


class Alignment(nn.Layer):
    """Pseudo labels have the class shares of the masks on average: a class that the network says too often is believed
    less, one that it forgets more.

    .. math:: \\tilde p_c \\propto p_c \\, \\frac{m_c}{u_c}

    m: shares of the classes among labeled pixels; u: mean probabilities on unlabeled ones; both over the last steps.

    Args:
        num_classes (int): C.
        decay (float): what a step leaves of the shares before it, 0..1; they remember about 1 / (1 - decay) steps.
    """

    def __init__(self, num_classes, decay):
        super().__init__()
        self.decay = decay
        for name in ('labeled', 'unlabeled'):
            self.register_buffer(name, paddle.zeros([num_classes]))

    @paddle.no_grad()
    def see_labels(self, label, known):
        """Takes note of a labeled batch: label [N, H, W] int64, known [N, H, W] bool, False where it is void."""
        classes = paddle.arange(len(self.labeled), dtype=label.dtype).reshape([1, -1, 1, 1])
        shown = (label.unsqueeze(1) == classes) & known.unsqueeze(1)
        self._see(self.labeled, shown.astype('float32').sum([0, 2, 3]))

    @paddle.no_grad()
    def see_logits(self, logits, valid):
        """Takes note of an unlabeled batch: logits [N, C, H, W] as the network says them, valid [N, H, W] bool."""
        prob = F.softmax(logits.astype('float32'), axis=1) * valid.unsqueeze(1).astype('float32')
        self._see(self.unlabeled, prob.sum([0, 2, 3]))

    def shift(self):
        """Tensor: [1, C, 1, 1], float32, log(m / u): added to logits it aligns their probabilities."""
        labeled, unlabeled = (share / share.sum().clip(min=1e-12) for share in (self.labeled, self.unlabeled))
        return (labeled.clip(min=_RARE) / unlabeled.clip(min=_RARE)).log().reshape([1, -1, 1, 1])

    def _see(self, shares, amounts):
        if dist.get_world_size() > 1:  # what a checkpoint holds is the same on every rank
            dist.all_reduce(amounts)
        paddle.assign(self.decay * shares + (1 - self.decay) * amounts / amounts.sum().clip(min=1), shares)
