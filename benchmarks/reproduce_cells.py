"""Runs every command that tools/reproduce.py makes for one iteration, on small networks and stand-in photos."""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tools'), str(ROOT / 'tests')]

from cli import Parser, run  # noqa: E402

parser = Parser(__doc__)
parser.add_argument('--table', help='one table alone')


def main(args):
    from contract import stand_in
    from contract.conftest import Toy
    from reproduce import Book

    book, failed = Book(), []
    for table in [args.table] if args.table else book.known['tables']:
        for name, made in stand_in.cells(book, table):
            if isinstance(made, str):
                print(made)
                continue
            with tempfile.TemporaryDirectory() as folder:
                code = stand_in.run(Toy(Path(folder)), made)
            print(f'{name}: exit code {code}', flush=True)
            failed += [name] * bool(code)
    print(f'{len(failed)} failed', *failed, sep='\n')
    return bool(failed)


if __name__ == '__main__':
    run(main, parser)
