"""Writes the tables of the docs from docs/results/*.csv."""

import csv
import glob
import os
import re

from cli import Parser, run

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RESULTS = os.path.join(ROOT, 'docs', 'results')
MARKED = re.compile(r'^(<!-- table: ([\w-]+)(?: ([^\n]+))? -->\n).*?^(<!-- end -->)$', re.DOTALL | re.MULTILINE)

parser = Parser('Put docs/results/NAME.csv between "<!-- table: NAME -->" and "<!-- end -->" in Markdown files; with '
                '"<!-- table: NAME WORD -->" the rows that begin with WORD, or with "WORD:".')
parser.add_argument('files', nargs='*', help='Markdown files; without any, README.md and all below docs/')


def pages():
    """list[str]: the Markdown files of the repository that may hold tables."""
    return [os.path.join(ROOT, 'README.md'), *sorted(glob.glob(os.path.join(ROOT, 'docs/**/*.md'), recursive=True))]


def main(args):
    from paddleseg_semi.errors import InputError
    from paddleseg_semi.files import write
    for path in args.files or pages():
        try:
            with open(path, encoding='utf-8') as file:
                text = file.read()
        except OSError as error:
            raise InputError(f'{path}: cannot be read ({error.strerror}).') from None
        new = with_tables(text, path)
        if new != text:
            write(path, new)
            print(f'{path}: written')


def with_tables(text, path, folder=RESULTS):
    """A Markdown text with its tables made anew.

    Args:
        text (str): the content.
        path (str): its file, for messages.
        folder (str, optional): where the CSV files are.

    Returns:
        str: the new content.

    Raises:
        InputError: a marker without its end, a table that is not there or has a line of another length.
    """
    from paddleseg_semi.errors import InputError
    if text.count('<!-- table: ') != len(MARKED.findall(text)):
        raise InputError(f'{path}: a "<!-- table: … -->" without its "<!-- end -->". Each is a line of its own.')

    def renewed(match):
        return match[1] + table(os.path.join(folder, f'{match[2]}.csv'), match[3]) + match[4]

    return MARKED.sub(renewed, text)


def table(path, word=None):
    """A CSV file as a Markdown table: columns of numbers to the right, empty ones left out.

    Args:
        path (str): the file; its first line names the columns.
        word (str, optional): only rows whose first cell is this word, or begins with it and a colon.

    Returns:
        str: lines of Markdown.

    Raises:
        InputError: see :func:`with_tables`.
    """
    from paddleseg_semi.errors import InputError
    try:
        with open(path, encoding='utf-8', newline='') as file:
            head, *rows = csv.reader(file)
    except (OSError, ValueError):
        raise InputError(f'{path}: no such table, or an empty one.') from None
    for number, row in enumerate(rows, 2):
        if len(row) != len(head):
            raise InputError(f'{path}:{number}: {len(row)} columns, but the first line has {len(head)}. '
                             'Put cells with a comma in quotes.')
    rows = [row for row in rows if word is None or row[0] == word or row[0].startswith(f'{word}:')]
    if not rows:
        raise InputError(f'{path}: no row begins with "{word}".')
    columns = [column for column in zip(head, *rows) if any(column[1:])]
    rules = ['---:' if all(cell[:1].isdigit() for cell in column[1:] if cell) else '---' for column in columns]
    head, *rows = zip(*columns)
    return ''.join(f'| {" | ".join(row)} |\n' for row in [head, rules, *rows])


if __name__ == '__main__':
    run(main, parser)
