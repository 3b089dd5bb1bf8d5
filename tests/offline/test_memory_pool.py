"""Corrections inside one process: read while they are written, once, to the last byte."""

import threading
import time

import pytest

from gpumpc.errors import BadFrame
from gpumpc.offline.memory_pool import MemoryPool, NotDealt
from tests.offline.pools import A, put


@pytest.fixture
def pool() -> MemoryPool:
    return MemoryPool()


def test_read_within_one_piece_is_not_a_copy(pool: MemoryPool) -> None:
    piece = bytes(1000)
    put(pool, A, 0, piece)
    view = pool.take(A, 0, 1.0).read(600)
    assert view.obj is piece and view.readonly


def test_a_batch_is_taken_before_the_dealer_has_begun(pool: MemoryPool) -> None:
    corrections = pool.take(A, 0, 10.0)
    put(pool, A, 0, b"abc", b"def")
    assert (corrections.read(2), corrections.read(4)) == (b"ab", b"cdef")
    corrections.finish()
    put(pool, A, 9)
    assert not pool.n_unread_bytes


def test_dealer_failure_wakes_the_reader_and_allows_a_retry(pool: MemoryPool) -> None:
    corrections = pool.take(A, 0, 60.0)
    pool.writer(A, 0, 6).append(b"abc")
    threading.Timer(0.1, lambda: pool.fail(A, 0)).start()
    start = time.monotonic()
    with pytest.raises(NotDealt):
        corrections.read(4)
    assert time.monotonic() - start < 10
    with pytest.raises(BadFrame):
        pool.writer(A, 0, 6)
    pool.forget_failures()
    put(pool, A, 0, b"abcdef")
    assert pool.take(A, 0, 1.0).read(6) == b"abcdef"


def test_reader_after_a_dealer_failure_does_not_wait(pool: MemoryPool) -> None:
    pool.fail(A, 0)
    start = time.monotonic()
    with pytest.raises(NotDealt):
        pool.take(A, 0, 60.0).read(1)
    assert time.monotonic() - start < 10
