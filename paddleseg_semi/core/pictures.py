"""Show the learning, not only the loss: one strip per evaluation."""


import cv2
import numpy as np
from paddleseg.utils.visualize import get_color_map_list
from PIL import Image

from paddleseg_semi import files

COLUMNS = ('image', 'pseudo label', 'confidence', 'kept', 'prediction', 'truth')
_BLANK = 64  # gray level of what does not exist for an image: without --oracle nobody looks at unlabeled masks


def strip(method, batch, unlabeled, clock, rows=2):
    """A picture of what the method makes of some images.

    Args:
        method (Method): any.
        batch (dict[str, Tensor]): of the method's first stream, with or without `label`.
        unlabeled (dict[str, Tensor], optional): of the unlabeled one, with or without `truth`.
        clock (Clock): now.
        rows (int): unlabeled images shown; one image of `batch` follows.

    Returns:
        np.ndarray: [height, width, 3] uint8 RGB: one row per image, the columns of `COLUMNS` with a header.
    """
    lines = []
    if unlabeled:
        unlabeled = {key: value[:rows] for key, value in unlabeled.items()}
        views = [value.numpy() for value in method.explain(unlabeled, clock)]
        found = method.pseudo_label(unlabeled['weak'], method.deployed)[0].numpy()
        truth = map(colors, unlabeled['truth'].numpy()) if 'truth' in unlabeled else \
            np.full((*found.shape, 3), _BLANK, 'uint8')
        for img, pseudo, conf, keep, pred, label in zip(unlabeled['weak'].numpy(), *views, found, truth):
            lines.append([_photo(img), colors(pseudo), _gray(conf), _gray(keep), colors(pred), label])
    img = batch['img'][:1]
    pred = method.pseudo_label(img, method.deployed)[0].numpy()[0]
    blank = np.full((*pred.shape, 3), _BLANK, 'uint8')
    truth = colors(batch['label'].numpy()[0]) if 'label' in batch else blank
    lines.append([_photo(img.numpy()[0]), blank, blank, blank, colors(pred), truth])
    return table(COLUMNS, lines, lines[0][0].shape[1::-1])


def table(words, lines, size):
    """Puts pictures side by side.

    Args:
        words (Sequence[str]): headers of the columns.
        lines (list[list[np.ndarray]]): rows of pictures [h, w, 3] uint8 RGB, each of a size of its own.
        size (tuple[int]): width and height of all in the table.

    Returns:
        np.ndarray: [height, width, 3] uint8 RGB.
    """
    cells = [[cv2.resize(cell, size, interpolation=cv2.INTER_NEAREST) for cell in line] for line in lines]
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


def _header(words, width):
    bar = np.full((18, width * len(words), 3), 255, 'uint8')
    for column, word in enumerate(words):
        cv2.putText(bar, word, (column * width + 4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return bar


def _photo(img):
    """A normalized image [C, H, W] → uint8 RGB; its mean and deviation are not known here, so it is stretched."""
    img = img.transpose(1, 2, 0)
    low, high = img.min(), img.max()
    gray = ((img - low) / max(high - low, 1e-6) * 255).astype('uint8')
    return np.broadcast_to(gray, (*gray.shape[:2], 3))


def colors(label):
    """np.ndarray: [h, w, 3] uint8 RGB, the colors of PaddleSeg for a label map [h, w]; void is white."""
    palette = np.array(get_color_map_list(256), 'uint8').reshape(-1, 3)[:256]
    palette[255] = 255
    return palette[np.clip(label, 0, 255)]


def _gray(value):
    return np.repeat((np.asarray(value, 'float32') * 255).astype('uint8')[..., None], 3, axis=2)
