"""Makes, and runs, the command behind a published figure of docs/results/README.md."""

import csv
import fnmatch
import glob
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field

from cli import Parser, run

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RESULTS = os.path.join(ROOT, 'docs', 'results')
_NOT_FIGURES = ('Method', 'Network', 'Data', 'Crop', 'Source')

parser = Parser('Make and run the command of a published figure: which recipe, list, iterations, weights and network. '
                "Start it in the project's folder; the lists of other repositories are looked for there too.")
parser.add_argument('--table', required=True,
                    help='voc_classic, cityscapes_u2pl, …: a table of docs/results/README.md, by its CSV file')
parser.add_argument('--row', required=True,
                    help='"U2PL", or with its network where there are several: "UniMatch, ResNet-50 os16"')
parser.add_argument('--column', required=True, help='"183"; of "1/16 (662)" also "1/16" or "662"')
parser.add_argument('--save_dir', default='./output', help='where the run goes')
parser.add_argument('--dry_run', action='store_true', help='only say the command and what it needs')


@dataclass
class Run:
    """What reproduces a figure.

    Attributes:
        what (str): the cell and its figure.
        tool (str): of tools/, without suffix.
        recipe (str): what is trained, or first trained.
        flags, opts (list[str]): of the tool, `opts` those of --opts.
        cards (int): processes.
        needs (list[tuple[str, str]]): files that have to be there, and where they come from.
        notes (list[str]): what else there is to know.
    """

    what: str
    tool: str = 'train'
    recipe: str = ''
    flags: list = field(default_factory=list)
    opts: list = field(default_factory=list)
    cards: int = 1
    needs: list = field(default_factory=list)
    notes: list = field(default_factory=list)

    def command(self):
        """list[str]: without the interpreter."""
        launch = ['-m', 'paddle.distributed.launch', '--devices', ','.join(map(str, range(self.cards)))]
        return [*(launch if self.cards > 1 else []), f'tools/{self.tool}.py', *self.flags,
                *(['--opts', *self.opts] if self.opts else [])]


def main(args):
    from paddleseg_semi.errors import InputError
    book = Book()
    made = book.run(args.table, *book.find(args.table, args.row, args.column))
    made.flags += ['--save_dir', args.save_dir]
    print(made.what)
    for path, source in made.needs:
        print(f'needs {path}: {source}')
    for note in [f'needs {made.cards} cards, or another --iters'] * (made.cards > 1) + made.notes:
        print(note)
    print(shlex.join(['python', *made.command()]), flush=True)
    if args.dry_run:
        return 0
    missing = next((need for need in made.needs if not os.path.exists(need[0])), None)
    if missing:
        raise InputError(f'{missing[0]}: no such file or folder. It comes from: {missing[1]}')
    return subprocess.run([sys.executable, *made.command()]).returncode


