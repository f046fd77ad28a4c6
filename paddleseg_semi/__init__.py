"""Semi- and weakly-supervised semantic segmentation on PaddleSeg.

Importing this package fills PaddleSeg's registries (models, backbones, losses, transforms, data sets) and the
two of its own, `METHODS` and `STAGES`.
"""

import zlib  # noqa: F401  Paddle 2.6 carries a private zlib; Python's has to be loaded before it

from paddleseg_semi import compat

compat.apply()

from paddleseg_semi import datasets, losses, methods, models, stages, transforms  # noqa: F401

__version__ = '0.1.0'
