"""Geometry beyond the authors' numbers: padding that evaluation undoes, sizes drawn from that of the image."""

import random

import numpy as np
import paddle
import pytest
from paddleseg.core.infer import reverse_transform

from paddleseg_semi.transforms.geometry import PadToCrop, RandomSmoothScale


@pytest.mark.parametrize('height, width', [(5, 12), (9, 9), (12, 5)])
def test_padding_is_undone_in_evaluation(height, width):
    img = np.random.default_rng(0).uniform(0, 255, (height, width, 3)).astype('float32')
    data = PadToCrop([10, 9])({'img': img, 'trans_info': []})
    assert data['img'].shape == (max(height, 9), max(width, 10), 3)
    back = reverse_transform(paddle.to_tensor(data['img'].transpose(2, 0, 1)[None]), data['trans_info'])
    np.testing.assert_array_equal(back[0].transpose([1, 2, 0]), img)


def test_sizes_follow_the_image():
    random.seed(0)
    scale = RandomSmoothScale(scale=[0.5, 2.0])
    sizes = [scale({'img': np.zeros([30, 40, 3], 'float32')})['img'].shape[:2] for _ in range(60)]
    assert {min(width for _, width in sizes), max(width for _, width in sizes)} <= set(range(20, 81))
    assert len({width for _, width in sizes}) > 20
    assert all(height == int(width * 0.75 + 0.5) for height, width in sizes)


def test_scores_are_resized_as_they_are():
    """AffinityNet's stream carries scores of 0..1 where other streams carry masks."""
    scores = np.float32([[0.25, 0.75]]).repeat(6, 0).repeat(4, 1)
    data = RandomSmoothScale(scale=[2.0, 2.0])({'img': np.zeros([6, 8, 3], 'float32'), 'score_0': scores,
                                                'gt_fields': ['score_0']})
    np.testing.assert_array_equal(data['score_0'], scores.repeat(2, 0).repeat(2, 1))
