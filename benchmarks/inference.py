"""One network and all ways to run it on a CPU, side by side in one run.

    python benchmarks/inference.py --config RUN/config.yml --model_path RUN/best_model --csv docs/results/inference.csv

The validation photos pass the network one by one. Every row is a process of its own; all rows run in turns, several
times. Exports, conversions and int8 models are made first, by the tools. Rows whose library is missing are left out:
they need `pip install '.[onnx]' torch`. The network in PyTorch is DeepLabV3P with ResNet18_vd.
"""

import csv
import glob
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
sys.path.insert(0, os.path.join(ROOT, 'tools'))
from cli import Parser, add_network_flags, build_network, run

parser = Parser('Milliseconds, memory and agreement of one network run in different ways.')
add_network_flags(parser)
parser.add_argument('--rounds', type=int, default=3, help='processes per row')
parser.add_argument('--num_images', type=int, default=1000, help='validation photos, at most')
parser.add_argument('--csv', default=None, help='where the table goes; default: the console')
parser.add_argument('--row', default=None, help='used by the script itself: one row, in this process')
parser.add_argument('--folder', default=None, help='used by the script itself: the exported models')

_WARM_UP = 5
_CALIBRATION = 32  # training photos


def main(args):
    if args.row:
        print(json.dumps(measured(args)))
        return
    args.cpu_threads = args.cpu_threads or len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        args.folder = folder
        labels, class_count = prepare(args)
        rows = {name: [] for name, (needs, _) in ROWS.items() if not needs or importlib.util.find_spec(needs)}
        classes = {}
        for round_ in range(args.rounds):
            for name, found in rows.items():
                found.append(json.loads(script(args, __file__, '--row', name).splitlines()[-1]))
                print(f'{round_ + 1}/{args.rounds}', name, found[-1], file=sys.stderr, flush=True)
                if not round_:
                    classes[name] = segmented(folder)
    table = [row(name, rows, classes, labels, class_count) for name in rows]
    with open(args.csv, 'w', newline='') if args.csv else os.fdopen(os.dup(1), 'w') as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator='\n')
        writer.writeheader()
        writer.writerows(table)


def prepare(args):
    """Exports the network in all forms and prepares the photos, in `args.folder`.

    Returns:
        tuple: the labels, ndarrays [h, w], and the number of classes.
    """
    import numpy as np
    from PIL import Image

    from paddleseg_semi import safe
    from paddleseg_semi.deploy.bundle import Bundle
    from paddleseg_semi.deploy.segment import prepare
    config, builder, _ = build_network(args)

    def place(*name):
        return os.path.join(args.folder, *name)

    photos = place('calibration.txt')
    with open(photos, 'w', encoding='utf-8') as file:
        file.writelines(f'{os.path.abspath(path)}\n' for path, *_ in builder.train_dataset.file_list)
    quantize = ['tools/quantize.py', '--image_path', photos, '--num_images', str(_CALIBRATION)]
    for form, flags in {'plain': [], 'old_ir': ['--old_ir']}.items():
        script(args, 'tools/export.py', '--output_op', 'none', '--save_dir', place(form), *flags, with_network=True)
    if importlib.util.find_spec('onnxruntime'):
        script(args, 'tools/export_onnx.py', '--config', place('plain/deploy.yaml'), '--save_dir', place('onnx'))
        script(args, *quantize, '--config', place('onnx/deploy.yaml'), '--save_dir', place('onnx_int8'))
    script(args, *quantize, '--config', place('old_ir/deploy.yaml'), '--save_dir', place('old_ir_int8'))
    np.savez(place('weights.npz'), **safe.load(args.model_path))  # PyTorch's rows need no Paddle
    bundle = Bundle.read(place('plain/deploy.yaml'))
    for kind in ('in', 'out'):
        os.mkdir(place(kind))
    val = builder.val_dataset.file_list[:args.num_images]
    for number, (path, _) in enumerate(val):
        np.save(place('in', f'{number:05d}.npy'), prepare(bundle, path, path).img[None])
    with open(place('trans_info.json'), 'w') as file:
        json.dump([prepare(bundle, path, path).trans_info for path, _ in val], file)
    return [np.asarray(Image.open(label)) for _, label in val], builder.val_dataset.num_classes


def script(args, path, *flags, with_network=False):
    """Runs a tool, or this script, and gives what it prints."""
    if with_network or path == __file__:
        flags = [*flags, '--config', args.config, '--model_path', args.model_path]
    if path == __file__:
        flags = [*flags, '--folder', args.folder]
    environment = {key: value for key, value in os.environ.items()
                   if key not in ('OMP_NUM_THREADS', 'MKL_DEBUG_CPU_TYPE')}
    done = subprocess.run([sys.executable, os.path.join(ROOT, path), *flags, '--cpu_threads',
                           str(args.cpu_threads)], capture_output=True, text=True,
                          env=environment)
    if done.returncode:
        sys.exit(f'{path} {" ".join(flags)}\n{done.stderr}')
    return done.stdout


