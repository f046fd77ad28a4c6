"""tools/predict.py: what it writes, and what it says about input it cannot use."""

import shutil

import cv2
import numpy as np
import paddle
import pytest
from PIL import Image
from tiny import NUM_CLASSES, SIZES, call, make_photos, make_recipe, random_net

from paddleseg_semi.core.common import list_images
from paddleseg_semi.core.palette import default
from paddleseg_semi.errors import InputError
from paddleseg_semi.stages.pseudo_label import Labeler


@pytest.fixture
def photos(tmp_path):
    make_photos(tmp_path)
    return tmp_path


def classes(path):
    return np.array(Image.open(path))


def test_folder(photos, capsys):
    recipe, save_dir = make_recipe(photos), photos / 'result'
    assert call('tools/predict.py', *recipe, '--image_path', photos / 'images', '--save_dir', save_dir) == 0
    net = random_net()
    net.eval()
    palette = default()
    for name in SIZES:
        photo = cv2.imread(str(photos / f'images/{name}.png'))
        x = (photo[:, :, ::-1].astype('float32') / 255 - 0.5) / 0.5
        expected = net(paddle.to_tensor(x.transpose(2, 0, 1)[None]))[0][0].argmax(0).numpy()
        mask = Image.open(save_dir / f'pseudo_color_prediction/{name}.png')
        assert mask.mode == 'P'
        assert mask.getpalette()[:768] == palette[:768]
        assert (np.array(mask) == expected).mean() > 0.999  # the normalised images differ in the last bit
        colors = np.array(palette).reshape(-1, 3)[np.array(mask)][:, :, ::-1]
        added = cv2.imread(str(save_dir / f'added_prediction/{name}.png'))
        painted = np.where(np.array(mask)[..., None] == 0, photo, 0.6 * photo + 0.4 * colors)  # the background is not
        assert np.abs(added - painted).max() <= 1
    out = capsys.readouterr().out
    assert all(f'Written: {save_dir}/{folder}' in out for folder in ('added_prediction', 'pseudo_color_prediction'))


@pytest.mark.parametrize('options', [
    ['--aug_pred', '--scales', '0.75', '1.25', '--flip_horizontal', '--flip_vertical'],
    ['--is_slide', '--crop_size', '24', '16', '--stride', '16', '9'],
    ['--opts', 'test_config.size_divisor=16']], ids=['augmented', 'window', 'resized'])
def test_options_change_the_result(photos, options):
    flags = [*make_recipe(photos), '--image_path', photos / 'images/five.png', '--save_dir']
    call('tools/predict.py', *flags, photos / 'plain')
    assert call('tools/predict.py', *flags, photos / 'other', *options) == 0
    plain, other = (classes(photos / folder / 'pseudo_color_prediction/five.png') for folder in ('plain', 'other'))
    assert other.shape == plain.shape == SIZES['five']
    assert 0.3 < (plain == other).mean() < 1


@pytest.mark.parametrize('average_probs', [False, True])
def test_pseudo_labels_are_what_prediction_says(photos, average_probs):
    """With all the keys of `test_config` that concern one look at an image."""
    config, weights = make_recipe(photos, test_config={
        'is_slide': True, 'crop_size': [24, 16], 'stride': [16, 9], 'size_divisor': 12,
        'average_probs': average_probs})[1::2]
    call('tools/predict.py', '--config', config, '--model_path', weights, '--image_path', photos / 'images',
         '--save_dir', photos)
    (photos / 'run/best').mkdir(parents=True)
    shutil.copy(config, photos / 'run/config.yml')
    shutil.copy(weights, photos / 'run/best/model.pdparams')
    images = [str(photos / f'images/{name}.png') for name in SIZES]
    for (_, mask), name in zip(Labeler(str(photos / 'run/best')).label(images, str(photos / 'masks')), SIZES):
        np.testing.assert_array_equal(classes(mask), classes(photos / f'pseudo_color_prediction/{name}.png'))


def test_own_colors(photos):
    colors = [9, 8, 7, 6, 5, 4]
    call('tools/predict.py', *make_recipe(photos), '--image_path', photos / 'images/five.png', '--save_dir', photos,
         '--custom_color', *colors)
    palette = Image.open(photos / 'pseudo_color_prediction/five.png').getpalette()
    assert palette[:6] == colors
    assert palette[6:3 * NUM_CLASSES] == default()[6:3 * NUM_CLASSES]


def test_ways_to_name_images(photos, monkeypatch):
    names = sorted(SIZES)
    assert [name for _, name in list_images(str(photos / 'images'))] == names
    assert list_images(str(photos / 'images/five.png')) == [(str(photos / 'images/five.png'), 'five')]
    (photos / 'images/list.txt').write_text('a/two.png a/two_mask.png\n\n../images/five.png\n')
    assert [name for _, name in list_images(str(photos / 'images/list.txt'))] == ['a/two', 'five']
    (photos / 'labels/up.txt').write_text('../images/five.png\n')
    assert [name for _, name in list_images(str(photos / 'labels/up.txt'))] == ['images/five']  # stays in save_dir
    monkeypatch.chdir(photos / 'images')
    assert [name for _, name in list_images('.')] == names
    assert list_images('five.png') == [('five.png', 'five')]
    for name in ('six.tif', 'seven.webp'):
        cv2.imwrite(name, cv2.imread('five.png'))
    assert list_images('six.tif') == [('six.tif', 'six')]
    assert [name for _, name in list_images('.')] == sorted([*names, 'six', 'seven'])


