"""What a study found: tables, trimmed logs and plots of its finished runs.

    python benchmarks/study_results.py --save_dir output/study --name voc_animals

Written to docs/results: <name>.csv, a row per run; <name>_summary.csv, mean, least and most over the seeds, and the
difference to the baseline on the same list, seed by seed; <name>_classes.csv, the IoU per class; plots/<name>.png; and
logs/<name>/<run>.log, what a run said of evaluations and pseudo labels.

`last` is the mIoU of the last evaluation, and what counts; `best` was picked on the validation photos.
"""

import csv
import os
import re
import statistics

import study
import yaml
from study import ROOT, run

parser = study.Parser('Tables, trimmed logs and plots of the finished runs of a study.')
parser.add_argument('--grid', default=os.path.join(ROOT, 'benchmarks/study.yml'), help='what was run (YAML)')
parser.add_argument('--save_dir', default='output/study', help='where the folders of the runs are')
parser.add_argument('--results', default=os.path.join(ROOT, 'docs/results'), help='where to write')
parser.add_argument('--name', default='voc_animals', help='how the files are called')
parser.add_argument('--baseline', default='labeled', help='the method that others are compared with')

_NUMBER = r'(\d+\.\d+)'
_SAID = {  # column → what the log says last
    'kept': rf'\[PSEUDO\] #Crops: .*?kept: {_NUMBER}', 'pseudo label Acc': rf'\[ORACLE\] .*? Acc: {_NUMBER}',
    'pseudo label mIoU': rf'\[ORACLE\] .*?mIoU: {_NUMBER}', 'Acc of kept': rf'\[ORACLE\] .*?kept_Acc: {_NUMBER}'}
_KEPT_LINES = re.compile(r'\[(EVAL|PSEUDO|ORACLE|MEMORY)\]|^\[[\d. ]+\]?$|^ [\d. ]+\]$|Method:|Split:|Resumed')


def main(args):
    from paddleseg_semi.errors import InputError
    runs = [cell for cell in study.read_grid(args.grid, args.save_dir) if cell.record().get('code') == 0]
    if not runs:
        raise InputError(f'{args.save_dir}: no run of {args.grid} is finished.')
    found = paired([result(cell) for cell in runs], args.baseline)
    summary = summarize(found)
    path = os.path.join(args.results, args.name)
    for folder in (f'logs/{args.name}', 'plots'):
        os.makedirs(os.path.join(args.results, folder), exist_ok=True)
    table(f'{path}.csv', [{key: value for key, value in row.items() if key not in ('evaluations', 'classes')}
                          for row in found])
    table(f'{path}_classes.csv', [{key: row[key] for key in ('method', 'masks', 'seed')} | row['classes']
                                  for row in found])
    table(f'{path}_summary.csv', summary)
    for cell in runs:
        with open(os.path.join(args.results, 'logs', args.name, f'{cell.name}.log'), 'w', encoding='utf-8') as file:
            file.write(trimmed(cell))
    plot(os.path.join(args.results, 'plots', f'{args.name}.png'), found, args.baseline)
    print(f'{len(runs)} runs: {path}.csv')


def result(cell):
    """dict: the row of a finished run; `evaluations`, its mIoU over time; `classes`, name → IoU of the last one."""
    text, record = console(cell), cell.record()
    scores = evaluations(text, '--use_ema' in cell.command)
    with open(os.path.join(cell.result, 'config.yml'), encoding='utf-8') as file:
        names = yaml.safe_load(file).get('class_names') or range(len(scores[-1][1]))
    said = {name: re.findall(pattern, text) for name, pattern in _SAID.items()}
    costs = [float(cost) for cost in re.findall(rf'batch_cost: {_NUMBER}', text)]
    miou = [value for value, _ in scores]
    return {'method': cell.method, 'masks': cell.masks, 'seed': cell.seed, 'last': miou[-1], 'best': max(miou),
            **{name: float(values[-1]) if values else '' for name, values in said.items()},
            's / iter': round(statistics.median(costs), 2),
            'minutes': '' if record['seconds'] is None else round(record['seconds'] / 60, 1),
            'commit': ' + '.join(record['commits']),
            'evaluations': miou, 'classes': dict(zip(map(str, names), scores[-1][1]))}


def console(cell):
    """str: what the last training of a run said, progress bars taken out."""
    with open(os.path.join(cell.folder, study.CONSOLE), encoding='utf-8', errors='replace') as file:
        text = re.sub(r'\x08+|\r', '\n', file.read())
    return text[max(text.rfind('Method: '), 0):] if cell.result != cell.folder else text


