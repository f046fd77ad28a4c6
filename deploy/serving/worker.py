"""What runs in the service's second process; see paddleseg_semi/deploy/worker.py."""


class Sliding:
    """A backend that slides a window over photos: uint8 [N, h, w, 3] BGR, or [N, h, w] gray → classes [N, h, w]."""

    def __init__(self, bundle, backend, window, batch_size):
        self.bundle, self.backend, self.window, self.batch_size = bundle, backend, window, batch_size

    def run(self, photos):
        from paddleseg_semi.deploy.windows import slide
        return [slide(self.bundle, self.backend.run, photo, self.window, self.batch_size)[0] for photo in photos]


def load(config, device, threads, tune, engine, precision, window, batch_size):
    """Sets the device up and makes the backend of a deploy.yaml; with a `window` it slides."""
    from paddleseg_semi.deploy.backends import PaddleBackend
    from paddleseg_semi.deploy.bundle import Bundle
    from paddleseg_semi.runtime import set_device, tune_cpu
    device, bundle = set_device(device), Bundle.read(config)
    tune_cpu(threads, tune)
    backend = PaddleBackend(bundle, device, threads, engine, precision)
    return Sliding(bundle, backend, window, batch_size) if window else backend
