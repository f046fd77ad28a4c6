"""Evaluation: the counts, the scores, and what happens to images of many sizes."""

import csv
import json
import re
import subprocess
import sys

import numpy as np
import paddle
import pytest
from paddleseg.datasets import Dataset
from paddleseg.transforms import Normalize
from PIL import Image
from sklearn.metrics import roc_auc_score
from tiny import NUM_CLASSES, SIZES, call, make_photos, make_recipe, random_net

from paddleseg_semi.core.metrics import Roc, scores
from paddleseg_semi.core.report import Measured, Record, write
from paddleseg_semi.core.testing import Testing
from paddleseg_semi.core.val import confusion_matrix, evaluate
from paddleseg_semi.errors import InputError, RunError


@pytest.fixture
def photos(tmp_path):
    make_photos(tmp_path)
    return tmp_path


def dataset(folder):
    return Dataset('val', str(folder), [Normalize()], NUM_CLASSES, val_path=str(folder / 'val.txt'))


def test_confusion_matrix_counts_only_real_labels():
    label = paddle.to_tensor([0, 0, 1, 1, 2, 255, 3, -1], 'int64')
    pred = paddle.to_tensor([0, 1, 1, 1, 0, 2, 2, 2], 'int32')
    expected = [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    matrix = confusion_matrix(pred, label, 3)
    assert matrix.dtype == paddle.int64
    assert matrix.tolist() == expected
    assert confusion_matrix(pred, label, 3, ignore_index=1).tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 0]]


def test_scores_by_hand():
    result = scores(np.array([[3, 1, 0], [1, 5, 0], [0, 0, 0]]))  # the third class is neither true nor predicted
    np.testing.assert_allclose(result.class_iou, [3 / 5, 5 / 7, 0])
    assert result.miou == pytest.approx((3 / 5 + 5 / 7) / 3)
    assert result.acc == pytest.approx(0.8)
    np.testing.assert_allclose(result.class_precision, [3 / 4, 5 / 6, 0])
    np.testing.assert_allclose(result.class_recall, [3 / 4, 5 / 6, 0])
    assert result.kappa == pytest.approx((0.8 - 0.52) / 0.48)
    assert result.mdice == pytest.approx((6 / 8 + 10 / 12) / 3)
    assert all(np.all(value == 0) for value in scores(np.zeros([3, 3])))


def test_evaluate_equals_a_plain_count(photos, capsys):
    net, data = random_net(), dataset(photos)
    net.train()
    net.norm.eval()  # frozen by its owner: it has to stay so
    miou, acc, class_iou, precision, kappa = evaluate(net, data)
    assert net.training
    assert net.drop.training
    assert not net.norm.training

    matrix = np.zeros([NUM_CLASSES, NUM_CLASSES], int)
    net.eval()
    for sample in (data[i] for i in range(len(data))):
        pred = net(paddle.to_tensor(sample['img'][None]))[0][0].argmax(0).numpy()
        valid = sample['label'][0] != 255
        np.add.at(matrix, (sample['label'][0][valid], pred[valid]), 1)
    expected = scores(matrix)
    assert len(set(np.nonzero(matrix)[1])) > 1, 'the network predicts one class only: no test'
    assert (miou, acc, kappa) == (expected.miou, expected.acc, expected.kappa)
    np.testing.assert_array_equal(class_iou, expected.class_iou)
    np.testing.assert_array_equal(precision, expected.class_precision)

    out = capsys.readouterr().out
    assert re.search(rf'\[EVAL\] #Images: {len(SIZES)} mIoU: {miou:.4f} Acc: {acc:.4f} Kappa: -?\d\.\d{{4}} '
                     r'Dice: \d\.\d{4}\n', out)
    for name in ('IoU', 'Precision', 'Recall'):
        assert re.search(rf'\[EVAL\] Class {name}: \n\[', out)


def test_masks_of_16_bits_count_like_those_of_8(photos):
    expected = evaluate(random_net(), dataset(photos))
    for _, mask in dataset(photos).file_list:
        Image.fromarray(np.array(Image.open(mask)).astype('uint16')).save(mask)
    np.testing.assert_equal(evaluate(random_net(), dataset(photos)), expected)


@pytest.mark.parametrize('options', [
    {'num_workers': 2}, {'testing': Testing(aug_eval=True)}, {'precision': 'fp16'},
    {'testing': Testing(size_divisor=1)}, {'testing': Testing(average_probs=True)},
    {'testing': Testing(is_slide=True, crop_size=(64, 64), stride=(32, 32))},
    {'testing': Testing(is_slide=True, crop_size=(64, 64), stride=(64, 64), shrinking=True)}])
