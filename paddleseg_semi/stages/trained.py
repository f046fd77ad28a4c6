"""What a training run left behind, for the stages after it."""

import os

from paddleseg_semi.core.checkpoint import MODEL, newest_checkpoint
from paddleseg_semi.core.common import digest
from paddleseg_semi.cvlibs.builder import SemiBuilder
from paddleseg_semi.cvlibs.config import SemiConfig
from paddleseg_semi.datasets import lists
from paddleseg_semi.datasets.streams.base import split_at_normalize
from paddleseg_semi.errors import InputError


class TrainedRun:
    """A network, and the recipe it was trained by.

    Args:
        folder (str): one of the run's checkpoints, or the run itself, for its newest one.

    Raises:
        InputError: weights or config.yml are not there.
    """

    def __init__(self, folder):
        folder = newest_checkpoint(folder) or folder
        self.weights = os.path.join(folder, MODEL)
        self.recipe = os.path.join(os.path.dirname(os.path.normpath(folder)), 'config.yml')
        for path in (self.weights, self.recipe):
            if not os.path.isfile(path):
                raise InputError(f'{path}: no such file. Give the folder of a training run, or one of its checkpoints, '
                                 'such as output/best_model.')
        self.config = SemiConfig(self.recipe)
        self.builder = SemiBuilder(self.config)
        self.root = lists.root_of(self.builder.train_dataset)

    def inputs(self):
        """list: what its output depends on, as JSON takes it."""
        return [self.config.dic, digest([self.weights])]

    def network(self):
        """nn.Layer: with the weights of the checkpoint; those that training started from are not asked for."""
        self.config.forget_pretrained()
        model = self.builder.new_model()
        self.builder.load_weights(model, self.weights)
        return model

    @property
    def channels(self):
        """int: of its images, 1 or 3."""
        return self.builder.train_dataset.transforms.img_channels

    @property
    def normalize(self):
        """Callable: the `Normalize` of its training; it takes and gives {'img': float32 [H, W, 3] or [H, W]}."""
        return next(iter(split_at_normalize(self.builder.train_dataset.transforms.transforms)[1]), dict)

    def names(self, images):
        """list[str]: what the products of images are called, see `lists.name`; InputError when two get the same."""
        taken = {}
        for image in images:
            name = lists.name(image, self.root)
            if taken.setdefault(name, image) != image:
                raise InputError(f'{taken[name]} and {image} would both get the products {name}.*. Rename one.')
        return list(taken)
