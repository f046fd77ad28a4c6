"""Whatever is wrong with what the user gives: one line that says where, what and what to do; exit code 2; no traces."""

import errno
import os
import pickle
import resource
import shutil

import cv2
import numpy as np
import paddle
import pytest
from PIL import Image

from paddleseg_semi import safe

from .conftest import HALF, TRAIN, Toy, one_line


def section(recipe, path):
    """The dict that holds the last key of 'a.b.0.c', and that key."""
    *parents, key = [int(word) if word.isdigit() else word for word in path.split('.')]
    for parent in parents:
        recipe = recipe[parent]
    return recipe, key


# The recipe

def test_no_such_config(toy, refused):
    refused('--config', 'recipes/none.yml', says=['recipes/none.yml', 'no such file', 'configs/'])


def test_config_is_no_yaml(toy, refused):
    (toy.folder / 'recipe.txt').write_text('batch_size: 2')
    refused('--config', 'recipe.txt', says=['recipe.txt', 'not a YAML file'])


@pytest.mark.parametrize('text, line', [
    ('iters: 6\nmodel: {type: ENet\noptimizer: x\n', 3), ('iters: 6\n\tbatch_size: 2', 2),
    ('iters: 6\nmodel:\n  type: ENet\n num_classes: 3\n', 4)], ids=['brace', 'tab', 'indent'])
def test_yaml_syntax(toy, refused, text, line):
    (toy.folder / 'broken.yml').write_text(text)
    refused('--config', 'broken.yml', says=[f'broken.yml:{line}', 'not valid YAML'])


def test_yaml_without_settings(toy, refused):
    (toy.folder / 'empty.yml').write_text('# nothing\n')
    refused('--config', 'empty.yml', says=['empty.yml', 'no settings'])


def test_missing_base(toy, refused):
    toy.recipe['_base_'] = '../_base_/none.yml'
    refused(says=['_base_/none.yml', 'recipe.yml', 'No such file'])


@pytest.mark.parametrize('path, nearest', [
    ('itres', 'iters'), ('train_dataset.trian_path', 'train_path'), ('model.num_clases', 'num_classes'),
    ('train_dataset.transforms.0.cropsize', 'crop_size'), ('optimizer.momentun', 'momentum'),
    ('lr_scheduler.powr', 'power'), ('method.adv_wight', 'adv_weight'), ('semi.label_rate', 'label_ratio'),
    ('players.discriminator.optimiser', 'optimizer')])
def test_unknown_key(toy, refused, path, nearest):
    toy.recipe.update(semi={}, players={'discriminator': {}})
    target, key = section(toy.recipe, path)
    target[key] = 1
    refused(*HALF, says=['recipe.yml', path.split('.')[-1], f'Did you mean "{nearest}"?'])


@pytest.mark.parametrize('path, wrong, nearest, other', [
    ('method.type', 'AdvSemSeg', 'AdvSemiSeg', 'Supervised'),
    ('model.type', 'DeeplabV3', 'DeepLabV3', 'BiSeNetV2'),
    ('model.backbone.type', 'MobileNetV3_smal_x0_35', 'MobileNetV3_small_x0_35', 'ResNet18_vd'),
    ('train_dataset.type', 'Datset', 'Dataset', 'Cityscapes'),
    ('train_dataset.transforms.3.type', 'Normalise', 'Normalize', 'RandomDistort'),
    ('optimizer.type', 'Adm', 'Adam', 'SGD'),
    ('lr_scheduler.type', 'PolyDecay', 'PolynomialDecay', 'StepDecay'),
    ('loss.types.0.type', 'CrossEntropyLos', 'CrossEntropyLoss', 'DiceLoss')])
def test_unknown_type(toy, refused, path, wrong, nearest, other):
    target, key = section(toy.recipe, path)
    target[key] = wrong
    refused(*HALF, says=[wrong, f'Did you mean "{nearest}"?', other])


@pytest.mark.parametrize('path', ['method.type', 'model.type', 'model.backbone.type', 'train_dataset.transforms.0.type',
                                  'lr_scheduler.type', 'optimizer.type', 'class_names'])
