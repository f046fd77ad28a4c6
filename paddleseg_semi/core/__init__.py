"""Training, evaluation, prediction and export."""

import paddleseg_semi

paddleseg_semi.register()  # whatever uses PaddleSeg from here on uses it repaired, with all components
