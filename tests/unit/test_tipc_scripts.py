"""The TIPC scripts, run with a stand-in interpreter that writes down the commands it is given."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = 'test_tipc/configs/advsemiseg_deeplabv2_res101_humanseg/train_infer_python.txt'
NAME = 'advsemiseg_deeplabv2_res101_humanseg'
MODE = 'lite_train_lite_infer'

# Records every command but the probe for PaddleSeg; `train.py` leaves weights; a command that contains $FAIL fails.
PYTHON = """#!/usr/bin/env bash
[ "$1" != -c ] || exit 0
echo "$CUDA_VISIBLE_DEVICES> $*" >> commands.txt
if [ -n "$FAIL" ] && [[ "$*" == *$FAIL* ]]; then exit 3; fi
for word; do
    case $word in --save_dir=*) mkdir -p "${word#*=}/$WEIGHTS" && touch "${word#*=}/$WEIGHTS/model.pdparams" ;; esac
done
"""


@pytest.fixture
def chain(tmp_path):
    """Runs the chain in a copy of test_tipc with some lines of its config changed."""
    shutil.copytree(REPOSITORY / 'test_tipc', tmp_path / 'test_tipc', ignore=shutil.ignore_patterns('output', 'data'))
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin/python').write_text(PYTHON)
    (tmp_path / 'bin/python').chmod(0o755)

    def run(mode=MODE, *more, lines=None, **environment):
        text = (tmp_path / CONFIG).read_text().splitlines()
        for number, line in (lines or {}).items():
            text[number - 1] = line
        (tmp_path / CONFIG).write_text('\n'.join(text) + '\n')
        variables = {'PATH': f'{tmp_path}/bin:{os.environ["PATH"]}', 'WEIGHTS': 'best_model', **environment}
        done = subprocess.run(['bash', 'test_tipc/test_train_inference_python.sh', CONFIG, mode, *more], cwd=tmp_path,
                              env=variables, capture_output=True, text=True)
        recorded = tmp_path / 'commands.txt'
        done.commands = recorded.read_text().splitlines() if recorded.exists() else []
        recorded.unlink(missing_ok=True)
        status = tmp_path / f'test_tipc/output/{NAME}/{mode}/results_python.log'
        done.status = status.read_text().splitlines() if status.exists() else []
        return done

    return run


def test_config_has_every_line_in_its_place():
    lines = (REPOSITORY / CONFIG).read_text().splitlines()
    keys = {2: 'model_name', 3: 'python', 4: 'gpu_list', 5: '--device', 6: '--precision', 7: '--iters', 8: '--save_dir',
            9: '--batch_size', 10: '--model_path', 11: 'train_model_name', 12: 'train_infer_img_dir',
            13: '--profiler_options', 15: 'trainer', 16: 'norm_train', 17: 'pact_train', 18: 'fpgm_train',
            19: 'distill_train', 20: 'null', 21: 'null', 24: 'eval', 25: 'null', 28: '--save_dir', 29: '--model_path',
            30: 'norm_export', 31: 'quant_export', 32: 'fpgm_export', 33: 'distill_export', 34: 'export1',
            35: 'export2', 37: 'infer_model', 38: 'infer_export', 39: 'infer_quant', 40: 'inference', 41: '--device',
            42: '--enable_mkldnn', 43: '--cpu_threads', 44: '--batch_size', 45: '--use_trt', 46: '--precision',
            47: '--config', 48: '--image_path', 49: '--save_log_path', 50: '--benchmark', 51: '--save_dir',
            52: '--model_name'}
    assert {number: lines[number - 1].partition(':')[0] for number in keys} == keys
    for number, title in {1: 'train', 23: 'eval', 27: 'export', 36: 'infer'}.items():
        assert lines[number - 1].strip('=') == f'{title}_params'
    assert [number for number in range(1, 53) if lines[number - 1] == '##'] == [14, 22, 26]
    assert lines[-1].startswith('log_iters:')


def test_commands(chain):
    done = chain()
    assert done.returncode == 0, done.stderr
    train, evaluate, export, *infer = [command.removeprefix('> ') for command in done.commands]
    run = f'test_tipc/output/{NAME}/{MODE}/norm_train_gpus_-1_autocast_null'
    assert train.startswith('tools/train.py --config ')
    assert train.endswith(f' --device=cpu --save_dir={run} --iters=4 --batch_size=2')
    assert '--label_ratio 0.125 --do_eval' in train
    assert evaluate.endswith(f' --model_path={run}/best_model/model.pdparams --device=cpu')
    assert export.endswith(f' --model_path={run}/best_model/model.pdparams --save_dir={run}')
    results = (f'test_tipc/output/{NAME}/{MODE}/'
               'python_infer_cpu_gpu_-1_usemkldnn_True_threads_1_precision_fp32_batchsize_1_results')
    assert infer[0] == ('deploy/python/infer.py --device=cpu --enable_mkldnn=True --cpu_threads=1 '
                        f'--config={run}/deploy.yaml --batch_size=1 '
                        '--image_path=test_tipc/data/mini_supervisely/val.txt --benchmark=True --precision=fp32 '
                        f'--save_dir={results} --model_name={NAME}')
    assert {tuple(word for word in command.split() if word.startswith(('--enable', '--cpu', '--batch')))
            for command in infer} == {(f'--enable_mkldnn={mkldnn}', f'--cpu_threads={threads}', f'--batch_size={batch}')
                                      for mkldnn in ('True', 'False') for threads in (1, 2) for batch in (1, 2)}
    assert len(done.status) == len(done.commands) == 11
    assert done.status[0] == (f'\033[33m Run successfully with command - {NAME} - python {train} - {run}_nodes_1.log  '
                              '\033[0m')


def test_status_is_fresh_and_weights_without_evaluation_are_found(chain):
    chain()
    done = chain(WEIGHTS='iter_4')
    assert len(done.status) == 11
    assert 'norm_train_gpus_-1_autocast_null/iter_4/model.pdparams' in done.commands[2]


@pytest.mark.parametrize('step, recorded', [
    ('train.py', 1), ('val.py', 11), ('export.py', 3), ('batch_size=2 --image', 11)])
def test_a_failing_step_fails_the_run(chain, step, recorded):
    done = chain(FAIL=step)
    failed = [line for line in done.status if 'Run failed with command' in line]
    assert done.returncode == 1
    assert failed and all(step in line for line in failed)
    assert failed[0].strip() in done.stderr
    assert len(done.status) == recorded, 'what a failed step was needed for is not tried'


def test_devices_and_trainers(chain):
    done = chain(lines={
        4: 'gpu_list:1|0,1|192.0.2.1,192.0.2.2;0,1', 5: '--device:gpu|gpu|gpu', 6: '--precision:fp32|amp',
        15: 'trainer:norm_train|pact_train', 17: 'pact_train:tools/train.py --pact', 24: 'eval:null',
        40: 'inference:null'})
    starts = [command for command in done.commands if 'train.py' in command]
    assert len(starts) == 3 * 2 * 2
    assert sum('> -m paddle.distributed.launch --devices=0,1 tools/train.py' in command for command in starts) == 4
    assert sum('launch --ips=192.0.2.1,192.0.2.2 --devices=0,1' in command for command in starts) == 4
    assert sum(command.startswith('1> tools/train.py') for command in starts) == 4
    assert sum('--precision=fp16 --amp_level=O1' in command for command in starts) == 6


@pytest.mark.parametrize('quantized, expected', [
    ('False', {('cpu', 'True', 'fp32'), ('cpu', 'False', 'fp32'), ('gpu', 'True', 'fp32'), ('gpu', 'True', 'fp16'),
               ('gpu', 'False', 'fp32')}),
    ('True', {('cpu', 'True', 'int8'), ('gpu', 'True', 'fp32'), ('gpu', 'True', 'fp16')})])
def test_whole_infer_and_its_filters(chain, quantized, expected):
    done = chain('whole_infer', '0', lines={
        37: 'infer_model:stored/model.pdparams', 39: f'infer_quant:{quantized}', 41: '--device:cpu|gpu',
        43: '--cpu_threads:1', 44: '--batch_size:1', 45: '--use_trt:True|False', 46: '--precision:fp32|fp16|int8'})
    export, *infer = done.commands
    assert export.startswith('0> tools/export.py')
    assert export.endswith('--model_path=stored/model.pdparams --save_dir=stored')
    options = [dict(word[2:].split('=') for word in command.split() if '=' in word) for command in infer]
    assert all(option['config'] == 'stored/deploy.yaml' for option in options)
    settings = [(o['device'], o.get('enable_mkldnn') or o['use_trt'], o['precision']) for o in options]
    assert sorted(settings) == sorted(expected)


def test_benchmark_mode_takes_the_words_of_the_last_line(chain):
    done = chain('benchmark_train', lines={40: 'inference:null'})
    assert done.commands[0].endswith('--iters=20 --batch_size=2 --log_iters=5 --repeats=1')


def test_missing_interpreter(chain):
    done = chain(lines={3: 'python:python2.1'})
    assert done.returncode == 1
    assert 'python2.1 is missing' in done.stderr
    assert 'Run failed' in done.status[0]


@pytest.mark.parametrize('lines, said', [
    ({15: 'trainer:norm'}, ':15: trainer norm is the key of none'),
    ({14: ''}, ':14: blank line'),
    ({40: 'inference:null', 16: 'norm_train:null'}, 'nothing was run')])
def test_bad_configs(chain, lines, said):
    done = chain(lines=lines)
    assert done.returncode == 2
    assert said in done.stderr
    assert not done.commands


def test_arguments():
    for script in ('prepare.sh', 'test_train_inference_python.sh'):
        for arguments in ([], ['no/such/config.txt', MODE]):
            done = subprocess.run(['bash', f'test_tipc/{script}', *arguments], cwd=REPOSITORY, capture_output=True,
                                  text=True)
            assert done.returncode == 2
            assert 'usage: ' in done.stderr or 'no such config' in done.stderr