def test_ways_that_must_agree(photos, options):
    net, data = random_net(), dataset(photos)
    expected = evaluate(net, data, print_detail=False)
    np.testing.assert_array_equal(evaluate(net, data, print_detail=False, **options)[2], expected[2])


def test_augmentation_and_window_change_the_result(photos):
    net, data = random_net(), dataset(photos)
    plain = evaluate(net, data, print_detail=False)[1]
    assert evaluate(net, data, Testing(True, [0.5, 1.5], True), print_detail=False)[1] != plain
    assert evaluate(net, data, Testing(size_divisor=16), print_detail=False)[1] != plain
    window = {'is_slide': True, 'crop_size': (24, 16), 'stride': (16, 9)}
    found = {evaluate(net, data, Testing(**window, **how), print_detail=False)[1]
             for how in ({}, {'average_probs': True}, {'shrinking': True})}
    assert len({plain, *found}) == 4


@pytest.mark.parametrize('workers', [0, 1])
def test_a_damaged_image_is_named(photos, workers):
    damaged = photos / 'images/three.png'
    damaged.write_bytes(b'no image')
    with pytest.raises(InputError, match='images/three.png'):
        evaluate(random_net(), dataset(photos), num_workers=workers, print_detail=False)


def test_mismatches_are_named(photos):
    with pytest.raises(InputError, match=f'has {NUM_CLASSES} classes'):
        evaluate(random_net(NUM_CLASSES + 1), dataset(photos), print_detail=False)
    (photos / 'labels/three.png').write_bytes((photos / 'labels/four.png').read_bytes())
    with pytest.raises(InputError, match='three.png: the network gives .*the mask is'):
        evaluate(random_net(), dataset(photos), print_detail=False)


