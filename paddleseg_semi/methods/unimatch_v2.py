"""UniMatch V2 (Yang, Zhao, Zhao, "Pushing the Limit of Semi-Supervised Semantic Segmentation", 2024)."""

import paddle

from paddleseg_semi.methods.fixmatch import FixMatch
from paddleseg_semi.models.tap import Tap, find_fork, new_probe
from paddleseg_semi.ranges import TEXT
from paddleseg_semi.registries import METHODS
from paddleseg_semi.runtime import to_device


@METHODS.add_component
class UniMatchV2(FixMatch):
    """A mean teacher labels the weak view; two strong views see it with complementary halves of the channels.

    Args:
        task (Task): what is to be learned.
        conf_thresh (float): probability, 0..1, from which a pixel trains on its pseudo label.
        sup_weight (float): of the loss on labeled images.
        strong_weight (float): of the loss on strong views, shared among them.
        feature_layer (str, optional): layer whose output loses channels. Default: the model's `backbone`, all of its
            levels; where it has none, the input of the classifier.
        box_prob, box_area, box_ratio, partner: of CutMix, see `FixMatch`.
        ema_decay (float): of the teacher, per update, after a start with min(1 - 1 / (t + 1), ema_decay).
        align_decay (float, optional): of an alignment, see `FixMatch`. Default: none.
    """

    views = 2
    ranges = {**FixMatch.ranges, 'feature_layer': TEXT}

    def __init__(self, task, conf_thresh=0.95, sup_weight=0.5, strong_weight=0.5, feature_layer=None, box_prob=0.5,
                 box_area=(0.02, 0.4), box_ratio=(0.3, 3.3333), partner='reversed', ema_decay=0.996,
                 align_decay=None):
        super().__init__(task, conf_thresh, sup_weight, strong_weight, box_prob, box_area, box_ratio, partner,
                         ema_decay, align_decay)
        self.fork = find_fork(self.model, task.num_classes, feature_layer, new_probe(channels=task.img_channels))

    def strong_pass(self, img, clock):
        def drop(level):
            pairs, axis = len(level) // 2, -1 if level.ndim == 3 else 1  # tokens [2N, L, C] or a map [2N, C, H, W]
            rng = clock.rng('channels')  # anew for each level: levels of the same width lose the same channels
            untouched = to_device(rng.permutation(pairs) < pairs // 2)
            alive = to_device(rng.random((pairs, level.shape[axis])) < 0.5)
            scale = complementary(alive, untouched).astype(level.dtype)
            return level * (scale.unsqueeze(1) if axis == -1 else scale.unsqueeze([2, 3]))

        with Tap(self.model, *self.fork, lambda features: paddle.utils.map_structure(drop, features)):
            return self.model(img)[0]


def complementary(alive, untouched):
    """Factors for the channels of two views: each is alive in exactly one of them, and twice as strong there.

    Args:
        alive (Tensor): [N, C], bool: in the first view.
        untouched (Tensor): [N], bool: pairs that keep all channels as they are.

    Returns:
        Tensor: [2N, C], float32, in {0, 1, 2}: first views, then second ones.
    """
    scale = paddle.concat([alive, ~alive]).astype('float32') * 2
    return paddle.where(paddle.concat([untouched] * 2).unsqueeze(1), paddle.ones_like(scale), scale)
