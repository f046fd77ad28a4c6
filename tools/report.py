"""A page that shows a training: curves, classes, confusion, pictures, recipe; or several beside each other."""

import os

from cli import Parser, run

parser = Parser(__doc__)
parser.add_argument('runs', nargs='+', metavar='FOLDER',
                    help='folders of trainings; the others are compared with the first')
parser.add_argument('--save_path', default=None, help='the page (default: report.html in the first folder)')


def main(args):
    from paddleseg_semi.core import page
    path = args.save_path or os.path.join(args.runs[0], 'report.html')
    page.write(args.runs, path)
    print(f'Written: {path}')


if __name__ == '__main__':
    run(main, parser)
