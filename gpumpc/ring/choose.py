"""Which backend: argument, then environment, then the best that is there. Asked for and absent is an error."""

from __future__ import annotations

import os

from gpumpc.errors import ConfigError
from gpumpc.ring.backend import Backend
from gpumpc.ring.numpy_backend import NumpyBackend

ENVIRONMENT = "GPUMPC_BACKEND"
NAMES = ("numpy",)


def choose_backend(name: str | None = None) -> Backend:
    """The backend of this name, or of the environment variable GPUMPC_BACKEND, or the default.

    Raises ConfigError for a name that is not known.
    """
    wanted = name or os.environ.get(ENVIRONMENT) or "numpy"
    if wanted == "numpy":
        return NumpyBackend()
    raise ConfigError(f"there is no backend '{wanted}'", f"this version has {', '.join(NAMES)}", "choose one of these")