@pytest.mark.parametrize('value', [5, {'a': 1}, 'abc'], ids=str)
def test_names_that_are_none(toy, refused, path, value):
    target, key = section(toy.recipe, path)
    target[key] = value
    refused(*HALF, says=str(value))


def test_method_that_leads_elsewhere(toy, refused):
    del toy.recipe['method']
    refused(*HALF, '--method', '../datasets/demo', says=['../datasets/demo', 'Known'])


@pytest.mark.parametrize('decay', ['0', '1', '1.5', 'nan', 'slow'])
def test_decay_of_the_moving_average(refused, decay):
    refused(*HALF, '--use_ema', decay, says=['--use_ema', decay] if decay == 'slow' else f'--use_ema {float(decay)}')


def test_unknown_method_flag(toy, refused):
    refused(*HALF, '--method', 'AdvSemSeg', says=['AdvSemSeg', 'Did you mean "AdvSemiSeg"?', 'Supervised'])


@pytest.mark.parametrize('path, value', [
    ('semi', 5), ('semi.unlabeled', 5), ('method', 'AdvSemiSeg'), ('model', 'ENet'), ('optimizer', 'SGD'),
    ('train_dataset', []), ('val_dataset', 'val.txt'), ('lr_scheduler', 0.1), ('loss', 'CrossEntropyLoss'),
    ('_base_', 5), ('loss.types', 'CrossEntropyLoss'), ('train_dataset.transforms', {'type': 'Normalize'}),
    ('train_dataset.transforms.0', 'Normalize'), ('train_dataset.transforms', None), ('test_config', 3), ('players', 3),
    ('players', {'discriminator': 3}), ('train_dataset.num_classes', 'three'), ('model.num_classes', 0),
    ('train_dataset.transforms.0.crop_size', 'big'), ('lr_scheduler.learning_rate', [1]), ('method.ndf', 'many'),
    ('method.semi_start', 'soon'), ('method.semi_start', '1e3'), ('loss.types.0.ignore_index', 'void'),
    ('lr_scheduler.power', 'high'), ('model.pretrained', True), ('model.pretrained', 1), ('semi.start', 'soon'),
    ('semi.start', True), ('semi.start', -1), ('semi.start', 6), ('semi.start', 1.5), ('semi.start', float('nan'))])
def test_value_of_another_kind(toy, refused, path, value):
    toy.recipe['semi'] = {'label_ratio': 0.5}
    target, key = section(toy.recipe, path)
    target[key] = value
    refused()


def test_section_without_type(toy, refused):
    del toy.recipe['model']['type']
    refused(says=['recipe.yml', 'model', 'type'])


@pytest.mark.parametrize('value', [5, 'x', ['1e-1']], ids=str)
def test_weights_of_losses(toy, refused, value):
    toy.recipe['loss']['coef'] = value
    refused(says=['loss.coef', str(value), 'numbers'])


def test_crops_of_a_transformer(toy, refused):
    toy.recipe['model'] = {'type': 'DPT', 'num_classes': 3, 'backbone': {
        'type': 'DINOv2', 'embed_dim': 16, 'depth': 4, 'num_heads': 2, 'blocks': [0, 1, 2, 3]}}
    toy.recipe['train_dataset']['transforms'][0] = {'type': 'RandomPaddingCrop', 'crop_size': [50, 70]}
    refused(says=['crops are [70, 50]', 'multiples of 14', '[70, 56]', 'crop_size'])


@pytest.mark.parametrize('value', [5, 'backbone', [1], [{'lr_mult': 2}]], ids=str)
def test_optimizer_groups(toy, refused, value):
    toy.recipe['optimizer']['custom_cfg'] = value
    refused(says=['optimizer.custom_cfg', str(value), 'name'])


def test_missing_section(toy, refused):
    del toy.recipe['loss']
    refused(says=['recipe.yml', 'loss'])


@pytest.mark.parametrize('wrong', ['lr', 'lr=', '=0.1', 'a.b.c=1', 'optimizer.type.x=1', 'batch_size=few', 'itres=5',
                                   'lr_scheduler.learning_rate=fast'])
def test_opts(toy, refused, wrong):
    refused('--opts', wrong, says=wrong.partition('=')[0].split('.')[-1] or '--opts')


