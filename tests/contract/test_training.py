"""Short trainings from the command line: what is trained on what, what is said and what is written."""

import csv
import json
import re
import shutil
import threading
from fractions import Fraction
from types import SimpleNamespace

import cv2
import numpy as np
import paddle
import pytest
import yaml
from paddleseg.cvlibs import manager

from paddleseg_semi import safe
from paddleseg_semi.core.clock import Clock
from paddleseg_semi.core.trainer import Plan, Trainer
from paddleseg_semi.methods.advsemiseg import AdvSemiSeg

from .conftest import HALF, TRAIN, one_line

TERMS = ['sup', 'adv', 'semi_adv', 'semi', 'disc_fake', 'disc_real']
FILES = {'model.pdparams', 'model.pdopt', 'model.pdstates', 'method.pdparams'}


@pytest.fixture(scope='module')
def trained(shared_toy):
    """A run with everything switched on: its toy, and what it said."""
    code, out, err = shared_toy.finish(TRAIN, *shared_toy.flags(
        *HALF, '--do_eval', '--use_vdl', '--use_ema', '--save_interval', 2, '--log_iters', 3,
        '--keep_checkpoint_max', 2))
    assert code == 0, err
    return SimpleNamespace(toy=shared_toy, run=shared_toy.folder / 'run', out=out, err=err)


def said(out):
    """The text of the log lines."""
    return [line.split('\t', 1)[1] for line in out.splitlines() if '[INFO]\t' in line]


# What is trained on what

def test_plain_recipe_trains_supervised(toy, capfd):
    del toy.recipe['method']
    assert toy.train() == 0
    out = capfd.readouterr().out
    assert 'Method: Supervised; labeled 12 images, batch 2' in said(out)
    assert 'No method given' not in out and not (toy.folder / 'run/split').exists()


def test_ratio_without_method(trained):
    """It is AdvSemiSeg, and says so."""
    lines = said(trained.out)
    assert 'No method given: unlabeled images are used by AdvSemiSeg.' in lines
    assert ('Method: AdvSemiSeg; labeled 6 images, batch 2, unlabeled 6 images, batch 2, '
            'ground_truth 6 images, batch 2') in lines


def test_split_is_written(trained):
    run, toy = trained.run, trained.toy
    about = yaml.safe_load((run / 'split/split.yml').read_text())
    assert (about['seed'], about['label_ratio'], about['labeled'], about['unlabeled']) == (0, 0.5, 6, 6)
    labeled = (run / 'split/labeled.txt').read_text().split()[::2]
    unlabeled = (run / 'split/unlabeled.txt').read_text().split()
    assert sorted(labeled + unlabeled) == [f'images/{i:02d}.jpg' for i in range(12)]
    assert f'sha256 {about["sha256"][:12]}' in trained.out
    again = toy.folder / 'again'  # the folder is a split as it stands
    assert toy.train('--split_ids', 'run/split', '--save_dir', 'again', '--iters', 1) == 0
    for name in ('labeled.txt', 'unlabeled.txt'):
        assert (again / 'split' / name).read_text() == (run / 'split' / name).read_text()
    assert yaml.safe_load((again / 'split/split.yml').read_text())['sha256'] == about['sha256']


@pytest.mark.parametrize('flags', [
    ['--label_ratio=0.5', '--method=AdvSemiSeg', '--save_interval=3'],
    ['--labeled-ratio', '0.5', '--ssl-method', 'AdvSemiSeg', '--save-interval', '3'],
    ['--labeled_ratio', '0.5', '--ssl_method', 'advsemiseg', '--save_interval', '3']])
def test_spellings_of_flags(toy, capfd, flags):
    assert toy.train(*flags) == 0
    out = capfd.readouterr().out
    assert 'Method: AdvSemiSeg; labeled 6 images' in out and 'No method given' not in out
    assert (toy.folder / 'run/iter_3').is_dir()


def test_supervised_on_the_labeled_part(toy, capfd):
    del toy.recipe['method']
    assert toy.train(*HALF, '--method', 'Supervised') == 0
    assert 'Method: Supervised; labeled 6 images, batch 2' in said(capfd.readouterr().out)


