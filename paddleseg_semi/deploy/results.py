"""What inference writes."""

import os

from paddleseg_semi.core.common import save_mask


class MaskWriter:
    """One palette PNG per photo, whose pixel values are the classes: `<folder>/<name>.png`."""

    def __init__(self, bundle, folder):
        self.palette, self.folder = bundle.palette, folder

    def write(self, name, classes):
        """Args: name (str): of the photo. classes (ndarray): uint8 [h, w]."""
        save_mask(classes, os.path.join(self.folder, f'{name}.png'), self.palette)
