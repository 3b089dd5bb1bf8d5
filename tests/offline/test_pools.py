"""Both pools: each batch is written once and read once, whole, and waited for."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpumpc.errors import BadFrame, CorrelationsMissing, LeftoverCorrelations, MaskReused
from gpumpc.offline.memory_pool import MemoryPool
from gpumpc.offline.pool import Pool
from tests.offline.pools import A, AnyPool, B, put


@pytest.fixture(params=["files", "memory"])
def pool(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyPool]:
    if request.param == "memory":
        yield MemoryPool()
    else:
        pool = Pool(tmp_path / "pool", 1000)
        yield pool
        pool.close()


def is_empty(pool: AnyPool) -> bool:
    if isinstance(pool, MemoryPool):
        return not pool.n_unread_bytes
    return {path.name for path in pool.folder.iterdir()} == {"lock"}


def test_reads_of_any_size_return_the_written_bytes(pool: AnyPool) -> None:
    data = bytes(range(100))
    for batch_index, sizes in enumerate(([100], [1] * 100, [30, 0, 70], [7] * 14 + [2], [99, 1])):
        put(pool, A, batch_index, data[:10], b"", data[10:11], data[11:60], data[60:])
        corrections = pool.take(A, batch_index, 1.0)
        assert b"".join(bytes(corrections.read(size)) for size in sizes) == data
        corrections.finish()
    assert is_empty(pool)


def test_leftover_and_missing_bytes_are_errors(pool: AnyPool) -> None:
    put(pool, A, 0, b"abcdef")
    corrections = pool.take(A, 0, 60.0)
    corrections.read(4)
    with pytest.raises(CorrelationsMissing, match="asks for 3 bytes (and 2 are left|after 4 of 6)"):
        corrections.read(3)
    with pytest.raises(LeftoverCorrelations, match="2 bytes"):
        corrections.finish()
    assert is_empty(pool)


def test_a_batch_is_written_once_and_read_once(pool: AnyPool) -> None:
    put(pool, A, 0, b"abcdef")
    arriving = pool.writer(A, 1, 4)
    for batch_index in (0, 1):
        with pytest.raises(BadFrame, match="came twice"):
            pool.writer(A, batch_index, 4)
    arriving.append(b"abcd")
    arriving.commit()
    corrections = pool.take(A, 0, 1.0)
    with pytest.raises(MaskReused):
        pool.take(A, 0, 1.0)
    corrections.discard()
    corrections.discard()
    with pytest.raises(CorrelationsMissing):
        pool.take(A, 0, 0.0).read(1)


def test_batch_of_an_unannounced_size_is_refused(pool: AnyPool) -> None:
    short, long = pool.writer(A, 0, 4), pool.writer(A, 1, 4)
    short.append(b"abc")
    with pytest.raises(BadFrame, match="4 bytes were announced and 3 came"):
        short.commit()
    with pytest.raises(BadFrame, match="5 came"):
        long.append(b"abcde")


def test_a_batch_is_read_before_its_last_byte_is_dealt(pool: AnyPool) -> None:
    writer = pool.writer(A, 0, 6)
    writer.append(b"abc")
    corrections = pool.take(A, 0, 10.0)
    assert corrections.read(2) == b"ab"
    threading.Timer(0.1, writer.append, [b"def"]).start()
    start = time.monotonic()
    assert corrections.read(4) == b"cdef"
    assert time.monotonic() - start < 5
    writer.commit()
    corrections.finish()
    assert is_empty(pool)


def test_a_silent_dealer_is_not_waited_for_for_ever(pool: AnyPool) -> None:
    with pytest.raises(CorrelationsMissing):
        pool.take(A, 0, 0.05).read(1)


def test_old_batches_are_discarded_unless_they_are_being_read(pool: AnyPool) -> None:
    for batch_index in range(4):
        put(pool, A, batch_index, b"abcd")
    put(pool, B, 0, b"abcd")
    reading = pool.take(A, 1, 0)
    pool.discard_before(A, 3)
    if isinstance(pool, MemoryPool):
        assert pool.n_unread_bytes == 12
    else:
        left = {f"{A.hex()}.1.corr", f"{A.hex()}.3.corr", f"{B.hex()}.0.corr", "lock"}
        assert {path.name for path in pool.folder.iterdir()} == left
    assert reading.read(4) == b"abcd"
    reading.finish()


def test_empty_batch_is_stored_and_read(pool: AnyPool) -> None:
    put(pool, A, 0)
    corrections = pool.take(A, 0, 0)
    assert corrections.read(0) == b""
    corrections.finish()
