"""A method whose network says what the golden data prescribe, so that one whole step can be compared."""

import numpy as np
import paddle
from conftest import close, tensor
from paddle import nn
from paddleseg.models.losses import CrossEntropyLoss

from paddleseg_semi.core.clock import Clock
from paddleseg_semi.methods.base import Task

IGNORE = 255
CLOCK = Clock(10)


class Scripted(nn.Layer):
    """Returns the given logits, one entry per pass, whatever it is shown, and remembers that.

    Attributes:
        says (list): what is left: a tensor, or a list of tensors that make one batch.
        shown (list[Tensor]): images of the passes so far.
        modes (list[bool]): whether it was in train mode.
    """

    def __init__(self, num_classes):
        super().__init__()
        self.says, self.shown, self.modes = [], [], []
        self.backbone = nn.Identity()                       # a place for a Tap
        self.head = nn.Conv2D(3, num_classes, 1)            # so that a probe finds a classifier

    def forward(self, x):
        x = self.backbone(x)
        if not self.says:
            return [self.head(x)]
        self.shown.append(x)
        self.modes.append(self.training)
        said = self.says.pop(0)
        return [paddle.concat(said) if isinstance(said, list) else said]


def task(num_classes):
    losses = {'types': [CrossEntropyLoss(ignore_index=IGNORE)], 'coef': [1]}
    return Task(lambda: Scripted(num_classes), losses, num_classes, IGNORE)


def leaf(array):
    """Logits that collect their gradient."""
    return tensor(np.asarray(array, 'float32'), grad=True)


def compare(losses, wanted, grads):
    """Compares loss terms, and after the backward pass gradients, at the tolerances of the golden data.

    Args:
        losses (dict[str, Tensor]): of a step.
        wanted (dict[str, float]): name of a term → its value; `None` the name of the sum.
        grads (list[tuple[Tensor, np.ndarray]]): a leaf, and its gradient.
    """
    total = sum(losses.values())
    for name, value in wanted.items():
        close((total if name is None else losses[name]).item(), value, rtol=1e-5, atol=0)
    total.backward()
    for logits, grad in grads:
        close(np.zeros_like(grad) if logits.grad is None else logits.grad.numpy(), grad, rtol=1e-4, atol=1e-6)
