"""How good the products of stages are, where the truth is known."""

import csv
import io
import os

import paddle.distributed as dist
from paddleseg.utils import logger

from paddleseg_semi.core import pictures
from paddleseg_semi.core.cams import label_of
from paddleseg_semi.core.curve import BackgroundCurve
from paddleseg_semi.cvlibs.builder import SemiBuilder
from paddleseg_semi.cvlibs.config import SemiConfig
from paddleseg_semi.datasets import lists
from paddleseg_semi.datasets.extra import read_list
from paddleseg_semi.datasets.maps import read_maps
from paddleseg_semi.errors import InputError
from paddleseg_semi.registries import STAGES
from paddleseg_semi.stages.images import contact_sheet, read_image, read_mask
from paddleseg_semi.stages.pseudo_label import compare, with_truth


@STAGES.add_component
class Score:
    """Compares masks and score maps with the true masks of the training images, or of those of a list. These are opened
    for nothing else.

    Score maps without background get a constant one: the best of 0, 0.01, … 0.59 for all images together.

    Products: scores.csv (mIoU, accuracy and IoU of every class, in %, one row per list), contact_sheet.png, and for
    score maps <name>_curve.csv and .png, the mIoU for every background.

    Args:
        config (str): a recipe whose training list has the true masks.
        of (dict[str, str]): name → list.txt of a stage, of masks or of score maps without background.
        files (str, optional): a list of the images that count: 'image mask' per line, relative to the dataset_root of
            the recipe, or images or ids of its training list alone. Default: the training list.
    """

    def __init__(self, config, of, files=None):
        if not isinstance(of, dict) or not of or any('/' in str(name) or not isinstance(of[name], str) for name in of):
            raise InputError(f'of: {of}: expected names without "/", each with the list.txt of a stage.')
        self.config, self.of, self.files = SemiConfig(config), of, files

    def inputs(self):
        return [self.config.dic, self._base().file_list,
                {name: read_list(path) for name, path in self.of.items()}]

    def run(self, out_dir):
        if dist.get_rank():
            return
        base = self._base()
        products = {name: read_list(path) for name, path in self.of.items()}
        rows, backgrounds = [], {}
        for name, items in products.items():
            known = len(with_truth(items, base))
            if not known:
                logger.info(f'[SCORE] {name}: none of the {len(items)} images has a true mask to compare with.')
                continue
            if items[0][1].endswith('.npz'):
                result, backgrounds[name] = self._best(items, base, os.path.join(out_dir, f'{name}_curve'))
            else:
                result = compare(items, base)
            note = f' (background {backgrounds[name]:.2f})' if name in backgrounds else ''
            logger.info(f'[SCORE] {name}: #Images: {known} mIoU: {result.miou:.4f} Acc: {result.acc:.4f}{note}')
            shares = result.miou, result.acc, *result.class_iou
            rows.append([name, known, *(f'{100 * value:.4f}' for value in shares)])
        text = io.StringIO()
        csv.writer(text, lineterminator='\n').writerows([['list', 'images', 'mIoU', 'Acc', *self._names(base)], *rows])
        lists.write(os.path.join(out_dir, 'scores.csv'), [text.getvalue()])
        self._show(out_dir, products, backgrounds, base)

    def _base(self):
        base = SemiBuilder(self.config).train_dataset
        return lists.named(self.files, base) if self.files else base

    def _names(self, base):
        return self.config.dic.get('class_names') or list(range(base.num_classes))

    def _best(self, items, base, path):
        """Scores at the best background, and that; the curve is written."""
        curve = BackgroundCurve(base.num_classes, base.ignore_index)
        for product, truth in with_truth(items, base):
            classes, maps = read_maps(product)
            curve.add(classes, maps, read_mask(truth, maps.shape[1:]))
        curve.write(path, self._names(base))
        background, _ = curve.best()
        return max(curve.scores(), key=lambda scores: scores.miou), background

    def _show(self, out_dir, products, backgrounds, base):
        """All lists side by side, for images that are in all of them."""
        files = [dict(zip(lists.identities(image for image, _ in items), (file for _, file in items)))
                 for items in products.values()]
        images = [image for image in files[0] if all(image in other for other in files)]
        truth = dict(with_truth([(image, image) for image in images], base))

        def line(image):
            photo = read_image(image)
            labels = [self._label(by_image[image], base, backgrounds.get(name, 0.26))
                      for name, by_image in zip(products, files)]
            if image in truth:
                labels.append(read_mask(truth[image]))
            return [photo, *map(pictures.colors, labels)]

        if images:
            contact_sheet(out_dir, [(image,) for image in images if not truth or image in truth],
                          ['image', *products, *(['truth'] if truth else [])], line)

    @staticmethod
    def _label(file, base, background):
        if file.endswith('.npz'):
            return label_of(*read_maps(file), base.num_classes, background)
        return read_mask(file)
