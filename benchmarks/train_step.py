"""Train step ÷ the bare passes of the same networks, side by side in one run.

    python benchmarks/train_step.py --config configs/camvid/deeplabv3p_resnet18_os16_camvid_semi_160x128_1.5k.yml

One step is recorded: which network saw what input, with or without gradient. The bare passes repeat exactly those
forwards and, with a ready-made gradient at the output, their backwards. What the ratio holds beyond 1 is losses, pseudo
labels, optimizers, bookkeeping. Data are random: reading is measured in input_pipeline.py.
"""

import os
import statistics
import sys
import time
from types import SimpleNamespace

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tools'))
from cli import Parser, add_device_flags, run

parser = Parser('Ratio of a train step to the bare forward and backward passes of its networks.')
parser.add_argument('--config', required=True)
parser.add_argument('--method', default='AdvSemiSeg')
parser.add_argument('--size', nargs=2, type=int, default=[160, 128], metavar=('W', 'H'))
parser.add_argument('--batch_size', type=int, default=4)
parser.add_argument('--rounds', type=int, default=8, help='alternations of step and bare passes')
add_device_flags(parser)


def main(args):
    from paddleseg_semi import runtime

    runtime.set_device(args.device)
    runtime.tune_cpu(args.cpu_threads, not args.no_cpu_tuning)
    trainer, classes = make_trainer(args.config, args.method)
    method = trainer.method
    batch = random_batch(method, args.batch_size, args.size, classes)

    trainer.step(batch)
    calls = record(method, lambda: trainer.step(batch))
    steps, bare = [], []
    for _ in range(args.rounds):
        steps.append(timed(lambda: trainer.step(batch)))
        bare.append(timed(lambda: replay(calls)))
    step, passes = statistics.median(steps), statistics.median(bare)
    print(f'{args.method}, {len(calls)} passes, batch {args.batch_size} of {args.size[0]}x{args.size[1]}: '
          f'step {step * 1e3:.0f} ms, bare passes {passes * 1e3:.0f} ms, ratio {step / passes:.3f}')


def make_trainer(config_path, method_name, precision='fp32'):
    """A trainer without data, in the middle of its run, and the number of classes."""
    import paddle

    from paddleseg_semi.core.clock import Clock
    from paddleseg_semi.core.trainer import Plan, Precision, Trainer
    from paddleseg_semi.cvlibs import SemiBuilder, SemiConfig

    config = SemiConfig(config_path, label_ratio=0.5, method=method_name)
    classes = config.dic['model']['num_classes']
    builder = SemiBuilder(config)
    builder.__dict__['train_dataset'] = SimpleNamespace(
        num_classes=classes, ignore_index=255, transforms=SimpleNamespace(transforms=[], img_channels=3))
    with paddle.utils.unique_name.guard():
        method = builder.method()
        players = builder.players(method)
    clock = Clock(1000)
    clock.iter = 500  # every phase has begun
    method.train()
    return Trainer(method, {}, players, clock, None, None, Plan(), precision=Precision(precision)), classes


def random_batch(method, n, size, classes):
    """Noise in the shape of every stream the method reads; `size` is width and height."""
    import paddle
    w, h = size
    batch = {}
    for name, kind in method.streams.items():
        if kind.opens_masks:
            batch[name] = {'img': paddle.randn([n, 3, h, w]), 'label': paddle.randint(0, classes, [n, h, w])}
        else:
            views = ('weak', 'strong', 'strong_2')
            batch[name] = {**{view: paddle.randn([n, 3, h, w]) for view in views},
                           'valid': paddle.ones([n, h, w], 'bool')}
    return batch


def record(method, step):
    """Runs a step and notes every pass of a network: layer, input, whether gradients were wanted, frozen or not."""
    import paddle

    from paddleseg_semi.models.ema import EMA
    calls = []
    networks = [*method.players().values(), *(layer.net for layer in method.sublayers() if isinstance(layer, EMA))]
    networks = [part for network in networks  # of several networks in one, each by itself
                for part in (network.values() if isinstance(network, paddle.nn.LayerDict) else [network])]

    def note(layer, inputs):
        trains = any(not param.stop_gradient for param in layer.parameters())
        wanted = paddle.is_grad_enabled() and (trains or not inputs[0].stop_gradient)
        calls.append((layer, inputs[0].detach().clone(), wanted, inputs[0].stop_gradient, not trains, layer.training))

    hooks = [network.register_forward_pre_hook(note) for network in networks]
    step()
    for hook in hooks:
        hook.remove()
    return calls


def replay(calls):
    import paddle

    from paddleseg_semi.models.modes import frozen
    for layer, x, wanted, constant, is_frozen, training in calls:
        layer.train() if training else layer.eval()
        x.stop_gradient = constant
        x.clear_gradient()
        if not wanted:
            with paddle.no_grad():
                layer(x)
            continue
        if is_frozen:
            with frozen(layer):
                outputs = layer(x)
        else:
            outputs = layer(x)
        outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
        paddle.autograd.backward(outputs, [paddle.ones_like(output) for output in outputs])
    for layer, *_ in calls:
        layer.clear_gradients()


def timed(work):
    import paddle
    start = time.perf_counter()
    work()
    if paddle.is_compiled_with_cuda():
        paddle.device.synchronize()
    return time.perf_counter() - start


if __name__ == '__main__':
    run(main, parser)
