"""Networks. Importing fills PaddleSeg's registries."""

from paddleseg_semi.models import discriminator  # noqa: F401
