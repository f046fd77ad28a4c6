"""Evaluation: PaddleSeg's `evaluate`, over one confusion matrix that stays on the device."""

import numpy as np
import paddle
import paddle.distributed as dist
from paddleseg.utils import logger

from paddleseg_semi.core.common import progress_bar
from paddleseg_semi.core.metrics import Roc, confusion_matrix
from paddleseg_semi.core.report import Measured
from paddleseg_semi.core.testing import Testing
from paddleseg_semi.datasets.streams.loading import end_with_parent
from paddleseg_semi.errors import InputError
from paddleseg_semi.models.modes import evaluating


def evaluate(model, eval_dataset, testing=None, print_detail=True, names=None, say=logger.info, **options):
    """As PaddleSeg's: evaluates a segmenter and says how well it does.

    Args:
        model, eval_dataset, testing, **options: as :func:`measure`.
        print_detail (bool): log progress and the [EVAL] lines.
        names (list[str], optional): of the classes; then there is an [EVAL] line that has them.
        say (Callable): takes each line.

    Returns:
        tuple: miou (float), acc (float), class_iou [C], class_precision [C], kappa (float).
    """
    measured = measure(model, eval_dataset, testing, show=print_detail, **options)
    if print_detail:
        for line in measured.lines(names):
            say(line)
    result = measured.scores
    return result.miou, result.acc, result.class_iou, result.class_precision, result.kappa


def measure(model, eval_dataset, testing=None, precision='fp32', num_workers=0, show=True, auc_roc=False):
    """Evaluates a segmenter on images of any size, and leaves it in the mode it was in.

    With several ranks each takes every nranks-th image; the sums are added once, at the end.

    Args:
        model (nn.Layer): returns a list of logits, the main one [N, C, H, W] first.
        eval_dataset (paddle.io.Dataset): a PaddleSeg data set in mode 'val'.
        testing (Testing, optional): scales, flips, windows. Default: the image as it is.
        precision (str): 'fp16' and 'bf16' evaluate under auto_cast.
        num_workers (int): processes that read images.
        show (bool): log progress.
        auc_roc (bool): find the area under the ROC curve as well: mean over the classes present, one against the rest.

    Returns:
        Measured: the counts of all ranks.

    Raises:
        InputError: an image or its mask cannot be used, or the network has more classes than the data set.
    """
    num_classes, ignore = eval_dataset.num_classes, eval_dataset.ignore_index
    if dist.get_world_size() > 1 and not dist.is_initialized():
        dist.init_parallel_env()
    rank, nranks = dist.get_rank(), dist.get_world_size()
    images = _Shard(eval_dataset, rank, nranks)
    loader = paddle.io.DataLoader(images, batch_size=1, num_workers=num_workers,
                                  worker_init_fn=end_with_parent)
    testing = testing or Testing()
    amp = {'enable': precision != 'fp32', 'dtype': 'bfloat16' if precision == 'bf16' else 'float16',
           'custom_black_list': {'bilinear_interp_v2'},
           'custom_white_list': {'elementwise_add', 'batch_norm', 'sync_batch_norm'}}
    matrix, right = paddle.zeros([num_classes, num_classes], dtype='int64'), []
    roc = Roc(num_classes, ignore) if auc_roc else None
    if show:
        logger.info(f'Start evaluating (total_samples: {len(eval_dataset)}, total_iters: {len(loader)})...')
    bar = progress_bar(len(loader), show=show and rank == 0)
    with evaluating(model), paddle.no_grad():
        for i, data in enumerate(loader):
            if data['error'][0]:
                raise InputError(data['error'][0])
            label = data['label']
            with paddle.amp.auto_cast(**amp):
                pred, logit = testing.infer(model, data['img'], data['trans_info'])
            if logit.shape[1] > num_classes or pred.shape[-2:] != label.shape[-2:]:
                raise InputError(f'{images.name(i)}: the network gives {list(logit.shape[1:])} (classes, height, '
                                 f'width), but the data set has {num_classes} classes and the mask is '
                                 f'{list(label.shape[-2:])} (height, width). Correct the one that is wrong.')
            counts = confusion_matrix(pred, label, num_classes, ignore)
            matrix += counts
            right.append(counts.trace().astype('float32') / counts.sum().astype('float32').clip(min=1))
            if roc:
                roc.add(logit.log() if testing.sums_probs else logit, label)
            bar.update(i + 1)
    if nranks > 1:
        dist.all_reduce(matrix)
    right = sorted(zip(images.positions, paddle.stack(right).tolist()), key=lambda item: item[1]) if right else []
    return Measured(len(eval_dataset), matrix.numpy(), roc.area() if roc else None, right)


class _Shard(paddle.io.Dataset):
    """Every nranks-th image. What cannot be read travels as text: an exception in a worker would lose its message."""

    def __init__(self, dataset, rank, nranks):
        self.dataset, self.positions = dataset, range(rank, len(dataset), nranks)

    def __len__(self):
        return len(self.positions)

    def __getitem__(self, i):
        try:
            data = self.dataset[self.positions[i]]
            label = np.asarray(data['label'], 'int64')  # Paddle takes numbers of 16 bits for bfloat16
            return {'img': data['img'], 'label': label, 'trans_info': data['trans_info'], 'error': ''}
        except Exception as error:  # whatever a transform or a decoder raises
            return {'img': np.zeros([3, 1, 1], 'float32'), 'label': np.zeros([1, 1, 1], 'int64'), 'trans_info': [],
                    'error': f'{self.name(i)}: the image or its mask {self.dataset.file_list[self.positions[i]][1]} '
                             f'cannot be used ({type(error).__name__}: {error}). Repair or unlist it.'}

    def name(self, i):
        return self.dataset.file_list[self.positions[i]][0]
