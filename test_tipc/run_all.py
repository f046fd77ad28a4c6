"""Runs every chain of every model family in lite mode, one after the other, bounded in time.

    python3 test_tipc/run_all.py                        all; the table becomes the support matrix of test_tipc/README.md
    python3 test_tipc/run_all.py cps_deeplabv3p_demo      some families

Needs only a Python: test_tipc/prepare.sh makes the environment. Ends with a table, and with 0 when nothing failed, else
with 1. A chain whose optional packages are missing is skipped, with the reason. Consoles: test_tipc/output/run_all/.
"""

import argparse
import contextlib
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

Chain = namedtuple('Chain', 'name config script mode more needs', defaults=[(), None])
Outcome = namedtuple('Outcome', 'cell seconds why', defaults=[0, ''])

TRAIN = 'test_train_inference_python.sh'
CHAINS = (
    Chain('basic', 'train_infer_python.txt', TRAIN, 'lite_train_lite_infer'),
    Chain('whole_infer', 'train_infer_python.txt', TRAIN, 'whole_infer', needs='basic'),
    Chain('amp', 'train_linux_gpu_normal_amp_infer_python_linux_gpu_cpu.txt', TRAIN, 'lite_train_lite_infer'),
    Chain('distributed', 'train_linux_gpu_fleet_normal_infer_python_linux_gpu_cpu.txt', TRAIN, 'lite_train_lite_infer'),
    Chain('PTQ', 'train_ptq_infer_python.txt', 'test_ptq_inference_python.sh', 'whole_infer', needs='basic'),
    Chain('paddle2onnx', 'model_linux_gpu_normal_normal_paddle2onnx_python_linux_cpu.txt', 'test_paddle2onnx.sh',
          'paddle2onnx_infer', needs='basic'),
    Chain('serving', 'model_linux_gpu_normal_normal_serving_python_linux_gpu_cpu.txt', 'test_serving_infer_python.sh',
          'serving_infer', needs='basic'),
    Chain('benchmark', 'train_infer_python.txt', 'benchmark_train.sh', 'benchmark_train', ['dynamic_bs2_fp32_DP_N1C1']),
)
SKIPPED = 77  # exit code of a chain whose optional packages are missing
PASS, FAIL, SKIP, NONE = '✓', '✗', 'skipped', '–'
TIPC = Path(__file__).resolve().parent
README = TIPC / 'README.md'
BEGIN, END = '<!-- support matrix, written by run_all.py -->\n', '<!-- end -->\n'

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('families', nargs='*', help='folders of test_tipc/configs (default: all)')
parser.add_argument('--chains', nargs='+', choices=[chain.name for chain in CHAINS], help='only these')
parser.add_argument('--limit', type=float, default=600, help='seconds a chain may take')
parser.add_argument('--limit_all', type=float, default=3600, help='seconds all may take together')


def main():
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('ended'))  # by way of `bounded`, which ends what runs
    known = sorted(path.parent.name for path in TIPC.glob('configs/*/train_infer_python.txt'))
    unknown = set(args.families) - set(known)
    if unknown:
        parser.error(f'no family {", ".join(sorted(unknown))}; there are {", ".join(known)}')
    started, table = time.monotonic(), {}
    for family in args.families or known:
        table[family] = row = {}
        for chain in CHAINS:
            if args.chains and chain.name not in args.chains:
                continue
            left = args.limit_all - (time.monotonic() - started)
            if left <= 0:
                row[chain.name] = Outcome(FAIL, 0, f'not run: all {args.limit_all:.0f} s are used up')
            elif row.get(chain.needs, Outcome(PASS)).cell == FAIL:
                row[chain.name] = Outcome(FAIL, 0, f'not run: needs the model of the chain "{chain.needs}"')
            else:
                row[chain.name] = run(family, chain, args.limit, left)
            print(f'== {family}, {chain.name}: {row[chain.name].cell} {row[chain.name].why}', flush=True)
    print_table(table, time.monotonic() - started)
    if not (args.families or args.chains):
        write_matrix(table)
    sys.exit(any(outcome.cell == FAIL for row in table.values() for outcome in row.values()))


