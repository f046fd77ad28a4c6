"""Everything that registers itself. Importing repairs PaddleSeg and fills the registries."""

from paddleseg_semi import compat

compat.apply()

from paddleseg_semi import datasets, losses, methods, models, stages, transforms  # noqa: E402, F401
