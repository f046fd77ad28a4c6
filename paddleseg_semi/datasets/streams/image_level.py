"""Images with tags: which classes they show."""

import hashlib

import numpy as np

from paddleseg_semi.datasets.streams.base import Kind, Stream, apply, channels_first, read_image, read_mask
from paddleseg_semi.datasets.streams.loading import seeded
from paddleseg_semi.datasets.tags import add_to_report, label_maps, read_tags
from paddleseg_semi.errors import InputError
from paddleseg_semi.registries import STREAMS
from paddleseg_semi.transforms.boundary import boundary_maps


@STREAMS.add_component
class ImageLevel(Kind):
    """All training images with the tags of `semi.tags`, and with boundaries if there is `semi.boundary`; see
    `ImageLevelStream`."""

    keys = {'tags': 'text', 'boundary': 'text'}

    def check(self, semi, method):
        if not semi.get('tags'):
            raise InputError(f'{method} needs image-level labels: set semi.tags to "masks", to a list "image class '
                             'class …" or to a folder of XML files.')

    def dataset(self, data):
        base, boundary = data.base, data.once(boundary_labels)
        return ImageLevelStream([item[0] for item in base.file_list] * data.repeats,
                                np.tile(data.once(tags), (data.repeats, 1)), base.transforms.transforms, data.channels,
                                boundary and [item[1] for item in boundary.file_list] * data.repeats)

    def sets(self, data):
        boundary = data.once(boundary_labels)
        if boundary:
            yield {'base': boundary, 'name': 'boundary'}

    def report(self, report, data):
        add_to_report(report, data.semi['tags'], data.base, data.class_names)

    def identity(self, data):
        return {'tags': hashlib.sha256(data.once(tags).tobytes()).hexdigest()}

    def inputs(self, data):
        return [np.argwhere(data.once(tags)).tolist()], []


def tags(data):
    """np.ndarray: [N, C-1] float32, the classes that the training images show; see `read_tags`."""
    return read_tags(data.semi['tags'], data.base, data.class_names)


def boundary_labels(data):
    """SimpleNamespace: the label maps of `semi.boundary`, see `label_maps`; None without."""
    return label_maps(data.semi['boundary'], data.base) if data.semi.get('boundary') else None


class ImageLevelStream(Stream):
    """Images with tags: which classes they show.

    Sample: img [3, H, W] float32; tags [C-1] float32 of 0 and 1 (column c - 1 is class c); if there are label maps,
    boundary [C, H, W] float32, 0..1, where their classes end.

    Args:
        files (Sequence[str]): N image paths.
        tags (np.ndarray): [N, C-1] float32.
        transforms (list): what images pass, with their maps of boundaries; see `transforms/boundary.py`.
        channels (int): 1 or 3.
        boundary (Sequence[str], optional): N label maps (PNG), 255 where unknown.
    """

    def __init__(self, files, tags, transforms, channels=3, boundary=None):
        super().__init__()
        self.files, self.tags, self.transforms, self.channels = files, tags, transforms, channels
        self.boundary = boundary

    def __len__(self):
        return len(self.files)

    def path(self, index):
        return self.files[index]

    def _read(self, index, seed):
        data = {'img': read_image(self.files[index], self.channels), 'trans_info': [], 'gt_fields': []}
        if self.boundary:
            label = read_mask(self.boundary[index], data['img'], 'Make it again.')
            data.update(boundary=boundary_maps(label, self.tags.shape[1] + 1), gt_fields=['boundary'])
        with seeded(seed):
            data = apply(self.transforms, data)
        return {**{key: channels_first(data[key]) for key in ('img', *data['gt_fields'])}, 'tags': self.tags[index]}
