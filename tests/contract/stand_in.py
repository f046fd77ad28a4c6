"""Published cells at tiny size: one iteration of the very command, on a small network and stand-in photos."""

import copy
import re

import yaml

from paddleseg_semi.cvlibs.config import read_yaml, set_option
from paddleseg_semi.errors import InputError

from .conftest import DATA, ONE_THREAD, ROOT

BACKBONES = {
    r'ResNet\d+_deepstem': {'type': 'PlainResNet', 'layers': [1, 1, 1, 1], 'bottleneck': False},
    r'ResNet\d+_vd': {'type': 'MobileNetV3_small_x0_35'},
    r'ResNet\d+_caffe': {'type': 'CaffeResNet', 'layers': [1, 1, 1, 1]},
    r'ResNet38d': {'type': 'PlainResNet', 'layers': [1, 1], 'bottleneck': False},
    r'DINOv2_\w+': {'type': 'DINOv2', 'embed_dim': 16, 'depth': 4, 'num_heads': 2, 'blocks': [0, 1, 2, 3]},
}
LAYERS = {'affinity_indices': [0, 1], 'boundary_indices': [0, 1], 'affinity_channels': [4, 4]}  # of SBNet


def shrunk(recipe):
    """A recipe for stand-in photos: its method, transforms and losses, but a small network and small crops."""
    recipe = copy.deepcopy(recipe)
    side = 56 if recipe['model']['type'] == 'DPT' else 32
    _small(recipe, side)
    model = recipe['model']
    pattern = next(pattern for pattern in BACKBONES if re.fullmatch(pattern, model['backbone']['type']))
    model.update(num_classes=3, backbone=BACKBONES[pattern])
    model.update((key, value) for key, value in LAYERS.items() if model['type'] == 'SBNet')
    if model['type'] == 'DPT':
        model.update(features=8, out_channels=[8, 8, 8, 8])
    for mode in ('train', 'val'):
        recipe[f'{mode}_dataset'] = {**DATA, 'mode': mode, f'{mode}_path': f'data/{mode}.txt',
                                     'transforms': recipe[f'{mode}_dataset']['transforms']}
    recipe.pop('class_names', None)
    recipe.update(batch_size=2, iters=1)
    if 'tags' in recipe.get('semi', {}):
        recipe['semi']['tags'] = 'masks'
    return recipe


def _small(section, side):
    for key, value in section.items() if isinstance(section, dict) else enumerate(section):
        if isinstance(value, dict) or isinstance(value, list) and any(isinstance(item, dict) for item in value):
            _small(value, side)
        elif key in ('crop_size', 'stride', 'sides'):
            section[key] = [side, side]
        elif key == 'target_size':
            section[key] = [64, 64]                  # of Padding too: larger than a photo
        elif key == 'base_size':
            section[key] = side
        elif key == 'pretrained':
            section[key] = None


def run(toy, made):
    """Runs what reproduces a cell for one iteration per training; returns the exit code."""
    def tiny(recipe, opts=()):
        for option in opts:
            set_option(recipe, option)
        (toy.folder / 'tiny.yml').write_text(yaml.safe_dump(shrunk(recipe), sort_keys=False))

    flags = list(made.flags)
    for flag in ('--split_ids', '--label_ratio'):
        if flag in flags:
            flags[flags.index(flag) + 1] = 'list.txt' if flag == '--split_ids' else '0.5'
    (toy.folder / 'list.txt').write_text(''.join(f'{i:02d}\n' for i in range(6)))
    flags += ['--save_dir', 'run', '--num_workers', '0', *ONE_THREAD]
    if made.tool == 'train':
        tiny(read_yaml(str(ROOT / made.recipe)), made.opts)
        flags[flags.index('--config') + 1] = 'tiny.yml'
        return toy.call('train', *flags, '--iters', '1')
    pipeline = str(ROOT / flags[flags.index('--config') + 1])
    if made.recipe:
        tiny(read_yaml(str(ROOT / made.recipe)))
        flags[flags.index('--config') + 1], flags[flags.index('--recipe') + 1] = pipeline, 'tiny.yml'
        counts = {option.partition('.')[0]: 1 for option in made.opts}
        first = next(iter(counts))
        counts[first] = 3                            # checkpoints that are compared
        return toy.call('pipeline', *flags, '--opts', *(f'{stage}.iters={count}' for stage, count in counts.items()),
                        *(f'{stage}.save_interval=1' for stage in counts),
                        *(f'{stage}.scales=[1.0]' for stage in ('label_1', 'label_2')))
    stages = read_yaml(pipeline)['stages']           # of a long one, the first training
    tiny(read_yaml(str(ROOT / next(iter(stages.values()))['config'])))
    return toy.call('train', '--config', 'tiny.yml', '--save_dir', 'run', *ONE_THREAD)


def cells(book, table):
    """Yields (name of the cell, Run or the line that says why there is none) of a table."""
    for row in book.table(table):
        for column in filter(row.get, book.columns(table)):
            name = ', '.join([table, *filter(None, map(row.get, ('Method', 'Network', 'Data', 'Crop'))), column])
            try:
                yield name, book.run(table, row, column)
            except InputError as error:
                yield name, str(error)
