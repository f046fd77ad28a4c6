"""Show the learning, not only the loss: one strip per evaluation."""

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from paddleseg_semi import files
from paddleseg_semi.core.palette import default

_NARROW, _WIDE = 240, 480  # a picture in a strip: a smaller crop is shown larger, a larger one smaller
_BAR, _SWATCH = 18, 12     # heights of a line of text, and of the color beside a name


def strip(method, batch, unlabeled, clock, classes, rows=2):
    """A picture of what the method makes of some images.

    Args:
        method (Method): any.
        batch (dict[str, Tensor]): of the method's first stream, with or without `label`.
        unlabeled (dict[str, Tensor], optional): of the unlabeled one, with or without `truth`.
        clock (Clock): now.
        classes (Classes): their names and colors.
        rows (int): unlabeled images shown; one image of `batch` follows.

    Returns:
        np.ndarray: [height, width, 3] uint8 RGB: a table of the unlabeled images, if there are any (image, pseudo
            label, confidence, kept, prediction and, where it is known, truth), one of the other image, and a legend of
            the classes in them.
    """
    tables, seen = [], set()

    def painted(img, label):
        seen.update(np.unique(label).tolist())
        return over(_photo(img), label, classes)

    if unlabeled:
        unlabeled = {key: value[:rows] for key, value in unlabeled.items()}
        pseudo, keep = method.explain(unlabeled, clock)
        prediction = method.pseudo_label(unlabeled['weak'], net=method.deployed).label
        views = [value.numpy() for value in (pseudo.label, pseudo.conf, keep, prediction)]
        views += [unlabeled['truth'].numpy()] if 'truth' in unlabeled else []
        tables.append((('image', 'pseudo label', 'confidence', 'kept', 'prediction', 'truth')[:1 + len(views)], [
            [_photo(img), painted(img, pseudo), _gray(conf), _gray(keep), *(painted(img, label) for label in labels)]
            for img, pseudo, conf, keep, *labels in zip(unlabeled['weak'].numpy(), *views)]))
    img = batch['img'][:1]
    labels = [method.pseudo_label(img, net=method.deployed).label.numpy()[0]]
    labels += [batch['label'].numpy()[0]] if 'label' in batch else []
    img = img.numpy()[0]
    tables.append((('image', 'prediction', 'truth')[:1 + len(labels)],
                   [[_photo(img), *(painted(img, label) for label in labels)]]))
    return sheet(tables, img.shape[:0:-1], classes, seen)


