"""Reading recipes, and building what they say."""

import paddleseg_semi

paddleseg_semi.register()  # whatever uses PaddleSeg from here on uses it repaired, with all components

from paddleseg_semi.cvlibs.builder import SemiBuilder  # noqa: E402
from paddleseg_semi.cvlibs.config import SemiConfig  # noqa: E402

__all__ = ['SemiBuilder', 'SemiConfig']
