"""ONNX Runtime on a segmenter converted by tools/export_onnx.py; otherwise as infer.py."""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, '..', '..')
sys.path[:0] = [ROOT, os.path.join(ROOT, 'tools'), HERE]

from cli import Parser, run
from shared import add_photo_flags, open_photos, segment

parser = Parser(__doc__)
add_photo_flags(parser)


def main(args):
    from paddleseg_semi.deploy.backends import OnnxBackend
    bundle, photos = open_photos(args)
    backend = OnnxBackend(bundle, args.cpu_threads)
    return segment(args, bundle, photos, backend, {
        'runtime_device': 'cpu', 'engine': 'onnxruntime', 'precision': 'int8' if bundle.quantized else 'fp32'})


if __name__ == '__main__':
    run(main, parser)
