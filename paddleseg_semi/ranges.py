"""Which values the keywords of a component take. A class says it in its attribute `ranges`, name → one of these, and a
recipe is held to it before anything is built. Each has `accepts(value)`, and as text says what to give."""

import inspect
import math
from numbers import Integral, Real
from typing import NamedTuple

from paddleseg_semi.errors import InputError, nearest


class Range(NamedTuple):
    """Numbers.

    Attributes:
        low, high (float): ends, which are in it.
        above, below (bool): but for the lower end; but for the upper end.
        whole (bool): whole numbers alone.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    whole: bool = False

    def accepts(self, value):
        return isinstance(value, Integral if self.whole else Real) and not isinstance(value, bool) and \
            math.isfinite(value) and (self.low < value if self.above else self.low <= value) and \
            (value < self.high if self.below else value <= self.high)

    def __str__(self):
        ends = [f'{"above" if self.above else "of at least"} {self.low:g}'] if self.low > -math.inf else []
        ends += [f'{"below" if self.below else "at most"} {self.high:g}'] if self.high < math.inf else []
        return f'a {"whole " * self.whole}number {" and ".join(ends)}'.strip()


class Two(NamedTuple):
    """Two numbers of a range."""

    range: Range

    def accepts(self, value):
        return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(self.range.accepts, value))

    def __str__(self):
        return f'two numbers, each {self.range}'


class Pair(NamedTuple):
    """Two numbers of a range, the smaller first."""

    range: Range

    def accepts(self, value):
        return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(self.range.accepts, value)) and \
            value[0] <= value[1]

    def __str__(self):
        return f'two, the smaller first, each {self.range}'


class OneOf(NamedTuple):
    """Some words."""

    words: tuple

    def accepts(self, value):
        return isinstance(value, str) and value in self.words

    def __str__(self):
        return f'one of {", ".join(self.words)}'


class Kind(NamedTuple):
    """Anything of a type."""

    type: type
    name: str

    def accepts(self, value):
        return isinstance(value, self.type)

    def __str__(self):
        return self.name


class Phase:
    """When something begins: after so many updates (500), or at a share of the run (0.15)."""

    def accepts(self, value):
        return (COUNT if isinstance(value, Integral) else Range(0, 1, below=True)).accepts(value)

    def __str__(self):
        return 'a whole number of updates, or a share of the run below 1 such as 0.15'


SHARE = Range(0, 1)
DECAY = Range(0, 1, below=True)         # 1 would never move
POSITIVE = Range(0, above=True)
WEIGHT = Range(0)
PERCENT = Range(0, 100)
COUNT = Range(0, whole=True)
AT_LEAST_ONE = Range(1, whole=True)
SHARES = Pair(Range(0, 1, above=True))
SWITCH = Kind(bool, 'True or False')
TEXT = Kind(str, 'a name')
LAYER = Kind(object, 'a component')      # built of a section with a type, which is checked by itself
START = Phase()


class Ranged:
    """Whoever is made of keywords out of their ranges is not made.

    Attributes:
        ranges (dict[str, object]): keyword of the constructor → one of the above.
        section (str): what a recipe calls these keywords.
    """

    ranges = {}
    section = 'method'

    def __new__(cls, *args, **keywords):
        check(cls, keywords, cls.section)
        return super().__new__(cls)


def check(component, settings, where):
    """Holds settings to the ranges of a class.

    Args:
        component (type): with an attribute `ranges`, or without.
        settings (dict): keywords of its constructor. One whose default is None may be None.
        where (str): what the recipe calls them, 'method'.

    Raises:
        InputError: the first value that is out of its range.
    """
    defaults = inspect.signature(component).parameters
    for key, range_ in getattr(component, 'ranges', {}).items():
        value = settings.get(key)
        if key in settings and not range_.accepts(value) and not (value is None and defaults[key].default is None):
            hint = nearest(value, range_.words) if isinstance(range_, OneOf) else ''
            raise InputError(f'{where}.{key}: {value}: give {range_}.{hint}')
