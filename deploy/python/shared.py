"""What the tools here share: which photos, what is written, and the run over them. As tools/cli.py, without the
framework until a run begins."""

import itertools
import math
import os
import platform
import resource
import subprocess
import sys
import time

from cli import add_window_flags, true_or_false

_WARM_UP = 5  # runs of the network before a benchmark


def add_photo_flags(parser):
    """What to segment, how, and what to write."""
    switch = {'nargs': '?', 'type': true_or_false, 'const': True, 'default': False}
    parser.add_argument('--config', required=True, help='the deploy.yaml of an exported model')
    parser.add_argument('--image_path', required=True, help='an image, a folder, a text list of images, or a video')
    parser.add_argument('--batch_size', type=int, default=1, help='images of equal size, or windows, per run')
    parser.add_argument('--save_dir', default='./output', help='where the results go')
    parser.add_argument('--cpu_threads', type=int, default=None,
                        help='CPU threads of the network (default: all cores it may run on)')
    add_window_flags(parser)
    parser.add_argument('--average_probs', **switch, help='windows average probabilities instead of logits')
    parser.add_argument('--save_overlay', **switch, help='photos with the colors of the classes over them')
    parser.add_argument('--save_conf', **switch, help='gray PNGs of how sure the model is of the class')
    parser.add_argument('--polygons', choices=['coco', 'labelme'], help='outlines of the classes as JSON')
    parser.add_argument('--polygon_tolerance', type=float, default=0.0,
                        help='pixels that simplified outlines may be off; 0: exact')
    parser.add_argument('--max_pixels', type=int, default=178_956_970, help='images of more are skipped')
    parser.add_argument('--benchmark', type=true_or_false, default=False,
                        help='warm up, then report times and settings')
    parser.add_argument('--model_name', default='', help='for the benchmark report')
    parser.add_argument('--with_argmax', nargs='?', type=true_or_false, const=True, default=True,
                        help='take the best class where the model gives scores; always done, the results are classes')
    parser.add_argument('--print_detail', type=true_or_false, default=True, help='show progress')


def open_photos(args):
    """Checks the flags and reads the model's description. Afterwards `args.window` is the Testing, or None.

    Returns:
        tuple: Bundle, and Images or Video.

    Raises:
        InputError: what is wrong, before anything is written.
    """
    from paddleseg.utils import logger

    from paddleseg_semi.deploy.bundle import Bundle
    from paddleseg_semi.deploy.photos import VIDEOS, Images, Video
    from paddleseg_semi.deploy.results import check_scores
    from paddleseg_semi.deploy.windows import asked_window
    from paddleseg_semi.errors import InputError
    if args.cpu_threads is None:
        args.cpu_threads = len(os.sched_getaffinity(0))
    for flag in ('batch_size', 'cpu_threads', 'max_pixels'):
        if getattr(args, flag) < 1:
            raise InputError(f'--{flag} {getattr(args, flag)}: give a whole number of at least 1.')
    if not 0 <= args.polygon_tolerance < math.inf:
        raise InputError(f'--polygon_tolerance {args.polygon_tolerance}: give pixels, 0 or more.')
    bundle = Bundle.read(args.config)
    if args.save_conf:
        check_scores(bundle, '--save_conf')
    args.window = asked_window(args, bundle)
    fixed = bundle.input_shape[0]
    if fixed != -1 and args.batch_size > fixed:
        raise InputError(f'--batch_size {args.batch_size}: the model was exported for batches of {fixed}.')
    if bundle.output_op == 'argmax' and any('Resize' in type(op).__name__ for op in bundle.transforms.transforms):
        logger.info('The model gives classes, so they are resized to the photo by nearest neighbor; an export with '
                    '--output_op none gives the finer borders of tools/predict.py.')
    return bundle, (Video if args.image_path.lower().endswith(VIDEOS) else Images)(args.image_path)


def run_first(args, bundle, photos, backend, batches=10):
    """Runs the model over as many photos as fill some batches, and writes nothing."""
    from paddleseg_semi.deploy.pipeline import Pipeline
    for _ in Pipeline(bundle, backend, [], args.batch_size, args.window).run(
            itertools.islice(photos, batches * args.batch_size)):
        pass


