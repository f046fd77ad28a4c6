"""Kinds of endless input, a file each. Importing fills STREAMS."""

from paddleseg_semi.datasets.streams.image_level import ImageLevel
from paddleseg_semi.datasets.streams.labeled import Labeled
from paddleseg_semi.datasets.streams.scored import Scored
from paddleseg_semi.datasets.streams.unlabeled import Again, Unlabeled

__all__ = ['Again', 'ImageLevel', 'Labeled', 'Scored', 'Unlabeled']
