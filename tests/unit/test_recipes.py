"""The recipes of configs/: their parts can be built, and their iterations are the epochs of the papers."""

import csv

import paddle
import pytest
from conftest import ROOT
from test_repository import RECIPES, has_labeled_images, relative

from paddleseg_semi.cvlibs import SemiBuilder, SemiConfig
from paddleseg_semi.cvlibs.builder import _trained_groups

UNLABELED = {  # published partition → images without masks
    'iters_voc_classic': {'92': 10490, '183': 10399, '366': 10216, '732': 9850, '1464': 9118},
    'iters_voc_blended': {'1/16': 9920, '1/8': 9259, '1/4': 7936, '1/2': 5291},
    'iters_cityscapes': {'1/16': 2789, '1/8': 2603, '1/4': 2231, '1/2': 1487},
    'iters_ade20k': {'1/64': 19894, '1/32': 19579, '1/16': 18947, '1/8': 17684},
    'iters_coco': {'1/512': 118055, '1/256': 117824, '1/128': 117362, '1/64': 116438, '1/32': 114590},
}


def without_downloads(section):
    """A section of a recipe that builds without ImageNet weights."""
    if isinstance(section, dict):
        return {key: without_downloads(value) for key, value in section.items() if key != 'pretrained'}
    return section


@pytest.mark.parametrize('path', RECIPES, ids=relative)
def test_parts_can_be_built(path):
    config = SemiConfig(str(path), label_ratio=0.125 if has_labeled_images(path) else None)
    config.dic['model'] = without_downloads(config.dic['model'])
    builder = SemiBuilder(config)
    with paddle.LazyGuard():  # names and shapes without memory
        model = builder.model
    _trained_groups(model, config.optimizer_cfg.get('custom_cfg') or [])
    outputs = 1 + bool(getattr(model, 'aux', None))
    assert type(model).__name__ != 'SemiDeepLabV3P' or len(builder.loss['types']) == outputs
    unlabeled = config.semi_cfg.get('unlabeled') or {}
    for op in (*config.train_dataset_cfg['transforms'], *config.val_dataset_cfg.get('transforms', []),
               *unlabeled.get('weak', []), *unlabeled.get('strong', [])):
        builder.build_component(op)


def published():
    """The rows of the tables of iterations."""
    for name in UNLABELED:
        with open(ROOT / f'docs/results/{name}.csv', newline='') as file:
            for row in csv.DictReader(file):
                yield pytest.param(name, row, id=f'{name}-{row["Recipe"]}')


PUBLISHED = list(published())


@pytest.mark.parametrize('name, row', PUBLISHED)
def test_iterations_are_the_epochs_of_the_paper(name, row):
    config = SemiConfig(str(ROOT / 'configs' / row['Recipe']), label_ratio=0.125)
    batch = int(row['Cards']) * int(row['Batch per card'])
    assert config.batch_size == int(row['Batch per card']) and config.semi_cfg['lr_batch'] == batch
    epochs = [int(number) for number in row['Epochs'].split(' / ')]
    for k, (part, images) in enumerate(UNLABELED[name].items()):
        epoch = epochs[min(k, len(epochs) - 1)]
        if row[part]:  # a batch per epoch more or less: the codes round differently
            assert abs(int(row[part]) - epoch * images / batch) <= epoch, part
    named = {int(iters) for other in PUBLISHED for iters in other.values[1].values()
             if other.values[1]['Recipe'] == row['Recipe'] and iters and iters.isdigit()}
    assert config.iters in named


def test_every_recipe_of_these_methods_has_its_row():
    rows = {row.values[1]['Recipe'] for row in PUBLISHED}
    folders = {name.split('/')[0] for name in rows}
    assert rows == {str(path.relative_to(ROOT / 'configs')) for path in RECIPES if path.parent.name in folders}