@pytest.mark.parametrize('key', ['batch_size', 'iters'])
@pytest.mark.parametrize('value', [0, -1])
def test_batch_size_and_iters(toy, refused, key, value):
    refused(f'--{key}', value, says=[key, str(value), 'at least 1'])
    toy.recipe[key] = value
    refused(says=[key, str(value), 'at least 1'])


@pytest.mark.parametrize('value', [-1, 2.5, 'all'])
def test_number_of_the_unlabeled_part(toy, refused, value):
    toy.recipe['semi'] = {'label_ratio': 0.5, 'unlabeled': {'batch_size': value}}
    refused(says=['semi.unlabeled.batch_size', str(value), 'at least'])


@pytest.mark.parametrize('value', [0, 2.5, 'all'])
def test_size_divisor(toy, refused, value):
    toy.recipe['test_config'] = {'size_divisor': value}
    refused(says=['test_config.size_divisor', str(value), 'at least 1'])


@pytest.mark.parametrize('options, word', [
    ({'is_slide': True}, 'crop_size'), ({'is_slide': True, 'crop_size': [32, 32], 'stride': [64, 64]}, 'stride'),
    ({'is_slide': True, 'crop_size': 32, 'stride': 32}, 'crop_size'), ({'scales': [0]}, 'scales'),
    ({'is_slide': True, 'crop_size': ['a', 32], 'stride': [3, 3]}, 'crop_size'), ({'scales': 'big'}, 'scales')])
def test_evaluation_that_cannot_work(toy, refused, options, word):
    """Before the first step, not when the first evaluation is due."""
    toy.recipe['test_config'] = {'aug_eval': 'scales' in options, **options}
    refused('--do_eval', says=['recipe.yml', 'test_config', word])


def test_one_scale_as_a_whole_number(toy):
    toy.recipe['test_config'] = {'aug_eval': True, 'scales': 1}
    assert toy.train('--do_eval', '--iters', 1) == 0


@pytest.mark.parametrize('path', ['train_dataset.dataset_root', 'train_dataset.train_path', 'train_dataset.separator',
                                  'val_dataset.val_path', 'semi.split', 'semi.unlabeled.files', 'semi.extra_labeled'])
@pytest.mark.parametrize('value', [0, 2.5, [3], {}], ids=str)
def test_files_that_are_no_text(toy, refused, path, value):
    toy.recipe['semi'] = {'unlabeled': {}}
    target, key = section(toy.recipe, path)
    target[key] = value
    refused(says=['recipe.yml', path, str(value), 'expected'])


@pytest.mark.parametrize('content', [b'class_names: [caf\xe9]', b'class_names: ["a\0b"]'])
def test_recipe_in_another_encoding(toy, refused, content):
    (toy.folder / 'other.yml').write_bytes(content)
    refused('--config', 'other.yml', says=['other.yml', 'not valid YAML'])


def test_names_of_other_classes(toy, refused):
    toy.recipe['class_names'] = ['sky', 'road']
    refused(says=['class_names', '2 names for 3 classes'])


@pytest.mark.parametrize('flag, value', [
    ('learning_rate', 0), ('learning_rate', 'nan'), ('save_interval', 0), ('log_iters', 0), ('keep_checkpoint_max', 0),
    ('num_workers', -1), ('early_stop_intervals', 0), ('seed', -1), ('repeats', 0), ('cpu_threads', 0),
    ('profiler_options', 'batch_range=[9, 5]'), ('profiler_options', 'batch_rang=[1, 2]')])
def test_numbers(refused, flag, value):
    refused(f'--{flag}', value, says=[flag, str(value)])


@pytest.mark.parametrize('flags', [['--iters', 'many'], ['--itres', 5], ['--device', 'tpu'], ['--opts']])
def test_flags(refused, flags):
    refused(*flags, says=[flags[0], '--help'])


def test_gpu_on_a_cpu_build(refused):
    if paddle.is_compiled_with_cuda():
        pytest.skip('this Paddle has CUDA')
    refused('--device', 'gpu', says=['--device gpu', 'CPU build', '--device cpu'])


def test_classes_of_model_and_data_differ(toy, refused):
    toy.recipe['model']['num_classes'] = 5
    refused(*HALF, says=['recipe.yml', 'num_classes', '3', '5'])


