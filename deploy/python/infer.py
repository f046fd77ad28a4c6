"""Paddle Inference on an exported segmenter: one palette PNG per image, whose pixel values are the classes."""

import os
import platform
import resource
import subprocess
import sys
import time
from collections import defaultdict

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..')
sys.path[:0] = [ROOT, os.path.join(ROOT, 'tools')]

from cli import Parser, run


def _bool(text):
    if text.lower() not in ('true', 'false'):
        raise ValueError(text)
    return text.lower() == 'true'


_bool.__name__ = 'True|False'  # how argparse calls it in an error line

parser = Parser(__doc__)
parser.add_argument('--config', required=True, help='deploy.yaml, as tools/export.py writes it')
parser.add_argument('--image_path', required=True, help='an image, a folder, or a text list of images')
parser.add_argument('--batch_size', type=int, default=1, help='images of equal size per run')
parser.add_argument('--save_dir', default='./output', help='where the results go')
parser.add_argument('--device', default=None, choices=['cpu', 'gpu', 'xpu', 'npu', 'mlu'],
                    help='where to run (default: a GPU if there is one, else the CPU)')
parser.add_argument('--use_trt', type=_bool, default=False, help='TensorRT (GPU)')
parser.add_argument('--precision', default='fp32', choices=['fp32', 'fp16', 'int8'], help='of TensorRT')
parser.add_argument('--min_subgraph_size', type=int, default=3, help='the smallest graph handed to TensorRT')
parser.add_argument('--enable_auto_tune', type=_bool, default=False,
                    help='measure the range of shapes for TensorRT on the first ten batches')
parser.add_argument('--auto_tuned_shape_file', default=None,
                    help='file of that range; one that exists is used as it is (default: auto_tuned_shape.pbtxt '
                    'beside deploy.yaml)')
parser.add_argument('--cpu_threads', type=int, default=None, help='CPU threads (default: all cores it may run on)')
parser.add_argument('--no_cpu_tuning', action='store_true', help="keep MKL's generic code path on AMD")
parser.add_argument('--enable_mkldnn', type=_bool, default=False, help='oneDNN (CPU); usually 2 to 8 times faster')
parser.add_argument('--benchmark', type=_bool, default=False, help='warm up, then report times and settings')
parser.add_argument('--model_name', default='', help='for the benchmark report')
parser.add_argument('--with_argmax', nargs='?', type=_bool, const=True, default=True,
                    help='take the best class where the model gives scores; always done, the results are classes')
parser.add_argument('--print_detail', type=_bool, default=True, help='show progress')

_WARM_UP = 5  # runs before a benchmark