@pytest.mark.parametrize('preset, knob', [('advsemiseg_paper', 5000), ('advsemiseg_reference', 5000)])
def test_presets(toy, preset, knob):
    del toy.recipe['method']
    assert toy.train(*HALF, '--method', preset, '--iters', 1) == 0
    method = yaml.safe_load((toy.folder / 'run/config.yml').read_text())['method']
    assert method['type'] == 'AdvSemiSeg' and method['semi_start'] == knob


def test_masks_of_unlabeled_images_are_never_opened(toy):
    """They are listed, as the data set wants it, but not there."""
    (toy.folder / 'ids.txt').write_text(''.join(f'{i:02d}\n' for i in range(6)))
    for i in range(6, 12):
        toy.mask(i).unlink()
    flags = ['--iters', 4, '--do_eval', '--save_interval', 2]
    assert toy.train('--split_ids', 'ids.txt', '--method', 'AdvSemiSeg', *flags) == 0
    assert toy.train() == 2  # and all are needed when all are labeled


def test_oracle_looks_on(toy, capfd):
    """It says how good the pseudo labels are, and changes nothing else."""
    flags = [*HALF, '--method', 'FixMatch', '--do_eval', '--iters', 2, '--save_interval', 2]
    toy.recipe['method'] = {'conf_thresh': 0.}
    assert toy.train(*flags) == 0
    plain, out = toy.files('iter_2'), capfd.readouterr().out
    assert re.search(r'\[PSEUDO\] #Crops: 6 kept: 1\.0000 conf: (0\.\d{4}|1\.0000)', out) and '[ORACLE]' not in out
    assert toy.train(*flags, '--oracle') == 0
    assert toy.files('iter_2') == plain
    lines = [line for line in said(capfd.readouterr().out) if line.startswith('[ORACLE]')]
    assert len(lines) == 1
    miou, acc, kept = map(float, re.fullmatch(r'\[ORACLE\] #Crops: 6 mIoU: (\S+) Acc: (\S+) kept_Acc: (\S+)',
                                              lines[0]).groups())
    assert 0 < miou <= acc == kept <= 1  # all valid pixels are kept


def test_folder_of_raw_images(toy, capfd):
    """Photos of any size and depth; all listed images stay labeled."""
    for i, shape in enumerate([(50, 70, 3), (33, 40, 3), (20, 90, 3)]):
        (toy.folder / f'raw/{i}').mkdir(parents=True)
        cv2.imwrite(str(toy.folder / f'raw/{i}/photo.jpg'), np.full(shape, 99, 'uint8'))
    toy.recipe['semi'] = {'unlabeled': 'raw'}
    assert toy.train() == 0
    assert 'labeled 12 images, batch 2, unlabeled 3 images, batch 2' in capfd.readouterr().out
    assert toy.train(*HALF, '--opts', 'semi.unlabeled.batch_size=3') == 2  # it is a path here, not a section
    toy.recipe['semi'] = {'unlabeled': {'files': 'raw', 'batch_size': 3}}
    capfd.readouterr()
    assert toy.train(*HALF) == 0
    assert 'labeled 6 images, batch 2, unlabeled 3 images, batch 3' in capfd.readouterr().out


def test_repeats(toy, capfd):
    assert toy.train('--repeats', 3) == 0
    assert 'labeled 36 images' in capfd.readouterr().out


@pytest.mark.parametrize('flags, says', [
    (['--precision', 'fp16'], 'Mixed precision: fp16, level O1: on a CPU Paddle computes in fp32 all the same'),
    (['--precision', 'bf16', '--do_eval'], 'Mixed precision: bf16, level O1: on a CPU'),
    (['--to_static_training', '--method', 'Supervised'], 'Method: Supervised')])
def test_other_flags(toy, flags, says, capfd):
    del toy.recipe['method']
    assert toy.train(*HALF, '--iters', 2, *flags) == 0
    assert says in capfd.readouterr().out


def test_half_weights_are_refused(refused):
    refused('--precision', 'fp16', '--amp_level', 'O2', says='--amp_level O2')


