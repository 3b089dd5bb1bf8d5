"""The pool: bounded, whole or absent, each batch read once."""

import concurrent.futures
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gpumpc.errors import BadFrame, ConfigError, CorrelationsMissing, ExposedSecret, MaskReused
from gpumpc.offline.pool import Pool, Writer
from tests.offline.pools import A, B, put


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(tmp_path / "pool", capacity_bytes=1000)


def names(pool: Pool) -> set[str]:
    return {path.name for path in pool.folder.iterdir()} - {"lock"}


def test_committed_batch_is_read_in_order_and_deleted(pool: Pool) -> None:
    put(pool, A, 5, b"abc", b"defgh")
    corrections = pool.take(A, 5, 0)
    first = corrections.read(3)
    assert (first, corrections.read(0), corrections.read(5)) == (b"abc", b"", b"defgh")
    assert names(pool) == {f"{A.hex()}.5.corr"}
    corrections.finish()
    assert names(pool) == set()
    assert first == b"abc" and first.readonly  # a step may keep its view
    corrections.discard()


def test_missing_batch_names_the_stopped_dealer(pool: Pool) -> None:
    with pytest.raises(CorrelationsMissing, match="start gpumpc dealer"):
        pool.take(A, 0, 0.01)


def test_batch_is_read_while_it_arrives_and_not_kept(pool: Pool) -> None:
    beginning = threading.Timer(0.1, lambda: writers.append(pool.writer(A, 0, 6)))
    writers: list[Writer] = []
    beginning.start()
    corrections = pool.take(A, 0, 10)
    beginning.join()
    [writer] = writers
    writer.append(b"abc")
    first = corrections.read(2)
    threading.Timer(0.1, lambda: writer.append(b"def")).start()
    start = time.monotonic()
    assert (first, corrections.read(3)) == (b"ab", b"cde")
    assert time.monotonic() - start < 5
    writer.commit()
    assert names(pool) == {f"{A.hex()}.0.part"}  # swept after a crash: its number is reserved
    assert corrections.read(1) == b"f"
    with pytest.raises(MaskReused):
        pool.take(A, 0, 0)
    corrections.finish()
    assert names(pool) == set()


def test_aborted_writer_ends_a_concurrent_read(pool: Pool) -> None:
    writer = pool.writer(A, 0, 6)
    writer.append(b"abc")
    corrections = pool.take(A, 0, 0)
    threading.Timer(0.1, writer.abort).start()
    with pytest.raises(CorrelationsMissing, match="ended after 3 bytes"):
        corrections.read(4)
    corrections.discard()
    assert names(pool) == set() and not pool.ahead(A, 0)


def test_aborted_writer_ends_the_read_even_if_unlink_fails(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = pool.writer(A, 0, 6)
    corrections = pool.take(A, 0, 0)

    def refused(path: Path, missing_ok: bool = False) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refused)
    writer.abort()
    with pytest.raises(CorrelationsMissing, match="ended after 0 bytes"):
        corrections.read(4)


def test_batch_discarded_while_it_arrives_leaves_nothing(pool: Pool) -> None:
    writer = pool.writer(A, 0, 6)
    writer.append(b"abc")
    pool.take(A, 0, 0).discard()
    writer.append(b"def")
    assert not writer.delivered
    writer.commit()
    assert names(pool) == set() and not pool.ahead(A, 0)
    assert pool.wanted(A, 0, 1000) == [0]


def test_batch_can_be_taken_at_any_time_while_it_arrives(pool: Pool) -> None:
    """Another thread takes it while it is written and committed, and reads all of it."""
    for batch_index in range(60):
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            arriving = threads.submit(put, pool, A, batch_index, b"abc", b"defgh")
            corrections = pool.take(A, batch_index, 5)
            assert corrections.read(8) == b"abcdefgh"
            corrections.finish()
            arriving.result()
    assert names(pool) == set()


