"""Time, memory and waits of a training step on a GPU, per method and precision.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --methods UniMatch U2PL --precisions fp32 bf16 --size 513 513 --batch_size 8
    python -m paddle.distributed.launch --devices 0,1 benchmarks/gpu.py

Timed between two synchronisations, so that what a step leaves in the queue of the device is in it. Waits are counted as
tests/contract/test_host_syncs.py counts them. Data are random: reading is measured in input_pipeline.py.
"""

import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tools'))
from cli import Parser, run
from train_step import make_trainer, random_batch

METHODS = ['Supervised', 'AdvSemiSeg', 'MeanTeacher', 'CutMixSeg', 'FixMatch', 'UniMatch', 'UniMatchV2', 'CPS', 'U2PL',
           'IMAS']

parser = Parser('Step time, memory and waits of the training methods on a GPU.')
parser.add_argument('--config', default='configs/camvid/deeplabv3p_resnet18_os16_camvid_semi_160x128_1.5k.yml')
parser.add_argument('--methods', nargs='+', default=METHODS)
parser.add_argument('--precisions', nargs='+', default=['fp32', 'fp16', 'bf16'], choices=['fp32', 'fp16', 'bf16'])
parser.add_argument('--size', nargs=2, type=int, default=[321, 321], metavar=('W', 'H'))
parser.add_argument('--batch_size', type=int, default=8)
parser.add_argument('--warm_up', type=int, default=20, help='steps before the timed ones')
parser.add_argument('--steps', type=int, default=100, help='timed steps')


def main(args):
    import paddle

    from paddleseg_semi import runtime
    from paddleseg_semi.core import parallel
    from paddleseg_semi.errors import InputError

    if not (paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count()):
        build = 'this Paddle sees no card' if paddle.is_compiled_with_cuda() else 'this Paddle is a CPU build'
        raise InputError(f'{build}: there is nothing to measure. docs/gpu.md says how to install a GPU build.')
    runtime.set_device('gpu')
    rank, ranks = parallel.start()
    if rank == 0:
        print(f'{paddle.device.cuda.get_device_name()}, CUDA {paddle.version.cuda()}, cuDNN {paddle.version.cudnn()}, '
              f'Paddle {paddle.__version__}, ranks {ranks}, batch {args.batch_size} of {args.size[0]}x{args.size[1]}')
        print('| Method | Precision | ms a step | Peak MB | Waits a step |\n| --- | --- | ---: | ---: | --- |')
    for method in args.methods:
        for precision in args.precisions:
            seconds, peak, syncs = measure(args, method, precision)
            if rank == 0:
                waits = ', '.join(f'{sync.call} at {sync.where}' for sync in syncs) or 'none'
                print(f'| {method} | {precision} | {seconds * 1e3:.1f} | {peak >> 20} | {waits} |', flush=True)


def measure(args, method, precision):
    """Seconds a step, peak memory in bytes, and the waits of one step."""
    import paddle

    from paddleseg_semi import runtime
    from paddleseg_semi.core import parallel
    from paddleseg_semi.core.syncs import watched

    on_gpu = 'gpu' in paddle.get_device()
    if on_gpu:
        paddle.device.cuda.empty_cache()
        paddle.device.cuda.reset_max_memory_allocated()
    trainer, classes = make_trainer(args.config, method, precision)
    parallel.broadcast(trainer.method)
    batch = random_batch(trainer.method, args.batch_size, args.size, classes)
    for _ in range(args.warm_up):
        trainer.step(batch)
    wait = paddle.device.synchronize if on_gpu else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(args.steps):
        trainer.step(batch)
    wait()
    seconds = (time.perf_counter() - start) / args.steps
    with watched() as syncs:
        trainer.step(batch)
    return seconds, runtime.peak_memory(), list(syncs)


if __name__ == '__main__':
    run(main, parser)