@pytest.mark.parametrize('content', ['\ufeffimages/five.png\r\n', 'images/my photo.png\n',
                                     'images/my photo.png labels/my mask.png\n'])
def test_lists_of_other_editors_and_names_with_blanks(photos, content):
    shutil.copy(photos / 'images/five.png', photos / 'images/my photo.png')
    (photos / 'list.txt').write_text(content)
    (_, name), = list_images(str(photos / 'list.txt'))
    assert name in ('images/five', 'images/my photo')


def test_photo_without_suffix(photos):
    shutil.copy(photos / 'images/five.png', photos / 'five')
    (photos / 'list.txt').write_text('five\n')
    flags = ['--image_path', photos / 'list.txt', '--save_dir', photos]
    assert call('tools/predict.py', *make_recipe(photos), *flags) == 0
    assert cv2.imread(str(photos / 'added_prediction/five.png')) is not None


def test_photo_that_only_pillow_reads(photos, capsys):
    Image.open(photos / 'images/five.png').save(photos / 'five.gif')
    (photos / 'list.txt').write_text('five.gif\n')
    flags = ['--image_path', photos / 'list.txt', '--save_dir', photos]
    assert call('tools/predict.py', *make_recipe(photos), *flags) == 2
    assert 'five.gif: cannot be decoded as an image (is not an image' in capsys.readouterr().err


def test_tiff_and_webp(photos):
    cv2.imwrite(str(photos / 'images/six.tif'), cv2.imread(str(photos / 'images/five.png')))
    cv2.imwrite(str(photos / 'images/seven.webp'), np.zeros((20, 30, 3), 'uint8'))
    assert call('tools/predict.py', *make_recipe(photos), '--image_path', photos / 'images', '--save_dir', photos) == 0
    five, six, seven = (np.array(Image.open(photos / f'pseudo_color_prediction/{name}.png'))
                        for name in ('five', 'six', 'seven'))
    np.testing.assert_array_equal(five, six)
    assert seven.shape == (20, 30)


def damage(photos, case):
    """Makes one thing wrong. Returns (--image_path, what the message has to hold)."""
    images = photos / 'images'
    if case == 'truncated':
        whole = (images / 'three.png').read_bytes()
        (images / 'three.png').write_bytes(whole[:len(whole) // 2])
        return images, 'images/three.png'
    if case == 'no image':
        (images / 'a/one.jpg').write_text('hello')
        return images, 'a/one.jpg'
    if case == 'same name':
        cv2.imwrite(str(images / 'three.jpg'), np.zeros((9, 9, 3), 'uint8'))
        return images, 'three.jpg'
    if case == 'empty folder':
        (photos / 'empty').mkdir()
        return photos / 'empty', 'no image'
    if case == 'missing in list':
        (photos / 'list.txt').write_text('images/five.png\nimages/six.png\n')
        return photos / 'list.txt', 'images/six.png'
    if case == 'binary list':
        (photos / 'list.bin').write_bytes(bytes(range(256)))
        return photos / 'list.bin', 'text list'
    return photos / 'nothing', 'nothing'


CASES = ['truncated', 'no image', 'same name', 'empty folder', 'missing in list', 'binary list', 'missing']


@pytest.mark.parametrize('case', CASES)
def test_bad_images_are_one_line_and_nothing_is_written(photos, capsys, case):
    path, word = damage(photos, case)
    assert call('tools/predict.py', *make_recipe(photos), '--image_path', path, '--save_dir', photos / 'result') == 2
    error = capsys.readouterr().err
    assert word in error
    assert len(error.splitlines()) == 1
    assert not (photos / 'result').exists()


@pytest.mark.parametrize('flags, word', [
    (['--custom_color', '1', '2'], '--custom_color'), (['--custom_color', '1', '2', '256'], '--custom_color'),
    (['--custom_color', *['1'] * 771], '--custom_color'), (['--use_multilabel'], '--use_multilabel'),
    (['--save_dir', 'recipe.yml'], 'recipe.yml')])
def test_bad_flags_are_one_line(photos, capsys, monkeypatch, flags, word):
    monkeypatch.chdir(photos)
    assert call('tools/predict.py', *make_recipe(photos), '--image_path', photos / 'images', *flags) == 2
    error = capsys.readouterr().err
    assert word in error
    assert len(error.splitlines()) == 1


def test_damage_raises_the_error_of_the_suite(photos):
    path, word = damage(photos, 'no image')
    with pytest.raises(InputError, match=word):
        list_images(str(path))
