"""What every command-line tool shares. Standard library only, so that `--help` answers at once."""

import argparse
import errno
import os
import sys
import warnings
import zlib  # noqa: F401  Paddle 2.6 carries a private zlib; Python's has to be loaded before it

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))
warnings.filterwarnings('ignore', 'No ccache found')  # of Paddle; nothing is compiled here
warnings.filterwarnings('ignore', 'When training, we now always track')  # of every first step; what it says is wanted
os.environ.setdefault('OPENCV_LOG_LEVEL', 'ERROR')  # an image that cannot be read is named by the tools themselves

from paddleseg_semi import plugins  # noqa: E402  light: `--help` has to answer at once

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds defaults to the help, but where there is none, where a switch is off, and where the text has it already."""

    def _get_help_string(self, action):
        plain = action.default in (None, '') or action.nargs == 0 or '(default' in (action.help or '')
        return action.help if plain else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """PaddleSeg's flags: `--key value` and `--key=value`; hyphens may stand for underscores; errors are one line."""

    def __init__(self, description):
        super().__init__(description=description, allow_abbrev=False, formatter_class=_Formatter)

    def parse_args(self, args=None, namespace=None):
        return super().parse_args([_underscored(a) for a in (sys.argv[1:] if args is None else args)], namespace)

    def error(self, message):
        self.exit(2, f'{self.prog}: {message} (see --help)\n')


def true_or_false(text):
    """The type of a flag that takes True or False."""
    if text.lower() not in ('true', 'false'):
        raise ValueError(text)
    return text.lower() == 'true'


true_or_false.__name__ = 'True|False'  # how argparse calls it in an error line


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
        if getattr(args, 'import', None):
            plugins.load(getattr(args, 'import'))
        sys.exit(main(args))
    except (KeyboardInterrupt, Exception) as error:
        if isinstance(error, KeyboardInterrupt) or isinstance(error.__cause__, KeyboardInterrupt):  # in Paddle's import
            text, code = 'interrupted', 130
        elif isinstance(error, OSError) and error.errno in _DISK:  # wherever it was met: a log, a picture, a report
            text, code = (f'{error.filename or "the disk"}: cannot be written ({error.strerror}). What was complete '
                          'before is untouched; free some space and try again.'), 1
        elif isinstance(error, MemoryError):
            text, code = f'needs more memory than there is: {" ".join(str(error).split())[:300]}', 1
        elif isinstance(error, BrokenPipeError):  # `| head`: whatever still is in the buffer has to go somewhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            text, code = 'ended, because nobody reads the output any more', 1
        elif hasattr(error, 'exit_code'):  # InputError and its kin, and those of tools that need nothing of the suite
            text, code = ' '.join(str(error).splitlines()), error.exit_code  # OpenCV, for one, says several
        else:
            raise
    sys.stdout.flush()
    print(f'{parser.prog}: {text}', file=sys.stderr)
    sys.exit(code)


def add_import_flag(parser):
    """Components of a user's own."""
    parser.add_argument('--import', nargs='+', metavar='FILE', help='Python files that are executed: methods, models, '
                        'data sets of your own, registered as those of the suite')


def add_device_flags(parser):
    """The device and the CPU settings, common to all tools that run a network."""
    parser.add_argument('--device', default=None, choices=['cpu', 'gpu', 'xpu', 'npu', 'mlu'],
                        help='where to run (default: a GPU if there is one, else the CPU)')
    add_cpu_flags(parser)


def add_cpu_flags(parser):
    """The CPU settings, for `tune_cpu`."""
    parser.add_argument('--cpu_threads', type=int, default=None,
                        help='CPU threads (all cores this process may use, divided among local ranks)')
    parser.add_argument('--no_cpu_tuning', action='store_true',
                        help="keep Paddle's own CPU settings: one thread, MKL's generic code path on AMD")


def add_network_flags(parser):
    """Which trained network a tool takes, and where it runs."""
    parser.add_argument('--config', required=True, help='the recipe (YAML)')
    parser.add_argument('--model_path', help='weights: model.pdparams, or the folder of a run or of a checkpoint')
    parser.add_argument('--opts', nargs='+', help='key=value … changes to the recipe')
    parser.add_argument('--data_format', default='NCHW', choices=['NCHW', 'NHWC'], help='layout inside the network')
    add_import_flag(parser)
    add_device_flags(parser)


def add_test_flags(parser, augment):
    """How `val` and `predict` run a network; `augment` is the name of their switch, 'aug_eval' or 'aug_pred'."""
    parser.add_argument(f'--{augment}', action='store_true', help='average over scales and flips')
    parser.add_argument('--scales', nargs='+', type=float, default=1.0, help=f'scales of --{augment}')
    parser.add_argument('--flip_horizontal', action='store_true', help=f'--{augment} with left and right exchanged too')
    parser.add_argument('--flip_vertical', action='store_true', help=f'--{augment} with top and bottom exchanged too')
    add_window_flags(parser)
    parser.add_argument('--use_multilabel', action='store_true', help='refused: here classes exclude each other')


def add_window_flags(parser):
    """The sliding window."""
    parser.add_argument('--is_slide', action='store_true', help='move a window over the image')
    parser.add_argument('--crop_size', nargs=2, type=int, metavar=('W', 'H'), help='the window, pixels')
    parser.add_argument('--stride', nargs=2, type=int, metavar=('W', 'H'), help='steps of the window, pixels')


def build_network(args, net=None):
    """Sets the device up and builds what `add_network_flags` describes. Afterwards `args.device` is the device in use
    and `args.model_path` the file of the weights.

    Args:
        args (Namespace): the flags.
        net (str, optional): which network of the method. Default: the deployed one.

    Returns:
        tuple: SemiConfig, SemiBuilder, and the network with its weights.
    """
    from paddleseg.utils import logger

    from paddleseg_semi.cvlibs import SemiBuilder, SemiConfig
    from paddleseg_semi.errors import InputError
    from paddleseg_semi.runtime import set_device, tune_cpu
    args.device = set_device(args.device)
    tune_cpu(args.cpu_threads, not args.no_cpu_tuning)
    layout = ['model.data_format=NHWC'] if args.data_format == 'NHWC' else []
    config = SemiConfig(args.config, opts=[*(args.opts or []), *layout])
    if not config.val_dataset_cfg:
        raise InputError(f'{args.config}: has no val_dataset, whose transforms an image passes before the network.')
    if args.model_path:
        config.forget_pretrained()
    builder = SemiBuilder(config)
    model = builder.model
    if args.model_path:
        args.model_path = builder.load_weights(model, args.model_path, net)
    else:
        logger.warning('No --model_path: the network has the weights its recipe starts from.')
    return config, builder, model


def testing_of(args, config, augment):
    """The recipe's `test_config` with the flags of `add_test_flags` over it.

    Returns:
        Testing: how the network looks at an image.

    Raises:
        InputError: a window that leaves gaps or has no size, a scale that is not positive.
    """
    from paddleseg_semi.core.testing import Testing
    from paddleseg_semi.errors import InputError
    if args.use_multilabel:
        raise InputError('--use_multilabel: not offered; here the classes of a pixel exclude each other.')
    options = config.test_config
    if getattr(args, augment):
        options.update(aug_eval=True, scales=args.scales, flip_horizontal=args.flip_horizontal,
                       flip_vertical=args.flip_vertical)
    if args.is_slide:
        options.update(is_slide=True, crop_size=args.crop_size, stride=args.stride)
    return Testing.of(options)
