"""Memory, copies and launches: the interface of a device, and the GPU behind it by CuPy.

Each CupyDevice has a stream of its own: two servers and a dealer, or several batches, overlap when
each has its own backend. The stream is ordered against CuPy's default stream, so array arithmetic
of a thread that has not called the backend yet is still right. Buffers on the host are page-locked:
copies do not hold up other streams.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Sequence
from types import EllipsisType, ModuleType
from typing import Any, Protocol, TypeGuard

import numpy as np
import numpy.typing as npt

from gpumpc.errors import ConfigError, MissingExtra
from gpumpc.ring import kernels
from gpumpc.ring.values import Numbers


class DeviceArray(Numbers, Protocol):
    """An array on the device, as far as the backend uses it."""

    @property
    def dtype(self) -> np.dtype: ...

    @property
    def flags(self) -> Any: ...

    def view(self, dtype: type, /) -> DeviceArray: ...

    def __setitem__(self, index: EllipsisType, value: DeviceArray, /) -> None: ...


Words = DeviceArray
Lanes = DeviceArray
Argument = DeviceArray | np.generic | None  # of a launch; None is a null pointer


class Device(Protocol):
    """Memory and launches.

    `arrays` is a module with NumPy's interface whose arrays live on the device.
    """

    name: str
    arrays: Any

    def fork(self) -> Device:
        """The same device for another thread, with an order of work of its own."""

    def enter(self) -> None:
        """Make the calling thread work on this device."""

    def owns(self, array: object) -> TypeGuard[DeviceArray]:
        """Whether this is an array of the device."""

    def empty(self, shape: Sequence[int], dtype: npt.DTypeLike) -> DeviceArray:
        """An array whose entries have yet to be written."""

    def upload(self, host: npt.NDArray[Any]) -> DeviceArray:
        """A copy of a host array."""

    def download(self, array: DeviceArray) -> npt.NDArray[Any]:
        """A copy on the host, after all work that was requested before."""

    def launch(self, kernel: kernels.Kernel, blocks: int, arguments: Sequence[Argument]) -> None:
        """Run a kernel on checked arguments."""

    def synchronize(self) -> None:
        """Wait for all work that was requested."""


class _Event(Protocol):
    done: bool

    def record(self, stream: object) -> None: ...

    def synchronize(self) -> None: ...


def has_gpu() -> bool:
    """Whether CuPy is installed and finds a device; never raises."""
    try:
        return bool(_cupy().cuda.is_available())
    except MissingExtra:  # absent, or unable to load: an error only where it is asked for by name
        return False


def _cupy() -> ModuleType:
    """CuPy, imported when a GPU is first asked for."""
    try:
        import cupy
    except ImportError as error:
        raise MissingExtra(
            "the backend 'cupy' was asked for",
            f"CuPy cannot be imported: {error}",
            "pip install 'gpumpc[cuda13]' (or [cuda12])",
        ) from error
    module: ModuleType = cupy
    return module


class CupyDevice:
    """GPU number `ordinal`. Raises MissingExtra without CuPy, ConfigError without such a device."""

    name = "cupy"

    def __init__(
        self, ordinal: int = 0, functions: dict[str, Callable[..., None]] | None = None
    ) -> None:
        self.arrays = cupy = _cupy()
        available = cupy.cuda.runtime.getDeviceCount() if cupy.cuda.is_available() else 0
        if not 0 <= ordinal < available:
            raise ConfigError(
                f"the backend 'cupy' was asked for GPU {ordinal}",
                f"this machine shows {available} of them",
                "choose the backend 'numpy', or install gpumpc[cuda13] where there is a GPU",
            )
        self._runtime = cupy.cuda.runtime
        self._ordinal, self._device = ordinal, cupy.cuda.Device(ordinal)
        with self._device:
            self.stream = cupy.cuda.Stream()
        self.architecture = f"sm_{self._device.compute_capability}"
        # Shared with forked devices: a kernel is loaded once.
        self._functions: dict[str, Callable[..., None]] = {} if functions is None else functions
        self._lock = threading.Lock()
        # Page-locked buffers of uploads that may still be under way, oldest first.
        self._uploads: collections.deque[tuple[_Event, npt.NDArray[Any]]] = collections.deque()

    def fork(self) -> CupyDevice:
        return CupyDevice(self._ordinal, self._functions)

    def enter(self) -> None:
        if self._runtime.getDevice() != self._ordinal:
            self._device.use()
        if self.arrays.cuda.get_current_stream() != self.stream:
            self.stream.use()

    def owns(self, array: object) -> TypeGuard[DeviceArray]:
        return isinstance(array, self.arrays.ndarray)

    def empty(self, shape: Sequence[int], dtype: npt.DTypeLike) -> DeviceArray:
        array: DeviceArray = self.arrays.empty(shape, dtype)
        return array

    def _page_locked(self, like: npt.NDArray[Any]) -> npt.NDArray[Any]:
        memory = self.arrays.cuda.alloc_pinned_memory(max(1, like.nbytes))
        buffer: npt.NDArray[Any] = np.frombuffer(memory, like.dtype, like.size).reshape(like.shape)
        return buffer

    def _recorded(self) -> _Event:
        event: _Event = self.arrays.cuda.Event(disable_timing=True)
        event.record(self.stream)
        return event

    def upload(self, host: npt.NDArray[Any]) -> DeviceArray:
        buffer, array = self._page_locked(host), self.arrays.empty(host.shape, host.dtype)
        buffer[...] = host
        places, kind = (array.data.ptr, buffer.ctypes.data), self._runtime.memcpyHostToDevice
        self._runtime.memcpyAsync(*places, buffer.nbytes, kind, self.stream.ptr)
        with self._lock:
            self._uploads.append((self._recorded(), buffer))
            while self._uploads and self._uploads[0][0].done:
                self._uploads.popleft()
        uploaded: DeviceArray = array
        return uploaded

    def download(self, array: DeviceArray) -> npt.NDArray[Any]:
        source = self.arrays.ascontiguousarray(array)
        buffer = self._page_locked(source)
        places, kind = (buffer.ctypes.data, source.data.ptr), self._runtime.memcpyDeviceToHost
        self._runtime.memcpyAsync(*places, buffer.nbytes, kind, self.stream.ptr)
        # Later work of other threads on this stream is not waited for.
        self._recorded().synchronize()
        return buffer

    def launch(self, kernel: kernels.Kernel, blocks: int, arguments: Sequence[Argument]) -> None:
        values = tuple(np.uintp(0) if argument is None else argument for argument in arguments)
        self._function(kernel)((blocks,), (kernel.threads,), values, shared_mem=kernel.shared_bytes)

    def _function(self, kernel: kernels.Kernel) -> Callable[..., None]:
        with self._lock:
            if kernel.name not in self._functions:
                # A cubin, not PTX: a newer NVRTC writes PTX that an older driver refuses.
                path = kernels.cubin_path(kernel.file, self.architecture)
                function = self.arrays.RawModule(path=str(path)).get_function(kernel.name)
                if kernel.shared_bytes:
                    function.max_dynamic_shared_size_bytes = kernel.shared_bytes
                self._functions[kernel.name] = function
            return self._functions[kernel.name]

    def synchronize(self) -> None:
        self.stream.synchronize()
