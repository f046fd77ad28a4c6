"""Changes recipes, lists, checkpoints and deploy.yaml at random, calls the tools on them, and says what breaks.

    python benchmarks/fuzz.py --cases 1000                 # of each kind
    python benchmarks/fuzz.py --case 3f2a/recipes/17       # one of them again, with its traceback

The tests do the same with fewer cases (tests/contract/test_fuzz.py). Each kind runs in a process of its own,
which begins anew behind a case that ends it.
"""

import collections
import multiprocessing
import os
import re
import sys
import tempfile
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, folder) for folder in ('tools', 'deploy/python', 'tests', '')]
from cli import Parser, run

parser = Parser('Change what users and strangers send at random, and see that every tool answers in one line.')
parser.add_argument('--cases', type=int, default=1000, help='of each kind')
parser.add_argument('--first', type=int, default=0, help='number of the first')
parser.add_argument('--kinds', nargs='+', default=None, help='recipes, lists, checkpoints, deploy (default: all)')
parser.add_argument('--seed', default=None, help='of all cases (default: the commit)')
parser.add_argument('--case', default=None, metavar='SEED/KIND/NUMBER', help='run this one alone')


def main(args):
    from contract import fuzzing
    sys.stdout.reconfigure(errors='backslashreplace')
    seed = args.seed or fuzzing.seed_of()
    if args.case:
        seed, kind, number = args.case.rsplit('/', 2)
        with tempfile.TemporaryDirectory() as folder:
            print(*fuzzing.Fuzzer(folder, seed).run(kind, int(number)), sep='\n')
        return 0
    broken = 0
    for kind in args.kinds or fuzzing.KINDS:
        start, number, ends, last = time.time(), args.first, collections.Counter(), args.first + args.cases
        while number < last:
            pipe, there = multiprocessing.Pipe(duplex=False)
            process = multiprocessing.get_context('fork').Process(target=_work, args=(there, seed, kind, number, last))
            process.start()
            there.close()
            while number < last:
                try:
                    code, text = pipe.recv()
                except EOFError:
                    process.join()
                    code, text = 'broken', f'{seed}/{kind}/{number}: ended the process ({process.exitcode})'
                ends[code] += 1
                number += 1
                if code == 'broken':
                    print('BROKEN', text, flush=True)
                elif os.environ.get('FUZZ_SAY'):
                    print(code, text, flush=True)
                if not process.is_alive() and not pipe.poll():
                    break
            process.join()
        broken += ends['broken']
        print(f'{kind}: {args.cases} cases from {seed}/{kind}/{args.first} on, {time.time() - start:.0f} s; '
              f'by exit code: {dict(sorted(ends.items(), key=str))}', flush=True)
    return int(broken > 0)


def _work(pipe, seed, kind, first, last):
    from contract import fuzzing
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = fuzzing.Fuzzer(folder, seed)
        for number in range(first, last):
            try:
                code, what, line = fuzzer.run(kind, number)
                pipe.send((code, f'{seed}/{kind}/{number}: {what} -> {line}'))
            except fuzzing.Broken as error:
                frame = traceback.extract_tb((error.__cause__ or error).__traceback__)[-1]
                where = f' [{os.path.basename(frame.filename)}:{frame.lineno}]' if error.__cause__ else ''
                pipe.send(('broken', re.sub(r'\s+', ' ', str(error))[:600] + where))


if __name__ == '__main__':
    run(main, parser)
