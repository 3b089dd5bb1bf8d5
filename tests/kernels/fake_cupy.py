"""As much of CuPy as `CupyDevice` uses, with arrays in host memory and kernels in the emulator.

It shows that the device module makes its calls in an order that works, and which ones; not that
CuPy answers as here: a test asks an installed CuPy for the same names.
"""

import ctypes
import types
from typing import Any

import numpy as np

from gpumpc.ring import kernels
from tests.emulator.device import EmulatedDevice

# What CupyDevice reads of the module.
NAMES = [
    "ndarray", "empty", "ascontiguousarray", "RawModule", "cuda.is_available", "cuda.Device",
    "cuda.Stream", "cuda.Event", "cuda.get_current_stream", "cuda.alloc_pinned_memory",
    "cuda.runtime.getDeviceCount", "cuda.runtime.getDevice", "cuda.runtime.memcpyAsync",
    "cuda.runtime.memcpyHostToDevice", "cuda.runtime.memcpyDeviceToHost", "arange", "zeros",
    "concatenate", "sort", "transpose",
]  # fmt: skip


class Array(np.ndarray):
    """An array of the device."""

    @property
    def data(self) -> Any:
        return types.SimpleNamespace(ptr=self.ctypes.data)


def _made(function: Any) -> Any:
    return lambda *arguments, **options: function(*arguments, **options).view(Array)


class Fake(types.ModuleType):
    """The module; `log` records streams, copies and launches."""

    def __init__(self, devices: int) -> None:
        super().__init__("cupy")
        self.log: list[str] = []
        self.current = types.SimpleNamespace(device=0, stream=None)
        self.ndarray = Array
        made = "empty", "zeros", "arange", "ascontiguousarray", "concatenate", "sort", "transpose"
        for name in made:
            setattr(self, name, _made(getattr(np, name)))
        fake, runtime = self, types.SimpleNamespace(memcpyHostToDevice=1, memcpyDeviceToHost=2)

        class Device:
            compute_capability = "90"

            def __init__(self, number: int) -> None:
                self.number = number

            def use(self) -> None:
                fake.current.device = self.number

            def __enter__(self) -> None:
                fake.current.device = self.number

            def __exit__(self, *error: object) -> None:
                fake.current.device = 0

        class Stream:
            ptr = 77

            def use(self) -> None:
                fake.current.stream = self

            def synchronize(self) -> None:
                fake.log.append("synchronize")

        class Event:
            done = True

            def __init__(self, disable_timing: bool) -> None:
                assert disable_timing

            def record(self, stream: Stream) -> None:
                assert stream is fake.current.stream

            def synchronize(self) -> None:
                fake.log.append("wait")

        def copy(to: int, source: int, n_bytes: int, kind: int, stream: int) -> None:
            assert stream == Stream.ptr
            fake.log.append({1: "upload", 2: "download"}[kind])
            ctypes.memmove(to, source, n_bytes)

        runtime.getDeviceCount = lambda: devices
        runtime.getDevice = lambda: fake.current.device
        runtime.memcpyAsync = copy
        self.cuda = types.SimpleNamespace(
            runtime=runtime, Device=Device, Stream=Stream, Event=Event, is_available=lambda:
            devices > 0, get_current_stream=lambda: fake.current.stream,
            alloc_pinned_memory=bytearray,
        )  # fmt: skip
        emulator = EmulatedDevice()

        class RawKernel:
            max_dynamic_shared_size_bytes = 48 << 10

            def __init__(self, kernel: kernels.Kernel) -> None:
                self.kernel = kernel

            def __call__(self, grid: Any, block: Any, arguments: Any, shared_mem: int) -> None:
                assert block == (self.kernel.threads,) and shared_mem == self.kernel.shared_bytes
                assert shared_mem <= self.max_dynamic_shared_size_bytes
                assert fake.current.stream is not None
                fake.log.append(self.kernel.name)
                values = [
                    None if isinstance(a, np.uintp) and p.is_pointer else a
                    for a, p in zip(arguments, self.kernel.parameters, strict=True)
                ]
                plain = [v.view(np.ndarray) if isinstance(v, Array) else v for v in values]
                emulator.launch(self.kernel, grid[0], plain)

        class RawModule:
            def __init__(self, path: str) -> None:
                assert path.endswith(".cubin")
                with open(path, "rb") as file:
                    assert file.read(4) == b"\x7fELF"
                fake.log.append("load")

            def get_function(self, name: str) -> RawKernel:
                return RawKernel(kernels.catalogue()[name])

        self.RawModule = RawModule