def sheet(tables, size, classes, seen):
    """Tables of pictures, one below the other, and a legend.

    Args:
        tables (list[tuple]): headers and lines of each, see `table`.
        size (tuple[int]): width and height of a picture; shown larger or smaller, so that one can see it.
        classes (Classes): their names and colors.
        seen (set[int]): those in the legend.

    Returns:
        np.ndarray: [height, width, 3] uint8 RGB.
    """
    width, height = size
    wide = min(width * -(-_NARROW // width), _WIDE)  # whole multiples keep the edges of a label straight
    size = wide, max(round(height * wide / width), 1)
    parts = [table(words, lines, size) for words, lines in tables]
    width = max(part.shape[1] for part in parts)
    parts.append(legend(classes, seen, width))
    return np.vstack([np.pad(part, [(0, 0), (0, width - part.shape[1]), (0, 0)], constant_values=255)
                      for part in parts])


def over(photo, label, classes):
    """np.ndarray: [h, w, 3] uint8 RGB, a photo (the same) under the colors of a label map [h', w']; void is white. What
    is painted is gray below, or the photo's own colors would be taken for those of classes."""
    label = cv2.resize(np.clip(label, 0, 255).astype('uint8'), photo.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    colors = np.array([*classes.colors[:765], 255, 255, 255], 'uint8').reshape(-1, 3)
    gray = cv2.cvtColor(cv2.cvtColor(np.ascontiguousarray(photo), cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    painted = cv2.addWeighted(gray, 0.35, colors[label], 0.65, 0)
    return np.where(np.isin(label, classes.unpainted)[..., None], photo, painted)


def legend(classes, seen, width):
    """Names of classes beside their colors, in as many lines as it takes.

    Args:
        classes (Classes): all of them.
        seen (Iterable[int]): those to be named; what is no class is void.
        width (int): pixels.

    Returns:
        np.ndarray: [height, width, 3] uint8 RGB.
    """
    left, top, places = 4, 0, []
    for number in sorted(seen):
        name = ' '.join(classes.names[number].split()) if 0 <= number < len(classes.names) else 'void'
        if number in classes.unpainted:
            name += ' (not painted)'
        needed = _SWATCH + 6 + round(_font().getlength(name)) + 14
        if left > 4 and left + needed > width:
            left, top = 4, top + _BAR
        places.append((left, top, number, name))
        left += needed
    picture = Image.new('RGB', (width, top + _BAR + 4), 'white')
    draw = ImageDraw.Draw(picture)
    for left, top, number, name in places:
        color = tuple(classes.colors[3 * number:3 * number + 3]) if 0 <= number < len(classes.names) else 'white'
        fill = 'white' if number in classes.unpainted else color
        draw.rectangle([left, top + 4, left + _SWATCH, top + 4 + _SWATCH], fill=fill, outline='gray')
        draw.text((left + _SWATCH + 6, top + 3), name, 'black', _font())
    return np.array(picture)


def table(words, lines, size):
    """Puts pictures side by side.

    Args:
        words (Sequence[str]): headers of the columns.
        lines (list[list[np.ndarray]]): rows of pictures [h, w, 3] uint8 RGB, each of a size of its own.
        size (tuple[int]): width and height of all in the table.

    Returns:
        np.ndarray: [height, width, 3] uint8 RGB.
    """
    cells = [[cv2.resize(cell, size, interpolation=cv2.INTER_AREA if size[0] < cell.shape[1] else cv2.INTER_NEAREST)
              for cell in line] for line in lines]
    return np.vstack([_header(words, size[0]), *(np.hstack(line) for line in cells)])


def warmth(image, score):
    """np.ndarray: [h, w, 3] uint8 RGB, an image (the same) under red where the score ([h, w], 0..1) is high, blue where
    it is low."""
    shades = cv2.applyColorMap((score.clip(0, 1) * 255).astype('uint8'), cv2.COLORMAP_JET)
    return cv2.addWeighted(image, 0.5, cv2.cvtColor(shades, cv2.COLOR_BGR2RGB), 0.5, 0)


def save(picture, path):
    """Writes an RGB picture as PNG, whole or not at all."""
    with files.replacing(path, durable=False) as part:
        Image.fromarray(picture).save(part, 'PNG')  # raises where OpenCV returns False


def _font():
    return ImageFont.load_default(12)


def _header(words, width):
    bar = Image.new('RGB', (width * len(words), _BAR), 'white')
    for column, word in enumerate(words):
        ImageDraw.Draw(bar).text((column * width + 4, 2), word, 'black', _font())
    return np.array(bar)


def _photo(img):
    """A normalized image [C, H, W] → uint8 RGB; its mean and deviation are not known here, so it is stretched."""
    img = img.transpose(1, 2, 0)
    low, high = img.min(), img.max()
    gray = ((img - low) / max(high - low, 1e-6) * 255).astype('uint8')
    return np.broadcast_to(gray, (*gray.shape[:2], 3))


def colors(label):
    """np.ndarray: [h, w, 3] uint8 RGB, the default colors for a label map [h, w]; void is white."""
    palette = np.array([*default()[:765], 255, 255, 255], 'uint8').reshape(-1, 3)
    return palette[np.clip(label, 0, 255)]


def _gray(value):
    return np.repeat((np.asarray(value, 'float32') * 255).astype('uint8')[..., None], 3, axis=2)