class Book:
    """The tables, and what is known of them besides (docs/results/reproduce.yml).

    Args:
        folder (str, optional): where the CSV files and that one are.
        configs (str, optional): the folder of recipes, relative to the project.
    """

    def __init__(self, folder=RESULTS, configs='configs'):
        from paddleseg_semi.cvlibs.config import read_yaml
        self.folder, self.configs = folder, configs
        self.known = read_yaml(os.path.join(folder, 'reproduce.yml'))

    def table(self, name):
        """list[dict[str, str]]: the rows of a table of figures or of iterations."""
        with open(os.path.join(self.folder, f'{name}.csv'), encoding='utf-8', newline='') as file:
            return list(csv.DictReader(file))

    def columns(self, name):
        """list[str]: those with figures."""
        return [key for key in self.table(name)[0] if key not in _NOT_FIGURES]

    def find(self, table, row, column):
        """A cell by what a user calls it.

        Returns:
            tuple[dict[str, str], str]: the row, and the name of the column.

        Raises:
            InputError: no such table, row or column, or several, naming those there are.
        """
        from paddleseg_semi.errors import InputError, nearest
        if table not in self.known['tables']:
            raise InputError(f'--table {table}: no such table.{nearest(table, self.known["tables"])} Known: '
                             f'{", ".join(self.known["tables"])}.')
        rows, columns = self.table(table), self.columns(table)
        named = [name for name in columns if column in (name, *_parts(name))]
        if not named:
            raise InputError(f'--column {column}: {table} has the columns {", ".join(columns)}.')
        methods = [other for other in rows if other['Method'] == row]
        found = [other for other in methods or rows if methods or _called(other).startswith(f'{row},')
                 or _called(other) == row]
        found = [other for other in found if other[named[0]]] or found
        if len(found) != 1:
            names = [_called(other) for other in found or rows]
            raise InputError(f'--row {row}: {"several" if found else "no such"} rows in {table}: {"; ".join(names)}.')
        return found[0], named[0]

    def run(self, table, row, column):
        """Run: what reproduces a cell.

        Raises:
            InputError: it is not implemented or not to be had, in one line.
        """
        from paddleseg_semi.errors import InputError
        where, settings = self.known['tables'][table], self._settings(row)
        if not row[column]:
            raise InputError(f'{table}, {_called(row)}, {column}: no figure is published.')
        reason = settings.get('not') or (settings.get('columns') or {}).get(column)
        if column == 'full' and settings.get('method') != 'Supervised':
            reason = reason or settings.get('full')
        if reason:
            raise InputError(f'{table}, {_called(row)}, {column}: not to be had: {reason}')
        data = where.get('data') or row['Data'].lower()
        made = Run(f'{table}, {_called(row)}, {column}: {row[column]} mIoU ({row["Source"]})',
                   tool='pipeline' if 'pipeline' in settings else 'train')
        made.needs.append((self.known['data'][data]['path'], self.known['data'][data]['from']))
        made.recipe = self._recipe(row, settings, data)
        made.flags += ['--config', settings.get('pipeline', made.recipe)]
        if where['lists'] != 'none':
            self._choose_list(made, where, column)
        if made.tool == 'train':
            self._train(made, table, row, column, settings)
        elif made.recipe:
            made.flags += ['--recipe', made.recipe]
            counts = settings['iters'][data][_labeled(column)]
            made.opts += [f'{stage}.iters={count}' for stage, count in zip(settings['stages'], counts)]
        self._add_weights(made, row, settings, data)
        made.opts += settings.get('opts', [])
        made.notes += [settings[key] for key in ('note', 'then') if key in settings]
        return made

    def _settings(self, row):
        """dict: what is special of a row: of its method, of its variant in any method, and of the two together."""
        method, _, variant = row['Method'].partition(': ')
        known = self.known['rows']
        return {**known.get(method, {}), **known.get(variant, {}), **(known.get(row['Method'], {}) if variant else {})}

    def _recipe(self, row, settings, data):
        """str: the recipe of a row's method on some data that is nearest to its network."""
        from paddleseg_semi.errors import InputError
        if 'recipes' in settings or 'pipeline' in settings and 'recipe' not in settings:
            return settings.get('recipes', {}).get(data, '')
        network = re.match(r'(?P<word>[\w-]+)(?: os(?P<stride>\d+))?', row.get('Network', ''))
        word, stride = network.groups() if network else ('', None)
        if 'recipe' in settings:
            pattern = settings['recipe'].format(backbone=word.replace('-', '').lower(), data=data)
            found = sorted(glob.glob(pattern, root_dir=ROOT))
        else:
            pattern = f'{self.configs}/*/{self._name(row, settings)}_*_{data}_*.yml'
            found = sorted(self._candidates(self._name(row, settings), data, row['Crop'], stride), key=lambda path: (
                word.replace('-', '').lower() not in path, int(_stride(path) or 0), path))
        if not found:
            raise InputError(f'{_called(row)}: not implemented: there is no recipe {pattern} for this crop and '
                             'output stride.')
        return found[0]

    @staticmethod
    def _name(row, settings):
        method = re.sub(r' \(.*\)$', '', row['Method'].partition(': ')[0])
        return settings.get('name') or re.sub(r'\W', '', method).lower()

    def _candidates(self, name, data, crop, stride):
        """Yields recipes named method_model_backbone_data_crop_iterations.yml, with 'os8' and the like behind the
        backbone."""
        shape = re.compile(rf'{name}_[^_]+_(dinov2_)?[^_]+(_os\d+)?_{data}(_list)?_(\d+)x(\d+)_[^_]+\.yml')
        for path in glob.glob(f'{self.configs}/*/*.yml', root_dir=ROOT):
            match = shape.fullmatch(os.path.basename(path))
            if match and (not crop or crop in match.groups()[-2:]) and stride in (None, _stride(path)):
                yield path

    def _choose_list(self, made, where, column):
        """Which images keep their masks."""
        if where['lists'] == 'drawn':
            if column != 'full':
                made.flags += ['--label_ratio', f'{1 / int(column.partition("/")[2]):g}']
            return
        if isinstance(where['lists'], str):
            path = where['lists'].format(part=column.partition(' ')[0].replace('/', '_'))
        else:
            path = next(row['`--split_ids`'].strip('`') for row in self.table('lists')
                        if [row['Data'], row['Lists']] == where['lists'] and int(row['Labeled']) == _labeled(column))
        made.flags += ['--split_ids', path]
        made.needs.append((path, f'a list of {self.known["repositories"][path.partition("/")[0]]}'))

    def _train(self, made, table, row, column, settings):
        from paddleseg_semi.cvlibs.config import read_yaml
        recipe = read_yaml(os.path.join(ROOT, made.recipe))
        made.cards = max((recipe.get('semi') or {}).get('lr_batch', 0) // recipe['batch_size'], 1)
        made.flags += ['--do_eval', '--num_workers', '4']
        if 'method' in settings:
            made.flags += ['--method', settings['method']]
        name = self.known['tables'][table].get('iters')
        if name:
            count = self._iterations(name, made.recipe, self.known['tables'][table]['lists'], column)
            if count:
                made.flags += ['--iters', count]
            else:
                made.notes.append(f'iterations for this list are not published: the recipe has {recipe["iters"]}')

    def _iterations(self, name, recipe, family, column):
        """str: of the recipe on a list, or else of another recipe of its method; None when nobody says."""
        part, recipe = column.partition(' ')[0], recipe.removeprefix(f'{self.configs}/')
        rows = [row for row in self.table(name) if fnmatch.fnmatch(row['Recipe'], f'{recipe.partition("/")[0]}/*')
                and row[part]]
        rows.sort(key=lambda row: (row['Recipe'] != recipe, row.get('Lists', '') not in family))
        same = [row for row in rows if os.path.basename(row['Recipe']).split('_')[0] ==
                os.path.basename(recipe).split('_')[0]]
        return same[0][part] if same else None

    def _add_weights(self, made, row, settings, data):
        """What training starts from, where the recipe does not say it, and the backbone, where it has another one."""
        own = (settings.get('weights') or {}).get(data)
        if own:
            made.needs.append((own['file'], own['from']))
        if made.tool == 'pipeline' or own:
            return
        from paddleseg_semi.cvlibs.config import read_yaml
        backbone = read_yaml(os.path.join(ROOT, made.recipe))['model']['backbone']
        wanted = self.known['backbones'].get(row.get('Network', '').partition(' ')[0])
        if backbone.get('pretrained') or wanted is None:
            return
        if backbone['type'] != wanted['type']:
            made.opts.append(f'model.backbone.type={wanted["type"]}')
        made.opts.append(f'model.backbone.pretrained={wanted["weights"]}')
        made.needs.append((wanted['weights'], wanted['from']))


def _called(row):
    """str: a row's method, and what else tells it from others."""
    return ', '.join(row[key] for key in ('Method', 'Network', 'Data', 'Crop') if row.get(key))


def _parts(column):
    """'1/16 (662)' → '1/16', '662'."""
    return column.replace('(', '').replace(')', '').split()


def _labeled(column):
    """int: labeled images."""
    return int(_parts(column)[-1])


def _stride(path):
    """str: the output stride that a recipe's name says, or None."""
    match = re.search(r'_os(\d+)_', path)
    return match and match[1]


if __name__ == '__main__':
    run(main, parser)
