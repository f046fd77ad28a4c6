"""Every published figure has its command, or a line that says why not; commands run, at tiny size."""

import math
import shlex

import pytest
import reproduce
import yaml

from paddleseg_semi.cvlibs import SemiConfig
from paddleseg_semi.cvlibs.stages import read_pipeline
from paddleseg_semi.errors import InputError

from . import stand_in
from .conftest import ROOT

BOOK = reproduce.Book()
TABLES = list(BOOK.known['tables'])


def test_every_table_of_figures_is_known():
    text = (ROOT / 'docs/results/README.md').read_text()
    shown = {line.split()[2] for line in text.splitlines() if line.startswith('<!-- table: ')}
    assert set(TABLES) == {name for name in shown if name != 'lists' and not name.startswith('iters_')}


@pytest.mark.parametrize('table', TABLES)
def test_every_cell_is_answered(table, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)  # what the recipes of pipelines are relative to
    seen = set()
    for name, made in stand_in.cells(BOOK, table):
        if isinstance(made, str):
            assert '\n' not in made and (': not to be had: ' in made or ': not implemented: ' in made), name
            continue
        assert made.what.startswith(f'{name}: ') and 'mIoU' in made.what
        flags = dict(zip(made.flags[::2], made.flags[1::2])) if made.tool == 'pipeline' else {
            key: made.flags[made.flags.index(key) + 1] for key in ('--split_ids', '--label_ratio', '--method')
            if key in made.flags}
        key = (made.tool, made.recipe, flags.get('--method'), *made.opts)
        if key in seen:
            continue
        seen.add(key)
        split = {'split': flags['--split_ids']} if '--split_ids' in flags else {}
        if made.tool == 'train':
            options = {'split_ids': split.get('split'), 'label_ratio': flags.get('--label_ratio'),
                       'method': flags.get('--method')}
            config = SemiConfig(made.recipe, made.opts, **options)
            assert config.dic['method']['type'] == 'Supervised' or config.uses_unlabeled
        else:
            assert read_pipeline(flags['--config'], 'output', made.opts, config=flags.get('--recipe'), **split).steps
    assert seen


@pytest.mark.parametrize('table', TABLES)
def test_one_cell_of_every_table_runs(table, toy):
    made = next(made for _, made in stand_in.cells(BOOK, table) if not isinstance(made, str) and '--method' not in
                made.flags)
    assert stand_in.run(toy, made) == 0
    assert list((toy.folder / 'run').rglob('model.pdparams'))


def test_tool(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    flags = ['--table', 'voc_classic', '--row', 'U2PL', '--column', '183']
    assert reproduce.main(reproduce.parser.parse_args([*flags, '--dry_run'])) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'voc_classic, U2PL, ResNet-101 os8, 513, 183: 69.15 mIoU (published)'
    assert [line.split(':')[0] for line in lines[1:4]] == [
        'needs data/VOCdevkit/train_aug.txt', 'needs UniMatch/splits/pascal/183', 'needs weights/resnet101.pth']
    command = shlex.split(lines[-1])
    assert command[:5] == ['python', '-m', 'paddle.distributed.launch', '--devices', '0,1,2,3']
    assert '--iters 52000' in lines[-1] and '--split_ids UniMatch/splits/pascal/183' in lines[-1]
    with pytest.raises(InputError, match='data/VOCdevkit/train_aug.txt: no such file'):
        reproduce.main(reproduce.parser.parse_args(flags))


def test_what_is_there_is_run(capsys, monkeypatch):
    ran = []
    monkeypatch.setattr(reproduce.os.path, 'exists', lambda path: True)
    monkeypatch.setattr(reproduce.subprocess, 'run', lambda command: ran.append(command) or type('', (), {
        'returncode': 7}))
    args = ['--table', 'voc_tags', '--row', 'SBNet: score maps', '--column', '1449']
    assert reproduce.main(reproduce.parser.parse_args(args)) == 7
    assert shlex.join(ran[0][1:]) in capsys.readouterr().out


@pytest.mark.parametrize('table, row, column, words', [
    ('voc_clasic', 'U2PL', '183', ['--table voc_clasic', 'voc_classic']),
    ('voc_classic', 'U2PL', '184', ['--column 184', '92, 183']),
    ('voc_classic', 'UniMatch', '183', ['several rows', 'UniMatch, ResNet-101 os16, 321; UniMatch, ResNet-50 os16']),
    ('voc_classic', 'U3PL', '183', ['no such rows', 'U2PL, ResNet-101 os8']),
])
def test_cells_that_are_not_there(table, row, column, words):
    with pytest.raises(InputError) as error:
        BOOK.find(table, row, column)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize('row, column', [('UniMatch, ResNet-50 os16', '1/16'), ('UniMatch, ResNet-50 os16', '662'),
                                         ('UniMatch, ResNet-50 os16, 513', '1/16 (662)')])
def test_names_of_cells(row, column):
    row, column = BOOK.find('voc_blended_u2pl', row, column)
    assert row['Network'] == 'ResNet-50 os16' and column == '1/16 (662)'


def test_a_cell_without_a_figure():
    with pytest.raises(InputError, match='no figure is published'):
        BOOK.run('random_splits', *BOOK.find('random_splits', 'AdvSemiSeg, VOC', '1/4'))


def test_iterations_of_self_training_are_its_epochs():
    for data, epochs in (('voc', 80), ('cityscapes', 240)):
        for labeled, counts in BOOK.known['rows']['ST++']['iters'][data].items():
            others = BOOK.known['data'][data]['images'] - labeled
            pseudo = [others // 2, others]
            wanted = [labeled * (1 + (labeled < 200)), *(labeled * math.ceil(n / labeled) + n for n in pseudo)]
            assert counts == [epochs * (images // 16) for images in wanted]


def test_a_new_method_is_found_by_its_recipe(tmp_path):
    """A recipe named like the others is all that a row needs."""
    row = {'Method': 'Psi-Net: labeled only', 'Network': 'ResNet-101 os8', 'Crop': '321', '183': '1', 'Source': 'log'}
    book = reproduce.Book(configs=str(tmp_path))
    with pytest.raises(InputError, match='not implemented: there is no recipe .*psinet_'):
        book.run('voc_classic', row, '183')
    recipe = {'batch_size': 4, 'iters': 10, 'semi': {'lr_batch': 8}, 'model': {'backbone': {
        'type': 'ResNet50_deepstem', 'pretrained': None}}}
    for name in ('resnet50_os16_voc_321x321_91k', 'resnet50_os8_voc_321x321_91k', 'resnet50_os8_voc_513x513_91k'):
        path = tmp_path / f'psinet/psinet_deeplabv3p_{name}.yml'
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(recipe))
    made = book.run('voc_classic', row, '183')
    assert made.recipe.endswith('resnet50_os8_voc_321x321_91k.yml') and made.cards == 2
    assert 'Supervised' in made.flags and '--iters' not in made.flags and 'the recipe has 10' in made.notes[0]
    assert made.opts == ['model.backbone.type=ResNet101_deepstem', 'model.backbone.pretrained=weights/resnet101.pth']
