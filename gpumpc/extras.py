"""Optional packages, imported when they are needed and named when they are absent."""

import importlib
from types import ModuleType

from gpumpc.errors import MissingExtra


def extra(module: str, name: str = "images") -> ModuleType:
    """Import a module of the extra [name]. Raises MissingExtra if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        what = f"the package that provides '{module}' is not installed"
        why = f"reading such pictures needs the extra [{name}]"
        raise MissingExtra(what, why, f"pip install 'gpumpc[{name}]'") from error
