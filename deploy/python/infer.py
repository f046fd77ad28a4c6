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

_REQUIRED = ('model', 'params', 'transforms')
_WARM_UP = 5  # runs before a benchmark
_TUNING_BATCHES = 10
_MOST_WAITING = 8  # batches' worth of images in memory while sizes are being collected


def main(args):
    import paddle
    from paddleseg.utils import logger, visualize

    from paddleseg_semi.core.common import list_images, make_folder, progress_bar, save_mask
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
    deploy = read_deploy(args.config)
    images = list_images(args.image_path)
    make_folder(args.save_dir)
    fixed = deploy['input_shape'][0]
    if fixed not in (-1, None) and args.batch_size > fixed:
        raise InputError(f'--batch_size {args.batch_size}: the model was exported for batches of {fixed}.')
    if deploy['output_op'] == 'argmax' and any('Resize' in type(op).__name__ for op in deploy['transforms'].transforms):
        logger.info('The model gives classes, so they are resized to the photo by nearest neighbour; an export with '
                    '--output_op none gives the finer borders of tools/predict.py.')
    predictor = Predictor(args, deploy, lambda: batches(images, deploy, args.batch_size, defaultdict(float)))

    color_map = visualize.get_color_map_list(256)
    seconds, done = defaultdict(float), 0
    bar = progress_bar(len(images), show=args.print_detail)
    for batch, members in batches(images, deploy, args.batch_size, seconds):
        if args.benchmark and not done:
            for _ in range(_WARM_UP):
                predictor.run(batch)
        start = time.perf_counter()
        outputs = predictor.run(batch)
        seconds['inference'] += time.perf_counter() - start
        start = time.perf_counter()
        with paddle.no_grad():
            results = [to_classes(output, trans_info, deploy['output_op'])
                       for output, (_, trans_info) in zip(outputs, members)]
        seconds['postprocess'] += time.perf_counter() - start
        for classes, (name, _) in zip(results, members):
            save_mask(classes, os.path.join(args.save_dir, f'{name}.png'), color_map)
        seconds['batches'] += 1
        done += len(members)
        bar.update(done)
    if args.benchmark:
        for line in report(args, predictor, seconds, len(images)):
            logger.info(line)
    logger.info(f'Written: {args.save_dir}')


def read_deploy(path):
    """Reads the Deploy block of a deploy.yaml.

    Returns:
        dict: `model` and `params` as paths of existing files, `transforms` as a Compose, `output_op`, `input_shape`.

    Raises:
        InputError: what is missing or wrong, in one line.
    """
    import yaml
    from paddleseg.deploy.infer import DeployConfig

    from paddleseg_semi.errors import InputError, nearest
    try:
        with open(path, encoding='utf-8') as file:
            deploy = yaml.safe_load(file)['Deploy']
        missing = [key for key in _REQUIRED if key not in deploy]
    except OSError as error:
        raise InputError(f'--config {path}: {error.strerror}. Give the deploy.yaml of tools/export.py.') from None
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError):
        raise InputError(f'--config {path}: not a deploy.yaml: it has no "Deploy" section. '
                         'Write one with tools/export.py.') from None
    if missing:
        raise InputError(f'--config {path}: Deploy has no "{missing[0]}". Write the file with tools/export.py.')
    for key in ('model', 'params'):
        file = os.path.join(os.path.dirname(path), str(deploy[key]))
        if not os.path.isfile(file):
            raise InputError(f'--config {path}: {key} {file} does not exist. Keep the exported files together.')
        deploy[key] = file
    try:
        import paddleseg_semi.transforms  # noqa: F401  registers ours
        deploy['transforms'] = DeployConfig.load_transforms(deploy['transforms'])
    except Exception as error:  # a constructor may raise anything
        from paddleseg.cvlibs import manager
        hint = nearest(error.args[0] if error.args else '', manager.TRANSFORMS.components_dict)
        raise InputError(f'--config {path}: its transforms cannot be built ({type(error).__name__}: {error}).{hint}') \
            from None
    return {'output_op': 'none', 'input_shape': [-1, 3, -1, -1], **deploy}


def batches(images, deploy, batch_size, seconds):
    """Reads images and groups those that are equal in size once preprocessed, so that nothing has to be padded.

    Yields:
        tuple: float32 [N, C, H, W], and for each of the N its (name, trans_info).
    """
    from paddleseg_semi.errors import InputError
    waiting, held = defaultdict(list), 0
    for path, name in images:
        start = time.perf_counter()
        data = deploy['transforms']({'img': path})
        seconds['preprocess'] += time.perf_counter() - start
        shape = data['img'].shape
        if any(fixed not in (-1, None, size) for fixed, size in zip(deploy['input_shape'][1:], shape)):
            raise InputError(f'{path}: is {list(shape)} (channels, height, width) after the transforms, but the model '
                             f'was exported for {deploy["input_shape"][1:]}. Add a Resize to the transforms, or export '
                             'without --input_shape.')
        waiting[shape].append((data['img'], (name, data['trans_info'])))
        held += 1
        fullest = max(waiting, key=lambda size: len(waiting[size]))
        if len(waiting[fullest]) == batch_size or held >= _MOST_WAITING * batch_size:
            held -= len(waiting[fullest])
            yield _stacked(waiting.pop(fullest))
    for group in waiting.values():
        yield _stacked(group)


