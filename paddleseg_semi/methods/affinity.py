"""AffinityNet (Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly Supervised
Semantic Segmentation", CVPR 2018)."""

import paddle

from paddleseg_semi.datasets.streams import Scored
from paddleseg_semi.errors import InputError
from paddleseg_semi.losses.affinity import affinity_losses, pair_sets
from paddleseg_semi.methods.base import Method
from paddleseg_semi.models.affinity import affinities, from_sources, half_disk
from paddleseg_semi.ranges import WEIGHT, Range
from paddleseg_semi.registries import METHODS


@METHODS.add_component
class Affinity(Method):
    """Where a CRF is sure of the labels of two pixels near each other, the network learns whether they are the same.

    Args:
        task (Task): what is to be learned; its model gives features at an eighth of the size, as `AffinityNet` does.
        radius (int): pixels of a pair are less than this far apart, in cells of 8x8 pixels.
        bg_weight, same_weight, diff_weight (float): of pairs in the background, of one class, of two.
    """

    renamed = {'weight_background': 'bg_weight', 'weight_same': 'same_weight', 'weight_different': 'diff_weight'}
    streams = {'scored': Scored()}
    ranges = {'radius': Range(2, whole=True), 'bg_weight': WEIGHT, 'same_weight': WEIGHT, 'diff_weight': WEIGHT}

    def __init__(self, task, radius=5, bg_weight=0.25, same_weight=0.25, diff_weight=0.5):
        super().__init__(task)
        self.radius, self.steps = radius, half_disk(radius)
        self.weights = bg_weight, same_weight, diff_weight

    def step(self, batch, clock):
        img, label = batch['scored']['img'], batch['scored']['label']                       # [N, h, w]
        feature = self.model(img)[0]                                                        # [N, D, h, w]
        self._check(*(list(each.shape[-2:]) for each in (img, feature, label)))
        at = from_sources(label, self.steps)
        source, target = at(0, 0).unsqueeze(1), paddle.stack([at(*step) for step in self.steps], axis=1)
        sets = pair_sets(source, target)                                                    # [N, P, h', w']
        terms = affinity_losses(affinities(feature, self.steps), *sets)
        losses = {name: weight * term for name, weight, term in zip(('bg', 'same', 'diff'), self.weights, terms)}
        return losses, {'kept': sum(kind.astype('float32').mean() for kind in sets)}

    def _check(self, crop, features, cells):
        if features != cells:
            raise InputError(f'model: a crop of {crop} gives features of {features}, not {cells}. Choose a backbone '
                             'and backbone_indices with output stride 8.')
        if min(cells) < 2 * self.radius - 1:
            raise InputError(f'method.radius: {self.radius}: nothing in a crop of {crop} sees that far to all sides. '
                             f'Take crops of at least {8 * (2 * self.radius - 1)} pixels.')
