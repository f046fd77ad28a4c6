"""Semi- and weakly-supervised semantic segmentation on PaddleSeg.

Importing this package alone costs nothing. Its components are in PaddleSeg's registries (models, backbones, losses,
transforms, data sets) and its own (`METHODS`, `STAGES`, `STREAMS`) as soon as recipes, training, evaluation or
deployment are imported, or after :func:`register`.
"""

import importlib
import zlib  # noqa: F401  Paddle 2.6 carries a private zlib; Python's has to be loaded before it

__version__ = '0.1.0'


def register():
    """Repairs PaddleSeg, see `compat`, and fills the registries; for who uses the components by PaddleSeg's own tools.
    Doing it twice is doing it once."""
    importlib.import_module('paddleseg_semi.components')