def evaluations(text, ema=False):
    """The evaluations of a training.

    Args:
        text (str): what it said.
        ema (bool): those of the moving average of --use_ema, which follow those of the network itself.

    Returns:
        list[tuple[float, list[float]]]: mIoU, and IoU per class.
    """
    found = []
    for part in text.split('[EVAL] #Images: ')[1:]:
        own = 'The model with the best validation mIoU' in part
        if own != ema:
            miou = re.match(rf'\d+ mIoU: {_NUMBER}', part)
            classes = re.search(r'\[EVAL\] Class IoU:\s*\[([^\]]*)\]', part)
            found.append((float(miou[1]), [float(value) for value in classes[1].split()]))
    return found


def paired(rows, baseline):
    """list[dict]: rows of `result` with `gain`, the difference of `last` to that of the baseline with the same list and
    seed; '' without, and for the baseline itself."""
    last = {(row['masks'], row['seed']): row['last'] for row in rows if row['method'] == baseline}
    for row in rows:
        other = None if row['method'] == baseline else last.get((row['masks'], row['seed']))
        row['gain'] = '' if other is None else round(row['last'] - other, 4)
    return rows


def summarize(rows):
    """list[dict]: rows of `paired` over the seeds of a method on a list."""
    groups = {}
    for row in rows:
        groups.setdefault((row['method'], row['masks']), []).append(row)
    summary = []
    for (method, masks), group in groups.items():
        gains = [row['gain'] for row in group if row['gain'] != '']
        minutes = [row['minutes'] for row in group if row['minutes'] != '']
        summary.append({'method': method, 'masks': masks, 'seeds': len(group),
                        **spread('last', [row['last'] for row in group]),
                        'best': f'{statistics.mean(row["best"] for row in group):.4f}', **spread('gain', gains, '+'),
                        'minutes': f'{statistics.mean(minutes):.0f}' if minutes else ''})
    return summary


def spread(name, values, sign=''):
    if not values:
        return {name: '', f'{name}, least': '', f'{name}, most': ''}
    found = {name: statistics.mean(values), f'{name}, least': min(values), f'{name}, most': max(values)}
    return {key: f'{value:{sign}.4f}' for key, value in found.items()}


def table(path, rows):
    """Writes a CSV file with the columns of all rows."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with open(path + '.tmp', 'w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, columns, restval='', lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
    os.replace(path + '.tmp', path)


def trimmed(cell):
    """str: the lines of a run's log that its results are read from, without times of day."""
    lines = (re.sub(r'^[\d-]+ [\d:]+ \[INFO\]\t', '', line) for line in console(cell).splitlines())
    record = cell.record()
    head = [f'commit: {" + ".join(record["commits"])}', f'seconds: {record["seconds"]}']
    return '\n'.join([*head, *(line for line in lines if _KEPT_LINES.search(line))]) + '\n'


def plot(path, rows, baseline):
    """A row of panels per list: the last mIoU, and its difference to the baseline seed by seed. A dot per run, a line
    from least to most, a tick at the mean."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot

    lists = {masks: [row for row in rows if row['masks'] == masks]
             for masks in sorted({row['masks'] for row in rows}, key=int)}
    heights = [len({row['method'] for row in group}) for group in lists.values()]
    figure, panels = pyplot.subplots(len(lists), 2, sharex='col', squeeze=False, layout='constrained',
                                     figsize=(9, sum(heights) * 0.3 + len(lists) * 0.6 + 0.4), height_ratios=heights)
    for (left, right), (masks, group) in zip(panels, lists.items()):
        values = {}
        for row in group:
            values.setdefault(row['method'], []).append(row)
        order = sorted(values, key=lambda method: statistics.mean(row['last'] for row in values[method]))
        for panel, key in ((left, 'last'), (right, 'gain')):
            for height, method in enumerate(order):
                _dots(panel, height, [100 * row[key] for row in values[method] if row[key] != ''],
                      'black' if method == baseline else 'tab:blue')
            panel.locator_params(axis='x', nbins=6)
            panel.set_ylim(-0.6, len(order) - 0.4)
            panel.set_yticks(range(len(order)), order if panel is left else [])
        right.axvline(0, color='0.8', linewidth=1, zorder=0)
        left.set_title(f'{masks} masks', fontsize=10, loc='left')
    panels[-1, 0].set_xlabel('mIoU of the last evaluation, points')
    panels[-1, 1].set_xlabel(f'difference to "{baseline}" of the same seed, points')
    figure.savefig(path, dpi=100, metadata={'Software': None})
    pyplot.close(figure)


def _dots(panel, height, values, color):
    if values:
        panel.plot([min(values), max(values)], [height] * 2, color=color, linewidth=1)
        panel.plot(values, [height] * len(values), 'o', color=color, markersize=4)
        panel.plot([statistics.mean(values)], [height], '|', color=color, markersize=14)


if __name__ == '__main__':
    run(main, parser)
