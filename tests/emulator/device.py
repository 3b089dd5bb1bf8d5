"""A device whose kernels run on the CPU: what a test swaps for `CupyDevice`.

Everything above it is the product's own.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from gpumpc.ring import kernels
from gpumpc.ring.cupy_backend.device import DeviceArray
from tests.emulator import build

POISON = 0xA5


class EmulationError(AssertionError):
    """A race, an access outside the arguments, or a barrier that not all threads reach."""


@dataclasses.dataclass(frozen=True)
class Mode:
    """How threads and copies are scheduled: order 0 ascending, 1 descending, 2 drawn again."""

    order: int = 0
    late_copies: bool = False
    at_end: bool = True
    races: bool = False


ORDERS = [Mode(0, False), Mode(1, True), Mode(2, True, at_end=False)]


class _Dim(ctypes.Structure):
    _fields_ = [("x", ctypes.c_uint32), ("y", ctypes.c_uint32), ("z", ctypes.c_uint32)]


@functools.cache
def _runtime() -> Any:
    library = ctypes.CDLL(str(build.runtime()))
    library.emu_launch.restype = ctypes.c_int
    return library.emu_launch


@functools.lru_cache(maxsize=512)
def _entry(text: str, file: str, name: str, races: bool) -> tuple[Any, Path, Any]:
    path = build.library(text, file, races)
    library = ctypes.CDLL(str(path))
    return library[f"emu_{name}"], path, library


class EmulatedDevice:
    """Arrays are NumPy's.

    `sources` replaces the inlined text of a file, which is how bugs are planted.
    """

    name = "emulated"
    arrays: Any = np

    def __init__(self, mode: Mode = ORDERS[0], sources: Mapping[str, str] | None = None) -> None:
        self.mode, self._sources = mode, sources or {}
        self.lock = threading.Lock()

    def fork(self) -> EmulatedDevice:
        return self

    def enter(self) -> None:
        """Any thread will do."""

    def owns(self, array: object) -> TypeGuard[DeviceArray]:
        return isinstance(array, np.ndarray)

    def empty(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Any:
        array: npt.NDArray[Any] = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8)[...] = POISON
        return array

    def upload(self, host: npt.NDArray[Any]) -> Any:
        return host.copy()

    def download(self, array: Any) -> npt.NDArray[Any]:
        return np.array(array)

    def synchronize(self) -> None:
        """Operations are complete when they return."""

    def launch(self, kernel: kernels.Kernel, blocks: int, arguments: Sequence[Any]) -> None:
        text = self._sources.get(kernel.file) or kernels.source(kernel.file)
        entry, path, library = _entry(text, kernel.file, kernel.name, self.mode.races)
        n = len(arguments)
        data, sizes, kinds = (ctypes.c_void_p * n)(), (ctypes.c_uint64 * n)(), (ctypes.c_int * n)()
        scalars = []
        for i, (parameter, value) in enumerate(zip(kernel.parameters, arguments, strict=True)):
            kinds[i] = (2 if parameter.is_const else 1) if parameter.is_pointer else 0
            if value is None:
                continue
            if not parameter.is_pointer:
                value = np.array([value])
                scalars.append(value)
            data[i], sizes[i] = value.ctypes.data, value.nbytes
        message, race = ctypes.create_string_buffer(512), (ctypes.c_void_p * 2)()
        mode = self.mode
        place = ctypes.cast(entry, ctypes.c_void_p), n, data, sizes, kinds
        grid = _Dim(blocks, 1, 1), _Dim(kernel.threads, 1, 1), ctypes.c_uint64(kernel.shared_bytes)
        schedule = mode.order, int(mode.late_copies), int(mode.races), int(mode.at_end)
        if _runtime()(*place, *grid, *schedule, message, race):
            places = _places(library, path, race)
            raise EmulationError(f"{kernel.name}: {message.value.decode()}{places}")


def _places(library: Any, path: Path, race: Any) -> str:
    """Where the two accesses of a race stand in the sources."""
    if not race[0]:
        return ""
    base = _base_of(library)
    return ", between " + " and ".join(build.line_of(path, (at or 0) - 1 - base) for at in race)


def _base_of(library: Any) -> int:
    """Address at which a shared library was loaded: the first field of what dlopen returned."""
    return int(ctypes.cast(library._handle, ctypes.POINTER(ctypes.c_size_t))[0])