def measured(args):
    """Runs one row over all photos.

    Returns:
        dict: `ms`, the median; `peak`, of the process in MB; `libraries`, what it held before there was a network.
    """
    import numpy as np
    needs, start = ROWS[args.row]
    steps = start(args)
    next(steps)
    libraries = megabytes('VmRSS')
    model, seconds = next(steps), []
    for number, path in enumerate(sorted(glob.glob(os.path.join(args.folder, 'in', '*.npy')))):
        batch = np.load(path)
        for _ in range(0 if number else _WARM_UP):
            model(batch)
        begin = time.perf_counter()
        output = model(batch)
        seconds.append(time.perf_counter() - begin)
        np.save(path.replace('/in/', '/out/'), output)
    return {'ms': 1000 * statistics.median(seconds), 'libraries': libraries, 'peak': megabytes('VmHWM')}


def megabytes(what):
    """Of this process. getrusage would begin with the peak of the process it was forked from."""
    with open('/proc/self/status') as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(what))


def dygraph(args):
    import paddle

    from paddleseg_semi.core.testing import Testing
    yield
    _, _, model = build_network(args)
    model.eval()
    net = Testing().network(model)

    def call(batch):
        with paddle.no_grad():
            return net(paddle.to_tensor(batch))[0].numpy()

    yield call


def paddle_inference(form, engine, precision='fp32'):
    def start(args):
        from paddleseg_semi.deploy.backends import PaddleBackend
        from paddleseg_semi.deploy.bundle import Bundle
        from paddleseg_semi.runtime import tune_cpu
        tune_cpu(args.cpu_threads)
        yield
        bundle = Bundle.read(os.path.join(args.folder, form, 'deploy.yaml'))
        yield PaddleBackend(bundle, threads=args.cpu_threads, engine=engine, precision=precision).run

    return start


def onnx_runtime(form):
    def start(args):
        import onnxruntime  # noqa: F401  among the libraries

        from paddleseg_semi.deploy.backends import OnnxBackend
        from paddleseg_semi.deploy.bundle import Bundle
        yield
        yield OnnxBackend(Bundle.read(os.path.join(args.folder, form, 'deploy.yaml')), args.cpu_threads).run

    return start


def pytorch(memory_format):
    def start(args):
        import numpy as np
        import torch
        from torch_network import DeepLabV3P
        torch.set_num_threads(args.cpu_threads)
        layout = getattr(torch, memory_format)
        yield
        net = DeepLabV3P(np.load(os.path.join(args.folder, 'weights.npz'))).to(memory_format=layout)

        def call(batch):
            with torch.inference_mode():
                return net(torch.from_numpy(batch).contiguous(memory_format=layout)).contiguous().numpy()

        yield call

    return start


ROWS = {  # name → the library it needs besides Paddle, and what gives first nothing, then the network
    'Paddle, dygraph': (None, dygraph),
    'Paddle Inference': (None, paddle_inference('plain', 'paddle')),
    'Paddle Inference, oneDNN': (None, paddle_inference('plain', 'onednn')),
    'Paddle Inference, oneDNN, bf16': (None, paddle_inference('plain', 'onednn', 'bf16')),
    'Paddle Inference, oneDNN, int8': (None, paddle_inference('old_ir_int8', 'onednn')),
    'Paddle Inference, OpenVINO': (None, paddle_inference('old_ir', 'openvino')),
    'Paddle Inference, OpenVINO, bf16': (None, paddle_inference('old_ir', 'openvino', 'bf16')),
    'ONNX Runtime': ('onnxruntime', onnx_runtime('onnx')),
    'ONNX Runtime, int8': ('onnxruntime', onnx_runtime('onnx_int8')),
    'PyTorch, eager': ('torch', pytorch('contiguous_format')),
    'PyTorch, eager, channels last': ('torch', pytorch('channels_last')),
}


def segmented(folder):
    """list[ndarray]: uint8 [h, w], the classes of every photo by the row that ran last."""
    import numpy as np

    from paddleseg_semi.deploy.segment import to_classes
    with open(os.path.join(folder, 'trans_info.json')) as file:
        infos = json.load(file)
    outputs = sorted(glob.glob(os.path.join(folder, 'out', '*.npy')))
    return [to_classes(np.load(path)[0], info, 'none') for path, info in zip(outputs, infos)]


def row(name, rows, classes, labels, class_count):
    """dict: a line of the table."""
    import numpy as np
    import paddle

    from paddleseg_semi.core.metrics import confusion_matrix, scores
    median = {key: {name: statistics.median(found[key] for found in results) for name, results in rows.items()}
              for key in ('ms', 'peak', 'libraries')}
    first = next(iter(rows))
    same = np.mean([(ours == theirs).mean() for ours, theirs in zip(classes[name], classes[first])])
    matrix = sum(confusion_matrix(paddle.to_tensor(ours), paddle.to_tensor(label).astype('int64'), class_count).numpy()
                 for ours, label in zip(classes[name], labels))
    return {'How': name, 'ms per photo': f'{median["ms"][name]:.1f}',
            'times as fast as dygraph': f'{median["ms"][first] / median["ms"][name]:.2f}',
            'peak memory, MB': f'{median["peak"][name]:.0f}',
            'of it above the libraries': f'{median["peak"][name] - median["libraries"][name]:.0f}',
            'pixels as dygraph, %': f'{100 * same:.2f}', 'mIoU': f'{scores(matrix).miou:.4f}'}


if __name__ == '__main__':
    run(main, parser)