def test_profiler(toy, capfd):
    assert toy.train('--profiler_options', 'batch_range=[1, 3]; profile_path=times', '--iters', 4) == 0
    assert 'conv2d' in capfd.readouterr().out
    assert list((toy.folder / 'times').iterdir()) and not (toy.folder / 'run/iter_4').exists()


def test_flags_win_over_the_recipe(toy):
    assert toy.train('--iters', 2, '--batch_size', 3, '--learning_rate', 0.5, '--opts', 'lr_scheduler.power=0.5') == 0
    written = yaml.safe_load((toy.folder / 'run/config.yml').read_text())
    assert (written['iters'], written['batch_size']) == (2, 3)
    assert (written['lr_scheduler']['learning_rate'], written['lr_scheduler']['power']) == (0.5, 0.5)
    toy.recipe = written  # what was written is a recipe
    shutil.copytree(toy.folder / 'run', toy.folder / 'first')
    assert toy.train() == 0
    first, second = (safe.load(str(toy.folder / name / 'iter_2/model.pdparams')) for name in ('first', 'run'))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


# What is said

def test_log_lines(trained):
    """PaddleSeg's, with the terms by name behind the loss."""
    number = r'-?\d+\.\d{4}'
    names = [*TERMS, 'kept', 'd_unlabeled', 'd_labeled', 'd_real']
    pattern = re.compile(
        rf'\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d \[INFO\]\t\[TRAIN\] epoch: \d+, iter: \d+/6, loss: {number}, '
        rf'(?:(?:{"|".join(names)}): {number}, ){{{len(names)}}}'
        rf'lr: \d\.\d{{6}}, batch_cost: {number}, reader_cost: \d+\.\d{{5}}, ips: {number} samples/sec '
        r'\| ETA \d\d:\d\d:\d\d')
    log = (trained.run / 'train.log').read_text().splitlines()
    for lines in (trained.out.splitlines(), log):
        lines = [line for line in lines if '[TRAIN]' in line]
        for line in lines:
            assert pattern.fullmatch(line), line
        assert [re.search(r'epoch: .*?/6', line)[0] for line in lines] == ['epoch: 1, iter: 3/6', 'epoch: 2, iter: 6/6']


def test_loss_is_the_sum_of_its_terms(trained):
    line = next(line for line in said(trained.out) if line.startswith('[TRAIN]'))
    values = {name: float(value) for name, value in re.findall(r'(\w+): (-?[\d.]+)', line)}
    assert values['loss'] == pytest.approx(sum(values[name] for name in TERMS), abs=4e-4)


def test_evaluation_lines(trained):
    lines = said(trained.out)
    pattern = r'\[EVAL\] #Images: 3 mIoU: 0\.\d{4} Acc: 0\.\d{4} Kappa: -?0\.\d{4} Dice: 0\.\d{4}'
    scores = [line for line in lines if re.fullmatch(pattern, line)]
    assert len(scores) == 6  # at 2, 4 and 6, for the network and its moving average
    best = [line for line in lines if line.startswith('[EVAL] The model with the best validation mIoU (')]
    assert len(best) == 3 and re.search(r'\(0\.\d{4}\) was saved at iter [246]\.$', best[-1])


def test_blocks_before_training(trained):
    for title in ('Environment Information', 'Config Information'):
        assert re.search(rf'-{{10,}}{title}-{{10,}}\n', trained.out), title
    assert re.search(r'CPU settings: 1 threads', trained.out)


def test_written_paths_come_last(trained):
    written = [line.removeprefix('Written: ') for line in said(trained.out)[-6:]]
    assert written == ['run/iter_6', 'run/best_model', 'run/ema_best_model', 'run/pictures', 'run/train.log',
                       'run/report.html']
    for path in written:
        assert (trained.toy.folder / path).exists()


def test_stderr_holds_the_progress_bars_only(trained):
    rest = re.sub(r'[\b\r]*\s*\d/3 \[[=>.]+\] - (ETA: )?\d+m?s[^\n\r\b]*', '', trained.err)
    lines = [line for line in rest.splitlines() if line.strip('\b \r')]
    assert not [line for line in lines if 'Warning' not in line and 'warnings.warn' not in line], trained.err
    assert 'ccache' not in trained.err


