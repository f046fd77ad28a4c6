"""The TIPC scripts, run with a stand-in interpreter that writes down the commands it is given."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
NAME = 'advsemiseg_deeplabv2_res101_humanseg'
CONFIG = f'test_tipc/configs/{NAME}/train_infer_python.txt'
FAMILIES = sorted((REPOSITORY / 'test_tipc/configs').glob('*/train_infer_python.txt'))
TRAININGS = [path for family in FAMILIES for path in sorted(family.parent.glob('train_*infer_python*.txt'))
             if 'ptq' not in path.name]
MODE = 'lite_train_lite_infer'

# Records every command; `train.py` leaves weights and a log; a command that contains $FAIL fails, one with $HANG hangs,
# and the module $LACKING is not installed. The server answers nobody, but says where it listens and ends when told to.
PYTHON = """#!/usr/bin/env bash
if [ "$1" = -c ]; then [ -z "$LACKING" ] || [[ "$2" != *$LACKING* ]]; exit; fi
echo "$CUDA_VISIBLE_DEVICES> $*" >> commands.txt
if [ -n "$FAIL" ] && [[ "$*" == *$FAIL* ]]; then exit 3; fi
if [ -n "$HANG" ] && [[ "$*" == *$HANG* ]]; then sleep 60; fi
for word; do
    case $word in --save_dir=*) mkdir -p "${word#*=}/$WEIGHTS" && touch "${word#*=}/$WEIGHTS/model.pdparams" ;; esac