def test_two_ranks_count_what_one_counts(photos):
    script = photos / 'rank.py'
    script.write_text(f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
import paddle.distributed as dist
from test_val import dataset
from tiny import random_net
from paddleseg_semi.core.val import evaluate
result = evaluate(random_net(), dataset(Path({str(photos)!r})))
Path({str(photos)!r}, f'rank{{dist.get_rank()}}of{{dist.get_world_size()}}').write_text(repr(result))
""")
    subprocess.run([sys.executable, '-m', 'paddle.distributed.launch', '--nproc_per_node', '2', '--log_dir',
                    photos / 'log', script], check=True, capture_output=True, timeout=120)
    expected = repr(evaluate(random_net(), dataset(photos)))
    assert [(photos / f'rank{rank}of2').read_text() for rank in range(2)] == [expected] * 2


def test_area_under_the_curve_equals_the_exact_one():
    rng = np.random.default_rng(0)
    for classes in (2, 5):
        roc, labels, probs = Roc(classes), [], []
        for shape in ((31, 40), (17, 23)):  # a data set of two sizes
            logit = rng.normal(size=(1, classes, *shape)).astype('float32') * 4
            label = np.where(rng.random((1, *shape)) < 0.7, logit.argmax(1), rng.integers(0, classes, (1, *shape)))
            roc.add(paddle.to_tensor(logit), paddle.to_tensor(label))
            prob = np.exp(logit.astype('float64'))
            probs.append((prob / prob.sum(1, keepdims=True))[0].reshape(classes, -1).T)
            labels.append(label.ravel())
        labels, probs = np.concatenate(labels), np.concatenate(probs)
        exact = roc_auc_score(labels, probs[:, 1]) if classes == 2 else roc_auc_score(labels, probs, multi_class='ovr')
        assert roc.area() == pytest.approx(exact, abs=1e-4)


def test_area_under_the_curve_of_probabilities(photos, capsys):
    for average_probs in (False, True):
        evaluate(random_net(), dataset(photos), Testing(average_probs=average_probs), auc_roc=True)
    of_logits, of_probs = re.findall(r'Auc_roc: (0\.\d{4})', capsys.readouterr().out)
    assert of_logits == of_probs


def test_the_tool_writes_a_report(photos, capsys):
    names = ['sky', 'road, wet', 'a|b', 'car']
    flags = make_recipe(photos, class_names=names)
    assert call('tools/val.py', *flags, '--report_dir', photos / 'results', '--auc_roc') == 0
    out = capsys.readouterr().out
    told = json.loads((photos / 'results/val.json').read_text())
    matrix = np.array(told['confusion_matrix'])
    miou, acc, kappa, dice, auc = (told[key] for key in ('mIoU', 'Acc', 'Kappa', 'Dice', 'Auc_roc'))
    expected = scores(matrix)
    assert matrix.sum() > 0 and told['images'] == len(SIZES)
    np.testing.assert_allclose([miou, acc, kappa, dice], [expected.miou, expected.acc, expected.kappa, expected.mdice],
                               atol=1e-6)
    for key, values in (('IoU', expected.class_iou), ('Precision', expected.class_precision),
                        ('Recall', expected.class_recall), ('Dice', expected.class_dice), ('pixels', matrix.sum(1))):
        np.testing.assert_allclose([row[key] for row in told['classes']], values, atol=1e-6)
    assert [row['name'] for row in told['classes']] == names
    assert f'mIoU: {miou:.4f} Acc: {acc:.4f} Kappa: {kappa:.4f} Dice: {dice:.4f} Auc_roc: {auc:.4f}' in out
    assert f'[EVAL] IoU by name: sky {expected.class_iou[0]:.4f}, road, wet ' in out

    header, *rows = csv.reader((photos / 'results/val.csv').open())
    assert header == ['name', 'IoU', 'Precision', 'Recall', 'Dice', 'pixels', *(f'as {name}' for name in names)]
    assert [row[0] for row in rows] == names and [list(map(int, row[6:])) for row in rows] == matrix.tolist()
    table = [line for line in (photos / 'results/val.md').read_text().splitlines() if line.startswith('|')]
    assert table[4].startswith(r'| a\|b | ') and table[6:8] == [r'|  | sky | road, wet | a\|b | car |',
                                                              '| --- | ---: | ---: | ---: | ---: |']


def test_many_classes_have_no_table_of_confusions(tmp_path):
    matrix = np.eye(90, dtype='int64')
    write(str(tmp_path), Measured(1, matrix), [f'c{k}' for k in range(90)], {})
    assert len((tmp_path / 'val.md').read_text().splitlines()) == 2 + 92
    assert json.loads((tmp_path / 'val.json').read_text())['confusion_matrix'] == matrix.tolist()


def test_a_report_that_cannot_be_written(tmp_path):
    (tmp_path / 'val.csv').mkdir()
    with pytest.raises(RunError, match='val.csv: cannot be written .*--report_dir'):
        write(str(tmp_path), Measured(1, np.eye(2, dtype='int64')), ['a', 'b'], {})


def test_the_record_of_a_run_goes_back_with_it(tmp_path):
    path, names = str(tmp_path / 'eval.csv'), ['sky', 'road, wet']

    def evaluate_at(record, *iterations):
        for k in iterations:
            record.add(k, 'model', 0.1 * k, 0.5, np.array([0.2, 0.3 * k]))
            record.add(k, 'ema', 0.1, 0.5, np.array([0.2, 0.3]))

    evaluate_at(Record(path, names, 0), 1, 2, 3)
    whole = (tmp_path / 'eval.csv').read_text()
    assert whole.splitlines()[:3] == ['iter,network,mIoU,Acc,IoU/sky,"IoU/road, wet"',
                                      '1,model,0.100000,0.500000,0.200000,0.300000',
                                      '1,ema,0.100000,0.500000,0.200000,0.300000']
    record = Record(path, names, 1)
    assert (tmp_path / 'eval.csv').read_text() == ''.join(whole.splitlines(True)[:3])
    evaluate_at(record, 2, 3)
    assert (tmp_path / 'eval.csv').read_text() == whole
    with open(path, 'a') as file:
        file.write('4,model\nno,1,2,3,4,5\n\x00\n')
    Record(path, names, 9)
    assert (tmp_path / 'eval.csv').read_text() == whole
    Record(path, names, 0)
    assert (tmp_path / 'eval.csv').read_text() == whole.splitlines(True)[0]


@pytest.mark.parametrize('flags, word', [
    (['--is_slide'], '--crop_size'), (['--is_slide', '--crop_size', '8', '8', '--stride', '9', '9'], '--stride'),
    (['--aug_eval', '--scales', '0'], '--scales'), (['--use_multilabel'], '--use_multilabel'),
    (['--opts', 'class_names=[1]'], 'class_names'), (['--num_workers', 'two'], '--num_workers'),
    (['--num_workers', '-1'], '--num_workers'), (['--aug_eval', '--scales', '1', 'nan'], '--scales')])
def test_bad_flags_are_one_line(photos, capsys, flags, word):
    assert call('tools/val.py', *make_recipe(photos), '--report_dir', photos / 'results', *flags) == 2
    error = capsys.readouterr().err
    assert word in error
    assert len(error.splitlines()) == 1
    assert not (photos / 'results').exists()
