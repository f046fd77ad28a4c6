"""What the trainer knows of a method, and the words methods share."""

from collections.abc import Callable
from typing import NamedTuple

import paddle
from paddle import nn
from paddleseg.core.train import loss_computation

from paddleseg_semi.datasets.streams import Labeled, Unlabeled
from paddleseg_semi.errors import InputError
from paddleseg_semi.methods.pseudo import Pseudo
from paddleseg_semi.models.modes import evaluating
from paddleseg_semi.ranges import Ranged


class Task(NamedTuple):
    """What is to be learned, whatever the method.

    Attributes:
        new_model (Callable): builds a freshly initialized PaddleSeg model of the recipe.
        losses (dict): PaddleSeg's {'types': [...], 'coef': [...]}, one per output of the model in train mode.
        num_classes (int): C.
        ignore_index (int): the label that counts nowhere.
        mean, std (tuple[float]): of the recipe's `Normalize`; images are (RGB / 255 - mean) / std.
        img_channels (int): of the images, 1 or 3.
    """

    new_model: Callable
    losses: dict
    num_classes: int
    ignore_index: int = 255
    mean: tuple = (0.5, 0.5, 0.5)
    std: tuple = (0.5, 0.5, 0.5)
    img_channels: int = 3


class Method(Ranged, nn.Layer):
    """A training algorithm: batch in, named weighted losses out.

    What must survive a restart is a sub-layer, a parameter or a buffer of the method; there is no other state.

    Args:
        task (Task): what is to be learned.

    Attributes:
        streams (dict[str, Kind]): name → kind of the streams a batch must hold. The first says how long an epoch is.
        start (int|float): labeled images only until then, in updates (500) or as a share of the run (0.15); a recipe
            sets it by `semi.start`.
        needs_evaluation (str, optional): the knob and its value by which `after_evaluation` decides on the training.
        renamed (dict): earlier names of knobs → those of today; (knob, value) → the value of today.
        ranges (dict[str, object]): keyword of the constructor → which values it takes, see `paddleseg_semi/ranges.py`.
            They are checked when a recipe is read, and when a method is made.
    """

    streams = {'labeled': Labeled(), 'unlabeled': Unlabeled()}
    start = 0
    needs_evaluation = None
    renamed = {}

    def __init__(self, task):
        super().__init__()
        self.model = task.new_model()
        self.sup_losses = task.losses
        self.num_classes, self.ignore_index = task.num_classes, task.ignore_index

    def step(self, batch, clock):
        """One batch.

        Args:
            batch (dict[str, dict[str, Tensor]]): stream → key → tensor, see `datasets/streams.py`.
            clock (Clock): for schedules and random draws.

        Returns:
            tuple[dict[str, Tensor], dict[str, Tensor]]: loss terms, weights included, whose sum is minimised; and
            statistics for the log. Scalars; a term that a step has not is not there.
        """
        return self.semi_step(batch, clock) if clock.reached(self.start) else self.labeled_step(batch, clock)

    def semi_step(self, batch, clock):
        """A step from `start` on; see `step`."""
        raise NotImplementedError

    def labeled_step(self, batch, clock):
        """A step before `start`: the terms of labeled images, and what a teacher needs to become one; see `step`."""
        return {'sup': self.supervised(batch['labeled'])}, {}

    def players(self):
        """dict[str, nn.Layer]: what is trained by an optimizer of its own."""
        return {'model': self.model}

    def after_update(self, clock):
        """Called after the optimizers' step, for EMA and other slow followers."""

    def expect(self, state):
        """Called before the state of a checkpoint is taken over: whoever grows makes room for it.

        Args:
            state (dict[str, np.ndarray]): of the whole method, under the names of `state_dict()`.
        """

    def after_evaluation(self, scores, clock):
        """Called on every rank after each evaluation of the deployed network, before the checkpoint is written.

        Args:
            scores (dict[str, float]): 'mIoU' and 'Acc' on the validation images.
            clock (Clock): now.
        """

    @property
    def deployed(self):
        """nn.Layer: the network that is evaluated, written to model.pdparams and exported."""
        return self.model

    def supervised(self, labeled, logits=None):
        """The loss on labeled images as PaddleSeg computes it: auxiliary heads, edges and mixed losses included.

        Args:
            labeled (dict[str, Tensor]): a batch of the labeled stream.
            logits (list[Tensor], optional): outputs of the model in train mode, if they are there already.

        Returns:
            Tensor: scalar.

        Raises:
            InputError: a loss that is not one number, or not as many losses as outputs.
        """
        logits = self.model(labeled['img']) if logits is None else logits
        if hasattr(self.model, 'loss_computation'):
            return sum(self.model.loss_computation(logits, self.sup_losses, labeled))
        if len(logits) != len(self.sup_losses['types']):
            raise InputError(f'loss: {len(self.sup_losses["types"])} losses for the {len(logits)} outputs of '
                             f'{type(self.model).__name__}. Give one coef per output.')
        terms = loss_computation(logits, labeled['label'], labeled.get('edge'), self.sup_losses)
        for loss, term in zip(self.sup_losses['types'], terms):
            if term.size != 1:
                raise InputError(f'loss: {type(loss).__name__} gives {list(term.shape)} numbers, not one. Take another '
                                 'loss, or leave it out.')
        return sum(terms)

    def pseudo_label(self, img, valid=None, net=None):
        """What a network in eval mode says about images, without gradient; its mode is restored.

        Args:
            img (Tensor): [N, 3, H, W].
            valid (Tensor, optional): [N, H, W], bool, False where a transform padded. Default: all True.
            net (nn.Layer, optional): default: the model.

        Returns:
            Pseudo: labels, probabilities and `valid`.
        """
        net = net or self.model
        with evaluating(net), paddle.no_grad():
            return Pseudo.of(net(img)[0], valid)

    def explain(self, unlabeled, clock):
        """What the method makes of a batch without masks, for the pictures.

        Args:
            unlabeled (dict[str, Tensor]): a batch of the unlabeled stream.
            clock (Clock): now.

        Returns:
            tuple[Pseudo, Tensor]: the pseudo labels, and which of them train: [N, H, W] bool.
        """
        pseudo = self.pseudo_label(unlabeled['weak'], unlabeled['valid'])
        return pseudo, pseudo.valid