# What is written

def test_checkpoints(trained):
    """Two folders stay, and both can be resumed."""
    digests = {'SHA256SUMS'}
    assert {path.name for path in trained.run.glob('iter_*')} == {'iter_4', 'iter_6'}
    for name in ('iter_4', 'iter_6'):
        assert {path.name for path in (trained.run / name).iterdir()} == FILES | {'ema_model.pdparams'} | digests
    for name in ('best_model', 'ema_best_model'):
        assert {path.name for path in (trained.run / name).iterdir()} == {'model.pdparams', 'model.pdstates'} | digests


def test_weights_are_paddleseg_weights(trained):
    model = trained.toy.recipe['model']
    net = manager.MODELS['DeepLabV3'](3, manager.BACKBONES['MobileNetV3_small_x0_35'](), **{
        key: model[key] for key in ('backbone_indices', 'aspp_out_channels', 'aspp_ratios')})
    for name in ('iter_6', 'best_model', 'ema_best_model'):
        missing, unexpected = net.set_state_dict(paddle.load(str(trained.run / name / 'model.pdparams')))
        assert not missing and not unexpected


def test_best_model_scores_what_the_log_says(trained, capfd):
    best = safe.load(str(trained.run / 'best_model/model.pdstates'))
    assert set(best) == {'mIoU', 'Acc', 'iter'}
    assert trained.toy.call('val', '--config', 'recipe.yml', '--model_path', 'run/best_model/model.pdparams',
                            '--device', 'cpu') == 0
    assert f'[EVAL] #Images: 3 mIoU: {best["mIoU"]:.4f} Acc: {best["Acc"]:.4f}' in capfd.readouterr().out
    told = json.loads((trained.run / 'val.json').read_text())  # in the run's folder: another method has another
    assert told['mIoU'] == pytest.approx(best['mIoU'], abs=1e-6) and told['model'] == 'run/best_model/model.pdparams'
    assert all((trained.run / name).exists() for name in ('val.csv', 'val.md', 'worst.png'))
    page = (trained.run / 'report.html').read_text()
    assert 'AdvSemiSeg' in page and '<svg' in page and 'class 01' in page


def test_evaluations_are_recorded(trained):
    """As a table and in train.log; with the lines in which PaddleSeg says them."""
    header, *rows = csv.reader((trained.run / 'eval.csv').open())
    assert header == ['iter', 'network', 'mIoU', 'Acc', 'IoU/class 00', 'IoU/class 01', 'IoU/class 02']
    assert [row[:2] for row in rows] == [[str(k), name] for k in (2, 4, 6) for name in ('model', 'ema')]
    log = (trained.run / 'train.log').read_text()
    said_scores = re.findall(r'\[EVAL\] #Images: 3 mIoU: (\S+) Acc: (\S+)', log)
    assert [tuple(f'{float(value):.4f}' for value in row[2:4]) for row in rows] == said_scores
    classes = [[float(value) for value in text.split()] for text in re.findall(r'Class IoU: \n\[(.*)\]', log)]
    np.testing.assert_allclose([[float(value) for value in row[4:]] for row in rows], classes, atol=1e-4)
    assert all(float(row[2]) == pytest.approx(np.mean([float(v) for v in row[4:]]), abs=1e-5) for row in rows)


def test_moving_average(trained):
    ema, model = (safe.load(str(trained.run / f'iter_6/{name}.pdparams')) for name in ('ema_model', 'model'))
    assert set(ema) == set(model)
    assert any((ema[name] != model[name]).any() for name in model)


def test_pictures(trained):
    assert {path.name for path in (trained.run / 'pictures').iterdir()} == {'iter_2.png', 'iter_4.png', 'iter_6.png'}
    picture = cv2.imread(str(trained.run / 'pictures/iter_6.png'))
    size = 8 * 32  # of a crop, so that one can see it
    # Two unlabeled images in five columns (nobody looked at their masks); a labeled one in three; a legend.
    assert picture.shape == ((18 + 2 * size) + (18 + size) + 22, 5 * size, 3)
    labeled = picture[2 * 18 + 2 * size:-22]
    photo, truth = labeled[:, :size], labeled[:, 2 * size:3 * size]
    assert photo.std() > 10 and truth.std() > 10 and (photo != truth).any()
    assert (labeled[:, 3 * size:] == 255).all()


