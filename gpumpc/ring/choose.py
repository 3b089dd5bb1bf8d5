"""Which backend: argument, then environment, then the best that is there. Asked for and absent is an error."""

from __future__ import annotations

import os

from gpumpc.errors import ConfigError
from gpumpc.ring.backend import Backend
from gpumpc.ring.cupy_backend import CupyBackend
from gpumpc.ring.cupy_backend.device import CupyDevice, has_gpu
from gpumpc.ring.numpy_backend import NumpyBackend

ENVIRONMENT = "GPUMPC_BACKEND"
NAMES = ("numpy", "cupy", "cupy:N")


def choose_backend(name: str | None = None) -> Backend:
    """The backend of this name, or of the environment variable GPUMPC_BACKEND, or the best that this machine has.

    `cupy:N` is the GPU number N, `cupy` the first: dealer and servers may sit on different ones. Raises ConfigError for a
    name that is not known and for a GPU that is not there, MissingExtra where the package for it is not installed: never
    another backend instead.
    """
    wanted = name or os.environ.get(ENVIRONMENT) or ("cupy" if has_gpu() else "numpy")
    kind, _, number = wanted.partition(":")
    if wanted == "numpy":
        return NumpyBackend()
    if kind == "cupy" and (number.isdecimal() or wanted == "cupy"):
        return CupyBackend(CupyDevice(int(number or 0)))
    raise ConfigError(f"there is no backend '{wanted}'", f"this version has {', '.join(NAMES)}", "choose one of these")
