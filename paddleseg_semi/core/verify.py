"""Does an exported segmenter say what the network says?"""

from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F

from paddleseg_semi.core.common import reason
from paddleseg_semi.core.testing import Testing
from paddleseg_semi.errors import RunError
from paddleseg_semi.models.modes import evaluating

TOLERANCE = 1e-3  # of the largest logit; float32 in another order of operations stays a hundred times below it
_LARGEST = 512  # pixels of a side that may be of any size: a photo's corner tells enough


@dataclass(frozen=True)
class Agreement:
    """What a comparison found.

    Attributes:
        shapes (list[list[int]]): of the batches compared, N, H, W, C.
        output_op (str): of the export.
        difference (float): the largest, of logits; of probabilities where these are the output; where the output is
            classes, by how much the network's logit of such a class is below the highest.
        scale (float): the largest logit's size; of probabilities, 1.
        equal (float): share of the pixels with the same class, 0..1.
    """

    shapes: list
    output_op: str
    difference: float
    scale: float
    equal: float

    @property
    def holds(self):
        """bool: within the tolerance; what is no number never is."""
        return self.difference <= TOLERANCE * self.scale

    def __str__(self):
        what = {'none': 'the largest difference of logits is {:.1e}',
                'softmax': 'the largest difference of probabilities is {:.1e}',
                'argmax': 'the logit of a class is at most {:.1e} below the highest'}[self.output_op]
        share = 'all pixels' if self.equal == 1 else f'{100 * self.equal:.4f} % of the pixels'
        return f'{share} have the same class, {what.format(self.difference)} (they go up to {self.scale:.3g})'


def compare(model, load, photo, input_shape, output_op, normalize=None, size_divisor=None):
    """Gives both the same images: one of the photo's size, and where the export left N, H or W open, a larger batch.

    Args:
        model (nn.Layer): the network.
        load (Callable): gives the exported model: batch → output, arrays.
        photo (ndarray): float32 [h, w, C] as the transforms of `deploy.yaml` leave it.
        input_shape (list[int]): N, C, H, W of the export; -1 is any size.
        output_op (str): of the export.
        normalize (Callable, optional): `Normalize`, where the export fused it: the model then takes uint8 [N, H, W, C].
        size_divisor (int, optional): see `Testing`.

    Returns:
        Agreement: over all images.

    Raises:
        RunError: the exported model cannot be run.
    """
    found, net, run = [], Testing(size_divisor=size_divisor).network(model), None
    for images in _batches(photo, input_shape):
        if normalize:
            images = images.round().clip(0, 255)
            seen = np.stack([normalize({'img': image})['img'] for image in images])
        else:
            seen = images
        with evaluating(model), paddle.no_grad():
            logits = net(paddle.to_tensor(seen.transpose(0, 3, 1, 2)))[0]
        try:
            run = run or load()
            output = run(images.astype('uint8') if normalize else np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        except Exception as error:  # Paddle Inference has no type of its own
            raise RunError(f'The exported model cannot be run with {list(images.shape)}: {reason(error)} Nothing was '
                           'written; --verify False writes it anyway.') from error
        found.append((list(images.shape), *_differences(logits, output, output_op)))
    shapes, differences, scales, equal = zip(*found)
    return Agreement(list(shapes), output_op, np.max(differences), np.max(scales), np.mean(equal))


def _batches(photo, input_shape):
    n, _, height, width = input_shape
    sides = [min(side, _LARGEST) if fixed == -1 else fixed for side, fixed in zip(photo.shape, (height, width))]
    yield _fitted(photo, max(n, 1), *sides)
    if -1 in (n, height, width):  # steps of 32, which networks that divide a side into parts take as well
        yield _fitted(photo, 2 if n == -1 else n, sides[0] + 64 * (height == -1), sides[1] + 32 * (width == -1))


def _fitted(photo, count, height, width):
    """ndarray [count, height, width, C]: the photo's corner, going on as in a mirror; the others upside down."""
    missing = [(0, max(wanted - side, 0)) for wanted, side in zip((height, width), photo.shape)]
    image = np.pad(photo, [*missing, (0, 0)], 'symmetric')[:height, :width]
    return np.stack([image, *[image[::-1]] * (count - 1)])


def _differences(logits, output, output_op):
    """The largest difference, the scale and the share of equal classes, see `Agreement`."""
    scale, best = float(logits.abs().max()), logits.argmax(1).numpy()
    if output_op == 'argmax':
        logits = logits.numpy()
        taken = np.take_along_axis(logits, output[:, None].clip(0, logits.shape[1] - 1), 1)
        return (logits.max(1, keepdims=True) - taken).max(), scale, (output == best).mean()
    if output_op == 'softmax':
        logits, scale = F.softmax(logits, axis=1), 1.
    return np.abs(logits.numpy() - output).max(), scale, (output.argmax(1) == best).mean()
