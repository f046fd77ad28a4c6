"""From photos to batches, and from outputs to classes."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import paddle
from paddleseg.core.infer import reverse_transform

from paddleseg_semi.core.common import check_class_count
from paddleseg_semi.errors import InputError

_MOST_WAITING = 8  # batches' worth of photos in memory while sizes are being collected,
_MOST_BYTES = 256 << 20  # and no more than that


@dataclass
class Sample:
    """A photo as the network takes it.

    Attributes:
        name (str): what its results are called.
        img (ndarray): float32 [C, H, W], or uint8 [H, W, C] where the bundle says so.
        trans_info (list): what the transforms did to its size.
    """

    name: str
    img: np.ndarray
    trans_info: list


def prepare(bundle, image, name):
    """Passes a photo through the transforms of a bundle.

    Args:
        bundle (Bundle): the exported segmenter.
        image (str | ndarray): a path, or a decoded photo, uint8 [h, w, 3] in BGR or [h, w].
        name (str): what its results are called.

    Returns:
        Sample: the photo as the network takes it.

    Raises:
        InputError: the model was exported for another size.
    """
    data = bundle.transforms({'img': image if isinstance(image, str) else image.astype('float32')})
    return Sample(name, as_input(bundle, data['img']), data['trans_info'])


def as_input(bundle, img):
    """float32 [C, H, W] → what the model takes of one photo. InputError when it was exported for another size."""
    if any(fixed not in (-1, size) for fixed, size in zip(bundle.input_shape[1:], img.shape)):
        raise InputError(f'is {list(img.shape)} (channels, height, width) after the transforms, but the model was '
                         f'exported for {bundle.input_shape[1:]}; add a Resize to the transforms, or export without '
                         '--input_shape')
    if bundle.input_dtype == 'uint8':
        img = img.transpose(1, 2, 0).round().clip(0, 255)
    return img.astype(bundle.input_dtype)


def batches(samples, batch_size, img=lambda sample: sample.img):
    """Groups samples of equal size, so that nothing has to be padded.

    Args:
        samples (Iterable): taken one by one; a few batches' worth wait at most.
        batch_size (int): the most samples in a group.
        img (callable): gives the array of a sample.

    Yields:
        list: samples of one size.
    """
    waiting, held, held_bytes = defaultdict(list), 0, 0
    for sample in samples:
        waiting[img(sample).shape].append(sample)
        held += 1
        held_bytes += img(sample).nbytes
        fullest = max(waiting, key=lambda size: len(waiting[size]))
        if len(waiting[fullest]) == batch_size or held >= _MOST_WAITING * batch_size or held_bytes > _MOST_BYTES:
            group = waiting.pop(fullest)
            held -= len(group)
            held_bytes -= sum(img(member).nbytes for member in group)
            yield group
    while waiting:
        yield waiting.pop(next(iter(waiting)))


def stack(group):
    """list[Sample] of one size → ndarray, the batch that a backend runs."""
    return np.stack([sample.img for sample in group])


def to_classes(output, trans_info, output_op, with_conf=False):
    """Brings one output back to the photo's size, the way tools/predict.py does.

    Args:
        output (ndarray): classes [H, W], or scores [C, H, W].
        trans_info (list): what the transforms did to the photo's size.
        output_op (str): that of the export.
        with_conf (bool): give the probability of the class as well; needs scores.

    Returns:
        ndarray: uint8 [h, w]; with `with_conf` a tuple of it and float32 [h, w] of 0..1.
    """
    if output.ndim == 2:
        check_class_count(int(output.max(initial=0)) + 1)
        return to_photo(output[None].astype('float32'), trans_info, 'nearest')[0].astype('uint8')
    if output_op == 'softmax':  # a logarithm is the logit minus one number per pixel: resized, the same class wins
        output = np.log(output.clip(min=1e-37))
    classes, conf = best_classes(to_photo(output, trans_info, 'bilinear'), with_conf)
    return (classes, conf) if with_conf else classes


def to_photo(maps, trans_info, mode):
    """float32 [C, H, W] → [C, h, w]: what the transforms did to a photo's size undone."""
    if not trans_info:
        return maps
    with paddle.no_grad():
        maps = paddle.to_tensor(maps, place=paddle.CPUPlace())
        return reverse_transform(maps[None], trans_info, mode)[0].numpy()


def best_classes(scores, with_conf=False, are_probs=False):
    """Scores [C, h, w] → the best class of every pixel, uint8 [h, w], and its probability, float32 [h, w] or None."""
    check_class_count(len(scores))
    best = scores.max(0)
    classes = np.zeros(best.shape, 'uint8')
    for number in range(len(scores) - 1, -1, -1):  # NumPy's argmax over the first axis takes four times as long
        np.putmask(classes, scores[number] == best, number)
    if not with_conf:
        return classes, None
    return classes, (best if are_probs else 1 / sum(np.exp(score - best) for score in scores)).astype('float32')
