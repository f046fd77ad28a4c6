"""Score maps walk to where the image looks the same, and become masks."""

import os

import numpy as np
from paddleseg.utils import logger

from paddleseg_semi.core import palette, walk
from paddleseg_semi.core.common import save_mask
from paddleseg_semi.core.crf import dense_crf
from paddleseg_semi.datasets.extra import read_list
from paddleseg_semi.errors import InputError
from paddleseg_semi.registries import STAGES
from paddleseg_semi.stages.images import each, finish, name_of, read_fitting_maps, read_image, show_mask
from paddleseg_semi.stages.trained import TrainedRun


@STAGES.add_component
class RandomWalk:
    """Turns score maps into masks by a random walk over pixels that an AffinityNet finds alike. Images that have their
    mask are skipped.

    Products: masks/ (palette PNGs), list.txt ('image mask' per line; with this folder as dataset_root, an ordinary
    PaddleSeg data set) and contact_sheet.png.

    Args:
        model (str): the folder of a training run of `Affinity`, for its newest checkpoint; or one of its checkpoints.
        maps (str): list.txt of a stage that makes score maps without background.
        alpha (float): the background scores (1 - strongest map) ** alpha.
        beta (float): the higher, the fewer pairs of pixels still count as alike.
        log_steps (int): the walk has 2 ** log_steps steps.
        crf (int): steps of a CRF before the mask is taken.
    """

    def __init__(self, model, maps, alpha=6, beta=8, log_steps=6, crf=0):
        for key, value in (('alpha', alpha), ('beta', beta)):
            if not isinstance(value, (int, float)) or not value > 0:
                raise InputError(f'{key}: {value}: give a number above 0.')
        for key, value in (('log_steps', log_steps), ('crf', crf)):
            if not isinstance(value, int) or value < 0:
                raise InputError(f'{key}: {value}: give a whole number of at least 0.')
        self.model, self.maps, self.crf = model, maps, crf
        self.options = {'alpha': alpha, 'beta': beta, 'log_steps': log_steps}

    def inputs(self):
        return [TrainedRun(self.model).inputs(), read_list(self.maps), self.options, self.crf]

    def run(self, out_dir):
        run = TrainedRun(self.model)
        network, color_map = run.network(), palette.default()
        items = [(maps, image, os.path.join(out_dir, 'masks', name_of(maps, os.path.dirname(self.maps)) + '.png'))
                 for image, maps in read_list(self.maps)]
        logger.info(f'Random walk on {len(items)} images with {run.weights}')

        def work(item):
            maps, image, mask = item
            seen = read_image(image, run.channels).astype('float32')
            (classes, maps), image = read_fitting_maps(maps, image)
            img = np.atleast_3d(run.normalize({'img': seen})['img']).transpose(2, 0, 1)
            scores = walk.refine(network, img, maps, **self.options, **self._radius(run))
            if self.crf:
                scores = dense_crf(scores, image, iters=self.crf)
            save_mask(np.append(0, classes)[scores.argmax(0)], mask, color_map)

        each(work, items)
        finish(out_dir, [item[1:] for item in items], ['image', 'mask'], show_mask)

    @staticmethod
    def _radius(run):
        """As in training, unless that left it to the default."""
        method = run.config.dic['method']
        return {'radius': method['radius']} if 'radius' in method else {}