def run(family, chain, limit, left):
    """Prepares and runs one chain, which may take `limit` seconds, and `left` with what has to be installed before.

    Returns:
        Outcome: its cell of the table, the time it took, and what is to be said about it.
    """
    config = f'test_tipc/configs/{family}/{chain.config}'
    if not (TIPC.parent / config).exists():
        return Outcome(NONE)
    arguments = [config, chain.mode, *chain.more]
    print(f'\n== {family}, {chain.name}: bash test_tipc/{chain.script} {" ".join(arguments)}', flush=True)
    log = TIPC / f'output/run_all/{family}_{chain.name}.log'
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with open(log, 'wb') as console:
        for script, most in (('prepare.sh', left), (chain.script, min(limit, left))):
            code = bounded(['bash', f'test_tipc/{script}', *arguments], console, most)
            if code != 0:
                break
    seconds = time.monotonic() - started
    text = log.read_text(errors='replace')
    if code == SKIPPED:
        return Outcome(SKIP, seconds, re.findall(r'Run skipped - \S+ - (.*)', text)[-1])
    if code is None:
        return Outcome(FAIL, seconds, f'stopped: longer than {most:.0f} s; see {log.relative_to(TIPC.parent)}')
    if code:
        failed = [*re.findall(r'Run failed with command - (.*?)\s*\x1b', text), f'exit code {code}']
        return Outcome(FAIL, seconds, f'{failed[0]}; see {log.relative_to(TIPC.parent)}')
    return Outcome(PASS, seconds, f'{text.count("Run successfully with command")} commands')


def bounded(command, console, seconds):
    """Runs a command and ends it, with all it started, after so many seconds.

    Returns:
        int: its exit code, or None when it had to be ended.
    """
    process = subprocess.Popen(command, cwd=TIPC.parent, stdin=subprocess.DEVNULL, stdout=console,
                               stderr=subprocess.STDOUT, start_new_session=True)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        end(process)


def end(process):
    """Ends a session and what a chain left behind in it. Kindly at first: paddle.distributed.launch then ends its
    ranks, which have sessions of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        for _ in range(100):
            process.poll()
            os.killpg(process.pid, 0)  # there is nobody left when this fails
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def print_table(table, seconds):
    names = [chain.name for chain in CHAINS if any(chain.name in row for row in table.values())]
    width = max(map(len, table))
    print('\n' + ' ' * width + ''.join(f'{name:>13}' for name in names))
    for family, row in table.items():
        print(f'{family:{width}}' + ''.join(f'{row[name].cell} {row[name].seconds:4.0f} s'.rjust(13) for name in names))
    for family, row in table.items():
        for name, outcome in row.items():
            if outcome.cell in (FAIL, SKIP):
                print(f'{outcome.cell} {family}, {name}: {outcome.why}')
    print(f'{seconds:.0f} s in all')


def write_matrix(table):
    """Puts the table between the two marks of README.md."""
    names = [chain.name for chain in CHAINS]
    lines = [f'| | {" | ".join(names)} |', f'| --- |{" --- |" * len(names)}']
    lines += [f'| {family} | {" | ".join(row[name].cell for name in names)} |' for family, row in table.items()]
    notes = {f'{outcome.cell} {name}: {outcome.why}' for row in table.values() for name, outcome in row.items()
             if outcome.cell in (FAIL, SKIP)}
    machine = f'{platform.system()} {platform.machine()}, {os.cpu_count()} cores, no GPU used'
    lines += ['', *(f'- {note}' for note in sorted(notes)), f'{time.strftime("%Y-%m-%d")}, {machine}.', '']
    before, rest = README.read_text(encoding='utf-8').split(BEGIN)
    README.write_text(before + BEGIN + '\n'.join(lines) + END + rest.split(END)[1], encoding='utf-8')


if __name__ == '__main__':
    main()
