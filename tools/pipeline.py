"""Runs the stages of a pipeline. After an interruption, run it again: it goes on where it was."""

from cli import Parser, add_device_flags, add_import_flag, run

parser = Parser(__doc__)
add = parser.add_argument
add('--config', required=True, help='pipeline (YAML with "stages"), such as configs/stpp/stpp.yml')
add('--recipe', default=None, help='what to train: a PaddleSeg recipe, instead of that of the pipeline')
add('--label_ratio', '--labeled_ratio', default=None, help='share of the training images that keep their masks, 0..1')
add('--split_ids', default=None, help='which images keep their masks: a list, a split folder, or a pickled permutation')
add('--save_dir', default='./output', help='where the folders of the stages go')
add('--from', dest='start', metavar='STAGE', default=None, help='run this stage and all after it anew')
add('--iters', type=int, default=None, help='iterations of every training stage, instead of those of the recipe')
add('--num_workers', type=int, default=None, help='loader processes per stream')
add('--seed', type=int, default=None, help='of the split, the order and all that is random')
add('--oracle', action='store_true', default=None, help='log how good pseudo masks are, where true ones exist')
add('--opts', nargs='+', default=None, help='changes to stages, stage.key=value')
add_import_flag(parser)
add_device_flags(parser)


def main(args):
    from paddleseg_semi import runtime
    from paddleseg_semi.core import parallel
    from paddleseg_semi.cvlibs.stages import read_pipeline

    pipeline = read_pipeline(args.config, args.save_dir, args.opts, config=args.recipe, label_ratio=args.label_ratio,
                             split=args.split_ids, iters=args.iters, num_workers=args.num_workers, seed=args.seed,
                             oracle=args.oracle)
    runtime.set_device(args.device)
    runtime.tune_cpu(args.cpu_threads, not args.no_cpu_tuning)
    parallel.start()
    pipeline.run(args.start)


if __name__ == '__main__':
    run(main, parser)
