"""Arithmetic on one machine, by backend: `make bench`, or `python -m bench.suite ring`."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from gpumpc.errors import MissingExtra
from gpumpc.ring.backend import Backend
from gpumpc.ring.choose import NAMES, choose_backend

K, N = 44, 1 << 18
KEY = hashlib.sha256(b"bench").digest()
IMAGE, KERNEL = (2, 32, 32, 64), (3, 3, 64, 64)
EDGES = (1, 1, 1, 1)
Case = Callable[[Backend], Callable[[], Any]]


def words(backend: Backend, *shape: int, bits: int = K, seed: int = 0) -> Any:
    """Uniform words modulo 2^bits."""
    return backend.upload(
        np.random.default_rng(seed).integers(0, 1 << bits, shape, dtype=np.uint64)
    )


def operand(backend: Backend, *shape: int, seed: int = 0) -> Any:
    """An operand of products."""
    return backend.operand(words(backend, *shape, seed=seed), K)


def expand(backend: Backend) -> Callable[[], Any]:
    """Masks of 2^18 words."""
    return lambda: backend.expand_words("aes128ctr", KEY, (N,), K)


def pack(backend: Backend) -> Callable[[], Any]:
    """To bytes and back."""
    x = words(backend, N)
    return lambda: backend.unpack(backend.pack(x, K), (N,), K)


def planes(backend: Backend) -> Callable[[], Any]:
    """To bit planes."""
    x = words(backend, N)
    return lambda: backend.to_planes(x, K - 16)


def select(backend: Backend) -> Callable[[], Any]:
    """A choice by a public lane."""
    x, y = words(backend, N), words(backend, N, seed=1)
    lane = backend.bit(x, 3)
    return lambda: backend.select(lane, x, y)


def truncate(backend: Backend) -> Callable[[], Any]:
    """Local truncation."""
    x = words(backend, N)
    return lambda: backend.truncate(x, K, 16, 1)


def multiply(backend: Backend) -> Callable[[], Any]:
    """Element-wise products."""
    x, y = operand(backend, N), operand(backend, N, seed=1)
    return lambda: backend.multiply(x, y, K)


def matmul(backend: Backend) -> Callable[[], Any]:
    """256 x 256 x 256."""
    x, y = operand(backend, 256, 256), operand(backend, 256, 256, seed=1)
    return lambda: backend.matmul(x, y, K)


def conv2d(backend: Backend) -> Callable[[], Any]:
    """3 x 3, 64 to 64 channels on two images of 32 x 32."""
    x, w = operand(backend, *IMAGE), operand(backend, *KERNEL, seed=1)
    return lambda: backend.conv2d(x, w, (1, 1), EDGES, 1, K)


CASES: tuple[Case, ...] = (expand, pack, planes, select, truncate, multiply, matmul, conv2d)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_ring(benchmark: BenchmarkFixture, case: Case, name: str) -> None:
    """One operation, after a first call that warms it up."""
    try:
        work = case(choose_backend(name))
    except MissingExtra as error:
        pytest.skip(str(error))
    work()
    pedantic: Any = benchmark.pedantic
    pedantic(work, rounds=5, iterations=1)
