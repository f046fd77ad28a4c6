"""Training algorithms. Importing fills METHODS."""

from paddleseg_semi.methods import advsemiseg, supervised  # noqa: F401
