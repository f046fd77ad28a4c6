"""What runs in the service's second process; see paddleseg_semi/deploy/worker.py."""


class Sliding:
    """A backend that slides a window over photos: uint8 [N, h, w, 3] BGR, or [N, h, w] gray → classes [N, h, w]."""

    def __init__(self, bundle, backend, window, batch_size):
        self.bundle, self.backend, self.window, self.batch_size = bundle, backend, window, batch_size

    def run(self, photos):
        from paddleseg_semi.deploy.windows import slide
        return [slide(self.bundle, self.backend.run, photo, self.window, self.batch_size)[0] for photo in photos]


def load(config, device, threads, tune, engine, precision, window, batch_size):
    """Sets the device up and makes the backend of a deploy.yaml; with a `window` it slides. It has run once, so that a
    model that does not run is known before the service listens."""
    from paddleseg_semi.deploy.backends import PaddleBackend
    from paddleseg_semi.deploy.bundle import Bundle
    from paddleseg_semi.errors import InputError
    from paddleseg_semi.runtime import set_device, tune_cpu
    device, bundle = set_device(device), Bundle.read(config)
    tune_cpu(threads, tune)
    backend = PaddleBackend(bundle, device, threads, engine, precision)
    if window:
        backend = Sliding(bundle, backend, window, batch_size)
    try:
        backend.run(black_photo(bundle, window))
    except InputError as error:
        raise InputError(f'--config {config}: a photo {error}.') from None
    return backend


def black_photo(bundle, window):
    """ndarray: a batch of one."""
    import numpy as np

    from paddleseg_semi.deploy.segment import prepare, stack
    sides = window.crop_size[::-1] if window else [side if side > 0 else 256 for side in bundle.input_shape[2:]]
    photo = np.zeros([*sides, *[3] * (bundle.transforms.img_channels == 3)], 'uint8')
    return photo[None] if window else stack([prepare(bundle, photo, 'a black photo')])
