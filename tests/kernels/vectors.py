"""Values that kernels meet: random, all bytes 0xFF (the largest sums of limbs), edges of signs."""

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gpumpc.ring.numpy_backend import NumpyBackend

Words = npt.NDArray[np.uint64]
NUMPY = NumpyBackend()
KEY = bytes(range(32))
FULL = np.uint64(0xFFFFFFFFFFFFFFFF)
# Empty, single, around a lane word and a block, ragged.
SIZES = [0, 1, 63, 64, 65, 989, 1024, 1027, 2500]
KINDS = ["random", "full", "edges"]


def words(name: str, shape: Sequence[int] | int, kind: str = "random") -> Words:
    """The same words for the same name and shape."""
    rng = np.random.default_rng(zlib.crc32(f"{name} {shape} {kind}".encode()))
    if kind == "full":
        return np.full(shape, FULL)
    if kind == "edges":
        edges = [0, 1, 2**63, 2**63 - 1, 2**64 - 1, 2**39, 2**40 - 1, 2**26, 2**27 - 1, 255, 256]
        return rng.choice(np.array(edges, dtype=np.uint64), shape)
    return rng.integers(0, FULL, shape, dtype=np.uint64, endpoint=True)


def every_kind(name: str, *shapes: Sequence[int] | int) -> Iterator[list[Words]]:
    """Arrays of these shapes, once a kind."""
    for kind in KINDS:
        yield [words(f"{name} {i}", shape, kind) for i, shape in enumerate(shapes)]


def host(backend: Any, value: Any) -> Words:
    """A result as a host array."""
    array: Words = np.asarray(backend.download(value))
    return array


def same(backend: Any, got: Any, expected: Words) -> None:
    """Bit for bit, shape and type included."""
    result = host(backend, got)
    assert result.shape == expected.shape and result.dtype == np.uint64
    assert np.array_equal(result, expected)


def up(backend: Any, *arrays: Words) -> list[Any]:
    """Arrays on the device."""
    return [backend.upload(array) for array in arrays]


def agree(backend: Any, operation: str, *arguments: Any) -> None:
    """The backend's result is NumPy's; words and lists of words are uploaded."""

    def device(value: Any) -> Any:
        if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
            return up(backend, *value)
        is_words = isinstance(value, np.ndarray) and value.dtype == np.uint64
        return backend.upload(value) if is_words else value

    got = getattr(backend, operation)(*map(device, arguments))
    same(backend, got, getattr(NUMPY, operation)(*arguments))
