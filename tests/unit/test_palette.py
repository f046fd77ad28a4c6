"""Colors of classes: the default ones can be told apart, by everybody; a recipe's own are checked."""

import cv2
import numpy as np
import pytest
from paddleseg.utils.visualize import get_color_map_list

from paddleseg_semi.core import palette
from paddleseg_semi.core.pictures import legend, over, sheet
from paddleseg_semi.errors import InputError

# Viénot, Brettel and Mollon's simulation (1999), another than the one the colors are chosen by; linear RGB.
EYES = {'usual': np.eye(3),
        'no red cones': [[.11238, .88762, 0], [.11238, .88762, 0], [.00401, -.00401, 1]],
        'no green cones': [[.29275, .70725, 0], [.29275, .70725, 0], [-.02234, .02234, 1]]}
NAMES = ['background', 'crop', 'weed']


def distances(colors, eye):
    """[N, N]: CIELAB distances between colors as an eye sees them; 2.3 is just noticed."""
    srgb = np.array(colors).reshape(-1, 3) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = (linear @ np.transpose(EYES[eye])).clip(0, 1)
    seen = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = cv2.cvtColor(seen.astype('float32')[None], cv2.COLOR_RGB2LAB)[0]
    return np.linalg.norm(lab[:, None] - lab, axis=-1)


def least(colors, eye, count, neighbours):
    """Smallest distance among the first colors; smallest between any two that are few places apart."""
    gaps = distances(colors[:765], eye)
    return (gaps[:count, :count][~np.eye(count, dtype=bool)].min(),
            min(np.diagonal(gaps, k).min() for k in range(1, neighbours + 1)))


@pytest.mark.parametrize('eye', EYES)
def test_default_colors_can_be_told_apart(eye):
    few, neighbours = least(palette.default(), eye, 8, 4)
    assert few > 25 and neighbours > 15
    assert least(palette.default(), eye, 21, 4)[0] > 12


def test_other_colors_cannot():
    """So the test above can fail."""
    assert max(min(least(get_color_map_list(256), eye, 8, 4)) for eye in EYES if eye != 'usual') < 5


def test_default_colors_are_neither_background_nor_void():
    colors = np.reshape(palette.default(), [-1, 3])
    assert colors.shape == (256, 3) and (colors[0] == 0).all() and len(np.unique(colors, axis=0)) == 256
    assert not ((colors[1:] == 0).all(1) | (colors[1:] == 255).all(1)).any()
    assert palette.default(['sky', 'road'])[:3] == palette.default(NAMES)[3:6] == palette.default()[3:6]


@pytest.mark.parametrize('names, wanted', [(None, (0,)), (NAMES, (0,)), (['_background_', 'a'], (0,)),
                                           (['Background', 'a'], (0,)), (['sky', 'background'], ())])
def test_unpainted(names, wanted):
    assert palette.unpainted(names) == wanted


@pytest.mark.parametrize('section', [{'weed': [1, 2, 3]}, {2: [1, 2, 3]}, [[0, 0, 0], [255, 119, 17], [1, 2, 3]]])
def test_colors_of_a_recipe(section):
    colors = palette.of_recipe(section, 3, NAMES)
    if isinstance(section, dict):
        assert colors[:6] == palette.default(NAMES)[:6]
    assert colors[6:9] == [1, 2, 3] and colors[9:] == palette.default(NAMES)[9:]
    assert palette.of_recipe(None, 3, NAMES) == palette.default(NAMES)


@pytest.mark.parametrize('section, says', [
    ({'wed': [1, 2, 3]}, 'there is no class "wed". Did you mean "weed"'), ({3: [1, 2, 3]}, 'there is no class "3"'),
    ([[1, 2, 3]] * 4, '4 colors for 3 classes'), ({'weed': [1, 2]}, 'weed: .* three whole numbers'),
    ({'weed': [1, 2, 256]}, 'three whole'), ({'weed': [1, 2, True]}, 'three whole'), ({'weed': 'red'}, 'three whole'),
    ('red', 'expected class names'), ({None: [1, 2, 3]}, 'no class'), ([1, 2, 3], 'three whole')])
def test_colors_that_are_none(section, says):
    with pytest.raises(InputError, match=says):
        palette.of_recipe(section, 3, NAMES)


def test_overlays_leave_the_background_alone():
    classes = palette.Classes(NAMES, palette.of_recipe({'crop': [250, 0, 0]}, 3, NAMES))
    photo = np.full([4, 6, 3], [200, 0, 0], 'uint8')  # as gray, 60
    painted = over(photo, np.array([[0, 1, 255]]), classes)  # of another size
    assert painted.shape == photo.shape
    assert (painted[:, :2] == [200, 0, 0]).all()
    np.testing.assert_allclose(painted[:, 2:4].reshape(-1, 3), [[184, 21, 21]] * 8, atol=1)
    np.testing.assert_allclose(painted[:, 4:], 187, atol=1)
    np.testing.assert_allclose(over(photo, np.zeros([4, 6]), classes._replace(unpainted=())), 21, atol=1)


def test_legend_has_the_colors_and_wraps():
    classes = palette.Classes(NAMES, palette.default(NAMES))
    for number in (1, 2):
        wanted = classes.colors[3 * number:3 * number + 3]
        found = [(legend(classes, seen, 400) == wanted).all(-1).sum() for seen in ({0, number, 255}, {0, 3 - number})]
        assert found[0] > 100 and found[1] == 0
    assert len(legend(classes, {0, 1, 2}, 90)) > len(legend(classes, {0, 1, 2}, 900)) == len(legend(classes, set(), 90))


@pytest.mark.parametrize('size, wanted', [((32, 24), (256, 192)), ((300, 150), (300, 150)), ((1024, 512), (480, 240))])
def test_pictures_have_a_size_one_can_see(size, wanted):
    picture = np.full([*size[::-1], 3], 7, 'uint8')
    made = sheet([(['a', 'b'], [[picture] * 2]), (['a'], [[picture]])], size, palette.Classes(NAMES, palette.default()),
                 {1})
    assert made.shape == (2 * (18 + wanted[1]) + 22, 2 * wanted[0], 3)
    assert (made[36 + wanted[1]:-22, wanted[0]:] == 255).all()