def test_visualdl(trained):
    from visualdl import LogReader
    record, = trained.run.glob('vdlrecords.*.log')
    tags = LogReader(file_path=str(record)).get_tags()
    train = ['loss', *TERMS, 'kept', 'lr', 'lr_discriminator', 'batch_cost', 'reader_cost']
    classes = {f'Evaluate/{kind}IoU/class 0{c}' for kind in ('', 'Ema_') for c in range(3)}
    assert {f'Train/{name}' for name in train} | {'Evaluate/mIoU', 'Evaluate/Acc'} | classes <= set(tags['scalar'])
    assert tags['image'] == ['Evaluate/strip']
    values = LogReader(file_path=str(record)).get_data('scalar', 'Train/loss')
    assert [value.id for value in values] == [3, 6]


def test_early_stop(toy, capfd, monkeypatch):
    scores = iter([0.3, 0.5, 0.4, 0.5, 0.9])
    monkeypatch.setattr('paddleseg_semi.run.evaluate', lambda *args, **options: (next(scores), 0.5, np.zeros(3)))
    flags = ['--do_eval', '--iters', 10, '--save_interval', 2, '--early_stop_intervals', 2]
    assert toy.train(*flags) == 0
    out = capfd.readouterr().out
    assert 'Early stop: no better mIoU for 2 intervals.' in out
    assert 'best validation mIoU (0.5000) was saved at iter 4' in out
    assert (toy.folder / 'run/iter_8').is_dir() and not (toy.folder / 'run/iter_10').exists()
    assert toy.train(*flags, '--resume_model', 'latest') == 0  # as after a kill that came too late
    assert not (toy.folder / 'run/iter_10').exists()


def test_early_stop_by_shares_of_a_run():
    trainer = Trainer.__new__(Trainer)
    trainer.evaluate, trainer.clock, trainer.best = print, Clock(100), {'iter': 33}
    trainer.plan = Plan(Fraction(100, 3), early_stop_intervals=1)
    trainer.clock.iter = 66  # the next milestone
    assert trainer.plan.due(66) and trainer._stale()


def test_loaders_end_with_the_run(toy):
    """A pipeline trains more than once in one process."""
    before = threading.active_count()
    assert toy.train(*HALF, '--iters', 1) == 0
    assert threading.active_count() <= before


# What goes wrong

@pytest.mark.parametrize('log_iters', [1, 100])
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_loss_that_is_not_finite(toy, capfd, monkeypatch, value, log_iters):
    """Stops with every term by name, and is not saved, however seldom something is logged."""
    step, calls = AdvSemiSeg.step, []

    def broken_step(self, batch, clock):
        losses, stats = step(self, batch, clock)
        calls.append(clock.iter)
        if clock.iter == 2:
            losses['semi_adv'] = losses['semi_adv'] + value
        return losses, stats

    monkeypatch.setattr(AdvSemiSeg, 'step', broken_step)
    assert toy.train(*HALF, '--save_interval', 2, '--log_iters', log_iters) == 1
    one_line(capfd.readouterr().err, ['iter 3: a loss is not finite', f'semi_adv: {value}', 'learning rate',
                                      *(f'{name}: ' for name in TERMS)])
    assert calls[1:] == ([0, 1, 2] if log_iters == 1 else [0, 1, 2, 3])  # behind the step that is tried before
    assert [path.name for path in (toy.folder / 'run').glob('iter_*')] == ['iter_2']


def test_divergence(toy, capfd):
    """The same without a helping hand."""
    assert toy.train('--learning_rate', 1e25, '--iters', 20) == 1
    one_line(capfd.readouterr().err, ['a loss is not finite', 'sup: '])
    assert not list((toy.folder / 'run').glob('iter_*'))
