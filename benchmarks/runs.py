"""A table of training runs, read from their logs.

    python benchmarks/runs.py output/camvid_* --csv docs/results/camvid.csv

Of the last evaluation: pseudo labels kept, and how right they were (with --oracle). Seconds are the median of a run's
log lines; they compare only if the machine did nothing else. Peak memory is that before the first evaluation.
"""

import csv
import glob
import os
import re
import statistics
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tools'))
from cli import Parser, run

parser = Parser('A table of training runs, read from their logs.')
parser.add_argument('runs', nargs='+', help="folders of runs (--save_dir), or of a pipeline's last training")
parser.add_argument('--csv', default=None, help='where to write it; default: the console')

_COLUMNS = {  # column → pattern in train.log, which of its matches
    'kept': (r'\[PSEUDO\] .*? kept: (\S+)', -1),
    'pseudo label Acc': (r'\[ORACLE\] .*? Acc: (\S+)', -1),
    'Acc of kept': (r'\[ORACLE\] .*? kept_Acc: (\S+)', -1),
    'peak MB': (r'\[MEMORY\] Peak: (\S+) MB', 0),
}


def main(args):
    rows = [row(folder) for folder in args.runs]
    with open(args.csv, 'w', newline='') if args.csv else os.fdopen(os.dup(1), 'w') as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


def row(folder):
    from paddleseg_semi import safe
    from paddleseg_semi.core.checkpoint import STATES
    from paddleseg_semi.errors import InputError

    logs, states = os.path.join(folder, 'train.log'), glob.glob(os.path.join(folder, 'iter_*', STATES))
    if not os.path.isfile(logs) or not states:
        raise InputError(f'{folder}: has no train.log, or no iter_N. Give folders of training runs.')
    with open(logs, encoding='utf-8') as file:
        log = file.read()
    last = max(map(safe.load, states), key=lambda state: state['iter'])
    result = {'run': os.path.basename(os.path.normpath(folder)), 'best mIoU': f'{last["best"]["mIoU"]:.4f}',
              'at iter': last['best']['iter'], 'last mIoU': f'{last["mIoU"]:.4f}'}
    for name, (pattern, which) in _COLUMNS.items():
        found = re.findall(pattern, log)
        result[name] = found[which] if found else ''
    result['s / iter'] = f'{statistics.median(map(float, re.findall(r"batch_cost: ([^,]+),", log))):.2f}'
    return result


if __name__ == '__main__':
    run(main, parser)
