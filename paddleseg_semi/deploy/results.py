"""What inference writes. A writer has `make(photo)`, which any thread may call; `add(made)`, called for one photo after
the other with what `make` gave; and `close()` at the end. Paths are relative to the folder of the results."""

import json
import os
import shutil
import tempfile

import cv2
import numpy as np

from paddleseg_semi import files
from paddleseg_semi.core.common import blended, make_folder, save_bytes, save_mask, save_picture
from paddleseg_semi.deploy.polygons import area, outlines
from paddleseg_semi.errors import InputError, RunError

_BACKGROUND = ('background', '_background_')  # no object, so no polygons


class Writer:
    """Base class.

    Attributes:
        needs_pixels (bool): `make` looks at the photo itself.
        subfolder (str): where below the folder of the results it writes.
    """

    needs_pixels = False
    subfolder = ''

    def __init__(self, bundle, folder):
        self.bundle, self.folder = bundle, folder

    def make(self, photo):
        """Photo → anything."""
        raise NotImplementedError

    def add(self, made):
        """Takes what `make` gave, in the order of the run."""

    def close(self):
        """Ends a run that was not broken off."""


class Masks(Writer):
    """`<name>.png`: palette PNG whose pixel values are the classes."""

    def make(self, photo):
        save_mask(photo.classes, os.path.join(self.folder, f'{photo.name}.png'), self.bundle.palette)


class Overlays(Writer):
    """`added_prediction/<name>.<as the photo>`: the photo with the colors of the classes over it."""

    needs_pixels = True
    subfolder = 'added_prediction'

    def make(self, photo):
        picture = blended(photo.pixels, photo.classes, self.bundle.palette, self.bundle.unpainted)
        save_picture(picture, os.path.join(self.folder, self.subfolder, photo.name), os.path.splitext(photo.path)[1])


class OverlayVideo(Writer):
    """`added_prediction/<name>.mp4`: the overlays of a video's frames."""

    needs_pixels = True
    subfolder = Overlays.subfolder

    def __init__(self, bundle, folder, name, fps):
        super().__init__(bundle, folder)
        self.path, self.fps, self.video = os.path.join(folder, self.subfolder, f'{name}.mp4'), fps, None

    def make(self, photo):
        return blended(photo.pixels, photo.classes, self.bundle.palette, self.bundle.unpainted)

    def add(self, made):
        if self.video is None:
            make_folder(os.path.dirname(self.path))
            height, width = made.shape[:2]
            codec = cv2.VideoWriter_fourcc(*'mp4v')
            self.video = cv2.VideoWriter(f'{self.path}.tmp.mp4', codec, self.fps, (width, height))
            if not self.video.isOpened():
                raise RunError(f'{self.path}: this OpenCV cannot write MP4.')
        self.video.write(made)

    def close(self):
        if self.video is not None:
            self.video.release()
            os.replace(f'{self.path}.tmp.mp4', self.path)


class Confidences(Writer):
    """`confidence/<name>.png`: the probability of the class, 0 to 1 as gray 0 to 255."""

    subfolder = 'confidence'

    def __init__(self, bundle, folder):
        super().__init__(bundle, folder)
        check_scores(bundle, '--save_conf')

    def make(self, photo):
        png = cv2.imencode('.png', np.rint(255 * photo.conf).astype('uint8'))[1]
        save_bytes(png, os.path.join(self.folder, self.subfolder, f'{photo.name}.png'))


class Polygons(Writer):
    """Base class of what writes polygons; see :func:`outlines`. The class `background` has none."""

    def __init__(self, bundle, folder, tolerance=0.0):
        super().__init__(bundle, folder)
        self.tolerance, self.names = tolerance, bundle.class_names or []
        self.skip = {number for number, name in enumerate(self.names) if name.lower() in _BACKGROUND}

    def name(self, number):
        """str: of a class."""
        return self.names[number] if number < len(self.names) else f'class {number}'

    def outlines(self, photo):
        """The polygons of a photo: class, ring [K, 2]."""
        return outlines(photo.classes, self.skip, self.tolerance)


class Labelme(Polygons):
    """`labelme/<name>.json`: a file per photo, as the program labelme writes and opens it."""

    subfolder = 'labelme'

    def make(self, photo):
        path = os.path.join(self.folder, self.subfolder, f'{photo.name}.json')
        height, width = photo.classes.shape
        shapes = [{'label': self.name(number), 'points': ring.tolist(), 'group_id': None, 'shape_type': 'polygon',
                   'flags': {}} for number, ring in self.outlines(photo)]
        text = json.dumps({'version': '5.0.1', 'flags': {}, 'shapes': shapes,
                           'imagePath': os.path.relpath(photo.path, os.path.dirname(path)), 'imageData': None,
                           'imageHeight': height, 'imageWidth': width})
        save_bytes(text.encode(), path)


class Coco(Polygons):
    """`annotations.json`: one file of COCO's form for all photos. A category's id is the class; an image's id is its
    place among the photos."""

    def __init__(self, bundle, folder, tolerance=0.0):
        super().__init__(bundle, folder, tolerance)
        self.images, self.numbers, self.count = [], set(range(len(self.names))) - self.skip, 0
        self.lines = tempfile.TemporaryFile('w+', encoding='utf-8')  # noqa: SIM115  annotations may be many

    def make(self, photo):
        height, width = photo.classes.shape
        image = {'id': photo.index, 'file_name': photo.name + os.path.splitext(photo.path)[1], 'height': height,
                 'width': width}
        return image, [{'image_id': photo.index, 'category_id': number, 'iscrowd': 0, 'area': area(ring),
                        'bbox': [*ring.min(0), *np.ptp(ring, axis=0)], 'segmentation': [ring.ravel().tolist()]}
                       for number, ring in self.outlines(photo)]

    def add(self, made):
        image, annotations = made
        self.images.append(image)
        for annotation in annotations:
            self.lines.write(',\n' if self.count else '\n')
            self.count += 1
            self.numbers.add(annotation['category_id'])
            json.dump({'id': self.count, **annotation}, self.lines)

    def close(self):
        categories = [{'id': number, 'name': self.name(number)} for number in sorted(self.numbers)]
        path = os.path.join(self.folder, 'annotations.json')
        self.lines.seek(0)
        with files.replacing(path) as part, open(part, 'w', encoding='utf-8') as file:
            file.write(f'{{"images": {json.dumps(self.images)},\n"categories": {json.dumps(categories)},\n'
                       '"annotations": [')
            shutil.copyfileobj(self.lines, file)
            file.write(']}\n')
        self.lines.close()


def check_scores(bundle, flag):
    """InputError where a flag needs scores and the model gives classes."""
    if bundle.output_op == 'argmax':
        raise InputError(f'{flag}: needs scores, but the model gives classes. Export it with --output_op none.')