def test_take_waits_for_a_batch(pool: Pool) -> None:
    threading.Timer(0.1, put, (pool, A, 0, b"abc")).start()
    start = time.monotonic()
    assert pool.take(A, 0, 10).read(3) == b"abc"
    assert time.monotonic() - start < 5


def test_a_refused_batch_leaves_no_file_and_may_come_again(pool: Pool) -> None:
    short, long = pool.writer(A, 0, 4), pool.writer(A, 1, 4)
    with pytest.raises(BadFrame):
        short.commit()
    with pytest.raises(BadFrame):
        long.append(b"abcde")
    assert names(pool) == set()
    put(pool, A, 0, b"abcd")


def test_an_aborted_batch_may_come_again(pool: Pool) -> None:
    writer = pool.writer(A, 1, 4)
    writer.abort()
    writer.abort()
    put(pool, A, 1, b"abcd")


def test_wanted_fills_the_capacity_exactly(pool: Pool) -> None:
    assert pool.wanted(A, 7, 300) == [7, 8, 9]
    put(pool, A, 8, bytes(300))
    writer = pool.writer(A, 7, 300)
    assert pool.wanted(A, 7, 300) == [9]
    put(pool, A, 9, bytes(300))
    assert pool.wanted(A, 7, 300) == []
    writer.abort()
    assert pool.wanted(A, 7, 300) == [7]
    pool.take(A, 8, 0).discard()
    assert pool.wanted(A, 9, 300) == [10, 11]


def test_one_batch_is_always_wanted(pool: Pool) -> None:
    assert pool.wanted(A, 0, 5000) == [0]
    put(pool, A, 0, bytes(5000))
    assert pool.wanted(A, 0, 5000) == []
    assert pool.wanted(B, 3, 5000) == [3]
    assert pool.wanted(A, 1, 5000) == [1]


def test_wanted_names_at_most_64_batches(pool: Pool) -> None:
    assert len(pool.wanted(A, 0, 0)) == 64


def test_reopening_keeps_whole_batches_and_sweeps_the_rest(pool: Pool) -> None:
    put(pool, A, 3, b"whole")
    half = pool.writer(A, 4, 10)
    half.append(b"half")
    (pool.folder / "notes.txt").write_text("not ours")
    pool.close()
    again = Pool(pool.folder, 1000)
    assert names(again) == {f"{A.hex()}.3.corr", "notes.txt"}
    assert again.sessions() == {A}
    assert again.take(A, 3, 0).read(5) == b"whole"
    half.abort()


def test_pool_files_are_private(pool: Pool) -> None:
    put(pool, A, 0, b"abcd")
    assert stat.S_IMODE(pool.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in pool.folder.iterdir()} == {0o600}
    pool.close()
    pool.folder.chmod(0o770)
    with pytest.raises(ExposedSecret):
        Pool(pool.folder, 1000)


def test_two_processes_cannot_share_a_pool(pool: Pool) -> None:
    with pytest.raises(ConfigError, match="in use"):
        Pool(pool.folder, 1000)


def test_full_disk_is_explained_and_leaves_no_partial_write(pool: Pool) -> None:
    put(pool, A, 0, b"abcd")
    pool.close()
    code = """
import resource, sys
from pathlib import Path
from gpumpc.errors import ConfigError
from gpumpc.offline.pool import Pool
pool = Pool(Path(sys.argv[1]), 10**9)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
for n in (100_000, 50_100):
    try:
        writer = pool.writer(bytes(16), n, n)
        for i in range(0, n, 100):
            writer.append(bytes(100))
        writer.commit()
    except ConfigError as error:
        print(error)
print(sorted(p.name for p in pool.folder.iterdir()), pool.wanted(bytes(16), 0, 10**9 - 4))
"""
    command = [sys.executable, "-c", code, str(pool.folder)]
    full = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    assert full.stdout.count("free some space") == 2 and str(pool.folder) in full.stdout
    assert full.stdout.splitlines()[-1] == f"['{A.hex()}.0.corr', 'lock'] [0]"
