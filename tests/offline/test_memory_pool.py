"""Corrections inside one process: read while they are written, once, to the last byte; no reader
waits for a dead dealer.
"""

from __future__ import annotations

import threading
import time

import pytest

from gpumpc.errors import BadFrame, CorrelationsMissing, LeftoverCorrelations, MaskReused
from gpumpc.offline.memory_pool import MemoryPool, NotDealt

A, B = b"a" * 16, b"b" * 16


@pytest.fixture
def pool() -> MemoryPool:
    return MemoryPool()


def put(pool: MemoryPool, session: bytes, batch_index: int, *pieces: bytes) -> None:
    writer = pool.writer(session, batch_index, sum(map(len, pieces)))
    for piece in pieces:
        writer.append(piece)
    writer.commit()


def test_any_cut_reads_what_was_written_in_order(pool: MemoryPool) -> None:
    data = bytes(range(100))
    for batch_index, sizes in enumerate(([100], [1] * 100, [30, 0, 70], [7] * 14 + [2], [99, 1])):
        put(pool, A, batch_index, data[:10], b"", data[10:11], data[11:60], data[60:])
        corrections = pool.take(A, batch_index, 1.0)
        assert b"".join(bytes(corrections.read(size)) for size in sizes) == data
        corrections.finish()
    assert pool.n_unread_bytes == 0


def test_what_lies_in_one_piece_is_not_copied(pool: MemoryPool) -> None:
    piece = bytes(1000)
    put(pool, A, 0, piece)
    view = pool.take(A, 0, 1.0).read(600)
    assert view.obj is piece and view.readonly


def test_reading_begins_before_the_last_byte_is_dealt(pool: MemoryPool) -> None:
    corrections = pool.take(A, 0, 10.0)  # before the dealer has begun
    writer = pool.writer(A, 0, 6)
    writer.append(b"abc")
    assert corrections.read(2) == b"ab"
    threading.Timer(0.1, writer.append, [b"def"]).start()
    assert corrections.read(4) == b"cdef"
    corrections.finish()


def test_a_dealer_that_fails_wakes_who_waits_and_may_deal_again(pool: MemoryPool) -> None:
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


def test_a_dealer_that_failed_before_anybody_read(pool: MemoryPool) -> None:
    pool.fail(A, 0)
    start = time.monotonic()
    with pytest.raises(NotDealt):
        pool.take(A, 0, 60.0).read(1)
    assert time.monotonic() - start < 10


def test_a_dealer_that_is_silent_is_not_waited_for_for_ever(pool: MemoryPool) -> None:
    with pytest.raises(CorrelationsMissing):
        pool.take(A, 0, 0.05).read(1)


def test_leftover_and_missing_bytes_are_errors(pool: MemoryPool) -> None:
    put(pool, A, 0, b"abcdef")
    corrections = pool.take(A, 0, 60.0)
    corrections.read(4)
    with pytest.raises(CorrelationsMissing, match="asks for 3 bytes after 4 of 6"):
        corrections.read(3)
    with pytest.raises(LeftoverCorrelations, match="2 bytes"):
        corrections.finish()
    assert pool.n_unread_bytes == 0


def test_a_batch_is_written_once_and_read_once(pool: MemoryPool) -> None:
    put(pool, A, 0, b"abc")
    with pytest.raises(BadFrame, match="came twice"):
        pool.writer(A, 0, 3)
    pool.take(A, 0, 1.0)
    with pytest.raises(MaskReused):
        pool.take(A, 0, 1.0)


def test_a_batch_of_another_size_than_announced_is_refused(pool: MemoryPool) -> None:
    writer = pool.writer(A, 0, 4)
    writer.append(b"abc")
    with pytest.raises(BadFrame, match="4 bytes were announced and 3 came"):
        writer.commit()
    with pytest.raises(BadFrame, match="5 came"):
        writer.append(b"de")


def test_what_can_never_be_used_is_forgotten(pool: MemoryPool) -> None:
    for batch_index in range(3):
        put(pool, A, batch_index, b"abcd")
    put(pool, B, 0, b"abcd")
    reading = pool.take(A, 0, 1.0)
    pool.discard_before(A, 2)
    assert pool.n_unread_bytes == 12  # the one that is read, the one above, the other session's
    assert reading.read(4) == b"abcd"
    reading.finish()
    reading.discard()
    put(pool, A, 9)
    assert pool.n_unread_bytes == 8
