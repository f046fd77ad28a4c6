"""Pseudo labels on disk, trained on beside the labeled images; and checkpoints at shares of a run."""

import numpy as np
import pytest
from paddleseg.datasets import Dataset
from tiny import call, make_photos, make_recipe

from paddleseg_semi.core.trainer import Plan
from paddleseg_semi.cvlibs import SemiBuilder, SemiConfig
from paddleseg_semi.datasets.extra import write_list
from paddleseg_semi.errors import InputError
from paddleseg_semi.run import Options


@pytest.fixture
def photos(tmp_path):
    make_photos(tmp_path)
    return tmp_path


def builder(photos, *extra, **semi):
    recipe = make_recipe(photos, semi={'label_ratio': 0.41, **semi}, method={'type': 'Supervised'})
    return SemiBuilder(SemiConfig(recipe[1], extra_labeled=[str(path) for path in extra] or None))


def labeled_stream(builder):
    split = builder.split()
    return builder.stream_sizes(builder.method(), split)['labeled'][0], split


def pseudo_list(photos, images):
    items = [(str(photos / f'images/{name}.png'), str(photos / f'labels/{name}.png')) for name in images]
    write_list(str(photos / 'list.txt'), items, str(photos))
    return photos / 'list.txt'


def test_labeled_images_are_repeated_as_often_as_there_are_more_of_the_others(photos):
    stream, split = labeled_stream(builder(photos, pseudo_list(photos, ['a/one', 'a/two', 'four'])))
    assert len(split.labeled) == 2
    assert stream.positions == split.labeled * 2 + [5, 6, 7]
    assert stream.path(4) == str(photos / 'images/a/one.png')
    np.testing.assert_array_equal(stream[5, 0]['label'], Dataset('train', str(photos), [], 4, train_path=str(
        photos / 'val.txt'))[1]['label'])


def test_a_true_mask_rules_out_the_other_one(photos):
    stream, split = labeled_stream(builder(photos, pseudo_list(photos, ['a/one', 'a/two', 'three', 'four', 'five'])))
    assert stream.positions == split.labeled * 2 + [5 + i for i in range(5) if i not in split.labeled]


def test_only_pseudo_labeled_images_pass_the_strong_transforms(photos):
    path = pseudo_list(photos, ['a/one'])
    plain, _ = labeled_stream(builder(photos, path))
    strong, split = labeled_stream(builder(photos, path, unlabeled={'strong': [
        {'type': 'RandomNoise', 'prob': 1.0, 'max_sigma': 50.0}]}))
    last = len(split.labeled)
    for i in range(last):
        np.testing.assert_array_equal(plain[i, 0]['img'], strong[i, 0]['img'])
    assert abs(plain[last, 0]['img'] - strong[last, 0]['img']).max() > 0.01
    np.testing.assert_array_equal(plain[last, 0]['label'], strong[last, 0]['label'])


def test_blanks_in_names(photos):
    (photos / 'images/a').rename(photos / 'images/a b')
    (photos / 'labels/a').rename(photos / 'labels/a b')
    (photos / 'val.txt').write_text('images/three.png labels/three.png\nimages/four.png labels/four.png\n'
                                    'images/five.png labels/five.png\n')
    stream, _ = labeled_stream(builder(photos, pseudo_list(photos, ['a b/one'])))
    assert stream.path(len(stream) - 1).endswith('a b/one.png')


@pytest.mark.parametrize('text, says', [
    ('', 'empty'), ('images/three.png\n', '1 columns'), ('images/none.png labels/three.png\n', 'no such file')])
def test_a_bad_list_is_one_line(photos, capfd, text, says):
    (photos / 'list.txt').write_text(text)
    recipe = make_recipe(photos)
    args = ['tools/train.py', *recipe[:2], '--extra_labeled', photos / 'list.txt', '--save_dir', photos / 'run']
    assert call(*args) == 2
    err = capfd.readouterr().err
    assert err.count('\n') == 1 and says in err and 'list.txt' in err
    assert not (photos / 'run').exists()


@pytest.mark.parametrize('iters', [3, 80, 100, 1241])
def test_checkpoints_at_thirds_of_a_run(iters):
    plan = Plan(Options(save_interval='1/3').save_interval * iters)
    assert [i for i in range(1, iters + 1) if plan.due(i)] == [iters // 3, iters * 2 // 3, iters]


def test_whole_intervals():
    assert [i for i in range(1, 11) if Plan(4).due(i)] == [4, 8]


@pytest.mark.parametrize('text', ['0', '4/3', '1/0', 'third', '-1/3'])
def test_a_bad_share(text):
    with pytest.raises(InputError, match='1/3'):
        Options(save_interval=text)
