"""A trained network labels images."""

import os

import numpy as np
import paddle
import paddle.distributed as dist
from paddleseg.transforms import Compose
from paddleseg.utils import logger
from PIL import Image

from paddleseg_semi.core import parallel
from paddleseg_semi.core.checkpoint import MODEL
from paddleseg_semi.core.common import digest
from paddleseg_semi.core.metrics import confusion_matrix, scores
from paddleseg_semi.core.predict import label
from paddleseg_semi.cvlibs import SemiBuilder, SemiConfig
from paddleseg_semi.cvlibs.manager import STAGES
from paddleseg_semi.datasets import lists
from paddleseg_semi.datasets.extra import write_list
from paddleseg_semi.errors import InputError


@STAGES.add_component
class PseudoLabel:
    """Labels images with a trained network, at several scales and mirrored. Images that have their mask are skipped, so
    a killed run goes on where it was.

    Products: masks/ (palette PNGs of the images' sizes, a class in every pixel) and list.txt ('image mask' per line;
    with this folder as dataset_root, an ordinary PaddleSeg data set).

    Args:
        model (str): a checkpoint folder (best_model or iter_N) of a training run.
        files (str): the images: a folder, or a list of paths relative to the dataset_root of that run.
        scales (list[float]): of the image as evaluation sees it.
        flip (bool): mirrored as well.
        oracle (bool): log how good the masks are, on images whose true mask the training set of that run lists.
    """

    def __init__(self, model, files, scales=(0.5, 0.75, 1.0, 1.5, 2.0), flip=True, oracle=False):
        self.model, self.files, self.scales, self.flip = model, files, check_scales(scales), flip
        self.oracle = oracle

    def inputs(self):
        labeler = Labeler(self.model)
        return [labeler.inputs(), labeler.images(self.files), self.scales, self.flip]

    def run(self, out_dir):
        labeler = Labeler(self.model)
        items = labeler.label(labeler.images(self.files), os.path.join(out_dir, 'masks'), self.scales, self.flip)
        if dist.get_rank() == 0:
            write_list(os.path.join(out_dir, 'list.txt'), items, out_dir)
            if self.oracle:
                _compare(items, labeler.builder.train_dataset)


def _compare(items, base):
    """Logs the scores of pseudo masks against the true ones."""
    truth = {image: mask for image, mask in base.file_list if mask}
    known = [(truth[image], mask) for image, mask in items if image in truth]
    matrix = paddle.zeros([base.num_classes, base.num_classes], dtype='int64')
    for pair in known:
        label, pred = (paddle.to_tensor(np.array(Image.open(path), 'int64')) for path in pair)
        matrix += confusion_matrix(pred, label, base.num_classes, base.ignore_index)
    result = scores(matrix)
    logger.info(f'[ORACLE] {len(known)} of {len(items)} pseudo masks have a true one: mIoU: {result.miou:.4f} '
                f'Acc: {result.acc:.4f}')


def check_scales(scales):
    """list[float]: the scales; InputError unless all are numbers above 0."""
    if not isinstance(scales, (list, tuple)) or not scales or not all(
            isinstance(scale, (int, float)) and scale > 0 for scale in scales):
        raise InputError(f'scales: {scales}: give a list of numbers above 0.')
    return [float(scale) for scale in scales]


class Labeler:
    """The network of a training run.

    Args:
        checkpoint (str): one of its folders; the run's config.yml beside it says how images are read.

    Raises:
        InputError: weights or config.yml are not there, or the recipe has no val_dataset.
    """

    def __init__(self, checkpoint):
        self.weights = os.path.join(checkpoint, MODEL)
        recipe = os.path.join(os.path.dirname(os.path.normpath(checkpoint)), 'config.yml')
        for path in (self.weights, recipe):
            if not os.path.isfile(path):
                raise InputError(f'{path}: no such file. Give a checkpoint folder of a training run, '
                                 'such as output/best_model.')
        self.config = SemiConfig(recipe)
        if not self.config.val_dataset_cfg:
            raise InputError(f'{recipe}: has no val_dataset, whose transforms an image passes before the network.')
        self.builder = SemiBuilder(self.config)
        self.root = lists.root_of(self.builder.train_dataset)

    def inputs(self):
        """list: what its masks depend on, as JSON takes it."""
        return [self.config.dic, digest([self.weights])]

    def images(self, files):
        """list[str]: paths of the images in a list or folder."""
        return lists.raw_images(files, self.root)

    def label(self, images, folder, scales=(1.0,), flip=False):
        """Writes the masks of images below a folder, under the images' names below dataset_root.

        Returns:
            list[tuple[str, str]]: image and mask, on all ranks when all masks are written.
        """
        items, taken = [], {}
        for image in images:
            name = os.path.splitext(os.path.normpath('/' + lists.relative(image, self.root)))[0][1:]  # no way up
            if taken.setdefault(name, image) != image:
                raise InputError(f'{taken[name]} and {image} would both get the mask {name}.png. Rename one.')
            items.append((image, os.path.join(folder, name + '.png')))
        model = self.builder.new_model()
        self.builder.load_weights(model, self.weights)
        val, test = self.config.val_dataset_cfg, self.config.test_config
        transforms = Compose(self.builder.val_transforms, img_channels=val.get('img_channels', 3))
        keys = ('is_slide', 'crop_size', 'stride', 'size_divisor', 'average_probs')
        logger.info(f'Labeling {len(items)} images with {self.weights}; masks: {folder}')
        label(model, transforms, items, scales, flip, **{key: test[key] for key in keys if key in test})
        parallel.barrier()
        return items
