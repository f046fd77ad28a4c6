"""Libraries that only some of the deployment needs."""

import importlib

from paddleseg_semi.errors import InputError


def require(name, extra):
    """Imports a module that is installed with an extra of this package.

    Args:
        name (str): of the module.
        extra (str): what `pip install '.[extra]'` calls it.

    Returns:
        module: the module.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed. Run in the repository: pip install '.[{extra}]'") from None
