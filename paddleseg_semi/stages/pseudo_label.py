"""A trained network labels images."""

import math
import os

import paddle
import paddle.distributed as dist
from paddleseg.transforms import Compose
from paddleseg.utils import logger

from paddleseg_semi.core import parallel
from paddleseg_semi.core.journal import listed
from paddleseg_semi.core.metrics import confusion_matrix, scores
from paddleseg_semi.core.predict import label
from paddleseg_semi.core.testing import Testing
from paddleseg_semi.datasets import lists
from paddleseg_semi.datasets.extra import write_list
from paddleseg_semi.errors import InputError
from paddleseg_semi.registries import STAGES
from paddleseg_semi.stages.images import read_mask
from paddleseg_semi.stages.trained import TrainedRun


@STAGES.add_component
class PseudoLabel:
    """Labels images with a trained network, at several scales and mirrored. Images that have their mask are skipped, so
    a killed run goes on where it was.

    Products: masks/ (palette PNGs of the images' sizes, a class in every pixel) and list.txt ('image mask' per line;
    with this folder as dataset_root, an ordinary PaddleSeg data set).

    Args:
        model (str): a checkpoint folder (best_model or iter_N) of a training run, or the run's, for its newest one.
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
                base = labeler.builder.train_dataset
                result, known = compare(items, base), len(with_truth(items, base))
                logger.info(f'[ORACLE] {known} of {len(items)} pseudo masks have a true one: mIoU: {result.miou:.4f} '
                            f'Acc: {result.acc:.4f}')


def compare(items, base):
    """Scores masks against the true ones.

    Args:
        items (list[tuple[str, str]]): image and mask.
        base (paddle.io.Dataset): a PaddleSeg data set with true masks.

    Returns:
        Scores: see `core.metrics`.
    """
    matrix = paddle.zeros([base.num_classes, base.num_classes], dtype='int64')
    for pred, truth in with_truth(items, base):
        pred = read_mask(pred)
        label = read_mask(truth, pred.shape)
        matrix += confusion_matrix(paddle.to_tensor(pred), paddle.to_tensor(label), base.num_classes, base.ignore_index)
    return scores(matrix)


def with_truth(items, base):
    """list[tuple[str, str]]: of images and their files, the files and true masks of images that have one in `base`."""
    true_mask = dict(zip(lists.identities(item[0] for item in base.file_list), (item[1] for item in base.file_list)))
    known = zip(lists.identities(image for image, _ in items), (file for _, file in items))
    return [(file, true_mask[image]) for image, file in known if true_mask.get(image)]


def check_scales(scales):
    """list[float]: the scales; InputError unless all are numbers above 0."""
    if not isinstance(scales, (list, tuple)) or not scales or not all(
            isinstance(scale, (int, float)) and 0 < scale < math.inf for scale in scales):
        raise InputError(f'scales: {scales}: give a list of numbers above 0.')
    return [float(scale) for scale in scales]


class Labeler(TrainedRun):
    """The network of a training run, and how its evaluation sees an image.

    Args:
        checkpoint (str): one of its folders; the run's config.yml beside it says how images are read.

    Raises:
        InputError: weights or config.yml are not there, or the recipe has no val_dataset.
    """

    def __init__(self, checkpoint):
        super().__init__(checkpoint)
        if not self.config.val_dataset_cfg:
            raise InputError(f'{self.recipe}: has no val_dataset, whose transforms an image passes before the network.')

    def images(self, files):
        """list[str]: paths of the images in a list or folder."""
        return lists.raw_images(files, self.root)

    def label(self, images, folder, scales=(1.0,), flip=False):
        """Writes the masks of images below a folder, under the images' names below dataset_root. Images that cannot be
        read are passed over, and listed.

        Returns:
            list[tuple[str, str]]: image and mask, on all ranks when all masks are written.

        Raises:
            InputError: no image can be read.
        """
        items = [(image, os.path.join(folder, name + '.png')) for image, name in zip(images, self.names(images))]
        val = self.config.val_dataset_cfg
        transforms = Compose(self.builder.val_transforms, img_channels=val.get('img_channels', 3))
        logger.info(f'Labeling {len(items)} images with {self.weights}; masks: {folder}')
        unreadable = label(self.network(), transforms, items, Testing.of(self.config.test_config), scales=scales,
                           flip=flip)
        parallel.barrier()
        unreadable = parallel.merged(unreadable)
        if len(unreadable) == len(items):
            raise InputError(f'{unreadable[items[0][0]]} None of {len(items)} images can be labeled.')
        for line in listed(unreadable, 'they are left out'):
            logger.warning(line)
        return [item for item in items if item[0] not in unreadable]
