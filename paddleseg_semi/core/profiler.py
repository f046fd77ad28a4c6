"""--profiler_options, as PaddleSeg has them. Its own profiler calls an interface that Paddle 3 has removed."""

import re
import sys

from paddle import profiler

from paddleseg_semi.errors import InputError, nearest

_SORTED = {'total': profiler.SortedKeys.CPUTotal, 'max': profiler.SortedKeys.CPUMax,
           'min': profiler.SortedKeys.CPUMin, 'ave': profiler.SortedKeys.CPUAvg}
_DEFAULTS = {'batch_range': '[10, 20]', 'sorted_key': 'total', 'profile_path': 'profile', 'exit_on_finished': 'true'}


class Profiler:
    """Times the operators of some iterations, prints a table and writes a timeline (for chrome://tracing).

    Args:
        options (str, optional): 'key=value; key=value' of batch_range ([10, 20]: first and last iteration), sorted_key
            (total, max, min or ave), profile_path (a folder) and exit_on_finished (True). None: nothing is timed.

    Raises:
        InputError: other keys or values.
    """

    def __init__(self, options=None):
        self.profiler, self.count = None, 0
        if options is None:
            return
        settings = dict(_DEFAULTS)
        for option in filter(None, (part.strip() for part in options.split(';'))):
            key, _, value = (word.strip() for word in option.partition('='))
            if key not in settings or not value:
                raise InputError(f'--profiler_options {option}: write key=value with the keys {", ".join(settings)}.'
                                 f'{nearest(key, settings)}')
            settings[key] = value
        steps = re.fullmatch(r'\[(\d+), *(\d+)\]', settings['batch_range'])
        if not steps or int(steps[1]) >= int(steps[2]) or settings['sorted_key'] not in _SORTED:
            raise InputError(f'--profiler_options {options}: batch_range is two growing numbers, such as [10, 20], and '
                             f'sorted_key one of {", ".join(_SORTED)}.')
        self.first, self.last = int(steps[1]), int(steps[2])
        self.sorted_by, self.exits = _SORTED[settings['sorted_key']], settings['exit_on_finished'].lower() == 'true'
        self.profiler = profiler.Profiler(on_trace_ready=profiler.export_chrome_tracing(settings['profile_path']))

    def step(self):
        """Called after every iteration. Ends the process after the last one timed, unless told otherwise."""
        if self.profiler is None:
            return
        if self.count == self.first:
            self.profiler.start()
        elif self.count == self.last:
            self.profiler.stop()
            self.profiler.summary(sorted_by=self.sorted_by, op_detail=True)
            if self.exits:
                sys.exit(0)
        self.count += 1
