"""What a kind of stream is, and what all kinds share."""

import dataclasses
import traceback
from collections.abc import Callable

import numpy as np
import paddle
from paddleseg.cvlibs import manager
from paddleseg.transforms import Compose

from paddleseg_semi import images
from paddleseg_semi.errors import InputError


@dataclasses.dataclass(eq=False)
class Data:
    """What streams are made from.

    Attributes:
        base (paddle.io.Dataset): PaddleSeg's training set of the recipe.
        semi (dict): the section `semi` of the recipe.
        batch_size (int): labeled samples of a rank in a step.
        build (Callable): a section with a `type` → the component.
        class_names (list[str], optional): as the recipe has them.
        split (Split, optional): which images keep their masks. None: all.
        repeats (int): how often an epoch shows a labeled image.
        val (paddle.io.Dataset, optional): the validation set, and what held-out photos may not be.
    """

    base: paddle.io.Dataset
    semi: dict
    batch_size: int
    build: Callable
    class_names: list | None = None
    split: object = None
    repeats: int = 1
    val: object = None

    def __post_init__(self):
        self._read = {}

    def of(self, split, repeats):
        """Data: the same with a split, for an epoch that shows a labeled image so often."""
        data = dataclasses.replace(self, split=split, repeats=repeats)
        data._read = self._read
        return data

    def once(self, read):
        """What `read(self)` gives; read once."""
        if read not in self._read:
            self._read[read] = read(self)
        return self._read[read]

    @property
    def channels(self):
        """int: of the images, 1 or 3."""
        return self.base.transforms.img_channels


class Kind:
    """What a method asks for under the name of a stream. A subclass is one kind: it declares its keys of `semi:`,
    checks them, makes the data set, and says what of it makes a run what it is. `STREAMS.add_component` registers it.

    Attributes:
        keys (dict): key of `semi:` → 'text' (the path of a file or folder), 'lists' (one path or several), 'count',
            'transforms', or a dict of the keys in that section.
        opens_masks (bool): it learns from masks.
    """

    keys = {}
    opens_masks = False

    def check(self, semi, method):
        """Raises InputError where `semi` of a recipe lacks what the kind needs; `method` is the name of who asks."""

    def dataset(self, data):
        """Stream: the data set, whose samples become batches."""
        raise NotImplementedError

    def batch_size(self, data):
        """int: samples of a rank in a step."""
        return data.batch_size

    def checks(self, data):
        """list[Callable]: of what the recipe says of the data; each raises InputError."""
        return []

    def sets(self, data):
        """Yields dict: the arguments of `checks.quick` and `checks.full` for images besides the training set."""
        return iter(())

    def report(self, report, data):
        """Adds what only a look at all data shows to a `checks.Report`."""

    def identity(self, data):
        """dict[str, str]: besides recipe and split, what a run must have in common with one that it goes on with."""
        return {}

    def inputs(self, data):
        """tuple[list, list[str]]: as JSON takes it, and as files, what the result of a training depends on besides."""
        return [], []


class Stream(paddle.io.Dataset):
    """Reads one sample per (index, sample_seed). What goes wrong travels as a sample, so that it reaches the main
    process as one line; an exception inside a loader worker would arrive without its message."""

    def __getitem__(self, item):
        index, seed, *spares = item
        try:
            return {'index': np.int64(index), **self._read(index, seed, *spares)}
        except Exception as error:
            text = str(error) if isinstance(error, InputError) else self._explain(index, error)
            return {'error': as_bytes(text)}

    def _explain(self, index, error):
        return f'{self.path(index)}: {failed_in(error)}'


def read_image(path, channels):
    """[H, W, 3] float32 RGB, or [H, W] gray, 0..255."""
    return images.read(path, channels).astype('float32')


def read_mask(path, img, remedy):
    mask, size = images.read_mask(path), img.shape[:2]
    if mask.shape != size:
        raise InputError(f'{path}: is {list(mask.shape)}, but its image {list(size)} (height, width). {remedy}')
    return mask


def split_at_normalize(transforms):
    """The transforms before `Normalize`, and the others; strong ones belong in between."""
    cut = next((i for i, op in enumerate(transforms) if type(op).__name__ == 'Normalize'), len(transforms))
    return transforms[:cut], transforms[cut:]


def apply(transforms, data):
    for transform in transforms:
        data = transform(data)
    return data


def channels_first(img):
    return np.ascontiguousarray(np.atleast_3d(img).transpose(2, 0, 1))


def failed_in(error):
    """str: an exception in one line, behind the name of the transform that raised it, if one did."""
    known = {kind for kind in manager.TRANSFORMS.components_dict.values() if kind is not Compose}
    owners = (type(frame.f_locals.get('self')) for frame, _ in traceback.walk_tb(error.__traceback__))
    name = next((owner.__name__ for owner in owners if owner in known), None)
    where = f'{name} of its transforms fails: ' if name else ''
    return f'{where}{type(error).__name__}: {" ".join(str(error).split())}'


def as_bytes(text):
    return np.frombuffer(text.encode(), 'uint8')
