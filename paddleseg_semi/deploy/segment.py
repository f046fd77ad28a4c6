"""From photos to batches, and from outputs to classes."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import paddle
from paddleseg.core.infer import reverse_transform

from paddleseg_semi.errors import InputError

_MOST_WAITING = 8  # batches' worth of images in memory while sizes are being collected


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
        image (str | ndarray): a path, or a decoded photo, uint8 [h, w, 3] in BGR.
        name (str): what its results are called.

    Returns:
        Sample: the photo as the network takes it.

    Raises:
        InputError: the model was exported for another size.
    """
    data = bundle.transforms({'img': image if isinstance(image, str) else image.astype('float32')})
    img = data['img']
    if any(fixed not in (-1, size) for fixed, size in zip(bundle.input_shape[1:], img.shape)):
        raise InputError(f'{name}: is {list(img.shape)} (channels, height, width) after the transforms, but the model '
                         f'was exported for {bundle.input_shape[1:]}. Add a Resize to the transforms, or export '
                         'without --input_shape.')
    if bundle.input_dtype == 'uint8':
        img = img.transpose(1, 2, 0).round().clip(0, 255)
    return Sample(name, img.astype(bundle.input_dtype), data['trans_info'])


def batches(samples, batch_size):
    """Groups samples of equal size, so that nothing has to be padded.

    Args:
        samples (Iterable[Sample]): taken one by one; a few batches' worth wait at most.
        batch_size (int): the most samples in a group.

    Yields:
        list[Sample]: of one size.
    """
    waiting, held = defaultdict(list), 0
    for sample in samples:
        waiting[sample.img.shape].append(sample)
        held += 1
        fullest = max(waiting, key=lambda size: len(waiting[size]))
        if len(waiting[fullest]) == batch_size or held >= _MOST_WAITING * batch_size:
            held -= len(waiting[fullest])
            yield waiting.pop(fullest)
    yield from waiting.values()


def stack(group):
    """list[Sample] of one size → ndarray, the batch that a backend runs."""
    return np.stack([sample.img for sample in group])


def to_classes(output, trans_info, output_op):
    """Brings one output back to the photo's size, the way tools/predict.py does.

    Args:
        output (ndarray): classes [H, W], or scores [C, H, W].
        trans_info (list): what the transforms did to the photo's size.
        output_op (str): that of the export.

    Returns:
        ndarray: uint8 [h, w].
    """
    with paddle.no_grad():
        if output.ndim == 2:
            classes = reverse_transform(paddle.to_tensor(output)[None, None].astype('int32'), trans_info,
                                        mode='nearest')
        else:
            scores = paddle.to_tensor(output)[None]
            if output_op == 'softmax':  # a logarithm is the logit minus one number per pixel: resized, the same wins
                scores = paddle.log(scores.clip(min=1e-37))
            classes = paddle.argmax(reverse_transform(scores, trans_info, mode='bilinear'), axis=1, keepdim=True)
    return classes[0, 0].numpy().astype('uint8')