def test_method_without_unlabeled_images(refused):
    refused('--method', 'AdvSemiSeg', says=['AdvSemiSeg', '--label_ratio'])


# The split

@pytest.mark.parametrize('method, reason', [('Supervised', 'Supervised makes no pseudo labels'),
                                            ('FixMatch', 'no mask for any unlabeled image')])
def test_oracle_without_a_question(toy, refused, method, reason):
    (toy.folder / 'raw').mkdir()
    shutil.copy(toy.image(0), toy.folder / 'raw/photo.jpg')
    shutil.copy(toy.image(1), toy.folder / 'raw/other.jpg')
    toy.recipe['semi'] = {'unlabeled': 'raw'}
    del toy.recipe['method']
    refused('--method', method, '--oracle', says=('--oracle', reason))


@pytest.mark.parametrize('ratio', ['0', '1', '1.5', '-0.5', 'half', 'nan', '1/8'])
def test_ratio(toy, refused, ratio):
    refused('--label_ratio', ratio, says=['label_ratio', ratio, 'above 0 and below 1'])
    toy.recipe['semi'] = {'label_ratio': ratio}
    refused(says=['label_ratio', ratio, 'above 0 and below 1'])


def test_ratio_without_labeled_images(refused):
    refused('--label_ratio', 0.05, says=['label_ratio', '0.05', 'of 12', 'at least'])


def test_no_such_split(refused):
    refused('--split_ids', 'none.txt', says=['--split_ids', 'none.txt', 'no such file'])


def write_split(toy, labeled, unlabeled):
    (toy.folder / 'split').mkdir()
    for name, numbers in (('labeled', labeled), ('unlabeled', unlabeled)):
        (toy.folder / f'split/{name}.txt').write_text(''.join(f'images/{i:02d}.jpg\n' for i in numbers))


def test_labeled_and_unlabeled(toy, refused):
    write_split(toy, range(6), range(5, 12))
    refused('--split_ids', 'split', says=['split/unlabeled.txt:1', 'images/05.jpg', 'split/labeled.txt:6', 'Remove'])


def test_labeled_and_val(toy, refused):
    toy.write_list('val', [12, 13, 2])
    write_split(toy, range(6), range(6, 12))
    refused('--split_ids', 'split', says=['data/train.txt:3', 'images/02.jpg', 'val', 'Remove'])


def test_unknown_id(toy, refused):
    (toy.folder / 'ids.txt').write_text('01\n77\n')
    refused('--split_ids', 'ids.txt', says=['ids.txt:2', '"77"', 'dataset_root'])


def test_split_of_another_data_set(toy, refused):
    (toy.folder / 'split.pkl').write_bytes(pickle.dumps(list(range(99))))
    refused(*HALF, '--split_ids', 'split.pkl', says=['split.pkl', '99 numbers', '0..11'])


def test_no_raw_images(toy, refused):
    (toy.folder / 'raw').mkdir()
    toy.recipe['semi'] = {'unlabeled': 'raw'}
    refused(says=['raw', 'no images'])


# The data

@pytest.mark.parametrize('name', ['train', 'val'])
def test_empty_list(toy, refused, name):
    toy.write_list(name, [])
    refused(*HALF, says=[f'data/{name}.txt', 'empty', 'image'])


def test_no_such_root(toy, refused):
    toy.recipe['train_dataset']['dataset_root'] = 'dota'
    refused(says=['dota', 'no such folder', 'recipe'])


def test_no_such_list(toy, refused):
    (toy.folder / 'data/train.txt').unlink()
    refused(says=['data/train.txt', 'No such file'])


def test_list_with_one_column(toy, refused):
    (toy.folder / 'data/train.txt').write_text('images/00.jpg labels/00.png\nimages/01.jpg\n')
    refused(says=['data/train.txt:2', '"images/01.jpg"', 'image and label'])


@pytest.mark.parametrize('kind', ['image', 'mask'])
def test_missing_file(toy, refused, kind):
    path = getattr(toy, kind)(4)
    path.unlink()
    refused(says=['data/train.txt:5', path.name, 'no such file', 'dataset_root'])


