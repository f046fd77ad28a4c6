"""Paddle Inference on an exported segmenter: one palette PNG per image, whose pixel values are the classes."""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, '..', '..')
sys.path[:0] = [ROOT, os.path.join(ROOT, 'tools'), HERE]

from cli import Parser, run, true_or_false
from shared import add_photo_flags, open_photos, run_first, segment

parser = Parser(__doc__)
add_photo_flags(parser)
parser.add_argument('--device', default=None, choices=['cpu', 'gpu', 'xpu', 'npu', 'mlu'],
                    help='where to run (default: a GPU if there is one, else the CPU)')
parser.add_argument('--no_cpu_tuning', action='store_true', help="keep MKL's generic code path on AMD")
parser.add_argument('--enable_mkldnn', type=true_or_false, default=False,
                    help='oneDNN (CPU), which is faster')
parser.add_argument('--enable_openvino', type=true_or_false, default=False,
                    help='OpenVINO (CPU); needs an export with --old_ir')
parser.add_argument('--precision', default='fp32', choices=['fp32', 'bf16', 'fp16', 'int8'],
                    help='bf16 of oneDNN or OpenVINO (CPU); fp16 and int8 of TensorRT (GPU); a model from '
                    'tools/quantize.py is int8 of oneDNN')
parser.add_argument('--use_trt', type=true_or_false, default=False, help='TensorRT (GPU)')
parser.add_argument('--min_subgraph_size', type=int, default=3, help='the smallest graph handed to TensorRT')
parser.add_argument('--enable_auto_tune', type=true_or_false, default=False,
                    help='measure the range of shapes for TensorRT on the first ten batches of images')
parser.add_argument('--auto_tuned_shape_file', default=None,
                    help='file of that range; one that exists is used as it is (default: auto_tuned_shape.pbtxt '
                    'beside deploy.yaml)')


def main(args):
    from paddleseg.utils import logger

    from paddleseg_semi.deploy.backends import PaddleBackend, TensorRT
    from paddleseg_semi.errors import InputError
    from paddleseg_semi.runtime import set_device, tune_cpu
    bundle, photos = open_photos(args)
    device = set_device(args.device)
    tune_cpu(args.cpu_threads, not args.no_cpu_tuning)
    engine = 'openvino' if args.enable_openvino else 'onednn' if args.enable_mkldnn else 'paddle'
    if args.use_trt and device != 'gpu':
        raise InputError(f'--use_trt True: TensorRT needs a GPU, but the device is {device}.')
    if args.precision == 'bf16' and device != 'cpu':
        raise InputError(f'--precision bf16: is for CPUs, but the device is {device}.')
    if engine == 'onednn' and bundle.quantized:
        args.precision = 'int8'
    elif args.precision in ('fp16', 'int8') and not args.use_trt and (engine, args.precision) != ('onednn', 'int8'):
        logger.warning(f'--precision {args.precision} has no effect without --use_trt True; running float32.')
        args.precision = 'fp32'
    tensorrt = TensorRT(args.batch_size, args.min_subgraph_size, args.enable_auto_tune, args.auto_tuned_shape_file,
                        lambda backend: run_first(args, bundle, photos, backend)) if args.use_trt else None
    backend = PaddleBackend(bundle, device, args.cpu_threads, engine, args.precision, tensorrt)
    return segment(args, bundle, photos, backend, {
        'runtime_device': device, 'ir_optim': True, 'enable_memory_optim': backend.memory_optim,
        'enable_tensorrt': args.use_trt, 'enable_mkldnn': engine == 'onednn', 'precision': args.precision})


if __name__ == '__main__':
    run(main, parser)
