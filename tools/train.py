"""Trains a PaddleSeg recipe, with --label_ratio semi-supervised."""

from dataclasses import fields

from cli import Parser, add_device_flags, add_import_flag, run

parser = Parser('Train a PaddleSeg recipe; --label_ratio (or --split_ids) makes it semi-supervised.')
add = parser.add_argument
add('--config', required=True, help='recipe (YAML)')
add('--label_ratio', '--labeled_ratio', default=None, help='share of the training images that keep their masks, 0..1')
add('--split_ids', default=None, help='which images keep their masks: a list, a split folder, or a pickled permutation')
add('--extra_labeled', nargs='+', default=None, help='lists of images with (pseudo) masks that are trained on as well')
add('--method', '--ssl_method', default=None, help='training method or preset of configs/_base_/methods (AdvSemiSeg)')
add('--save_dir', default='./output', help='where checkpoints, logs and pictures go')
add('--num_workers', type=int, default=0, help='loader processes per stream')
add('--do_eval', action='store_true', help='evaluate at every save_interval and keep the best model')
add('--use_vdl', action='store_true', help='write VisualDL records')
add('--oracle', action='store_true', help='compare pseudo labels with the masks that unlabeled images happen to have')
add('--use_ema', type=float, nargs='?', const=0.999, default=False, metavar='DECAY',
    help='keep, evaluate and save a moving average of the network; of about 1 / (1 - DECAY) updates (0.999)')
add('--resume_model', default=None, help='an iter_N folder, or "latest" for the newest of save_dir')
add('--iters', type=int, default=None, help='iterations, instead of those of the recipe')
add('--batch_size', type=int, default=None, help='labeled images per step and card, instead of those of the recipe')
add('--learning_rate', type=float, default=None, help='learning rate, instead of that of the recipe')
add('--save_interval', type=int, default=None,
    help='iterations between checkpoints (default: a fifth of the run, at most 1000)')
add('--log_iters', type=int, default=10, help='iterations between log lines')
add('--keep_checkpoint_max', type=int, default=5, help='iter_N folders kept')
add('--early_stop_intervals', type=int, default=None, help='stop after so many evaluations without a better mIoU')
add('--seed', type=int, default=0, help='of the split, the order and all that is random')
add('--precision', default='fp32', choices=['fp32', 'fp16', 'bf16'],
    help='fp16 and bf16 are mixed precision')
add('--amp_level', default='O1', choices=['O1', 'O2'], help='of mixed precision; O2 is refused')
add('--profiler_options', default=None, help='options of the Paddle profiler, "batch_range=[50, 60];..."')
add('--data_format', default='NCHW', choices=['NCHW', 'NHWC'], help='layout of the tensors; methods work on NCHW')
add('--repeats', type=int, default=1, help='times a labeled image is seen per epoch')
add('--to_static_training', action='store_true', help='train the static graph of the model')
add('--use_multilabel', action='store_true', help='not available: needs a newer PaddleSeg than the released one')
add('--opts', nargs='+', default=None, help='changes to the recipe, key=value')
add_import_flag(parser)
add_device_flags(parser)


def main(args):
    from paddleseg.utils import logger, utils

    from paddleseg_semi import run as runs
    from paddleseg_semi import runtime
    from paddleseg_semi.cvlibs import SemiConfig
    from paddleseg_semi.errors import InputError

    if args.data_format != 'NCHW':
        raise InputError('--data_format NHWC: training methods work on NCHW; leave the flag out.')
    if args.use_multilabel:
        raise InputError('--use_multilabel: PaddleSeg 2.8 has no multi-label data sets or losses; leave the flag out.')
    options = runs.Options(**{field.name: getattr(args, field.name) for field in fields(runs.Options)})
    config = SemiConfig(args.config, args.opts, batch_size=args.batch_size, iters=args.iters, method=args.method,
                        learning_rate=args.learning_rate, label_ratio=args.label_ratio, split_ids=args.split_ids,
                        extra_labeled=args.extra_labeled)
    if args.to_static_training:
        config.dic['to_static_training'] = True
    runtime.set_device(args.device)
    runtime.tune_cpu(args.cpu_threads, not args.no_cpu_tuning)
    utils.show_env_info()
    utils.show_cfg_info(config)
    if config.by_default:
        logger.info(f'No method given: unlabeled images are used by {config.dic["method"]["type"]}.')
    for path in runs.train(config, options):
        logger.info(f'Written: {path}')


if __name__ == '__main__':
    run(main, parser)