@pytest.mark.parametrize('kind', ['image', 'mask'])
@pytest.mark.parametrize('content', ['truncated', 'text', 'empty'])
def test_damaged_file(toy, refused, kind, content):
    path = getattr(toy, kind)(4)
    data = path.read_bytes()
    path.write_bytes({'truncated': data[:len(data) // 2], 'text': b'not an image', 'empty': b''}[content])
    refused(says=['data/train.txt:5', path.name, 'cannot be decoded', 'Replace'])


def test_damaged_val_file(toy, refused):
    toy.image(13).write_bytes(b'')
    refused(*HALF, says=['data/val.txt:2', '13.jpg', 'cannot be decoded'])


def test_damaged_unlabeled_images(toy, refused):
    """Others take the place of some, but not of all."""
    write_split(toy, range(6), range(6, 12))
    for i in range(6, 12):
        toy.image(i).write_bytes(toy.image(i).read_bytes()[:300])
    refused('--split_ids', 'split', says=['.jpg', 'cannot be decoded', 'None of 6 unlabeled images'])


def test_label_beyond_classes(toy, refused):
    cv2.imwrite(str(toy.mask(4)), np.full([40, 48], 3, 'uint8'))
    refused(says=['data/train.txt:5', '04.png', 'label 3', 'num_classes is 3', 'ignore_index 255'])


def test_rgb_mask(toy, refused):
    cv2.imwrite(str(toy.mask(4)), np.zeros([40, 48, 3], 'uint8'))
    refused(says=['data/train.txt:5', '04.png', 'RGB mask', 'convert'])


def test_sizes_differ(toy, refused):
    cv2.imwrite(str(toy.mask(4)), np.zeros([40, 40], 'uint8'))
    refused(says=['data/train.txt:5', '04.jpg is 48x40', '04.png is 40x40', 'same size'])


@pytest.mark.parametrize('damage, says', [
    (lambda toy: [toy.image(i).write_bytes(b'') for i in range(12)], ['.jpg', 'decoded as an image (is empty)']),
    (lambda toy: [toy.mask(i).write_bytes(b'') for i in range(12)], ['.png', 'mask']),
    (lambda toy: [cv2.imwrite(str(toy.mask(i)), np.full([40, 48], 9, 'uint8')) for i in range(12)],
     ['.png', 'label 9', 'num_classes']),
    (lambda toy: [cv2.imwrite(str(toy.mask(i)), np.zeros([40, 40], 'uint8')) for i in range(12)],
     ['.jpg', '.png', 'same size'])], ids=['image', 'mask', 'label', 'size'])
def test_damage_that_only_training_meets(toy, monkeypatch, capfd, damage, says):
    """The checks before step one look at some of the files."""
    monkeypatch.setattr('paddleseg_semi.datasets.checks.quick', lambda *args, **options: None)
    damage(toy)
    assert toy.train(*HALF) == 2
    one_line(capfd.readouterr().err, says)


def test_what_opencv_says_in_several_lines(toy, monkeypatch, capfd):
    monkeypatch.setattr('paddleseg_semi.datasets.checks.quick', lambda *args, **options: None)
    toy.recipe['train_dataset']['transforms'][0]['crop_size'] = [64, 64]
    for i in range(12):
        Image.fromarray(np.zeros([40, 48], bool)).save(toy.mask(i))
    assert toy.train() == 2
    one_line(capfd.readouterr().err, ['.jpg with', 'copyMakeBorder'])


def test_images_of_different_sizes(toy, capfd):
    toy.recipe['train_dataset']['transforms'] = [{'type': 'Normalize'}]
    for path in (toy.image(4), toy.mask(4)):
        cv2.imwrite(str(path), np.zeros([24, 32], 'uint8'))
    assert toy.train() == 2
    one_line(capfd.readouterr().err, ['different sizes', 'RandomPaddingCrop'])


# The same in a process of its own: nothing that Python, Paddle or OpenCV has to say comes in between

def test_process_that_refuses_a_recipe(toy):
    code, _, err = toy.finish(TRAIN, *toy.flags('--opts', 'itres=5'))
    assert code == 2
    one_line(err, ['train.py: recipe.yml', 'Did you mean "iters"?'])


@pytest.mark.parametrize('workers', [0, 2])
def test_process_that_meets_damage(toy, workers):
    toy.recipe['train_dataset']['transforms'] = [{'type': 'Normalize'}]
    for path in (toy.image(4), toy.mask(4)):
        cv2.imwrite(str(path), np.zeros([24, 32], 'uint8'))
    code, _, err = toy.finish(TRAIN, *toy.flags('--batch_size', 6, '--num_workers', workers))
    assert code == 2
    one_line(err, ['different sizes', '[3, 24, 32]', '[3, 40, 48]'])


# Weights and checkpoints

@pytest.fixture(scope='module')
def trained(shared_toy):
    """A toy with a run of two iterations in run/, to be copied."""
    assert shared_toy.train(*HALF, '--iters', 2, '--save_interval', 2) == 0
    return shared_toy.folder / 'run'


@pytest.fixture
def run(toy, trained):
    """The same run in the toy of one test, without digests: who makes a file can make its digest."""
    copied = shutil.copytree(trained, toy.folder / 'run')
    for path in copied.rglob('SHA256SUMS'):
        path.unlink()
    return copied


@pytest.mark.parametrize('tool', ['val', 'predict', 'export'])
@pytest.mark.parametrize('damage', ['missing', 'truncated', 'foreign', 'classes'])
def test_weights(toy, run, refused, tool, damage):
    weights = run / 'iter_2/model.pdparams'
    flags = {'val': ['--report_dir', 'run/report'], 'export': ['--save_dir', 'run/export'],
             'predict': ['--save_dir', 'run/result', '--image_path', 'data/images']}[tool]
    says = ['run/iter_2/model.pdparams']
    if damage == 'missing':
        weights.unlink()
        says += ['No such file']
    elif damage == 'truncated':
        weights.write_bytes(weights.read_bytes()[:5000])
        says += ['truncated']
    elif damage == 'foreign':
        paddle.save(paddle.nn.Linear(2, 2).state_dict(), str(weights))
        says += ['DeepLabV3', 'Give weights of this network']
    else:
        for name in ('model', 'train_dataset', 'val_dataset'):
            toy.recipe[name]['num_classes'] = 4
        says += ['num_classes', '3', '4']
    toy.flags()
    refused('--config', 'recipe.yml', '--model_path', 'run/iter_2/model.pdparams', '--device', 'cpu', *flags,
            tool=tool, says=says)


def test_no_such_pretrained_weights(toy, refused):
    toy.recipe['model']['pretrained'] = 'none.pdparams'
    refused(says=['none.pdparams'])


def test_no_such_checkpoint(refused):
    refused(*HALF, '--resume_model', 'run/iter_7', says=['--resume_model run/iter_7', 'no such folder', 'latest'])


@pytest.mark.parametrize('part', ['model.pdparams', 'model.pdopt', 'model.pdstates', 'method.pdparams'])
@pytest.mark.parametrize('wanted', ['run/iter_2', 'latest'])
def test_missing_part(run, refused, part, wanted):
    (run / 'iter_2' / part).unlink()
    refused(*HALF, '--iters', 2, '--resume_model', wanted, says=['--resume_model', 'iter_2', part, 'missing'])


PARTS = ['model.pdopt', 'model.pdstates', 'method.pdparams']


@pytest.mark.parametrize('part', PARTS)
def test_truncated_checkpoint(run, refused, part):
    path = run / 'iter_2' / part
    path.write_bytes(path.read_bytes()[:-20])
    refused(*HALF, '--iters', 2, '--resume_model', 'latest', says=[part, 'truncated'])


@pytest.mark.parametrize('content', [{'a': 1}, [1, 2], {'model': [1]}, {'model': 1}, {}], ids=str)
@pytest.mark.parametrize('part', PARTS)
def test_foreign_checkpoint(run, refused, part, content):
    paddle.save(content, str(run / 'iter_2' / part))
    refused(*HALF, '--iters', 2, '--resume_model', 'latest', says=[part])


@pytest.mark.parametrize('key, value', [('iter', 'x'), ('iter', -5), ('iter', None), ('best', 5), ('best', {}),
                                        ('mIoU', 'x'), ('scaler', 5)])
def test_foreign_states(run, refused, key, value):
    path = str(run / 'iter_2/model.pdstates')
    paddle.save({**safe.load(path), key: value}, path)
    refused(*HALF, '--iters', 2, '--resume_model', 'latest', says=['model.pdstates', 'does not come from this suite'])


@pytest.mark.parametrize('key, value', [('LR_Scheduler', 5), ('master_weights', {'x': np.zeros(2)}), (5, 5)], ids=str)
def test_foreign_optimizer(run, refused, key, value):
    path = str(run / 'iter_2/model.pdopt')
    optimizers = safe.load(path)
    optimizers['model'][key] = value
    paddle.save(optimizers, path)
    refused(*HALF, '--iters', 2, '--resume_model', 'latest', says=['model.pdopt', 'no state of the player "model"'])


@pytest.fixture(scope='module')
def run_of_another_network(tmp_path_factory):
    toy = Toy(tmp_path_factory.mktemp('other'))
    toy.recipe['model']['aspp_out_channels'] = 8
    assert toy.train(*HALF, '--iters', 2) == 0
    return toy.folder / 'run'


@pytest.mark.parametrize('part', PARTS)
def test_checkpoint_of_another_network(run, run_of_another_network, refused, part):
    shutil.copy(run_of_another_network / 'iter_2' / part, run / 'iter_2')
    says = ['model.aspp_out_channels: 8, not 16'] if part == 'model.pdstates' else [part, '8', 'aspp']
    refused(*HALF, '--iters', 2, '--resume_model', 'latest', says=['iter_2', *says])


# The disk

def test_disk_full_while_saving(toy, capfd, monkeypatch):
    """The first of two checkpoints survives, and the run goes on from it as if nothing had happened."""
    flags = [*HALF, '--save_interval', 2, '--iters', 4]
    assert toy.train(*flags) == 0
    undisturbed = toy.files('iter_4')
    shutil.rmtree(toy.folder / 'run')

    save, limit = paddle.save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_on_a_full_disk(content, path):
        if 'iter_4' in path:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
        save(content, path)

    monkeypatch.setattr(paddle, 'save', save_on_a_full_disk)
    capfd.readouterr()
    try:
        assert toy.train(*flags) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    one_line(capfd.readouterr().err, ['run/iter_4', os.strerror(errno.EFBIG), '--resume_model latest'])
    assert [name for name in os.listdir(toy.folder / 'run') if 'iter' in name] == ['iter_2']
    monkeypatch.undo()
    assert toy.train(*flags, '--resume_model', 'latest') == 0
    assert toy.files('iter_4') == undisturbed


def test_disk_full_while_logging(toy, capfd):
    (toy.folder / 'run').mkdir()
    (toy.folder / 'run/train.log').symlink_to('/dev/full')
    assert toy.train('--log_iters', 1) == 1
    one_line(capfd.readouterr().err, [os.strerror(errno.ENOSPC), 'free some space'])


@pytest.mark.parametrize('place', ['data/train.txt/run', '/proc/run'])
def test_save_dir(toy, refused, place):
    refused('--save_dir', place, says=['--save_dir', place, 'cannot be written'])


@pytest.mark.parametrize('tool, flag', [('val', '--report_dir'), ('predict', '--save_dir'), ('export', '--save_dir')])
def test_result_dir(toy, refused, tool, flag):
    toy.flags()
    images = ['--image_path', 'data/images'] if tool == 'predict' else []
    refused('--config', 'recipe.yml', '--device', 'cpu', flag, 'data/train.txt/results', *images, tool=tool,
            says=[flag, 'data/train.txt/results', 'cannot be written'])


# What only a trial shows

IMPOSSIBLE = [  # method, place, value, words
    ('AdvSemiSeg', 'lr_scheduler', {'type': 'PolynomialDecay', 'learning_rate': []}, 'lr_scheduler'),
    ('AdvSemiSeg', 'players', {'model': {'lr_scheduler': 0}}, 'players.model.lr_scheduler'),
    ('AdvSemiSeg', 'players', {'model': {'lr_scheduler': float('nan')}}, 'players.model.lr_scheduler'),
    ('FixMatch', 'semi.unlabeled.strong', [None], 'semi.unlabeled.strong[0]'),
    ('FixMatch', 'loss.types', [None], 'loss.types'),
    ('AdvSemiSeg', 'method.adv_weight', {}, 'method.adv_weight: {}: give a number of at least 0'),
    ('FixMatch', 'method.box_area', 0.3, 'method.box_area: 0.3: give two'),
    ('FixMatch', 'method.box_area', [0.4, 0.02], 'the smaller first'),
    ('Supervised', 'optimizer', {'type': 'AdamWDL'}, 'optimizer'),
    ('Supervised', 'train_dataset.train_path', 'a\0b', 'train_dataset.train_path'),
    ('Supervised', 'train_dataset.dataset_root', '\ud83d', 'train_dataset.dataset_root'),
    ('Supervised', 'model.aspp_out_channels', 0, 'DeepLabV3'),
    ('Supervised', 'model.backbone_indices', [7], 'DeepLabV3'),
    ('FixMatch', 'method.conf_thresh', 1.5, 'method.conf_thresh: 1.5'),
    ('UniMatch', 'method.feature_drop', 1.0, 'method.feature_drop: 1.0: give a number of at least 0 and below 1'),
    ('MeanTeacher', 'method.rampup', 1.0, 'method.rampup: 1.0'),
    ('Supervised', 'train_dataset.transforms.2', {'type': 'RandomDistort', 'brightness_range': [1]}, 'RandomDistort'),
    ('Supervised', 'val_dataset.transforms', [{'type': 'Normalize', 'mean': [0.5, 0.5], 'std': [0.5, 0.5]}],
     'data/images/12.jpg'),
    ('Supervised', 'iters', 10 ** 30, 'iters'),
    ('Supervised', 'model.aspp_out_channels', 10 ** 18, 'model.aspp_out_channels'),
    ('Supervised', 'loss.coef', [float('inf')], 'loss.coef'),
    ('Supervised', 'class_names', [b'a', b'b', b'c'], 'class_names[0]')]


@pytest.mark.parametrize('method, path, value, says', IMPOSSIBLE, ids=[f'{m}-{p}-{v}' for m, p, v, _ in IMPOSSIBLE])
def test_a_recipe_that_cannot_work(toy, refused, method, path, value, says):
    """25. Whatever shows only when something is run, or late in a run, is known before anything is written."""
    toy.recipe.update(method={'type': method}, semi={'unlabeled': {'strong': [{'type': 'RandomBlur'}]}})
    target, key = section(toy.recipe, path)
    target[key] = value
    refused('--label_ratio', 0.5, '--do_eval', says=says)


def test_masks_and_tags_at_once(toy, refused):
    """25. A method of one's own, and a recipe without the tags it reads."""
    from paddleseg_semi.datasets.streams import ImageLevel, Labeled
    from paddleseg_semi.registries import METHODS

    class Both(METHODS['Supervised']):
        streams = {'labeled': Labeled(), 'tagged': ImageLevel()}

    METHODS.components_dict['Both'] = Both
    try:
        toy.recipe['method'] = {'type': 'Both'}
        refused(says=['Both', 'semi.tags'])
    finally:
        del METHODS.components_dict['Both']


@pytest.mark.parametrize('kind', ['pipe', '/dev/zero'])
@pytest.mark.parametrize('path', ['data/train.txt', 'ids.txt', 'recipe.yml', 'net.pdparams'])
def test_files_without_an_end(toy, refused, path, kind):
    """Neither waited for nor read."""
    flags = ['--split_ids', 'ids.txt'] if path == 'ids.txt' else []
    if path == 'net.pdparams':
        toy.recipe['model']['pretrained'] = path
    toy.flags()
    file = toy.folder / path
    file.unlink(missing_ok=True)
    os.mkfifo(file) if kind == 'pipe' else file.symlink_to(kind)
    if path == 'recipe.yml':
        os.replace(file, toy.folder / 'pipe.yml')
        flags, path = ['--config', 'pipe.yml'], 'pipe.yml'
    refused(*flags, says=path)


def test_more_memory_than_there_is(refused, monkeypatch):
    def build(*_):
        raise MemoryError('Fail to alloc memory\nof 4 TB')
    monkeypatch.setattr('paddleseg_semi.run.build_trainer', build)
    refused(code=1, says='needs more memory than there is: Fail to alloc memory of 4 TB')
