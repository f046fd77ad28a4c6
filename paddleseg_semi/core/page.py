"""A page that shows a run, or several beside each other: one file, made of what the tools have written."""

import base64
import csv
import io
import json
import os
import re

import jinja2
import matplotlib
from matplotlib.figure import Figure

from paddleseg_semi import files
from paddleseg_semi.core import facts
from paddleseg_semi.core.report import forgotten
from paddleseg_semi.errors import InputError, RunError

matplotlib.rcParams['svg.fonttype'] = 'none'   # text stays text
matplotlib.rcParams['svg.hashsalt'] = 'a run'  # the same files make the same page

_LARGEST = 2**26  # bytes of a file that is read
_TRAIN = re.compile(r'\[TRAIN\] .*?iter: (\d+)/(\d+), (.*?), lr: ([\d.e+-]+)')
_TERM = re.compile(r'([\w ]+): (-?[\d.]+(?:e[+-]?\d+)?)')
_PSEUDO = re.compile(r'\[PSEUDO\] #Crops: \d+ (.*)')
_ORACLE = re.compile(r'\[ORACLE\] #Crops: \d+ (.*)')
_SHARES = re.compile(r'\[(PSEUDO|LABELED)\] Class share: (.*)')
_STATISTICS = ('kept', 'conf', 'gap', 'agree', 'agreement', 'mixed', 'bank', 'd_labeled', 'd_real', 'd_unlabeled',
               'tags_right', 'found')


class Run:
    """What the files of a run's folder say; what is not there, or cannot be read, is left out.

    Args:
        folder (str): of a training.

    Raises:
        InputError: there is no train.log in it.
    """

    def __init__(self, folder):
        self.folder, self.name = folder, os.path.basename(os.path.normpath(folder))
        log = _text(os.path.join(folder, 'train.log'))
        if log is None:
            raise InputError(f'{folder}: has no train.log. Give the folder of a training (--save_dir).')
        self.terms, self.statistics, self.pseudo, self.oracle = {}, {}, {}, {}
        self.shares, self.labeled_shares, self.warnings = {}, {}, []
        self.iteration = self.iterations = 0
        for line in log.splitlines():
            self._take(line)
        rows = list(csv.DictReader(io.StringIO(_text(os.path.join(folder, 'eval.csv')) or '')))
        self.evaluations = [row for row in rows if row.get('network') == 'model' and _numbers(row)]
        self.ema = [row for row in rows if row.get('network') == 'ema' and _numbers(row)]
        self.names = [key.partition('/')[2] for key in (rows[0] if rows else ()) if key and key.startswith('IoU/')]
        self.val = _json(os.path.join(folder, 'val.json'))
        self.recipe = _text(os.path.join(folder, 'config.yml')) or ''
        self.split = facts.read(os.path.join(folder, 'split', 'split.yml'))
        method = facts.read(os.path.join(folder, 'config.yml')).get('method')
        self.method = method.get('type') if isinstance(method, dict) else ''

    def _take(self, line):
        found = _TRAIN.search(line)
        if found:
            iteration, self.iterations = int(found[1]), int(found[2])
            if iteration <= self.iteration:  # the run went on from an earlier checkpoint
                self._forget(iteration)
            self.iteration = iteration
            for name, value in _TERM.findall(found[3]):
                part = self.statistics if name.strip() in _STATISTICS else self.terms
                part.setdefault(name.strip(), []).append((iteration, float(value)))
        for pattern, part in ((_PSEUDO, self.pseudo), (_ORACLE, self.oracle)):
            found = pattern.search(line)
            for name, value in _TERM.findall(found[1]) if found else ():
                part.setdefault(name.strip(), []).append((self.iteration, float(value)))
        found = _SHARES.search(line)
        if found:
            shares = {name: float(value) for name, value in re.findall(r'(.+?) (\d\.\d+)(?:, |$)', found[2])}
            self.shares, self.labeled_shares = (shares, self.labeled_shares) if found[1] == 'PSEUDO' else \
                (self.shares, shares)
        if '[PSEUDO] #Crops' in line:
            self.warnings = []
        elif '[PSEUDO] Forgotten' in line:
            self.warnings = [line.partition('[PSEUDO] ')[2]]

    def _forget(self, iteration):
        for part in (self.terms, self.statistics, self.pseudo, self.oracle):
            for name, points in part.items():
                part[name] = [point for point in points if point[0] < iteration]

    @property
    def best(self):
        """dict: the evaluation with the highest mIoU; empty without any."""
        return max(self.evaluations, key=lambda row: float(row['mIoU']), default={})

    @property
    def last(self):
        """dict: the last evaluation; empty without any."""
        return self.evaluations[-1] if self.evaluations else {}

    def curves(self, key):
        """list[tuple[int, float]]: iteration and value of a column of eval.csv."""
        return [(int(row['iter']), float(row[key])) for row in self.evaluations]