def main(args):
    from paddleseg.utils import logger

    from paddleseg_semi.core.common import list_images, make_folder, progress_bar
    from paddleseg_semi.deploy.backends import PaddleBackend, TensorRT
    from paddleseg_semi.deploy.bundle import Bundle
    from paddleseg_semi.deploy.results import MaskWriter
    from paddleseg_semi.deploy.segment import batches, prepare, stack, to_classes
    from paddleseg_semi.errors import InputError
    from paddleseg_semi.runtime import set_device, tune_cpu

    if args.cpu_threads is None:
        args.cpu_threads = len(os.sched_getaffinity(0))
    for flag in ('batch_size', 'cpu_threads'):
        if getattr(args, flag) < 1:
            raise InputError(f'--{flag} {getattr(args, flag)}: give a whole number of at least 1.')
    args.device = set_device(args.device)
    tune_cpu(args.cpu_threads, not args.no_cpu_tuning)
    if args.use_trt and args.device != 'gpu':
        raise InputError(f'--use_trt True: TensorRT needs a GPU, but the device is {args.device}.')
    if args.precision != 'fp32' and not args.use_trt:
        logger.warning(f'--precision {args.precision} has no effect without --use_trt True; running float32.')
    bundle = Bundle.read(args.config)
    images = list_images(args.image_path)
    make_folder(args.save_dir)
    fixed = bundle.input_shape[0]
    if fixed != -1 and args.batch_size > fixed:
        raise InputError(f'--batch_size {args.batch_size}: the model was exported for batches of {fixed}.')
    if bundle.output_op == 'argmax' and any('Resize' in type(op).__name__ for op in bundle.transforms.transforms):
        logger.info('The model gives classes, so they are resized to the photo by nearest neighbour; an export with '
                    '--output_op none gives the finer borders of tools/predict.py.')
    seconds, done = defaultdict(float), 0

    def groups():
        return batches((prepare(bundle, path, name) for path, name in images), args.batch_size)

    tensorrt = TensorRT(args.batch_size, args.min_subgraph_size, args.enable_auto_tune, args.auto_tuned_shape_file,
                        lambda: map(stack, groups())) if args.use_trt else None
    backend = PaddleBackend(bundle, args.device, args.cpu_threads, 'onednn' if args.enable_mkldnn else 'paddle',
                            args.precision, tensorrt)
    writer = MaskWriter(bundle, args.save_dir)
    bar = progress_bar(len(images), show=args.print_detail)
    start = time.perf_counter()
    for group in groups():
        seconds['preprocess'] += time.perf_counter() - start
        batch = stack(group)
        if args.benchmark and not done:
            for _ in range(_WARM_UP):
                backend.run(batch)
        start = time.perf_counter()
        outputs = backend.run(batch)
        seconds['inference'] += time.perf_counter() - start
        start = time.perf_counter()
        results = [to_classes(output, sample.trans_info, bundle.output_op) for output, sample in zip(outputs, group)]
        seconds['postprocess'] += time.perf_counter() - start
        for classes, sample in zip(results, group):
            writer.write(sample.name, classes)
        seconds['batches'] += 1
        done += len(group)
        bar.update(done)
        start = time.perf_counter()
    if args.benchmark:
        for line in report(args, backend, seconds, len(images)):
            logger.info(line)
    logger.info(f'Written: {args.save_dir}')


def report(args, predictor, seconds, count):
    """The benchmark's lines, with AutoLog's blocks and fields. Times are means per batch."""
    import paddle
    query = 'driver_version,memory.used,utilization.gpu'
    driver, memory, used = _nvidia_smi(query) if args.device == 'gpu' else (None, None, None)
    times = {stage: 1000 * seconds[stage] / seconds['batches'] for stage in ('preprocess', 'inference', 'postprocess')}
    blocks = {
        'Env': {'OS_version': platform.platform(), 'CUDA_version': paddle.version.cuda(),
                'CUDNN_version': paddle.version.cudnn(), 'drivier_version': driver},
        'Paddle': {'paddle_version': paddle.__version__, 'paddle_commit': paddle.version.commit,
                   'log_api_version': '1.0'},
        'Conf': {'runtime_device': args.device, 'ir_optim': True, 'enable_memory_optim': predictor.memory_optim,
                 'enable_tensorrt': args.use_trt, 'enable_mkldnn': args.enable_mkldnn,
                 'cpu_math_library_num_threads': args.cpu_threads},
        'Model': {'model_name': args.model_name, 'precision': args.precision},
        'Data': {'batch_size': args.batch_size, 'input_shape': 'dynamic', 'data_num': count}}
    for title, fields in blocks.items():
        yield f' {title} info '.center(56, '-')
        yield from (f'{key}: {value}' for key, value in fields.items())
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # the most so far
    yield ' Perf info '.center(56, '-')
    yield f'cpu_rss(MB): {rss:.4f}, gpu_rss(MB): {memory}, gpu_util: {used}%'
    yield f'total time spent(s): {sum(seconds[stage] for stage in times):.4f}'
    yield ', '.join(f'{stage}_time(ms): {value:.4f}' for stage, value in times.items())


def _nvidia_smi(query):
    """The first card's answers to a query, or None for each when the driver's tool is missing."""
    try:
        answer = subprocess.run(['nvidia-smi', f'--query-gpu={query}', '--format=csv,noheader,nounits', '--id=0'],
                                capture_output=True, text=True, check=True).stdout
        return [value.strip() for value in answer.split(',')]
    except (OSError, subprocess.CalledProcessError):
        return [None] * (query.count(',') + 1)


if __name__ == '__main__':
    run(main, parser)
