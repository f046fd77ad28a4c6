"""What several methods have in common: how unlabeled images are mixed, and a teacher that starts late."""

import paddle

from paddleseg_semi.datasets.streams import Again, Labeled, Unlabeled
from paddleseg_semi.errors import InputError, nearest
from paddleseg_semi.methods.base import Method
from paddleseg_semi.models.ema import EMA

PARTNERS = ('other', 'reversed', 'same')


def mixing_streams(partner, views=0, padding=False):
    """The streams of a method that mixes unlabeled images in pairs.

    Args:
        partner (str): 'other': the second image comes from an unlabeled stream shuffled on its own; 'reversed': image i
            of the batch is paired with image N - 1 - i; 'same': with another crop of itself.
        views (int, optional): strong views of an unlabeled image. Default: 0.
        padding (bool, optional): padding counts as image. Default: False.

    Returns:
        dict[str, Kind]: see `Method.streams`.
    """
    if partner not in PARTNERS:
        raise InputError(f'method.partner: {partner}: known are {", ".join(PARTNERS)}.{nearest(partner, PARTNERS)}')
    unlabeled = Unlabeled(views, padding)
    streams = {'labeled': Labeled(), 'unlabeled': unlabeled}
    second = {'other': unlabeled, 'same': Again()}
    return {**streams, 'mix': second[partner]} if partner in second else streams


def partner_batch(batch):
    """The batch that is mixed into the unlabeled one.

    Args:
        batch (dict[str, dict[str, Tensor]]): of the streams of :func:`mixing_streams`.

    Returns:
        dict[str, Tensor]: keys and shapes of `batch['unlabeled']`.
    """
    return batch['mix'] if 'mix' in batch else {key: value.flip(0) for key, value in batch['unlabeled'].items()}


def joined(labeled, unlabeled):
    """Labeled and unlabeled images as one batch: batch normalization sees both.

    Args:
        labeled (Tensor): [M, 3, H, W].
        unlabeled (Tensor): [N, 3, H, W].

    Returns:
        Tensor: [M + N, 3, H, W].
    """
    check_crops(labeled, unlabeled)
    return paddle.concat([labeled, unlabeled])


def check_crops(labeled, unlabeled):
    """InputError for labeled and unlabeled crops, [N, 3, H, W], of different sizes."""
    if labeled.shape[1:] != unlabeled.shape[1:]:
        raise InputError(f'labeled crops are {labeled.shape[2:]}, unlabeled ones {unlabeled.shape[2:]}, but go through '
                         'the network together. Give semi.unlabeled.weak the crop size of train_dataset.')


class LateTeacher(Method):
    """An averaged teacher that labels, and is deployed; at first it is an exact copy of the student.

    Args:
        task (Task): what is to be learned.
        conf_thresh (float): the teacher's probability, 0..1, from which a pixel trains.
        ema_decay (float): of the teacher, 0..1.
        teacher_start (int|float): until then it is a copy; in updates, or as a share of the run.
    """

    def __init__(self, task, conf_thresh, ema_decay, teacher_start):
        super().__init__(task)
        self.teacher = EMA(self.model, ema_decay, warmup=True, buffers='average')
        self.conf_thresh, self.teacher_start = conf_thresh, teacher_start

    @property
    def deployed(self):
        return self.teacher.net

    def after_update(self, clock):
        """The decay is 0 up to `teacher_start`, then min(1 - 1 / t, ema_decay) at update t after `start`."""
        following = clock.since(self.teacher_start) > 0
        self.teacher.update(self.model, max(clock.since(self.start) - 1, 0) if following else 0)

    def explain(self, unlabeled, clock):
        pseudo = self.pseudo_label(unlabeled['weak'], unlabeled['valid'], self.teacher.net)
        return pseudo, pseudo.sure(self.conf_thresh)
