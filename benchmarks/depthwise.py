"""What depthwise convolutions by Numba save in a training step of DeepLabV3+ on EfficientNet-Lite0.

    python benchmarks/depthwise.py

Both take turns on one thread; the least of all rounds is compared.
"""

import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tools'))
from cli import Parser, run

parser = Parser('Time a training step with depthwise convolutions of Numba and of Paddle.')
parser.add_argument('--rounds', type=int, default=5, help='steps of each')
parser.add_argument('--batch_size', type=int, default=8, help='images of a step')
parser.add_argument('--size', type=int, default=160, help='their sides in pixels')


def main(args):
    import paddle
    import paddle.nn.functional as F

    import paddleseg_semi
    paddleseg_semi.register()  # repairs PaddleSeg
    from paddleseg_semi import runtime
    from paddleseg_semi.models import depthwise
    from paddleseg_semi.models.deeplabv3p_semi import SemiDeepLabV3P
    from paddleseg_semi.models.efficientnet_lite import EfficientNetLite0

    runtime.tune_cpu(1)
    x = paddle.randn([args.batch_size, 3, args.size, args.size])
    label = paddle.randint(0, 7, [args.batch_size, args.size, args.size])
    nets = {}
    for name in ('Paddle', 'Numba'):
        net = SemiDeepLabV3P(7, EfficientNetLite0(output_stride=16), (2, 4, 6), channels=128, backbone_indices=(1, 3))
        nets[name] = net, paddle.optimizer.AdamW(5e-4, parameters=net.parameters())
    depthwise.use(nets['Numba'][0])
    seconds = {name: [] for name in nets}
    for _ in range(args.rounds + 1):
        for name, (net, optimizer) in nets.items():
            start = time.perf_counter()
            F.cross_entropy(net(x)[0], label, axis=1).backward()
            optimizer.step()
            optimizer.clear_grad()
            seconds[name].append(time.perf_counter() - start)
    best = {name: min(found[1:]) for name, found in seconds.items()}
    print(f'a step by Paddle {best["Paddle"]:.2f} s, by Numba {best["Numba"]:.2f} s: ratio '
          f'{best["Numba"] / best["Paddle"]:.2f}')


if __name__ == '__main__':
    run(main, parser)
