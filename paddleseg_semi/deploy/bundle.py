"""What tools/export.py wrote, read back."""

import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass

import yaml
from paddleseg.cvlibs import manager
from paddleseg.deploy.infer import DeployConfig
from paddleseg.transforms import Compose
from paddleseg.utils import NoAliasDumper

import paddleseg_semi.transforms  # noqa: F401  registers ours
from paddleseg_semi import files, safe
from paddleseg_semi.core import palette
from paddleseg_semi.core.common import MOST_CLASSES, make_folder
from paddleseg_semi.errors import InputError, nearest
from paddleseg_semi.files import move_in

_REQUIRED = ('model', 'params', 'transforms')
_ENDINGS = {'model': ('.json', '.pdmodel', '.onnx'), 'params': ('.pdiparams',)}
_CHOICES = {'output_op': ('none', 'argmax', 'softmax'), 'input_dtype': ('float32', 'uint8')}  # the first if unsaid


@dataclass(frozen=True)
class Bundle:
    """An exported segmenter and all that is known about it.

    Attributes:
        folder (str): where deploy.yaml lies.
        model, params (str): paths of existing files; a model.onnx has no params.
        quantized (bool): the model computes in int8.
        transforms (Compose): what an image passes before the network.
        output_op (str): 'argmax': the model gives int32 classes [N, H, W]; 'softmax': float32 probabilities
            [N, C, H, W]; 'none': logits [N, C, H, W].
        input_shape (list[int]): N, C, H, W; -1 is any size.
        input_dtype (str): 'float32': the model takes [N, C, H, W] as the transforms leave it; 'uint8': RGB
            [N, H, W, C], and normalizes by itself.
        class_names (list[str], optional): of class 0, 1, …
        palette (list[int]): R G B of class 0, R G B of class 1, …: 768 numbers of 0..255.
        summary (dict): how the network was trained; may be empty.
    """

    folder: str
    model: str
    params: str | None
    quantized: bool
    transforms: Compose
    output_op: str
    input_shape: list
    input_dtype: str
    class_names: list | None
    palette: list
    summary: dict

    @property
    def unpainted(self):
        """tuple[int]: the classes that overlays leave as the photo is."""
        return palette.unpainted(self.class_names)

    @classmethod
    def read(cls, path):
        """Reads a deploy.yaml.

        Raises:
            InputError: what is missing or wrong, in one line.
        """
        deploy, folder = read_block(path), os.path.dirname(path)

        def refuse(key, wanted):
            raise InputError(f'--config {path}: {key}: {deploy[key]} is not {wanted}. Export the model again.')

        files = {key: os.path.join(folder, str(deploy[key])) for key in ('model', 'params') if key in deploy}
        for key, file in files.items():
            if os.path.basename(file) != deploy[key] or os.path.splitext(file)[1] not in _ENDINGS[key]:
                refuse(key, f'a file beside it that ends in {" or ".join(_ENDINGS[key])}')
            if '\0' in file or not os.path.isfile(file):
                raise InputError(f'--config {path}: {key} {file} does not exist. Keep the exported files together.')
        for key, choices in _CHOICES.items():
            if deploy.setdefault(key, choices[0]) not in choices:
                refuse(key, f'one of {", ".join(choices)}')
        shape = [-1 if size is None else size for size in _list(deploy, 'input_shape', [-1, 3, -1, -1])]
        if len(shape) != 4 or not all(type(size) is int and (size > 0 or size == -1) for size in shape):
            refuse('input_shape', 'N, C, H and W, each above 0 or -1')
        labels = deploy.get('labels')
        count = labels.get('num_classes') if isinstance(labels, dict) else None
        if type(count) is int and count > MOST_CLASSES:
            refuse('labels', f'for masks of 8 bits, which hold {MOST_CLASSES} classes at most')
        names = _list(deploy, 'class_names', None)
        if names is not None and not all(isinstance(name, str) for name in names):
            refuse('class_names', 'a list of names')
        colors = _list(deploy, 'palette', [])
        if len(colors) % 3 or len(colors) > 768 or not all(type(c) is int and 0 <= c <= 255 for c in colors):
            refuse('palette', 'R G B of every class, each 0..255')
        return cls(folder, files['model'], files.get('params'), deploy.get('quantized') is True,
                   _build_transforms(path, deploy['transforms'], shape[1]), deploy['output_op'], shape,
                   deploy['input_dtype'], names, [*colors, *palette.default(names)[len(colors):]],
                   deploy.get('summary') or {})


@contextmanager
def derived(config, save_dir, **changes):
    """Another form of an exported segmenter. Yields a temporary folder with a deploy.yaml in it; what is put beside it
    appears in `save_dir` together with that file, or not at all.

    Args:
        config (str): the deploy.yaml it is made from.
        save_dir (str): another folder than that one's.
        **changes: keys of its `Deploy` that become others; None takes one out.

    Raises:
        InputError: save_dir cannot be written, or is the folder of `config`.
    """
    make_folder(save_dir)
    if os.path.samefile(save_dir, os.path.dirname(config) or '.'):
        raise InputError(f'--save_dir {save_dir}: holds the model to begin with. Give another folder.')
    deploy = {key: value for key, value in {**read_block(config), **changes}.items() if value is not None}
    try:
        with tempfile.TemporaryDirectory(prefix='.export-', dir=save_dir) as folder:
            with open(os.path.join(folder, 'deploy.yaml'), 'w', encoding='utf-8') as file:
                yaml.dump({'Deploy': deploy}, file, Dumper=NoAliasDumper, sort_keys=False, default_flow_style=None,
                          width=120)
            yield folder
            move_in(folder, save_dir, sorted(os.listdir(folder), key=lambda name: name == 'deploy.yaml'))
    except OSError as error:
        raise InputError(f'--save_dir {save_dir}: cannot be written ({error.strerror}).') from None


def read_block(path):
    """dict: what a deploy.yaml says, unchecked but for what it must have. InputError where that is missing."""
    try:
        with files.opened(path, encoding='utf-8') as file:
            deploy = safe.read_yaml(file)['Deploy']
        missing = [key for key in _REQUIRED if key not in deploy]
        if missing == ['params'] and str(deploy['model']).endswith('.onnx'):
            missing = []
    except OSError as error:
        raise InputError(f'--config {path}: {error.strerror}. Give the deploy.yaml of tools/export.py.') from None
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError):
        raise InputError(f'--config {path}: not a deploy.yaml: it has no "Deploy" section. '
                         'Write one with tools/export.py.') from None
    if missing:
        raise InputError(f'--config {path}: Deploy has no "{missing[0]}". Write the file with tools/export.py.')
    return deploy


def _list(deploy, key, default):
    """The value of a key that is a list, or [None], which no check lets pass."""
    value = deploy.get(key, default)
    return value if isinstance(value, list) or value is default else [None]


def _build_transforms(path, transforms, channels):
    try:
        ops = DeployConfig.load_transforms(transforms).transforms
    except Exception as error:  # a constructor may raise anything
        hint = nearest(error.args[0] if error.args else '', manager.TRANSFORMS.components_dict)
        raise InputError(f'--config {path}: its transforms cannot be built ({type(error).__name__}: {error}).{hint}') \
            from None
    return Compose(ops, img_channels=1 if channels == 1 else 3)
