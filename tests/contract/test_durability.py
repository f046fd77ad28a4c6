"""What a run has saved is there afterwards, whole, and goes on as if nothing had happened; by kind of fault."""

import numpy as np
import paddle

from paddleseg_semi.core import checkpoint


def test_20_state_that_takes_no_step_is_saved_as_it_was_read():
    """A player without a gradient before the next save: names inside the file count too."""
    with paddle.utils.unique_name.guard():
        layer = paddle.nn.Linear(2, 2)
        optimizer = paddle.optimizer.AdamW(parameters=layer.parameters())
        layer(paddle.ones([1, 2])).sum().backward()
        optimizer.step()
        state = checkpoint.optimizer_state(layer, optimizer)
    names = {key: value.name for key, value in state.items() if '|' in key}
    with paddle.utils.unique_name.guard():
        layer = paddle.nn.Linear(2, 2)
        optimizer = paddle.optimizer.AdamW(parameters=layer.parameters())
        checkpoint.restore_optimizer(layer, optimizer, {key: value.numpy() if '|' in key else value
                                                        for key, value in state.items()})
        again = checkpoint.optimizer_state(layer, optimizer)
    assert names and {key: value.name for key, value in again.items() if '|' in key} == names
    assert all(np.array_equal(state[key], again[key]) for key in names)
