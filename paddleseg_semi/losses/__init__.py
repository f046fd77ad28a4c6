"""Loss functions on tensors. Importing fills PaddleSeg's registry."""

from paddleseg_semi.losses import ohem  # noqa: F401