done
case $* in
    *tools/train.py*) for i in {1..14}; do echo "iter: $i/14, loss: 0.$i, sup: 7, ips: $i.0 samples/sec"; done ;;
    deploy/serving/server.py*) trap 'exit 0' TERM; echo 'Serving on http://127.0.0.1:9/'; sleep 60 & wait ;;
    test_tipc/scripts/*) exec "$REAL_PYTHON" "$@" ;;
esac
"""


@pytest.fixture
def place(tmp_path):
    """A copy of test_tipc with its data in place, and an interpreter that stands in."""
    shutil.copytree(REPOSITORY / 'test_tipc', tmp_path / 'test_tipc', ignore=shutil.ignore_patterns('output', 'data'))
    for name in ('demo', 'mini_supervisely'):
        (tmp_path / 'test_tipc/data' / name).mkdir(parents=True)
        (tmp_path / 'test_tipc/data' / name / '.source').write_text('rendered')
    (tmp_path / 'test_tipc/results').mkdir(exist_ok=True)
    (tmp_path / f'test_tipc/results/python_{NAME}_results_fp32.txt').touch()
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin/python').write_text(PYTHON)
    (tmp_path / 'bin/python').chmod(0o755)
    return tmp_path


def start(place, *command, **environment):
    """Runs a command there; it gets the recorded commands of the stand-in as `commands`."""
    variables = {'PATH': f'{place}/bin:{os.environ["PATH"]}', 'WEIGHTS': 'best_model', 'REAL_PYTHON': sys.executable,
                 **environment}
    done = subprocess.run(command, cwd=place, env=variables, capture_output=True, text=True)
    recorded = place / 'commands.txt'
    done.commands = recorded.read_text().splitlines() if recorded.exists() else []
    recorded.unlink(missing_ok=True)
    return done


@pytest.fixture
def chain(place):
    """Runs a chain of the adversarial family with some lines of its config changed."""
    def run(mode=MODE, *more, lines=None, script='test_train_inference_python.sh', config=CONFIG, status='python',
            **environment):
        text = (place / config).read_text().splitlines()
        for number, line in (lines or {}).items():
            text[number - 1] = line
        (place / config).write_text('\n'.join(text) + '\n')
        done = start(place, 'bash', f'test_tipc/{script}', config, mode, *more, **environment)
        file = place / f'test_tipc/output/{NAME}/{mode}/results_{status}.log'
        done.status = file.read_text().splitlines() if file.exists() else []
        return done

    return run


def test_every_family_has_every_chain():
    wanted = {path.name for path in (REPOSITORY / CONFIG).parent.glob('*.txt')}
    assert len(FAMILIES) == 7
    assert all({path.name for path in family.parent.glob('*.txt')} == wanted for family in FAMILIES)


@pytest.mark.parametrize('path', TRAININGS, ids=lambda path: f'{path.parent.name}/{path.stem}')
def test_config_has_every_line_in_its_place(path):
    lines = path.read_text().splitlines()
    trainer = 'amp_train' if '_amp_' in path.name else 'norm_train'
    keys = {2: 'model_name', 3: 'python', 4: 'gpu_list', 5: '--device', 6: '--precision', 7: '--iters', 8: '--save_dir',
            9: '--batch_size', 10: '--model_path', 11: 'train_model_name', 12: 'train_infer_img_dir',
            13: '--profiler_options', 15: 'trainer', 16: trainer, 17: 'pact_train', 18: 'fpgm_train',
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
    values = [line.partition(':')[2] for line in lines]
    assert values[14] == trainer
    assert values[1] == values[51] and values[1].startswith(path.parent.name)
    assert f'/{values[1]}/' in values[36]
    assert len({word for value in values for word in value.split() if word.endswith('.yml')}) == 1, 'one recipe'
    if path.name == 'train_infer_python.txt':
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
               'python_infer_cpu_gpu_-1_usemkldnn_True_threads_1_precision_fp32_batchsize_2_results')
    assert infer[0] == ('deploy/python/infer.py --device=cpu --enable_mkldnn=True --cpu_threads=1 '
                        f'--config={run}/deploy.yaml --batch_size=2 '
                        '--image_path=test_tipc/data/mini_supervisely/val.txt --benchmark=True --precision=fp32 '
                        f'--save_dir={results} --model_name={NAME}')
    assert {tuple(word for word in command.split() if word.startswith(('--enable', '--cpu', '--batch')))
            for command in infer} == {(f'--enable_mkldnn={mkldnn}', f'--cpu_threads={threads}', f'--batch_size={batch}')
                                      for mkldnn in ('True', 'False') for threads in (1, 2) for batch in (2,)}
    assert len(done.status) == len(done.commands) == 7
    assert done.status[0] == (f'\033[33m Run successfully with command - {NAME} - python {train} - {run}_nodes_1.log  '
                              '\033[0m')


def test_status_is_fresh_and_weights_without_evaluation_are_found(chain):
    chain()
    done = chain(WEIGHTS='iter_4')
    assert len(done.status) == 7
    assert 'norm_train_gpus_-1_autocast_null/iter_4/model.pdparams' in done.commands[2]


@pytest.mark.parametrize('step, recorded', [
    ('train.py', 1), ('val.py', 7), ('export.py', 3), ('mkldnn=True', 7)])
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
    assert sum('_ranks --devices=0,1 tools/train.py' in command for command in starts) == 8
    assert sum('launch --ips=192.0.2.1,192.0.2.2 --log_dir=' in command for command in starts) == 4
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
    export, *infer, compared = done.commands
    assert compared.startswith(f'0> test_tipc/compare_results.py --metric_file=test_tipc/results/python_{NAME}_')
    assert export.startswith('0> tools/export.py')
    assert export.endswith('--model_path=stored/model.pdparams --save_dir=stored')
    options = [dict(word[2:].split('=') for word in command.split() if '=' in word) for command in infer]
    assert all(option['config'] == 'stored/deploy.yaml' for option in options)
    settings = [(o['device'], o.get('enable_mkldnn') or o['use_trt'], o['precision']) for o in options]
    assert sorted(settings) == sorted(expected)


def test_benchmark_mode_takes_the_words_of_the_last_line(chain):
    done = chain('benchmark_train', lines={40: 'inference:null'})
    assert done.commands[0].endswith('--iters=14 --batch_size=2 --log_iters=1 --repeats=1')


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
    for script in ('prepare', 'test_train_inference_python', 'test_serving_infer_python', 'test_paddle2onnx',
                   'test_ptq_inference_python', 'benchmark_train'):
        for arguments in ([], ['no/such/config.txt', MODE]):
            done = subprocess.run(['bash', f'test_tipc/{script}.sh', *arguments], cwd=REPOSITORY, capture_output=True,
                                  text=True)
            assert done.returncode == 2
            assert 'usage: ' in done.stderr or 'no such config' in done.stderr


SERVING = f'test_tipc/configs/{NAME}/model_linux_gpu_normal_normal_serving_python_linux_gpu_cpu.txt'


def serve(chain, **environment):
    return chain('serving_infer', script='test_serving_infer_python.sh', config=SERVING, status='serving',
                 **environment)


def test_serving(chain):
    done = serve(chain)
    assert done.returncode == 0, done.stderr
    server, client = (command.removeprefix('> ') for command in done.commands)
    run = f'test_tipc/output/{NAME}/{MODE}/norm_train_gpus_-1_autocast_null'
    assert server == f'deploy/serving/server.py --port 0 --config={run}/deploy.yaml --device=cpu'
    assert client.startswith('deploy/serving/client.py --concurrency 4 --url=http://127.0.0.1:9 --image_path=')
    assert ['successfully' in line for line in done.status] == [True, True]


@pytest.mark.parametrize('part, recorded', [('server.py', 1), ('client.py', 2)])
def test_serving_that_fails(chain, part, recorded):
    done = serve(chain, FAIL=part)
    assert done.returncode == 1
    assert len(done.status) == recorded
    assert sum('Run failed' in line for line in done.status) == 1


def test_a_missing_library_skips(chain):
    done = serve(chain, LACKING='aiohttp')
    assert done.returncode == 77
    assert 'Run skipped' in done.stdout
    assert "aiohttp is not installed (pip install '.[serving]')" in done.stdout
    assert not done.commands


def bench(chain, *setting, **environment):
    return chain('benchmark_train', *setting, script='benchmark_train.sh', status='benchmark', **environment)


ONNX = f'test_tipc/configs/{NAME}/model_linux_gpu_normal_normal_paddle2onnx_python_linux_cpu.txt'


def convert(chain, **environment):
    return chain('paddle2onnx_infer', script='test_paddle2onnx.sh', config=ONNX, status='paddle2onnx', **environment)


def test_paddle2onnx(chain):
    done = convert(chain)
    assert done.returncode == 0, done.stderr
    export, *infer, compared = (command.removeprefix('> ') for command in done.commands)
    output = f'test_tipc/output/{NAME}'
    assert export == (f'tools/export_onnx.py --config={output}/{MODE}/norm_train_gpus_-1_autocast_null/deploy.yaml '
                      f'--save_dir={output}/paddle2onnx_infer/onnx_model --opset_version=17')
    model = f'{output}/paddle2onnx_infer/onnx_model/deploy.yaml'
    assert all(command.startswith(f'deploy/python/infer_onnx.py --config={model} ') for command in infer)
    assert [command.split()[3] for command in infer] == ['--batch_size=1', '--batch_size=2']
    assert compared.startswith('test_tipc/compare_results.py')


def test_what_cannot_be_converted_is_not_run(chain):
    done = convert(chain, FAIL='export_onnx.py')
    assert done.returncode == 1
    assert len(done.commands) == 1
    assert convert(chain, LACKING='onnxruntime').returncode == 77


def test_ptq(chain):
    config = f'test_tipc/configs/{NAME}/train_ptq_infer_python.txt'
    done = chain('whole_infer', script='test_ptq_inference_python.sh', config=config)
    assert done.returncode == 0, done.stderr
    export, quantize, *infer = (command.removeprefix('> ') for command in done.commands)
    output = f'test_tipc/output/{NAME}_ptq/whole_infer'
    assert export.endswith(f'--old_ir --model_path=test_tipc/output/{NAME}/{MODE}/norm_train_gpus_-1_autocast_null/'
                           f'best_model/model.pdparams --save_dir={output}/exported_model')
    assert quantize.startswith(f'tools/quantize.py --num_images 8 --config={output}/exported_model/deploy.yaml ')
    assert quantize.endswith(f' --save_dir={output}/quant_model')
    assert len(infer) == 2
    assert all(f'--precision int8 --config={output}/quant_model/deploy.yaml' in command for command in infer)


def test_benchmark(chain, place):
    done = bench(chain, 'dynamic_bs2_fp32_DP_N1C2')
    assert done.returncode == 0, done.stderr
    train, analysis = done.commands
    assert '_ranks --nproc_per_node=2 tools/train.py' in train
    assert '--precision=fp32 --batch_size=2 --log_iters=1' in train
    index = place / f'test_tipc/output/{NAME}/benchmark_train/index/{NAME}_bs2_fp32_DP_N1C2_speed'
    found = json.loads(index.read_text())
    assert list(found) == ['model_branch', 'model_commit', 'model_name', 'batch_size', 'fp_item', 'run_mode',
                           'convergence_value', 'convergence_key', 'ips', 'speed_unit', 'device_num', 'model_run_time',
                           'frame_commit', 'frame_version']
    assert found['model_name'] == f'{NAME}_bs2_fp32_DP'
    assert (found['convergence_value'], found['convergence_key']) == (0.14, 'loss:')
    assert (found['ips'], found['speed_unit'], found['device_num']) == (2 * 8.5, 'samples/s', 'N1C2')


def test_benchmark_of_all_settings_with_profiler(chain):
    done = bench(chain, lines={57: 'fp_items:fp32|fp16', 59: "--profiler_options:'batch_range=[2,4];sorted_key=total'"})
    assert done.returncode == 0, done.stderr
    starts = [command for command in done.commands if 'train.py' in command]
    assert len(starts) == 2 * 2 * 2
    assert sum('--profiler_options=batch_range=[2,4];sorted_key=total' in command for command in starts) == 4
    assert sum('--precision=fp16 --batch_size=4' in command for command in starts) == 2
    assert not any('val.py' in command or 'export.py' in command for command in done.commands)


@pytest.mark.parametrize('setting, said', [
    ('dynamic_2_fp32', 'give a setting like'), ('dynamic_bs2_fp32_DP_N1C1', 'failed')])
def test_benchmark_that_fails(chain, setting, said):
    done = bench(chain, setting, FAIL='train.py')
    assert done.returncode in (1, 2)
    assert said in done.stderr


def test_a_log_with_too_few_lines(tmp_path):
    (tmp_path / 'log').write_text('loss: 1.0, ips: 2.0\n' * 12)
    done = subprocess.run([sys.executable, REPOSITORY / 'test_tipc/scripts/analysis.py', '--filename=log',
                           '--speed_log_file=speed', '--model_name=x', '--base_batch_size=2'], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 1
    assert '12 times "ips:"' in done.stderr
    assert not (tmp_path / 'speed').exists()


@pytest.fixture
def masks(tmp_path):
    """Two predictions, 3 of 4 pixels right in each."""
    from PIL import Image
    for folder, values in {'infer_fp32_results/images': [0, 0, 1, 1], 'truth': [0, 0, 0, 1]}.items():
        (tmp_path / folder).mkdir(parents=True)
        for name in 'ab':
            Image.fromarray(np.array([values], 'uint8'), 'P').save(tmp_path / folder / f'{name}.png')
    (tmp_path / 'list.txt').write_text('images/a.jpg truth/a.png\nimages/b.jpg truth/b.png\n')
    return tmp_path


def compare(masks, *flags, truth='truth'):
    """In this process, because starting the framework takes seconds; returns the exit code."""
    spec = importlib.util.spec_from_file_location('compare_results', REPOSITORY / 'test_tipc/compare_results.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(module.parser.parse_args([f'--metric_file={masks}/x_*.txt', f'--gt_dir={masks / truth}',
                                                 f'--predict_dir={masks}/infer_*_results', *flags]))


@pytest.mark.parametrize('truth', ['truth', 'list.txt'])
def test_compare_results(masks, truth, capsys):
    file = masks / 'x_fp32.txt'
    assert compare(masks, '--write', '--num_classes=2', f'--metric_file={file}', truth=truth) == 0
    stored = dict(line.split(': ') for line in file.read_text().splitlines())
    assert list(stored) == ['#Images', 'mIoU', 'Acc', 'Kappa', 'Class IoU', 'Class Acc']
    assert [float(stored[key]) for key in ('#Images', 'mIoU', 'Acc')] == pytest.approx([2, 7 / 12, 3 / 4])
    assert compare(masks, truth=truth) == 0
    assert 'Assert allclose passed!' in capsys.readouterr().out
    file.write_text(file.read_text().replace('Acc: 0.75', 'Acc: 0.752'))
    assert compare(masks, truth=truth) == 1
    said = capsys.readouterr().out
    assert 'Assert allclose failed!' in said and 'Acc is 0.75 and not 0.752' in said
    assert compare(masks, '--atol=0.01', truth=truth) == 0


@pytest.mark.parametrize('flags, says', [
    (['--predict_dir=nowhere'], 'no such folder'), (['--gt_dir=nowhere'], 'no such folder or list'),
    (['--write', '--metric_file=x'], 'give one --predict_dir, and --num_classes'), ([], 'no figures of fp32'),
    (['--num_classes=0'], 'at least 1')])
def test_compare_refuses(masks, flags, says):
    from paddleseg_semi.errors import InputError
    with pytest.raises(InputError, match=says):
        compare(masks, *flags)


@pytest.mark.parametrize('text', ['mIoU 0.5', 'mIoU: high\nClass IoU: [0 1]', 'mIoU: 0.5'])
def test_figures_that_are_none(masks, text):
    from paddleseg_semi.errors import InputError
    (masks / 'x_fp32.txt').write_text(text)
    with pytest.raises(InputError, match='x_fp32.txt: holds no figures'):
        compare(masks)


def test_a_list_without_masks(masks):
    from paddleseg_semi.errors import InputError
    (masks / 'list.txt').write_text('images/a.jpg\n')
    with pytest.raises(InputError, match='list.txt: a line is no "image mask"'):
        compare(masks, truth='list.txt')


def test_nan_equals_nothing(masks):
    (masks / 'x_fp32.txt').write_text('mIoU: nan\nClass IoU: [0 1]\n')
    assert compare(masks) == 1


def run_all(place, *flags, **environment):
    return start(place, sys.executable, 'test_tipc/run_all.py', *flags, **environment)


def table_of(place):
    """{chain: cells of the support matrix}, and what stands below it."""
    text = (place / 'test_tipc/README.md').read_text().split('run_all.py -->\n')[1].split('<!-- end -->')[0]
    head, _, *rows = [line.strip('| ').split(' | ') for line in text.splitlines() if line.startswith('|')]
    return dict(zip(head, zip(*(row[1:] for row in rows)))), text


@pytest.fixture
def family(place):
    for other in FAMILIES:
        if other.parent.name != NAME:
            shutil.rmtree(place / 'test_tipc/configs' / other.parent.name)
    return place


def test_run_all(family):
    done = run_all(family, LACKING='aiohttp')
    assert done.returncode == 0, done.stdout + done.stderr
    cells, below = table_of(family)
    assert cells.pop('serving') == ('skipped',)
    assert 'aiohttp is not installed' in below
    assert set(cells.values()) == {('✓',)}
    assert f'skipped {NAME}, serving: ' in done.stdout


def test_a_broken_step_makes_it_red(family):
    done = run_all(family, FAIL='tools/export.py')
    assert done.returncode == 1
    cells, below = table_of(family)
    assert cells['basic'] == cells['amp'] == cells['whole_infer'] == ('✗',)
    assert cells['benchmark'] == ('✓',)
    assert f'✗ {NAME}, serving: not run: needs the model of the chain "basic"' in done.stdout
    assert 'tools/export.py' in below


def test_what_takes_too_long_is_stopped(family):
    before = (family / 'test_tipc/README.md').read_text()
    begun = time.monotonic()
    done = run_all(family, '--chains', 'benchmark', '--limit', '2', HANG='tools/train.py')
    assert done.returncode == 1
    assert time.monotonic() - begun < 20
    assert 'benchmark: stopped: longer than 2 s' in done.stdout
    assert (family / 'test_tipc/README.md').read_text() == before, 'a part is not the whole matrix'
