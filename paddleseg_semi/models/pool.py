"""What a network was earlier."""

import copy

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import nn


class Pool(nn.Layer):
    """Earlier copies of a network. Once there is no room for a new one, it takes the place of the oldest.

    They take no gradients and answer in eval mode, whatever `train()` says.

    Args:
        limit (int): places, at least 1.
    """

    def __init__(self, limit):
        super().__init__()
        self.limit, self.members = limit, nn.LayerList()
        self.register_buffer('entered', paddle.zeros([], 'int64'))
        self._entered = 0  # the same on the host

    def places(self):
        """list[int]: positions in `members`, the oldest copy first."""
        return [number % self.limit for number in range(max(self._entered - self.limit, 0), self._entered)]

    def expect(self, net, entered):
        """Makes room for the copies of a checkpoint.

        Args:
            net (nn.Layer): a network like them.
            entered (np.ndarray): that buffer in the checkpoint.
        """
        if np.size(entered) == 1 and np.asarray(entered).dtype.kind == 'i':
            self._entered = int(entered)
            while len(self.members) < len(self.places()):
                self._grow(net)

    @paddle.no_grad()
    def push(self, net):
        """Takes a copy, weights and statistics; the latter averaged over the ranks.

        Args:
            net (nn.Layer): the network as it is now.
        """
        if len(self.members) < self.limit:
            self._grow(net)
        ranks = dist.get_world_size()
        mine = self.members[self._entered % self.limit].state_dict()
        for name, value in net.state_dict().items():
            paddle.assign(value, mine[name])
            if ranks > 1 and name.endswith(('._mean', '._variance')):
                dist.all_reduce(mine[name])
                mine[name].scale_(1 / ranks)
        self._entered += 1
        paddle.assign(self.entered + 1, self.entered)

    def _grow(self, net):
        member = copy.deepcopy(net)
        for param in member.parameters():
            param.stop_gradient = True
        self.members.append(member)

    @paddle.no_grad()
    def forward(self, img, places, weights):
        """What some of the members say together.

        Args:
            img (Tensor): [N, 3, H, W].
            places (Sequence[int]): of those who are asked.
            weights (Sequence[float]): one for each.

        Returns:
            Tensor: weighted sum of their logits, [N, C, H, W] float32.
        """
        total = None
        for place, weight in zip(places, weights):
            member = self.members[place]
            member.eval()  # the `train()` of a parent layer sets the mode of all layers below it, without asking them
            logits = member(img)[0]
            with paddle.amp.auto_cast(enable=False):  # mixed precision would add in float16
                logits = logits.astype('float32') * weight
                total = logits if total is None else total + logits
        return total
