"""Masks and pasting."""

import numpy as np
import paddle
import pytest
from conftest import tensor

from paddleseg_semi.errors import InputError
from paddleseg_semi.transforms.mixing import class_masks, gated_boxes, half_boxes, partners, paste, toggled_boxes


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_paste(rng):
    mask = tensor(rng.random((2, 4, 5)) < 0.5)
    inside, outside = tensor(rng.random((2, 3, 4, 5))), tensor(rng.random((2, 3, 4, 5)))
    where = np.broadcast_to(mask.numpy()[:, None], inside.shape)
    mixed = paste(mask, inside, outside).numpy()
    np.testing.assert_array_equal(mixed, np.where(where, inside.numpy(), outside.numpy()))
    label = tensor(rng.integers(0, 3, (2, 4, 5)))
    cut = paste(mask, 255, label)
    assert cut.dtype == label.dtype
    np.testing.assert_array_equal(cut.numpy(), np.where(mask.numpy(), 255, label.numpy()))


@pytest.mark.parametrize('how, wanted', [('next', [1, 2, 0]), ('reversed', [2, 1, 0]), ('same', [0, 1, 2])])
def test_partners(how, wanted):
    assert partners(tensor([[0], [1], [2]]), how).flatten().tolist() == wanted


@pytest.mark.parametrize('draw', [toggled_boxes, gated_boxes, half_boxes])
def test_boxes_are_a_function_of_the_generator(draw):
    first, again, other = (draw(np.random.default_rng(seed), 8, (24, 31)).numpy() for seed in (1, 1, 2))
    assert first.shape == (8, 24, 31) and first.dtype == bool
    assert (first == again).all() and (first != other).any()


def test_shares(rng):
    one_box = toggled_boxes(rng, 200, (60, 80), (0.5, 0.5), 1).numpy()
    assert np.allclose(one_box.mean((1, 2)), 0.5, atol=0.03)
    assert np.allclose(half_boxes(rng, 200, (60, 80)).numpy().mean((1, 2)), 0.5, atol=0.03)
    gated = gated_boxes(rng, 400, (60, 80)).numpy().mean((1, 2))
    assert 0.4 < (gated > 0).mean() < 0.6
    assert gated.max() <= 0.4


def test_a_box_that_cannot_fit_is_refused(rng):
    with pytest.raises(InputError, match='box_area .* 5x100'):
        gated_boxes(rng, 1, (5, 100), prob=1., area=(0.4, 0.4))


def test_two_fixed_boxes_cover_what_they_should():
    """Two squares of share 1/2, each made smaller by 1/2, once and not twice as in the published code."""
    class Ends:  # one box in the first corner, the other in the last
        draws = [np.full((1, 2), 0.5), np.array([[[0, 0], [1, 1]]])]

        def uniform(self, *_):
            return self.draws.pop(0)

    assert toggled_boxes(Ends(), 1, (40, 40), boxes=2, random_aspect=False).numpy().mean() == 0.5


def test_half_of_the_classes_stay(rng):
    label = tensor(rng.choice([0, 2, 3, 4, 255], (6, 9, 7)))
    label[5] = 3
    mask = class_masks(rng, label, 6).numpy()
    chosen = []
    for image, away in zip(label.numpy(), mask):
        classes = np.unique(image)
        stay = set(np.unique(image[~away]))
        assert len(stay) == len(classes) // 2
        assert stay.isdisjoint(np.unique(image[away]))
        chosen.append(tuple(sorted(stay)))
    assert len(set(chosen)) > 1


def test_pasted_pixels_take_no_gradient_from_elsewhere(rng):
    mask = half_boxes(rng, 1, (6, 6))
    inside, outside = paddle.ones([1, 2, 6, 6]), paddle.ones([1, 2, 6, 6])
    inside.stop_gradient = outside.stop_gradient = False
    paste(mask, inside, outside).sum().backward()
    np.testing.assert_array_equal(inside.grad.numpy()[:, 0], mask.numpy())
    np.testing.assert_array_equal(outside.grad.numpy()[:, 0], ~mask.numpy())
