"""A CRF fits score maps to the edges of the image."""

import os

import numpy as np
from paddleseg.utils import logger

from paddleseg_semi.core import palette
from paddleseg_semi.core.cams import with_background
from paddleseg_semi.core.common import save_mask
from paddleseg_semi.core.crf import dense_crfs
from paddleseg_semi.datasets.extra import read_list
from paddleseg_semi.datasets.maps import write_maps
from paddleseg_semi.errors import InputError
from paddleseg_semi.registries import STAGES
from paddleseg_semi.stages.images import cores, each, finish, name_of, read_fitting_maps, show_mask


@STAGES.add_component
class Refine:
    """Adds a background to score maps and refines them by a fully connected CRF. Images that have their products are
    skipped.

    .. math:: s_0 = (1 - \\max_c s_c)^\\alpha

    Products: for every alpha crf_<alpha>/ ('.npz', named as the images; class 0 is the background); for the first one
    masks/ (palette PNGs), list.txt ('image mask' per line; with this folder as dataset_root, an ordinary PaddleSeg data
    set) and contact_sheet.png.

    Args:
        maps (str): list.txt of a stage that makes score maps.
        alphas (list[float]): of the background: the higher, the less there is of it.
        iters (int): steps of the CRF; 0 only adds the background.
        gaussian (list[float]): of its kernel on places: standard deviation in pixels, and weight.
        bilateral (list[float]): of its kernel on places and colors: standard deviations in pixels and in gray levels,
            and weight.
    """

    def __init__(self, maps, alphas=(4, 24), iters=10, gaussian=(3, 3), bilateral=(80, 13, 10)):
        for key, values, count in (('alphas', alphas, None), ('gaussian', gaussian, 2), ('bilateral', bilateral, 3)):
            if not isinstance(values, (list, tuple)) or not values or len(values) != (count or len(values)) \
                    or not all(isinstance(value, (int, float)) and value > 0 for value in values):
                raise InputError(f'{key}: {values}: give {count or "some"} numbers above 0.')
        if not isinstance(iters, int) or iters < 0:
            raise InputError(f'iters: {iters}: give a whole number of at least 0.')
        self.maps, self.alphas = maps, [f'{alpha:g}' for alpha in alphas]
        self.options = {'iters': iters, 'gaussian': list(gaussian), 'bilateral': list(bilateral)}

    def inputs(self):
        return [read_list(self.maps), self.alphas, self.options]

    def run(self, out_dir):
        items, color_map = [], palette.default()
        for image, maps in read_list(self.maps):
            name = name_of(maps, os.path.dirname(self.maps))
            refined = [os.path.join(out_dir, f'crf_{alpha}', f'{name}.npz') for alpha in self.alphas]
            items.append((maps, image, *refined, os.path.join(out_dir, 'masks', f'{name}.png')))
        logger.info(f'CRF on {len(items)} images, {cores()} at a time; alpha {", ".join(self.alphas)}')

        def work(item):
            maps, image, *refined, mask = item
            maps, image = read_fitting_maps(maps, image)
            classes = np.append(0, maps[0])
            probs = [with_background(*maps, float(alpha))[1] for alpha in self.alphas]
            for path, scores in zip(refined, dense_crfs(probs, image, **self.options)):
                write_maps(path, classes, scores)
                if path == refined[0]:
                    save_mask(classes[scores.argmax(0)], mask, color_map)

        each(work, items, cores())
        finish(out_dir, [(item[1], item[-1]) for item in items], ['image', 'mask'], show_mask)

