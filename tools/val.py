"""Evaluates a trained segmenter on the recipe's val_dataset; writes val.json, val.csv and val.md with every class."""

import os

from cli import Parser, add_network_flags, add_test_flags, build_network, run, testing_of

parser = Parser(__doc__)
add_network_flags(parser)
parser.add_argument('--num_workers', type=int, default=0, help='processes that read images')
add_test_flags(parser, 'aug_eval')
parser.add_argument('--auc_roc', action='store_true', help='the area under the ROC curve too')
parser.add_argument('--report_dir', default=None, help='where val.json, val.csv and val.md go (default: the folder of '
                    'the run that the model belongs to, or of the model; without --model_path, results)')


def main(args):
    import paddle.distributed as dist
    from paddleseg.utils import logger

    from paddleseg_semi.core import pictures, report
    from paddleseg_semi.core.common import make_folder
    from paddleseg_semi.core.predict import worst
    from paddleseg_semi.core.val import measure
    from paddleseg_semi.errors import InputError
    if args.num_workers < 0:
        raise InputError(f'--num_workers {args.num_workers}: give a whole number of at least 0.')
    config, builder, model = build_network(args)
    testing, auc_roc = testing_of(args, config, 'aug_eval'), args.auc_roc or config.test_config.get('auc_roc', False)
    dataset = builder.val_dataset
    names = config.shown_names(dataset.num_classes)
    folder = args.report_dir or run_of(args.model_path)
    make_folder(folder, '--report_dir')
    measured = measure(model, dataset, testing, num_workers=args.num_workers, auc_roc=auc_roc)
    if dist.get_rank() == 0:
        for line in measured.lines(config.class_names(dataset.num_classes)):
            logger.info(line)
        options = {**testing.said(), **({'auc_roc': True} if auc_roc else {})}
        about = {'config': args.config, 'model': args.model_path, 'options': options}
        for path in report.write(folder, measured, names, about):
            logger.info(f'Written: {path}')
        if measured.right:
            path = os.path.join(folder, 'worst.png')
            pictures.save(worst(model, dataset, measured.right, config.classes(dataset.num_classes), testing), path)
            logger.info(f'Written: {path}')


def run_of(weights):
    """str: the folder of the run a file of weights belongs to, in which a folder of a checkpoint has it; else its own;
    'results' for none."""
    if not weights:
        return 'results'
    folder = os.path.dirname(weights) or '.'
    above = os.path.normpath(os.path.join(folder, '..'))
    return above if os.path.isfile(os.path.join(above, 'config.yml')) else folder


if __name__ == '__main__':
    run(main, parser)
