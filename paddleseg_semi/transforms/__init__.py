"""Views and mixtures of images. Importing fills PaddleSeg's TRANSFORMS."""

from paddleseg_semi.transforms import boundary, cutout, geometry, intensity, strong  # noqa: F401