def write(folders, path):
    """Writes the page.

    Args:
        folders (Sequence[str]): of runs; the first is the one that others are compared with.
        path (str): the file, .html.

    Raises:
        InputError: a folder without a run.
        RunError: the file cannot be written.
    """
    runs = [Run(folder) for folder in folders]
    environment = jinja2.Environment(autoescape=True, loader=jinja2.FileSystemLoader(os.path.dirname(__file__)),
                                     trim_blocks=True, lstrip_blocks=True)
    text = environment.get_template('page.html').render(
        runs=runs, first=runs[0], names=runs[0].names, plots=_plots(runs), confusion=_confusion(runs[0].val),
        health=_health(runs[0]), pictures=_pictures(runs[0].folder))
    try:
        files.write(path, text)
    except OSError as error:
        raise RunError(f'{path}: cannot be written ({error.strerror}).') from None


def _plots(runs):
    """list[tuple[str, str]]: title and SVG."""
    several = len(runs) > 1
    plots = [('mIoU on the validation photos',
              {**{run.name if several else 'mIoU': run.curves('mIoU') for run in runs},
               **{f'{run.name} average' if several else 'average (--use_ema)':
                  [(int(row['iter']), float(row['mIoU'])) for row in run.ema] for run in runs}})]
    if several:
        plots.append(('Loss', {run.name: run.terms.get('loss', []) for run in runs}))
    else:
        run = runs[0]
        plots += [('IoU of classes', {name: run.curves(f'IoU/{name}') for name in run.names}),
                  ('Loss terms', run.terms), ('Statistics of training', run.statistics),
                  ('Pseudo labels of the same crops', {**run.pseudo, **{f'{key} (--oracle)': points
                                                                        for key, points in run.oracle.items()}})]
    return [(title, _svg({name: points for name, points in lines.items() if points}))
            for title, lines in plots if any(lines.values())]


def _svg(lines):
    figure = Figure(figsize=(7, 3.2), layout='constrained')
    axes = figure.add_subplot()
    for number, (name, points) in enumerate(lines.items()):
        axes.plot(*zip(*points), label=name.replace('$', r'\$'), linewidth=1.4, marker='.' if len(points) < 30 else '',
                  linestyle=('-', '--', ':')[number // 10 % 3])
    axes.set_xlabel('iteration')
    axes.grid(alpha=0.3)
    axes.legend(loc='upper left', bbox_to_anchor=(1, 1), frameon=False, fontsize=8, ncols=-(-len(lines) // 22))
    file = io.StringIO()
    figure.savefig(file, format='svg', metadata={'Date': None})
    text = file.getvalue()
    return text[text.index('<svg'):]


def _confusion(val):
    """list[tuple[str, list[tuple[int, str]]]]: rows of percentages of a class's pixels, and their shade; [] without."""
    try:
        names, matrix = [row['name'] for row in val['classes']], val['confusion_matrix']
        rows = [(name, [100 * count / max(sum(line), 1) for count in line]) for name, line in zip(names, matrix)]
        return [(name, [(round(value, 1), f'{value / 100:.2f}') for value in line]) for name, line in rows]
    except (KeyError, TypeError, ValueError):
        return []


def _health(run):
    """list[tuple[str, float, float, bool]]: class, its share of the kept pseudo labels, of the masks, and whether it is
    being forgotten."""
    return [(name, share, run.labeled_shares.get(name), forgotten(share, run.labeled_shares.get(name)))
            for name, share in run.shares.items()]


def _pictures(folder):
    """list[tuple[str, str]]: title and data address of the pictures there are."""
    shown = os.path.join(folder, 'pictures')
    numbers = sorted(int(match[1]) for match in map(re.compile(r'iter_(\d+)\.png').fullmatch,
                                                    os.listdir(shown) if os.path.isdir(shown) else ()) if match)
    paths = [(f'At iteration {number}', os.path.join(shown, f'iter_{number}.png')) for number in numbers[-1:]]
    paths += [('The validation photos with the lowest share of right pixels', os.path.join(folder, 'worst.png'))]
    found = [(title, _bytes(path)) for title, path in paths]
    return [(title, 'data:image/png;base64,' + base64.b64encode(png).decode()) for title, png in found if png]


def _bytes(path):
    try:
        if os.path.getsize(path) > _LARGEST:
            return None
        with open(path, 'rb') as file:
            return file.read()
    except OSError:
        return None


def _text(path):
    content = _bytes(path)
    return None if content is None else content.decode('utf-8', 'replace').replace('\0', '')


def _json(path):
    try:
        content = json.loads(_text(path) or '')
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _numbers(row):
    try:
        return all(value is None or key in (None, 'network') or float(value) >= -1 for key, value in row.items())
    except (TypeError, ValueError):
        return False
