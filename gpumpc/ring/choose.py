"""Which backend: argument, then environment, then the best that is there. Asked for and absent is an error."""

from __future__ import annotations

import importlib.util
import os

from gpumpc.errors import ConfigError, MissingExtra
from gpumpc.ring.backend import Backend
from gpumpc.ring.memory import keep_freed_memory
from gpumpc.ring.numpy_backend import NumpyBackend

ENVIRONMENT = "GPUMPC_BACKEND"
NAMES = ("numba", "numpy")


def choose_backend(name: str | None = None) -> Backend:
    """The backend of this name, or of the environment variable GPUMPC_BACKEND, or the fastest that is installed.

    It is ready to compute: what needs a compiler was compiled, or read from its cache, before this returns.

    Raises ConfigError for a name that is not known, MissingExtra for one that is not installed.
    """
    keep_freed_memory()
    wanted = name or os.environ.get(ENVIRONMENT) or ("numba" if _has_numba() else "numpy")
    if wanted == "numpy":
        return NumpyBackend()
    if wanted == "numba":
        return _numba()
    raise ConfigError(f"there is no backend '{wanted}'", f"this version has {', '.join(NAMES)}", "choose one of these")


def _has_numba() -> bool:
    return importlib.util.find_spec("numba") is not None


def _numba() -> Backend:
    try:
        # Only here: everything runs without numba too.
        from gpumpc.ring.numba_backend import NumbaBackend
    except ImportError as error:
        raise MissingExtra("the backend 'numba' is not installed", str(error), "pip install 'gpumpc[cpu]'") from error
    return NumbaBackend()
