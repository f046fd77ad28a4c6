"""Changes at random to what a user or a stranger may send: values of a recipe, lines of a list, bytes of a file."""

import copy
import datetime
import math

import numpy as np

MARK = 'executed'  # the file that appears in the working folder if any of these texts is executed
HOSTILE = [f"__import__('os').system('touch {MARK}')", f"(open('{MARK}', 'w'), 1)[1]", f'$(touch {MARK})',
           f'`touch {MARK}`', f'x; touch {MARK}', f'| touch {MARK}',
           f'!!python/object/apply:os.system ["touch {MARK}"]', '../..', f'../../{MARK}', '/', '/etc/passwd',
           '/dev/zero', 'file:///etc/passwd', '~root', '\0', 'a\0b', 'a\nb', '{0.__class__}', '%s%n',
           'http://127.0.0.1:9/x.tar.gz', '😀', '\ud83d']
ODD = [None, True, False, 0, -1, 1, 2, 3, 255, 10 ** 9, 10 ** 30, 0.5, 1.0, 1.5, -0.5, 1e-30, 1e30, math.nan, math.inf,
       -math.inf, '', ' ', 'abc', '1e-4', '3', 'None', b'abc', datetime.date(2001, 1, 1), [], [None], [0], [1, 2, 3],
       [[]], [0.5, 0.5], ['a'], {}, {'a': 1}, {'type': None}, {'type': 'abc'}, {'type': {}}, {1: 2}]
ARRAYS = [np.zeros(0, 'float32'), np.zeros([2, 3], 'float32'), np.full(1, np.nan), np.array(['a']), np.int64(-1),
          np.zeros([1, 1], 'uint16')]


def places(value, path=()):
    """Yields the paths, tuples of keys, of all values in nested dicts and lists; the whole, (), first."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def at(value, path):
    for key in path:
        value = value[key]
    return value


def mutated(rng, value, odd=(*ODD, *HOSTILE), times=1, others=None):
    """A copy of nested dicts and lists with something else in some places.

    Args:
        rng (random.Random): decides.
        value (dict|list): what is changed.
        odd (Sequence): values to put in.
        times (int): changes.
        others (Callable, optional): path, value → values that would do there as well, of which one is taken now and
            then.

    Returns:
        tuple: the copy, and a line that says what was done.
    """
    value, said = copy.deepcopy(value), []
    for _ in range(times):
        *parents, key = rng.choice([path for path in places(value) if path] or [(None,)])
        if key is None:
            break
        section, word = at(value, parents), '.'.join(map(str, (*parents, key)))
        likely = others((*parents, key), section[key]) if others else ()
        action = rng.choice([*['likely'] * 5, *['scale'] * 3, 'put', 'put', 'put', 'drop', 'wrap', 'add', 'copy'])
        if action == 'likely' and likely:
            section[key] = rng.choice(likely)
        elif action == 'drop':
            del section[key]
        elif action == 'wrap':
            section[key] = rng.choice([[section[key]], [section[key]] * 3, {str(key): section[key]}])
        elif action == 'add' and isinstance(section, dict):
            section[rng.choice(['abc', 'type', '_base_', 1, None, *map(str, section)])] = rng.choice(odd)
        elif action == 'copy':
            section[key] = copy.deepcopy(at(value, rng.choice(list(places(value)))))
        elif action == 'scale' and isinstance(section[key], (int, float)):
            section[key] *= rng.choice([-1, 2, 0.5, 100, 1.001])
        else:
            section[key] = copy.deepcopy(rng.choice(odd))
        now = repr(section[key])[:60] if isinstance(section, list) and key < len(section) or \
            isinstance(section, dict) and key in section else 'gone'
        said.append(f'{action} {word}: {now}')
    return value, '; '.join(said)


def scrambled(rng, data):
    """Bytes with some others among them, or fewer; and a line that says what was done."""
    data, said = bytearray(data), []
    for _ in range(rng.choice([1, 1, 3, 20])):
        place, other = (rng.randrange(len(data) + 1) for _ in range(2))
        action = rng.choice(['set', 'drop', 'add', 'cut', 'copy', 'word'])
        if action == 'set':
            data[place:place + 1] = bytes([rng.randrange(256)])
        elif action == 'drop':
            del data[place:place + rng.choice([1, 4, 100])]
        elif action == 'add':
            data[place:place] = bytes(rng.randrange(256) for _ in range(rng.choice([1, 4, 16])))
        elif action == 'cut':
            del data[place:]
        elif action == 'copy':
            data[place:place] = data[other:other + 50]
        else:
            data[place:place] = rng.choice(HOSTILE).encode('utf-8', 'surrogatepass')
        said.append(f'{action} {place}')
    return bytes(data), ', '.join(said)