def segment(args, bundle, photos, backend, settings):
    """Runs the model over all photos and writes the results.

    Args:
        args (Namespace): the flags of `add_photo_flags`.
        bundle, photos: from `open_photos`.
        backend (object): see paddleseg_semi/deploy/backends.py.
        settings (dict): for the report of --benchmark: `runtime_device`, `enable_tensorrt`, …, `precision`.

    Returns:
        int: the exit code: 0, or 3 when photos were skipped, which are listed on stderr.
    """
    from paddleseg.utils import logger

    from paddleseg_semi.core.common import make_folder, progress_bar
    from paddleseg_semi.deploy.pipeline import Pipeline
    writers = _writers(args, bundle, photos)
    make_folder(args.save_dir)
    pipeline = Pipeline(bundle, backend, writers, args.batch_size, args.window, args.save_conf, args.max_pixels,
                        _WARM_UP if args.benchmark else 0)
    bar = progress_bar(len(photos) or None, show=args.print_detail)
    skipped, done, start = [], 0, time.perf_counter()
    for photo in pipeline.run(photos):
        if photo.error is not None:
            skipped.append(f'{photo.path}: {photo.error}')
        done += 1
        bar.update(done)
    for writer in writers:
        writer.close()
    if args.benchmark:
        for line in _report(args, settings, pipeline.seconds, done):
            logger.info(line)
    took = time.perf_counter() - start
    logger.info(f'Written: {args.save_dir} ({done - len(skipped)} of {done} images, {done / took:.2f} images/s)')
    if not skipped:
        return 0
    print(f'{os.path.basename(sys.argv[0])}: {len(skipped)} of {done} images were skipped:', *skipped, sep='\n  ',
          file=sys.stderr)
    return 3


def _writers(args, bundle, photos):
    from paddleseg_semi.deploy.photos import Images
    from paddleseg_semi.deploy.results import Coco, Confidences, Labelme, Masks, Overlays, OverlayVideo
    from paddleseg_semi.errors import InputError
    images = isinstance(photos, Images)
    writers = [Masks(bundle, args.save_dir)]
    if args.save_overlay:
        writers.append(Overlays(bundle, args.save_dir) if images else
                       OverlayVideo(bundle, args.save_dir, photos.name, photos.fps))
    if args.save_conf:
        writers.append(Confidences(bundle, args.save_dir))
    if args.polygons:
        writers.append({'coco': Coco, 'labelme': Labelme}[args.polygons](bundle, args.save_dir, args.polygon_tolerance))
    folders = {writer.subfolder for writer in writers}
    taken, written = {}, set()  # folders of photos, and of results
    for photo in photos if images else ():
        if photo.name.startswith(tuple(folder + os.sep for folder in folders - {''})):
            raise InputError(f'{photo.path}: its mask would lie among other results in {args.save_dir}. Give the '
                             'images in a text list that lies elsewhere.')
        taken.setdefault(os.path.dirname(photo.path), photo.path)
        written |= {os.path.dirname(os.path.join(args.save_dir, folder, photo.name)) for folder in folders}
    written = set(map(os.path.realpath, written))
    for folder, path in taken.items():
        if os.path.realpath(folder) in written:
            raise InputError(f'--save_dir {args.save_dir}: results would lie beside {path}, and could replace what is '
                             'there. Give another folder.')
    return writers


def _report(args, settings, seconds, count):
    """The benchmark's lines, with AutoLog's blocks and fields. Times are means per batch; reading and writing go
    on beside the network."""
    import paddle
    query = 'driver_version,memory.used,utilization.gpu'
    driver, memory, used = _nvidia_smi(query) if settings['runtime_device'] == 'gpu' else (None, None, None)
    batches = max(seconds['batches'], 1)  # no photo may have been usable
    times = {stage: 1000 * seconds[stage] / batches for stage in ('preprocess', 'inference', 'postprocess')}
    precision = settings.pop('precision', 'fp32')
    blocks = {
        'Env': {'OS_version': platform.platform(), 'CUDA_version': paddle.version.cuda(),
                'CUDNN_version': paddle.version.cudnn(), 'drivier_version': driver},
        'Paddle': {'paddle_version': paddle.__version__, 'paddle_commit': paddle.version.commit,
                   'log_api_version': '1.0'},
        'Conf': {**settings, 'cpu_math_library_num_threads': args.cpu_threads},
        'Model': {'model_name': args.model_name, 'precision': precision},
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
