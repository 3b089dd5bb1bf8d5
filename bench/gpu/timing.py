"""Seconds of work on a device, by its own events; by the clock where the device is emulated."""

import time
from collections.abc import Callable
from typing import Any

from gpumpc.ring.cupy_backend import CupyBackend


def seconds(
    backend: CupyBackend, work: Callable[[], Any], least_s: float = 0.2, most: int = 200
) -> float:
    """Mean seconds of one call after a warm-up: calls until they took `least_s`, at most `most`."""
    backend.device.enter()
    work()
    backend.device.synchronize()
    once = _timed(backend, work, 1)
    repeats = max(1, min(most, int(least_s / max(once, 1e-9))))
    return _timed(backend, work, repeats) / repeats if repeats > 1 else once


def _timed(backend: CupyBackend, work: Callable[[], Any], repeats: int) -> float:
    if backend.name != "cupy":
        start = time.perf_counter()
        for _ in range(repeats):
            work()
        return time.perf_counter() - start
    cuda = backend.device.arrays.cuda
    before, after = cuda.Event(), cuda.Event()
    before.record()
    for _ in range(repeats):
        work()
    after.record()
    after.synchronize()
    return float(cuda.get_elapsed_time(before, after)) / 1000
