"""What a device is to the backend, and the one that is a GPU: memory, copies, launches. The only
import of CuPy.

Each CupyDevice has a stream of its own: two servers and a dealer, or several batches, overlap when
each has its own backend. The stream is ordered against CuPy's default stream, so that array
arithmetic of a thread that has not called the backend yet is still right. Buffers on the host are
page-locked: copies do not hold up other streams.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gpumpc.errors import ConfigError, MissingExtra
from gpumpc.ring import kernels


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

    def owns(self, array: Any) -> bool:
        """Whether this is an array of the device."""

    def empty(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Any:
        """An array whose entries have yet to be written."""

    def upload(self, host: npt.NDArray[Any]) -> Any:
        """A copy of a host array."""

    def download(self, array: Any) -> npt.NDArray[Any]:
        """A copy on the host, after all work that was asked for before."""

    def launch(self, kernel: kernels.Kernel, blocks: int, arguments: Sequence[Any]) -> None:
        """Run a kernel on checked arguments: arrays, None for a null pointer, sized NumPy
        scalars."""

    def synchronize(self) -> None:
        """Wait for all work that was asked for."""


def has_gpu() -> bool:
    """Whether CuPy is installed and finds a device; never raises."""
    try:
        return bool(_cupy().cuda.is_available())
    except MissingExtra:  # absent, or unable to load: an error only where it is asked for by name
        return False


def _cupy() -> Any:
    """CuPy, imported when a GPU is first asked for."""
    try:
        import cupy
    except ImportError as error:
        raise MissingExtra(
            "the backend 'cupy' was asked for",
            f"CuPy cannot be imported: {error}",
            "pip install 'gpumpc[cuda13]' (or [cuda12])",
        ) from error
    return cupy


class CupyDevice:
    """GPU number `ordinal`. Raises MissingExtra without CuPy, ConfigError without such a device."""

    name = "cupy"

    def __init__(self, ordinal: int = 0, functions: dict[str, Any] | None = None) -> None:
        self.arrays = cupy = _cupy()
        available = cupy.cuda.runtime.getDeviceCount() if cupy.cuda.is_available() else 0
        if not 0 <= ordinal < available:
            raise ConfigError(
                f"the backend 'cupy' was asked for GPU {ordinal}",
                f"this machine shows {available} of them",
                "choose the backend 'numpy', or install gpumpc[cuda13] and its driver on a machine "
                "with a GPU",
            )
        self._runtime = cupy.cuda.runtime
        self._ordinal, self._device = ordinal, cupy.cuda.Device(ordinal)
        with self._device:
            self.stream = cupy.cuda.Stream()
        self.architecture = f"sm_{self._device.compute_capability}"
        # Shared by all that stand beside this one: a kernel is loaded once.
        self._functions: dict[str, Any] = {} if functions is None else functions
        self._lock = threading.Lock()
        # Page-locked buffers of uploads that may still be under way, oldest first.
        self._uploads: collections.deque[tuple[Any, npt.NDArray[Any]]] = collections.deque()

    def fork(self) -> CupyDevice:
        return CupyDevice(self._ordinal, self._functions)

    def enter(self) -> None:
        if self._runtime.getDevice() != self._ordinal:
            self._device.use()
        if self.arrays.cuda.get_current_stream() != self.stream:
            self.stream.use()

    def owns(self, array: Any) -> bool:
        return isinstance(array, self.arrays.ndarray)

    def empty(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Any:
        return self.arrays.empty(shape, dtype)

    def _page_locked(self, like: Any) -> npt.NDArray[Any]:
        memory = self.arrays.cuda.alloc_pinned_memory(max(1, like.nbytes))
        buffer: npt.NDArray[Any] = np.frombuffer(memory, like.dtype, like.size).reshape(like.shape)
        return buffer

    def _recorded(self) -> Any:
        event = self.arrays.cuda.Event(disable_timing=True)
        event.record(self.stream)
        return event

    def upload(self, host: npt.NDArray[Any]) -> Any:
        buffer, array = self._page_locked(host), self.empty(host.shape, host.dtype)
        buffer[...] = host
        runtime = self._runtime
        runtime.memcpyAsync(
            array.data.ptr,
            buffer.ctypes.data,
            buffer.nbytes,
            runtime.memcpyHostToDevice,
            self.stream.ptr,
        )
        with self._lock:
            self._uploads.append((self._recorded(), buffer))
            while self._uploads and self._uploads[0][0].done:
                self._uploads.popleft()
        return array

    def download(self, array: Any) -> npt.NDArray[Any]:
        array = self.arrays.ascontiguousarray(array)
        buffer = self._page_locked(array)
        runtime = self._runtime
        runtime.memcpyAsync(
            buffer.ctypes.data,
            array.data.ptr,
            buffer.nbytes,
            runtime.memcpyDeviceToHost,
            self.stream.ptr,
        )
        # Only what came before: other threads' later work on this stream is not waited for.
        self._recorded().synchronize()
        return buffer

    def launch(self, kernel: kernels.Kernel, blocks: int, arguments: Sequence[Any]) -> None:
        values = tuple(np.uintp(0) if argument is None else argument for argument in arguments)
        self._function(kernel)((blocks,), (kernel.threads,), values, shared_mem=kernel.shared_bytes)

    def _function(self, kernel: kernels.Kernel) -> Any:
        with self._lock:
            if kernel.name not in self._functions:
                # A cubin, not PTX: a newer NVRTC writes PTX that an older driver refuses.
                module = self.arrays.RawModule(
                    path=str(kernels.cubin_path(kernel.file, self.architecture))
                )
                function = module.get_function(kernel.name)
                if kernel.shared_bytes:
                    function.max_dynamic_shared_size_bytes = kernel.shared_bytes
                self._functions[kernel.name] = function
            return self._functions[kernel.name]

    def synchronize(self) -> None:
        self.stream.synchronize()
