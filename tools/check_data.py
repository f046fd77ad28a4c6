"""Checks all files of a recipe's data before a training does, and prints one table. Exit code 0: fine, 2: problems."""

from cli import Parser, add_import_flag, run

parser = Parser('Check the data of a recipe: files, sizes, labels, overlaps, classes.')
parser.add_argument('--config', required=True, help='recipe')
parser.add_argument('--label_ratio', help='as for tools/train.py; with --seed it gives the same split')
parser.add_argument('--split_ids', help='as for tools/train.py: list or folder of a split')
parser.add_argument('--seed', type=int, default=0, help='of the split')
parser.add_argument('--max_lines', type=int, default=20, help='problems to print')
parser.add_argument('--opts', nargs='+', help='changes to the recipe, key=value')
add_import_flag(parser)


def main(args):
    from paddleseg_semi.cvlibs import SemiBuilder, SemiConfig
    config = SemiConfig(args.config, opts=args.opts, label_ratio=args.label_ratio,
                        split_ids=args.split_ids)
    builder = SemiBuilder(config, seed=args.seed)
    names = config.classes(builder.train_dataset.num_classes).names
    report = builder.report(builder.split())
    show(report, names)
    for kind, texts in (('warning', report.warnings), ('problem', report.problems)):
        for text in texts[:args.max_lines]:
            print(f'{kind}: {text}')
        if len(texts) > args.max_lines:
            print(f'... and {len(texts) - args.max_lines} more (--max_lines)')
    print(f'{len(report.problems)} problems, {len(report.warnings)} warnings')
    return 2 if report.problems else 0


def show(report, names):
    """Images and sizes of every part; pixels (in the parts with masks) and images of every class."""
    print()
    for part, count in report.images.items():
        print(f'{part:>10}: {count} images, {report.sizes[part] or "none readable"}')
    width = max(map(len, ['class', *names]))
    print(f'\n{"class":{width}}' +
          ''.join(f'{part + ": pixels":>18}{"images":>9}' if part in report.pixels else f'{part + ": images":>18}'
                  for part in report.presence))
    shares = {part: 100 * pixels / max(pixels.sum(), 1) for part, pixels in report.pixels.items()}
    for c, name in enumerate(names):
        row = ''.join(f'{shares[part][c]:17.2f}%{counts[c]:9d}' if part in shares else f'{counts[c]:18d}'
                      for part, counts in report.presence.items() if c < len(counts))
        print(f'{name:{width}}{row}')
    print()


if __name__ == '__main__':
    run(main, parser)
