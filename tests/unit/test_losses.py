import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from conftest import close, float16_sums, tensor

from paddleseg_semi.losses.adversarial import fool, one_hot, trusted
from paddleseg_semi.losses.masked import masked_bce_with_logits, masked_cross_entropy


def example(num_classes=3, size=(2, 5, 4), seed=0):
    rng = np.random.default_rng(seed)
    n, h, w = size
    return (rng.normal(size=(n, num_classes, h, w)).astype('float32'), rng.integers(num_classes, size=size),
            rng.random(size) < 0.5)


def test_cross_entropy_by_hand():
    logits, label, keep = example()
    weight = np.float32([0.2, 3., 1.])
    log_prob = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    picked = -np.take_along_axis(log_prob, label[:, None], 1)[:, 0]
    close(masked_cross_entropy(tensor(logits), tensor(label), tensor(keep)), picked[keep].mean())
    close(masked_cross_entropy(tensor(logits), tensor(label), tensor(keep), tensor(weight)),
          (picked * weight[label])[keep].sum() / weight[label][keep].sum())


@pytest.mark.parametrize('num_classes', [2, 300])
def test_class_255_is_a_class_where_it_is_kept(num_classes):
    logits, label, keep = example(num_classes)
    label[:] = num_classes - 1
    loss = masked_cross_entropy(tensor(logits), tensor(label.astype('int32')), tensor(keep))
    close(loss, masked_cross_entropy(tensor(logits), tensor(np.where(keep, label, 255)), tensor(keep)))
    assert loss > 0


@pytest.mark.parametrize('weight', [None, [1., 2., 3.]])
def test_nothing_kept_is_zero_and_still_connected(weight):
    logits, label, keep = example()
    x = tensor(logits, grad=True)
    keep = tensor(np.zeros_like(keep))
    weight = weight and paddle.to_tensor(weight)
    loss = masked_cross_entropy(x * 2, tensor(label), keep, weight) + masked_bce_with_logits(x[:, :1] * 2, 1., keep)
    loss.backward()
    assert float(loss) == 0
    assert not x.grad.numpy().any()


def test_more_pixels_than_float16_counts():
    logits, label, keep = (tensor(array) for array in example(size=(1, 300, 300)))
    wanted = masked_cross_entropy(logits, label, paddle.ones_like(keep))
    with float16_sums():
        close(masked_cross_entropy(logits, label, paddle.ones_like(keep)), wanted)


def test_ignored_pixels_get_no_gradient():
    logits, label, keep = example()
    label[~keep] = 255
    x = tensor(logits, grad=True)
    (masked_cross_entropy(x, tensor(label), tensor(keep)) + fool(x[:, :1], tensor(keep))).backward()
    moved = x.grad.abs().sum(1).numpy() > 0
    np.testing.assert_array_equal(moved, keep)


def test_bce_takes_a_number_or_a_map():
    logits, _, keep = example(1)
    for target in (0., 1.):
        close(masked_bce_with_logits(tensor(logits), target, tensor(keep)),
              F.binary_cross_entropy_with_logits(tensor(logits[:, 0][keep]), paddle.full([int(keep.sum())], target)))
        close(masked_bce_with_logits(tensor(logits), target, tensor(keep)),
              masked_bce_with_logits(tensor(logits), tensor(np.full_like(logits, target)), tensor(keep[:, None])))


def test_one_hot_leaves_ignored_pixels_empty():
    label = np.array([[[0, 1, 255], [2, -1, 2]]])
    keep = np.array([[[True, True, False], [True, False, False]]])
    maps = one_hot(tensor(label), 3, tensor(keep)).numpy()
    np.testing.assert_array_equal(maps.sum(1), keep)
    np.testing.assert_array_equal(maps.argmax(1)[keep], label[keep])


def test_a_confidence_at_the_threshold_is_trusted():
    d_logits = paddle.to_tensor([[[[0., -1., 1.]]]], stop_gradient=False)
    conf, keep = trusted(d_logits, 0.5)
    assert keep.tolist() == [[[True, False, True]]]
    assert conf.stop_gradient
