"""What every command-line tool shares. Standard library only, so that `--help` answers at once."""

import argparse
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))


class Parser(argparse.ArgumentParser):
    """PaddleSeg's flags: `--key value` and `--key=value`; hyphens may stand for underscores; errors are one line."""

    def __init__(self, description):
        super().__init__(description=description, allow_abbrev=False,
                         formatter_class=argparse.ArgumentDefaultsHelpFormatter)

    def parse_args(self, args=None, namespace=None):
        return super().parse_args([_underscored(a) for a in (sys.argv[1:] if args is None else args)], namespace)

    def error(self, message):
        self.exit(2, f'{self.prog}: {message} (see --help)\n')


def _underscored(arg):
    if not arg.startswith('--'):
        return arg
    key, equals, value = arg.partition('=')
    return '--' + key[2:].replace('-', '_') + equals + value


def run(main, parser):
    """Parses the command line, calls `main(args)` and turns the suite's own errors into one line on stderr.

    Exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted.
    """
    args = parser.parse_args()
    try:
        sys.exit(main(args))
    except KeyboardInterrupt:
        print(f'{parser.prog}: interrupted', file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        from paddleseg_semi.errors import InputError, RunError
        if not isinstance(error, (InputError, RunError)):
            raise
        sys.stdout.flush()
        print(f'{parser.prog}: {error}', file=sys.stderr)
        sys.exit(error.exit_code)


def add_device_flags(parser):
    """The device and the CPU settings, common to all tools that run a network."""
    parser.add_argument('--device', default=None, choices=['cpu', 'gpu', 'xpu', 'npu', 'mlu'],
                        help='where to run (default: a GPU if there is one, else the CPU)')
    parser.add_argument('--cpu_threads', type=int, default=None,
                        help='CPU threads (all cores this process may use, divided among local ranks)')
    parser.add_argument('--no_cpu_tuning', action='store_true',
                        help="keep Paddle's own CPU settings: one thread, MKL's generic code path on AMD")
