"""A network that follows another."""

import copy

import paddle
from paddle import nn

BUFFERS = ('average', 'copy', 'own')


class EMA(nn.Layer):
    """The exponential moving average of a network, for use as a teacher (Tarvainen and Valpola, 2017).

    After each update of the network, :math:`\\theta \\leftarrow decay \\cdot \\theta + (1 - decay) \\cdot
    \\theta_{net}`. It starts as a copy, takes no gradients, and stays in eval mode whatever `train()` says.

    Args:
        net (nn.Layer): the network to follow, built and with its weights loaded.
        decay (float): 0..1.
        warmup (bool, optional): use min(1 - 1 / (step + 1), decay), so that the random start is forgotten quickly.
            Default: True.
        buffers (str, optional): what becomes of the running statistics of batch normalization (and of other
            buffers): 'average' averages them like weights, 'copy' takes those of the network, 'own' leaves them to
            whoever runs `ema.net` in train mode. Default: 'average'.
    """

    def __init__(self, net, decay, warmup=True, buffers='average'):
        if not 0 <= decay <= 1:
            raise ValueError(f'decay must lie in 0..1, not {decay}')
        if buffers not in BUFFERS:
            raise ValueError(f'buffers must be one of {", ".join(BUFFERS)}, not {buffers!r}')
        super().__init__()
        self.net = copy.deepcopy(net)
        self.decay = decay
        self.warmup = warmup
        self.buffers = buffers
        for param in self.net.parameters():
            param.stop_gradient = True

    def forward(self, x):
        self.net.eval()  # the `train()` of a parent layer sets the mode of all layers below it, without asking them
        return self.net(x)

    @paddle.no_grad()
    def update(self, net, step):
        """Moves one step towards the network.

        Args:
            net (nn.Layer): the network followed, just updated.
            step (int): updates done before this one; 0 for the first, which with `warmup` copies the network.
        """
        decay = min(1 - 1 / (step + 1), self.decay) if self.warmup else self.decay
        buffers = _buffers(self.net)
        theirs = net.state_dict()
        for name, mine in self.net.state_dict().items():
            if name in buffers and self.buffers == 'own':
                continue
            if name in buffers and (self.buffers == 'copy' or not mine.is_floating_point()):
                paddle.assign(theirs[name], mine)
            else:
                mine.scale_(decay)
                mine.add_(theirs[name] * (1 - decay))


def _buffers(net):
    """Names of what a forward pass changes. Paddle keeps running statistics among the parameters, so names tell."""
    names = {name for name, _ in net.named_buffers()}
    return names | {name for name, _ in net.named_parameters() if name.endswith(('._mean', '._variance'))}
