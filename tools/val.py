"""Evaluates a trained segmenter on the recipe's val_dataset and writes a report of every class."""

import os

from cli import Parser, add_network_flags, add_test_flags, build_network, run, test_options

parser = Parser(__doc__)
add_network_flags(parser)
parser.add_argument('--num_workers', type=int, default=0, help='processes that read images')
add_test_flags(parser, 'aug_eval')
parser.add_argument('--auc_roc', action='store_true', help='the area under the ROC curve too')
parser.add_argument('--report_dir', default='results', help='where the report goes')


def main(args):
    import paddle.distributed as dist
    from paddleseg.utils import logger

    from paddleseg_semi.core.common import make_folder
    from paddleseg_semi.core.val import evaluate
    from paddleseg_semi.errors import InputError
    if args.num_workers < 0:
        raise InputError(f'--num_workers {args.num_workers}: give a whole number of at least 0.')
    config, builder, model = build_network(args)
    options = test_options(args, config, 'aug_eval')
    options['auc_roc'] = args.auc_roc or options.get('auc_roc', False)
    dataset = builder.val_dataset
    names = config.class_names(dataset.num_classes) or [f'class {c:02d}' for c in range(dataset.num_classes)]
    make_folder(args.report_dir, '--report_dir')
    miou, _, class_iou, _, _ = evaluate(model, dataset, num_workers=args.num_workers, **options)
    if dist.get_rank() == 0:
        stem = os.path.splitext(os.path.basename(args.config))[0]
        path = os.path.join(args.report_dir, f'{stem}.txt')
        with open(path, 'w', encoding='utf-8') as file:
            file.write(report(names, class_iou, miou))
        logger.info(f'Written: {path}')


def report(names, class_iou, miou):
    """One line per class with its name and IoU, then mIoU."""
    width = max(len('mIoU'), *(len(str(name)) for name in names))
    lines = [*zip(names, class_iou), ('mIoU', miou)]
    return ''.join(f'{name!s:{width}}  {value:.4f}\n' for name, value in lines)


if __name__ == '__main__':
    run(main, parser)
