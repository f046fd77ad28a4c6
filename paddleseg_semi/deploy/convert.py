"""Exported segmenters as ONNX models."""

import os
import subprocess
import sys
from dataclasses import dataclass

import cv2
import numpy as np

from paddleseg_semi.deploy.backends import OnnxBackend, PaddleBackend
from paddleseg_semi.deploy.bundle import Bundle, derived
from paddleseg_semi.deploy.extras import require
from paddleseg_semi.deploy.segment import prepare
from paddleseg_semi.errors import InputError, RunError

TOLERANCE = 1e-3  # of the largest score, the same as an export's
_SIZES = (224, 320), (288, 256)  # of the patches, where a model takes any
_EQUAL = 0.999    # of the pixels, where all there is to compare are classes: two scores may be equal but for rounding


@dataclass(frozen=True)
class Agreement:
    """How far two models say the same.

    Attributes:
        difference (float, optional): the largest of scores, divided by the largest score; None where the models give
            classes.
        equal (float): share of the pixels with the same class, 0..1.
    """

    difference: float | None
    equal: float

    @property
    def holds(self):
        """bool: within the tolerance; what is no number never is."""
        return self.equal >= _EQUAL if self.difference is None else self.difference <= TOLERANCE

    def __str__(self):
        scores = '' if self.difference is None else f', scores differ by {self.difference:.1e} of the largest at most'
        return f'{100 * self.equal:.6g} % of the pixels have the same class{scores}'


def compare(run, other, batches):
    """Runs two models on the same batches.

    Args:
        run, other (Callable): batch → output, arrays.
        batches (Iterable[ndarray]): see :meth:`PaddleBackend.run`.

    Returns:
        Agreement: over all of them.
    """
    differences, equal = [], []
    for batch in batches:
        ours, theirs = run(batch), other(batch)
        if ours.ndim == 4:
            differences.append(np.abs(ours - theirs).max() / max(np.abs(ours).max(), 1e-12))
            ours, theirs = ours.argmax(1), theirs.argmax(1)
        equal.append((ours == theirs).mean())
    return Agreement(float(np.max(differences)) if differences else None, float(np.mean(equal)))


def sample_batches(bundle, photos):
    """Yields what a model takes of each photo, batches of one, or of as many as the export fixed.

    Args:
        bundle (Bundle): the exported segmenter.
        photos (list[str | ndarray]): paths, or uint8 [h, w, 3] BGR; without any, patches of color.

    Raises:
        InputError: the model was exported for another size.
    """
    n, channels, *sides = bundle.input_shape
    if not photos:
        patches = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3 if channels == 3 else 1)).astype('uint8')
        sizes = [[side if side > 0 else other for side, other in zip(sides, open_)] for open_ in _SIZES]
        photos = [cv2.resize(patch, (width, height)) for patch, (height, width) in zip(patches, sizes)]
    for photo in photos:
        try:
            yield prepare(bundle, photo, 'photo').img[None].repeat(max(n, 1), 0)
        except InputError as error:
            raise InputError(f'{photo if isinstance(photo, str) else "a patch of color"}: {error}.') from None


def to_onnx(config, save_dir, opset=17, photos=(), threads=1):
    """Converts an exported segmenter, and compares the results before they are kept.

    Args:
        config (str): its deploy.yaml.
        save_dir (str): where model.onnx and its deploy.yaml go.
        opset (int): version of the ONNX operators.
        photos (Sequence[str]): to compare both on; without any, patches of color.
        threads (int): of the CPU.

    Returns:
        Agreement: within the tolerance.

    Raises:
        InputError: see :func:`derived`; paddle2onnx or onnxruntime is not installed.
        RunError: the network cannot be converted, or the converted one says something else.
    """
    for name in ('onnx', 'onnxruntime'):
        require(name, 'onnx')
    bundle = Bundle.read(config)
    paddle = PaddleBackend(bundle, threads=threads)  # here, so that an ONNX model is refused before anything is written
    with derived(config, save_dir, model='model.onnx', params=None) as folder:
        _convert(bundle, os.path.join(folder, 'model.onnx'), opset)
        try:
            onnx = OnnxBackend(Bundle.read(os.path.join(folder, 'deploy.yaml')), threads)
        except RunError as error:
            raise RunError(str(error).replace(folder, save_dir) + _remedy(bundle)) from None
        found = compare(paddle.run, onnx.run, sample_batches(bundle, photos))
        if not found.holds:
            raise RunError(f'{save_dir}: not written, because the ONNX model says something else than {bundle.model}: '
                           f'{found}.{_remedy(bundle)}')
    return found


def _convert(bundle, path, opset):
    """In a process of its own: for some operators paddle2onnx ends the process it runs in."""
    folder, model = os.path.split(bundle.model)
    # Its other tools for optimizing try to install packages meanwhile, or fail; ONNX Runtime optimizes by itself.
    done = subprocess.run([sys.executable, '-m', 'paddle2onnx.command', '--model_dir', folder or '.',
                           '--model_filename', model, '--params_filename', os.path.basename(bundle.params),
                           '--save_file', path, '--opset_version', str(opset), '--optimize_tool', 'None'],
                          capture_output=True, text=True, errors='replace')
    if done.returncode or not os.path.isfile(path):
        raise RunError(f'{bundle.model}: paddle2onnx cannot convert it ({_reason(done)}).{_remedy(bundle)}')


def _remedy(bundle):
    return ' An export with --input_shape N C H W may help.' if -1 in bundle.input_shape else ''


def _reason(done):
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
    told = [line for line in lines if 'not supported' in line or 'Error: ' in line or '[ERROR]' in line]
    return told[0] if told else f'it ended with code {done.returncode}'
