"""Results of one run as a JSON file, rewritten after every row so that a crash loses no row."""

import importlib.metadata
import json
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.schema import row
from gpumpc.ring.cupy_backend import CupyBackend

PACKAGES = ["numpy", "cupy-cuda12x", "cupy-cuda13x", "nvidia-cuda-nvrtc"]
PACKAGES += ["torch", "cryptography", "pytest"]
Row = dict[str, Any]
Say = Callable[[str], None]


def versions() -> dict[str, str]:
    """Installed versions of the packages that a result depends on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name.replace("-", "_")] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **found}


def describe(backend: CupyBackend) -> Row:
    """The device's name, memory and versions."""
    about: Row = {"backend": backend.name, "versions": versions(), "machine": platform.machine()}
    if backend.name == "cupy":
        cuda = backend.device.arrays.cuda
        properties = cuda.runtime.getDeviceProperties(cuda.runtime.getDevice())
        about["device"] = properties["name"].decode()
        about["memory_bytes"] = int(properties["totalGlobalMem"])
        about["multiprocessors"] = int(properties["multiProcessorCount"])
        about["driver"] = cuda.runtime.driverGetVersion()
        about["runtime"] = cuda.runtime.runtimeGetVersion()
    else:
        about["device"] = "none: kernels executed by the emulator"
    return about


class Results:
    """Rows of one part, kept in a file."""

    def __init__(self, path: Path, part: str, backend: CupyBackend, say: Say = print) -> None:
        self.path, self.part, self._backend, self._say = path, part, backend.name, say
        self.content: Row = {"part": part, **describe(backend), "rows": []}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write()

    def _write(self) -> None:
        partial = self.path.with_suffix(".part")
        partial.write_text(json.dumps(self.content, indent=1) + "\n")
        partial.replace(self.path)

    def add(self, name: str, **values: Any) -> Row:
        """Check a row against the schema, keep it, and say it in one line."""
        checked = row(part=self.part, name=name, backend=self._backend, **values)
        self.content["rows"].append(checked)
        self._write()
        shown = (f"{key} {_short(value)}" for key, value in values.items() if value is not None)
        self._say(f"{self.part}: {name}: {', '.join(shown)}")
        return checked

    def skip(self, name: str, why: str) -> None:
        """Record a measurement that was not made, and why."""
        self.add(name, skipped=why)

    def rows(self) -> Iterator[Row]:
        """The rows so far."""
        yield from self.content["rows"]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
