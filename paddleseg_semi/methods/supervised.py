"""Labeled images only: PaddleSeg's own training, and the baseline every method has to beat."""

from paddleseg_semi.datasets.streams import Labeled
from paddleseg_semi.methods.base import Method
from paddleseg_semi.registries import METHODS


@METHODS.add_component
class Supervised(Method):
    """Trains on the labeled stream alone; masks of the others are not used."""

    streams = {'labeled': Labeled()}

    def semi_step(self, batch, clock):
        return self.labeled_step(batch, clock)
