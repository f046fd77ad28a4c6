"""Components of a user's own file. Only a command line can name a file that is executed; a recipe can say which it
needs."""

import importlib.util
import os
import sys

import paddleseg_semi
from paddleseg_semi.errors import InputError

_PREFIX = 'paddleseg_semi_import_'


def load(paths):
    """Executes Python files, whose components register themselves.

    Args:
        paths (Sequence[str]): as --import has them.

    Raises:
        InputError: no such file, or one that fails.
    """
    paddleseg_semi.register()
    for path in paths:
        name = _PREFIX + os.path.realpath(path)
        if name in sys.modules:
            continue
        if not (os.path.isfile(path) and path.endswith('.py')):
            raise InputError(f'--import {path}: give the path of a Python file.')
        spec = importlib.util.spec_from_file_location(name, path)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # it is not ours
            del sys.modules[name]
            raise InputError(f'--import {path}: {type(error).__name__}: {" ".join(str(error).split())}') from error


def check(recipe, path):
    """InputError unless every file that `import:` of a recipe names was given on the command line.

    Args:
        recipe (dict): a whole one.
        path (str): its file, for the message.
    """
    needed = recipe.get('import') or []
    needed = [needed] if isinstance(needed, str) else needed
    if not isinstance(needed, list) or not all(isinstance(file, str) for file in needed):
        raise InputError(f'{path}: import: {needed}: expected the path of a Python file, or a list of such paths.')
    for file in needed:
        if _PREFIX + os.path.realpath(file) not in sys.modules:
            raise InputError(f'{path}: import: it needs the components of {file}, which would be executed. If you '
                             f'trust that file, add --import {file}.')
