"""SBNet ("Learning Structure-Aware Semantic Segmentation with Image-Level Supervision", IJCNN 2021), over SEAM
(Wang et al., CVPR 2020)."""

import math

import paddle
import paddle.nn.functional as F

from paddleseg_semi.datasets.streams import ImageLevel
from paddleseg_semi.errors import InputError
from paddleseg_semi.losses.boundary import smoothness
from paddleseg_semi.losses.seam import hardest_distance, least_response
from paddleseg_semi.methods.base import Method
from paddleseg_semi.models.cam import competing, normalized, resize
from paddleseg_semi.models.sbnet import canny
from paddleseg_semi.ranges import POSITIVE, SWITCH, WEIGHT, Range
from paddleseg_semi.registries import METHODS


@METHODS.add_component
class SBNet(Method):
    """Class activation maps that follow their image when it shrinks, agree with themselves refined, and are smooth
    between class boundaries, which a branch learns to find.

    Without boundary maps in the batch this is SEAM: there is no `ct` and no `smooth`, and the branch is not trained.

    Args:
        task (Task): what is to be learned; its model is an `SBNet`.
        scale (float): of the second view, 0..1.
        ct_weight (float): of the boundaries.
        smooth_weight (float): of the smoothness, whose first and second order weigh 10 and 1.
        gate (float): how fast a boundary frees its pixels from smoothness.
        pool_share (float): of the pixels that have to respond to no class, 0..1.
        hard_share (float): of the differences between maps and refined maps that count, the largest, 0..1.
        reference_quirks (bool): as the published code, look for edges in the normalized image taken for bytes, and call
            an edge 255 instead of 1.
    """

    renamed = {'weight_ct': 'ct_weight', 'weight_smooth': 'smooth_weight'}
    streams = {'tagged': ImageLevel()}
    ranges = {**dict.fromkeys(['scale', 'pool_share', 'hard_share'], Range(0, 1, above=True)), 'ct_weight': WEIGHT,
              'smooth_weight': WEIGHT, 'gate': POSITIVE, 'reference_quirks': SWITCH}

    def __init__(self, task, scale=0.3, ct_weight=0.01, smooth_weight=1.0, gate=10.0, pool_share=0.25, hard_share=0.2,
                 reference_quirks=False):
        super().__init__(task)
        if not hasattr(self.model, 'maps'):
            raise InputError(f'model: {type(self.model).__name__}: the method SBNet trains the model SBNet. Give it a '
                             'backbone as docs/methods/sbnet.md says.')
        self.mean, self.std = task.mean, task.std
        self.scale, self.gate, self.pool_share, self.hard_share = scale, gate, pool_share, hard_share
        self.ct_weight, self.smooth_weight = ct_weight, smooth_weight
        self.reference_quirks = reference_quirks

    def step(self, batch, clock):
        tagged = batch['tagged']
        img, tags = tagged['img'], tagged['tags']                                           # [N, C-1], 0 or 1
        label = paddle.concat([paddle.ones_like(tags[:, :1]), tags], axis=1).unsqueeze([2, 3])  # [N, C, 1, 1]
        small, boundary = self._shrunk(img), tagged.get('boundary')
        edges = [None, None] if boundary is None else canny([img, small], self.mean, self.std, self.reference_quirks)
        cam_1, refined_1, edge_1 = self.model.maps(img, edges[0])                           # [N, C, H, W]
        cam_2, refined_2, edge_2 = self.model.maps(small, edges[1])                         # [N, C, h, w]

        map_1, fine_1 = (self._shrunk(normalized(maps)) * label for maps in (cam_1, refined_1))
        map_2, fine_2 = (normalized(maps) * label for maps in (cam_2, refined_2))
        losses = {'cls': (self._classify(cam_1, refined_1, tags) + self._classify(cam_2, refined_2, tags)) / 2,
                  'er': (map_1 - map_2)[:, 1:].abs().mean(),
                  'ecr': hardest_distance(fine_1, competing(map_2), self.hard_share)
                  + hardest_distance(fine_2, competing(map_1), self.hard_share)}
        if boundary is not None:
            views = (cam_1, edge_1, boundary), (cam_2, edge_2, self._shrunk(boundary))
            losses['ct'] = self.ct_weight * sum(
                F.binary_cross_entropy_with_logits(edge, truth * label) for _, edge, truth in views) / 2
            losses['smooth'] = self.smooth_weight * sum(
                smoothness(F.sigmoid(cam), truth, label, gate=self.gate) for cam, _, truth in views) / 2
        right = (cam_1.mean([2, 3])[:, 1:] > 0) == (tags > 0)
        return losses, {'tags_right': right.astype('float32').mean()}

    def _shrunk(self, maps):
        return resize(maps, [math.floor(side * self.scale) for side in maps.shape[2:]])

    def _classify(self, cam, refined, tags):
        said = F.binary_cross_entropy_with_logits(cam.mean([2, 3])[:, 1:], tags)
        return said + least_response(refined[:, 1:] * tags.unsqueeze([2, 3]), self.pool_share)
