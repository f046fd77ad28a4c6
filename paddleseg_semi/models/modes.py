"""What a network does for a moment, and is afterwards as it was."""

import contextlib


@contextlib.contextmanager
def frozen(*nets):
    """Gradients pass through the networks, none arrive in them."""
    params = [param for net in nets for param in net.parameters() if not param.stop_gradient]
    for param in params:
        param.stop_gradient = True
    try:
        yield
    finally:
        for param in params:
            param.stop_gradient = False


@contextlib.contextmanager
def evaluating(*nets):
    """Every layer in eval mode inside the block, and back in the mode it had after it."""
    modes = [(layer, layer.training) for net in nets for layer in net.sublayers(include_self=True)]
    for layer, _ in modes:  # what net.eval() does, without a second walk over all layers
        layer.training = False
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training
