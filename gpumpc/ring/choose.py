"""Choose a backend: by argument, else by environment, else the fastest one available."""

import importlib.util
import os

from gpumpc.errors import ConfigError, MissingExtra
from gpumpc.ring.backend import Backend, as_backend
from gpumpc.ring.cupy_backend import CupyBackend
from gpumpc.ring.cupy_backend.device import CupyDevice, has_gpu
from gpumpc.ring.memory import keep_freed_memory
from gpumpc.ring.numpy_backend import NumpyBackend

ENVIRONMENT = "GPUMPC_BACKEND"
NAMES = ("cupy", "cupy:N", "numba", "numpy")


def choose_backend(name: str | None = None) -> Backend:
    """The backend of this name, or of the variable GPUMPC_BACKEND, or the fastest one available.

    `cupy:N` is GPU number N, `cupy` the first. Compiled loops are ready when this returns; a GPU's
    kernels are compiled at their first launch.

    Raises ConfigError for an unknown name or an absent GPU, MissingExtra for a package that is not
    installed; it never falls back to another backend.
    """
    keep_freed_memory()
    wanted = str(name or os.environ.get(ENVIRONMENT) or _fastest())
    kind, _, number = wanted.partition(":")
    if wanted == "numpy":
        return as_backend(NumpyBackend())
    if wanted == "numba":
        return _numba()
    if kind == "cupy" and (number.isdecimal() or wanted == "cupy"):
        return as_backend(CupyBackend(CupyDevice(int(number or 0))))
    why = f"this version has {', '.join(NAMES)}"
    raise ConfigError(f"there is no backend '{wanted}'", why, "choose one of these")


def _fastest() -> str:
    if has_gpu():
        return "cupy"
    return "numba" if importlib.util.find_spec("numba") else "numpy"


def _numba() -> Backend:
    try:
        # Only here: everything runs without numba too.
        from gpumpc.ring.numba_backend import NumbaBackend
    except ImportError as error:
        hint = "pip install 'gpumpc[cpu]'"
        raise MissingExtra("the backend 'numba' is not installed", str(error), hint) from error
    return as_backend(NumbaBackend())
