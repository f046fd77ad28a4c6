"""Memory and time of U2PL's contrastive part by itself: everything after the two networks' passes.

    python benchmarks/contrast.py

Projected features and predictions are random and of the size they have for 4 labeled and 4 unlabeled crops of 513x513
at output stride 4; a fifth of the pixels are sure, a fifth unsure. The step is the method's own, forward and backward.
"""

import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tools'))
from cli import Parser, add_device_flags, run

parser = Parser("Memory and time of U2PL's contrastive part.")
parser.add_argument('--method', default='u2pl', help='U2PL or a preset of it, such as u2pl_16gb')
parser.add_argument('--size', type=int, default=513, help='side of a crop, pixels')
parser.add_argument('--batch_size', type=int, default=4, help='labeled crops; as many unlabeled ones')
parser.add_argument('--num_classes', type=int, default=21)
parser.add_argument('--steps', type=int, default=3)
add_device_flags(parser)

RECIPE = 'configs/camvid/deeplabv3p_resnet18_os16_camvid_semi_160x128_1.5k.yml'  # for the knobs of the method alone


def main(args):
    import paddle

    from paddleseg_semi import runtime
    from paddleseg_semi.cvlibs import SemiConfig
    from paddleseg_semi.losses.contrast import Contrast, Roles
    from paddleseg_semi.models.bank import Bank

    runtime.set_device(args.device)
    runtime.tune_cpu(args.cpu_threads, not args.no_cpu_tuning)
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
    knobs = SemiConfig(os.path.join(root, RECIPE), method=args.method, label_ratio=0.5).dic['method']
    classes, dim = args.num_classes, knobs['rep_channels']
    side, images = (args.size + 3) // 4, 2 * args.batch_size
    shape, pixels = [images, dim, side, side], images * side * side

    paddle.seed(0)
    rep, rep_t = paddle.randn(shape), paddle.randn(shape)
    rep.stop_gradient = False
    label, sure, unsure = paddle.randint(0, classes, [pixels]), paddle.rand([pixels]) < 0.2, paddle.rand([pixels]) < 0.2
    own = label.unsqueeze(0) == paddle.arange(classes).unsqueeze(1)
    roles = Roles(own & sure, own & sure, own & unsure)
    contrast = Contrast(knobs['num_queries'], knobs['num_negatives'], knobs['temperature'], knobs['keys_per_step'])
    given = runtime.peak_memory()

    bank = Bank([knobs['bank_first']] + [knobs['bank_size']] * (classes - 1), dim)
    stored, seconds = runtime.peak_memory(), []
    for _ in range(args.steps):
        start = time.perf_counter()
        loss, _ = contrast.loss(rep, rep_t, roles, bank)
        loss.backward()
        rep.clear_gradient()
        seconds.append(time.perf_counter() - start)
    features, added = 2 * 4 * pixels * dim, runtime.peak_memory() - stored
    print(f'{args.method}, {images} crops of {args.size}x{args.size}, {classes} classes, D = {dim}: '
          f'features of student and teacher {features / 1e6:.0f} MB, bank {(stored - given) / 1e6:.0f} MB, '
          f'the step on top {added / 1e6:.0f} MB at its peak, gradient of the features included; {min(seconds):.2f} s')


if __name__ == '__main__':
    run(main, parser)
