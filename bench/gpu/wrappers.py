"""Each wrapper of `kernels/ptx.cuh`, and each intrinsic the kernels use, against a model of a few
lines of NumPy.

On a device this shows that a wrapper's PTX does what the emulator says it does; in the emulator,
that what it says is the model. Together: what was proved by emulation holds on the device.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from gpumpc.ring.cupy_backend import CupyBackend

Array = npt.NDArray[Any]
CASES = 8


def _random(rng: np.random.Generator, shape: Any, dtype: Any) -> Array:
    drawn: Array = np.asarray(rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True))
    return drawn


def _launched(
    backend: CupyBackend, name: str, inputs: list[Array], out: Array, *scalars: int
) -> Array:
    """What a probe leaves in `out`, which it may also read."""
    backend.device.enter()
    result = backend.device.upload(out)
    backend.launch(name, 1, *(backend.device.upload(array) for array in inputs), result, *scalars)
    return backend.device.download(result)


def mma_u8(backend: CupyBackend, rng: np.random.Generator, case: int) -> bool:
    """d + a b modulo 2^32; all bytes 0xFF in the first case."""
    ones = np.uint8(0 if case else 255)
    a, b = (_random(rng, (rows, 32), np.uint8) | ones for rows in (16, 8))
    d = _random(rng, (16, 8), np.uint32)
    expected = d + (a.astype(np.uint32) @ b.astype(np.uint32).T)
    return np.array_equal(_launched(backend, "probe_mma", [a, b], d), expected)


def ldmatrix_x4(backend: CupyBackend, rng: np.random.Generator, case: int) -> bool:
    """Register i of lane l is word l % 4 of the row that lane 8 i + l / 4 names."""
    rows, order = _random(rng, (32, 4), np.uint32), rng.permutation(32).astype(np.uint32)
    lane = np.arange(32)
    expected = np.stack([rows[order[8 * i + lane // 4], lane % 4] for i in range(4)], axis=1)
    got = _launched(backend, "probe_ldmatrix", [rows, order], np.zeros((32, 4), np.uint32))
    return np.array_equal(got, expected)


def cp_async(backend: CupyBackend, rng: np.random.Generator, case: int) -> bool:
    """Copies land by the time they are waited for, group by group; zeros where not valid."""
    source = _random(rng, (3, 32, 4), np.uint32)
    zeros = int(_random(rng, (), np.uint32)) if case else 0
    kept = np.array([not zeros >> lane & 1 for lane in range(32)])
    expected = np.roll(np.where(kept[None, :, None], source, 0), -1, axis=1)
    got = _launched(backend, "probe_cp_async", [source], np.zeros_like(source), zeros)
    return np.array_equal(got, expected)


def lanes(backend: CupyBackend, rng: np.random.Generator, case: int) -> bool:
    """Shuffle, ballot, byte permutation, rotation, `here`."""
    x, y = _random(rng, 32, np.uint32), _random(rng, 32, np.uint32)
    step, bit = 1 << case % 5, int(rng.integers(1, 32))
    selector = int(sum(int(rng.integers(0, 8)) << (4 * i) for i in range(4)))
    ballot = np.uint32(sum(int(word >> bit & 1) << lane for lane, word in enumerate(x.tolist())))
    source = np.concatenate((x[:, None].view(np.uint8), y[:, None].view(np.uint8)), axis=1)
    chosen = np.ascontiguousarray(source[:, [selector >> (4 * i) & 7 for i in range(4)]])
    permuted = chosen.view(np.uint32)[:, 0]
    rotated = (x << np.uint32(bit)) | (x >> np.uint32(32 - bit))
    expected = np.stack([x[np.arange(32) ^ step], np.full(32, ballot), permuted, rotated, y])
    zeros = np.zeros((5, 32), np.uint32)
    got = _launched(backend, "probe_lanes", [x, y], zeros, selector, step, bit)
    return np.array_equal(got, expected)


WRAPPERS: dict[str, Callable[[CupyBackend, np.random.Generator, int], bool]] = {
    wrapper.__name__: wrapper for wrapper in (mma_u8, ldmatrix_x4, cp_async, lanes)
}


def check(backend: CupyBackend) -> Iterator[tuple[str, bool]]:
    """(wrapper, whether all cases agree)."""
    for name, agrees in WRAPPERS.items():
        rng = np.random.default_rng(7)
        yield name, all(agrees(backend, rng, case) for case in range(CASES))
