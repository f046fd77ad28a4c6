"""A network that has learned from tags shows where the classes are."""

import os

import numpy as np
from paddleseg.utils import logger

from paddleseg_semi.core import pictures
from paddleseg_semi.core.cams import SCALES, cams, label_of
from paddleseg_semi.core.common import check_class_count
from paddleseg_semi.datasets import lists
from paddleseg_semi.datasets.maps import read_maps, write_maps
from paddleseg_semi.datasets.tags import read_tags
from paddleseg_semi.errors import InputError
from paddleseg_semi.registries import STAGES
from paddleseg_semi.stages.images import each, finish, read_image
from paddleseg_semi.stages.pseudo_label import check_scales
from paddleseg_semi.stages.trained import TrainedRun


@STAGES.add_component
class MakeCam:
    """Writes the class activation maps of the training images, or of those of a list, for the classes of their tags; at
    several scales and mirrored. Images that have their maps are skipped.

    Products: cam/ ('.npz', named as the images), list.txt ('image maps' per line) and contact_sheet.png.

    Args:
        model (str): the folder of a training run, for its newest checkpoint; or one of its checkpoints.
        scales (list[float]): of the image.
        flip (bool): mirrored as well.
        background (float): its score in the contact sheet, 0..1. A change of it alone makes no stage run again.
        files (str, optional): a list of images, 'image' or 'image mask' per line, relative to the dataset_root of the
            run. Default: its training list.
        tags (str, optional): where the tags of these images are, as semi.tags has it. Default: the run's semi.tags.
    """

    def __init__(self, model, scales=SCALES, flip=True, background=0.26, files=None, tags=None):
        self.files, self.tags = files, tags
        self.model, self.scales, self.flip, self.background = model, check_scales(scales), flip, background

    def inputs(self):
        run = self._run()
        tags = [[image, np.flatnonzero(tags).tolist()] for image, tags in self._tags(run).items()]
        return [run.inputs(), tags, self.scales, self.flip]

    def run(self, out_dir):
        run = self._run()
        check_class_count(run.builder.train_dataset.num_classes)  # what the maps become are masks
        tags, network = self._tags(run), run.network()
        items = [(name, image, os.path.join(out_dir, 'cam', f'{name}.npz'))
                 for name, image in zip(run.names(tags), tags)]
        logger.info(f'Class activation maps of {len(items)} images by {run.weights}')

        def work(item):
            image = read_image(item[1], run.channels)
            maps = cams(network, image, tags[item[1]], run.normalize, self.scales, self.flip)
            write_maps(item[2], list(maps), np.stack(list(maps.values())).clip(0))

        each(work, items)
        finish(out_dir, [item[1:] for item in items], ['image', 'strongest map', f'above {self.background:g}'],
               self._line)

    def _run(self):
        run = TrainedRun(self.model)
        if not (self.tags or run.config.semi_cfg.get('tags')):
            raise InputError(f'{run.recipe}: has no semi.tags, the classes that maps are made of.')
        return run

    def _tags(self, run):
        """dict[str, np.ndarray]: of every image; one that is listed twice is there once."""
        base = run.builder.train_dataset
        if self.files:
            base = lists.named(self.files, base)
        tags = read_tags(self.tags or run.config.semi_cfg['tags'], base, run.config.dic.get('class_names'))
        return dict(zip((item[0] for item in base.file_list), tags))

    def _line(self, image, product):
        image, (classes, maps) = read_image(image), read_maps(product)
        label = label_of(classes, maps, classes.max() + 1, self.background)
        return [image, pictures.warmth(image, maps.max(0)), pictures.colors(label)]