def _stacked(group):
    import numpy as np
    arrays, members = zip(*group)
    return np.stack(arrays).astype('float32'), members


class Predictor:
    """A Paddle Inference predictor, set up as the flags say.

    Args:
        args (Namespace): the flags.
        deploy (dict): from `read_deploy`.
        sample (callable): gives the batches on which TensorRT's shapes are measured.
    """

    def __init__(self, args, deploy, sample):
        from paddle import inference
        self.args, self.deploy = args, deploy
        config = self._config()
        if args.device == 'cpu':
            self._use_cpu(config)
        elif args.use_trt:
            self._use_tensorrt(config, sample)
        self.memory_optim = deploy['model'].endswith('.pdmodel')  # the pass does not exist for model.json
        if self.memory_optim:
            config.enable_memory_optim()
        self.predictor = inference.create_predictor(config)

    def run(self, batch):
        """ndarray [N, C, H, W] → ndarray: the model's output, [N, H, W] classes or [N, C, H, W] scores."""
        import numpy as np
        lacking = (self.deploy['input_shape'][0] or -1) - len(batch)  # where the export fixed N
        full = np.concatenate([batch, batch[-1:].repeat(lacking, 0)]) if lacking > 0 else batch
        handle = self.predictor.get_input_handle(self.predictor.get_input_names()[0])
        handle.reshape(full.shape)
        handle.copy_from_cpu(full)
        self.predictor.run()
        return self.predictor.get_output_handle(self.predictor.get_output_names()[0]).copy_to_cpu()[:len(batch)]

    def _config(self):
        from paddle import inference
        config = inference.Config(self.deploy['model'], self.deploy['params'])
        config.disable_glog_info()
        if self.args.device == 'gpu':
            config.enable_use_gpu(100, 0)  # MB to start with, card
        elif self.args.device == 'xpu':
            config.enable_xpu()
        elif self.args.device != 'cpu':
            config.enable_custom_device(self.args.device)
        return config

    def _use_cpu(self, config):
        config.set_cpu_math_library_num_threads(self.args.cpu_threads)
        if not self.args.enable_mkldnn:
            if hasattr(config, 'disable_mkldnn'):  # Paddle 3 switches it on by itself, the oldest 2 cannot switch it
                config.disable_mkldnn()
            return
        config.enable_mkldnn()
        config.set_mkldnn_cache_capacity(10)  # shapes; without a limit every image size stays in memory
        if self.deploy['model'].endswith('.json'):
            config.delete_pass('onednn_placement_pass')  # Paddle 3.3: fails on bilinear_interp (Paddle issue 79749)

    def _use_tensorrt(self, config, sample):
        from paddle import inference
        args = self.args
        precision = {'fp32': inference.PrecisionType.Float32, 'fp16': inference.PrecisionType.Half,
                     'int8': inference.PrecisionType.Int8}[args.precision]
        config.enable_tensorrt_engine(workspace_size=1 << 30, max_batch_size=args.batch_size,
                                      min_subgraph_size=args.min_subgraph_size, precision_mode=precision,
                                      use_static=False, use_calib_mode=False)
        if args.enable_auto_tune:
            file = args.auto_tuned_shape_file or os.path.join(os.path.dirname(args.config), 'auto_tuned_shape.pbtxt')
            if not os.path.isfile(file):
                self._measure_shapes(file, sample)
            config.enable_tuned_tensorrt_dynamic_shape(file, True)
        else:
            sizes = ((1, 100, 100), (args.batch_size, 2000, 3000), (args.batch_size, 512, 1024))
            channels = self.deploy['input_shape'][1]
            config.set_trt_dynamic_shape_info(*({'x': [n, channels, h, w]} for n, h, w in sizes))

    def _measure_shapes(self, file, sample):
        from paddle import inference
        config = self._config()
        config.collect_shape_range_info(file)
        self.predictor = inference.create_predictor(config)
        for _, (batch, _) in zip(range(_TUNING_BATCHES), sample()):
            self.run(batch)
        del self.predictor  # writes the file


def to_classes(output, trans_info, output_op):
    """Brings one output back to the photo's size, the way tools/predict.py does.

    Args:
        output (ndarray): classes [H, W], or scores [C, H, W].
        trans_info (list): what the transforms did to the photo's size.
        output_op (str): that of the export.

    Returns:
        ndarray: uint8 [h, w].
    """
    import paddle
    from paddleseg.core.infer import reverse_transform
    if output.ndim == 2:
        classes = reverse_transform(paddle.to_tensor(output)[None, None].astype('int32'), trans_info, mode='nearest')
    else:
        scores = paddle.to_tensor(output)[None]
        if output_op == 'softmax':  # a logarithm is the logit minus one number per pixel: resized, the same class wins
            scores = paddle.log(scores.clip(min=1e-37))
        classes = paddle.argmax(reverse_transform(scores, trans_info, mode='bilinear'), axis=1, keepdim=True)
    return classes[0, 0].numpy().astype('uint8')


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
