"""A small network, photos of odd sizes and a recipe for them, for the tests of the tools."""

import importlib.util
import sys
from pathlib import Path

import cv2
import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
import yaml
from cli import run
from paddleseg.cvlibs import manager

ROOT = Path(__file__).resolve().parents[2]
NUM_CLASSES = 4
SIZES = {'a/one': (37, 53), 'a/two': (48, 41), 'three': (37, 53), 'four': (29, 61), 'five': (37, 53)}


@manager.MODELS.add_component
class TinyNet(paddle.nn.Layer):
    """Two convolutions at a quarter of the size, resized back: enough for classes to vary over a photo."""

    def __init__(self, num_classes, pretrained=None, in_channels=3):
        super().__init__()
        self.body = paddle.nn.Conv2D(in_channels, 8, 5, stride=4, padding=2)
        self.norm = paddle.nn.BatchNorm2D(8)
        self.drop = paddle.nn.Dropout(0.5)
        self.head = paddle.nn.Conv2D(8, num_classes, 1)

    def forward(self, x):
        logit = self.head(self.drop(F.relu(self.norm(self.body(x)))))
        return [F.interpolate(logit, paddle.shape(x)[2:], mode='bilinear')]


def make_photos(folder):
    """Writes images, masks and val.txt. One mask has ignored pixels and one has every class."""
    rng = np.random.default_rng(0)
    lines = []
    for name, (height, width) in SIZES.items():
        image, mask = folder / f'images/{name}.png', folder / f'labels/{name}.png'
        for path in (image, mask):
            path.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (6, 6, 3), dtype='uint8')
        cv2.imwrite(str(image), cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))
        label = rng.integers(0, NUM_CLASSES, (height, width)).astype('uint8')
        label[:3] = 255
        cv2.imwrite(str(mask), label)
        lines.append(f'images/{name}.png labels/{name}.png')
    (folder / 'val.txt').write_text('\n'.join(lines) + '\n')


def make_recipe(folder, transforms=(), **more):
    """Writes a recipe over the photos of `folder`, and random weights.

    Returns:
        list[str]: the flags --config and --model_path.
    """
    transforms = [*transforms, {'type': 'Normalize'}]
    data = {'type': 'Dataset', 'dataset_root': str(folder), 'num_classes': NUM_CLASSES, 'transforms': transforms}
    recipe = {'batch_size': 1, 'iters': 1,
              'train_dataset': {**data, 'mode': 'train', 'train_path': str(folder / 'val.txt')},
              'val_dataset': {**data, 'mode': 'val', 'val_path': str(folder / 'val.txt')},
              'optimizer': {'type': 'SGD'}, 'lr_scheduler': {'type': 'PolynomialDecay', 'learning_rate': 0.1},
              'loss': {'types': [{'type': 'CrossEntropyLoss'}], 'coef': [1]}, 'model': {'type': 'TinyNet'}, **more}
    (folder / 'recipe.yml').write_text(yaml.safe_dump(recipe))
    paddle.save(random_net().state_dict(), str(folder / 'model.pdparams'))
    return ['--config', str(folder / 'recipe.yml'), '--model_path', str(folder / 'model.pdparams')]


def random_net(num_classes=NUM_CLASSES):
    paddle.seed(3)
    net = TinyNet(num_classes)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            parameter.set_value(paddle.randn(parameter.shape))
    return net


def call(tool, *flags, settings=('--device', 'cpu', '--no_cpu_tuning')):
    """Runs a tool of the repository in this process.

    Args:
        tool (str): its path.
        *flags: its command line.
        settings (Sequence[str]): more of it, the same for most tools.

    Returns:
        int: its exit code.
    """
    spec = importlib.util.spec_from_file_location(Path(tool).stem + '_tool', ROOT / tool)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, 'argv', [tool, *map(str, flags), *settings])
        run(module.main, module.parser)
    return end.value.code or 0
