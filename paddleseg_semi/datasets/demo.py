"""Rendered scenes for demonstrations and tests: shapes of several classes on clutter, under changing light.

Color and texture hint at a class but overlap between classes; the shape decides. Objects of no class share the same
looks. So a few labeled images teach the hints, and only many, labeled or not, teach the shapes.
"""

import cv2
import numpy as np

CLASSES = ('background', 'disc', 'box', 'triangle', 'star', 'ring')
PALETTE = ((0, 0, 0), (230, 80, 70), (70, 130, 230), (90, 190, 90), (240, 190, 60), (160, 90, 200))  # RGB
_PATTERNS = ('plain', 'stripes', 'checks', 'cloud')
_LOOKS = ((), (0, 'plain'), (105, 'stripes'), (65, 'checks'), (28, 'cloud'), (145, 'stripes'))  # hue 0..180, pattern
_SCALE = 2  # drawn larger and shrunk, so that edges are soft as behind a lens


def scene(rng, width, height):
    """Renders one scene.

    Args:
        rng (np.random.Generator): all that varies; equal generators give equal scenes.
        width, height (int): pixels, at least 32.

    Returns:
        image [H, W, 3] uint8, BGR as OpenCV has it; mask [H, W] uint8, positions in `CLASSES`.
    """
    w, h = width * _SCALE, height * _SCALE
    image = _surface(rng, w, h, rng.uniform(0, 180), rng.choice(_PATTERNS), saturation=rng.uniform(0, 70))
    mask = np.zeros([h, w], 'uint8')
    for _ in range(rng.integers(3, 8)):
        _scribble(rng, image)
    for _ in range(rng.integers(3, 7)):
        cls = int(rng.integers(1, len(CLASSES)))
        _put(rng, image, mask, _shape(rng, cls, w, h), cls)
        if rng.random() < 0.15:
            _put(rng, image, mask, _decoy(rng, w, h), 0)
    image = cv2.resize(_light(rng, image), (width, height), interpolation=cv2.INTER_AREA)
    image += rng.normal(0, rng.uniform(2, 7), image.shape)
    return np.clip(image, 0, 255).astype('uint8'), mask[_SCALE // 2::_SCALE, _SCALE // 2::_SCALE].copy()


def _surface(rng, w, h, hue, pattern, saturation):
    """A colored, patterned area [h, w, 3] float32."""
    color = np.array([[[hue % 180, np.clip(saturation, 0, 255), rng.uniform(70, 230)]]], 'uint8')
    color = cv2.cvtColor(color, cv2.COLOR_HSV2BGR).astype('float32')
    contrast = rng.uniform(15, 60) * rng.choice([-1, 1]) * rng.uniform(0.6, 1, 3)
    return np.clip(color + (_pattern(rng, w, h, pattern)[..., None] * contrast).astype('float32'), 0, 255)


def _pattern(rng, w, h, kind):
    """[h, w] in -1..1."""
    cells = int(rng.integers(4, 10))
    cloud = cv2.resize(rng.uniform(-1, 1, [cells, cells]).astype('float32'), (w, h), interpolation=cv2.INTER_CUBIC)
    if kind == 'plain':
        return 0.3 * cloud
    if kind == 'cloud':
        grain = rng.uniform(-1, 1, [h // 6 + 1, w // 6 + 1]).astype('float32')
        return 0.5 * cloud + 0.7 * cv2.resize(grain, (w, h), interpolation=cv2.INTER_LINEAR)
    angle, period = rng.uniform(0, np.pi), rng.uniform(8, 22)
    y, x = np.mgrid[:h, :w].astype('float32') * (2 * np.pi / period)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    wave = np.sin(u) if kind == 'stripes' else np.sin(u) * np.sin(v)
    return 0.8 * np.tanh(3 * wave) + 0.2 * cloud


def _scribble(rng, image):
    """Clutter of the background: a line, an arc or a patch."""
    h, w = image.shape[:2]
    color = image[rng.integers(h), rng.integers(w)] + rng.normal(0, 45, 3)
    points = (rng.uniform(-0.1, 1.1, [4, 2]) * (w, h)).astype(int)
    kind = rng.integers(3)
    if kind == 0:
        cv2.line(image, points[0].tolist(), points[1].tolist(), color.tolist(), int(rng.integers(1, 7)), cv2.LINE_AA)
    elif kind == 1:
        start = rng.uniform(0, 360)
        cv2.ellipse(image, points[0].tolist(), rng.integers(10, h // 2, 2).tolist(), rng.uniform(0, 180), start,
                    start + rng.uniform(40, 160), color.tolist(), int(rng.integers(1, 7)), cv2.LINE_AA)
    else:
        corner = points[0] + rng.integers(-h // 5, h // 5, [5, 2])
        cv2.fillPoly(image, [corner], color.tolist(), cv2.LINE_AA)


def _shape(rng, cls, w, h):
    """Outlines (list of [P, 2]) of an object; a second outline is a hole."""
    name = CLASSES[cls]
    if name in ('disc', 'ring'):
        circle = _around(np.linspace(0, 2 * np.pi, 48, endpoint=False)) * (1, rng.uniform(0.75, 1))
        outlines = [circle] if name == 'disc' else [circle, circle * rng.uniform(0.45, 0.65)]
    elif name == 'box':
        outlines = [np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (0.9, rng.uniform(0.55, 0.9))]
    elif name == 'triangle':
        outlines = [1.15 * _around(np.deg2rad([90, 210, 330]) + rng.uniform(-0.25, 0.25, 3))]
    else:
        radius = np.tile([1.25, rng.uniform(0.45, 0.6)], 5)
        outlines = [_around(np.arange(10) * np.pi / 5) * radius[:, None]]
    return _place(rng, outlines, w, h, rng.uniform(0.14, 0.32))


def _decoy(rng, w, h):
    """Outlines of an object that is background: a bar, a cross, a half disc or an angle."""
    t = rng.uniform(0.2, 0.4)
    outline = [
        np.array([(-1.8, -t), (1.8, -t), (1.8, t), (-1.8, t)]),
        np.array([(-1, -t), (-t, -t), (-t, -1), (t, -1), (t, -t), (1, -t),
                  (1, t), (t, t), (t, 1), (-t, 1), (-t, t), (-1, t)]),
        _around(np.linspace(0, np.pi, 24)),
        np.array([(-1, -1), (1, -1), (1, 2 * t - 1), (2 * t - 1, 2 * t - 1), (2 * t - 1, 1), (-1, 1)]),
    ][rng.integers(4)]
    return _place(rng, [outline], w, h, rng.uniform(0.08, 0.22))


def _around(angles):
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _place(rng, outlines, w, h, size):
    """Turns, slants, scales (`size` × height) and moves outlines."""
    a = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) @ [[1, rng.uniform(-0.2, 0.2)], [0, 1]]
    center = rng.uniform(0.05, 0.95, 2) * (w, h)
    return [(points @ turn.T * size * h + center).round().astype(int) for points in outlines]


def _put(rng, image, mask, outlines, cls):
    """Draws an object over what is there, with its shadow."""
    h, w = mask.shape
    area = cv2.fillPoly(np.zeros([h, w], 'uint8'), outlines, 1)  # even-odd: the second outline is a hole
    left, top, width, height = cv2.boundingRect(area)
    if not width:
        return
    shift = np.float32([[1, 0, rng.uniform(-8, 8)], [0, 1, rng.uniform(3, 10)]])
    shadow = cv2.GaussianBlur(cv2.warpAffine(area * np.float32(rng.uniform(0, 0.5)), shift, (w, h)), (0, 0), 4)
    image *= 1 - shadow[..., None]
    hue, pattern = _LOOKS[cls or int(rng.integers(1, len(CLASSES)))]  # what is of no class dresses up as one
    if rng.random() < 0.15:
        hue = rng.uniform(0, 180)
    if rng.random() < 0.4:
        pattern = rng.choice(_PATTERNS)
    surface = _surface(rng, width, height, rng.normal(hue, 9), pattern, rng.normal(170, 35))
    box = slice(top, top + height), slice(left, left + width)
    inside = area[box].astype(bool)
    image[box][inside] = (surface * _slope(rng, width, height, 0.3))[inside]
    mask[box][inside] = cls


def _light(rng, image):
    """Shadows on the scene, its brightness and tint, and the focus of the lens."""
    h, w = image.shape[:2]
    for _ in range(rng.integers(0, 3)):
        area = np.zeros([h, w], 'float32')
        cv2.fillPoly(area, [(rng.uniform(-0.2, 1.2, [4, 2]) * (w, h)).astype(int)], rng.uniform(0.2, 0.55))
        image *= 1 - cv2.GaussianBlur(area, (0, 0), rng.uniform(2, 12))[..., None]
    image *= _slope(rng, w, h, 0.35) * rng.uniform(0.65, 1.25) * rng.uniform(0.92, 1.08, 3).astype('float32')
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 1.8))


def _slope(rng, w, h, strength):
    """A factor [h, w, 1] around 1 that rises in some direction."""
    x, y = np.meshgrid(np.linspace(-1, 1, w, dtype='float32'), np.linspace(-1, 1, h, dtype='float32'))
    a = rng.uniform(0, 2 * np.pi)
    return (1 + rng.uniform(0, strength) * (x * np.cos(a) + y * np.sin(a)))[..., None].astype('float32')
