"""Segments are rewritten when more than half of them is deleted, and small ones are merged."""

import signal
from pathlib import Path

import numpy as np
import pytest

from gpumpc.errors import CorruptStore
from gpumpc.store import Store
from tests.store.shares import KIND, fill, items, keys, python, rows, segments

LIMIT = 1 << 20
WHEN = {
    "the new segment is opened": "module.write_private = die",
    "the folder is synced": "module.sync_folder = die",
    "the manifest mentions it": "Store._change = die",
    "the manifest is committed": """
honest = store._db
class Dying:
    def __getattr__(self, name):
        return getattr(honest, name)
    def execute(self, text, *values):
        return die() if text == "COMMIT" else honest.execute(text, *values)
store._db = Dying()""",
    "the old segment is removed": "module.Path.unlink = die",
}


def compact_all(store: Store, limit_bytes: int = LIMIT) -> int:
    total = 0
    while n_bytes := store.compact(limit_bytes):
        assert n_bytes <= 2 * limit_bytes
        total += n_bytes
    return total


def test_only_segments_under_half_are_rewritten(store: Store) -> None:
    fill(store, 10)
    [before] = segments(store.folder)
    store.delete(items(keys(5)))
    assert store.compact(LIMIT) == 0 and segments(store.folder) == [before]
    store.delete(items(keys(1, 5)))
    assert store.compact(LIMIT) == 4 * 32
    [after] = segments(store.folder)
    assert after != before and (store.folder / after).stat().st_size == 4 * 32
    assert (store.read(KIND, items(keys(4, 6)))[1] == rows(10)[6:]).all()


def test_many_small_segments_become_few(store: Store) -> None:
    """300 uploads of one row, of two owners: few files, and a row is rewritten few times."""
    data = rows(300)
    for i in range(300):
        store.put(KIND, keys(1, i), ("owner", "other")[i % 2], data[i : i + 1])
    for start in range(0, 300, 100):
        store.confirm(KIND, keys(100, start))
    n_bytes = store.held_bytes("owner")
    written = compact_all(store)
    assert len(segments(store.folder)) < 2 * 8 * 4 and written <= 5 * 300 * 32
    assert store.held_bytes("owner") < n_bytes / 2
    assert (store.read(KIND, items(keys(300)))[1] == data).all()
    assert {row.owner for row in store.rows(KIND)} == {"owner", "other"} and store.verify()


def test_a_call_does_bounded_work_and_makes_progress(store: Store) -> None:
    """One large segment is rewritten in portions."""
    data = rows(1000, 1000)
    store.put(KIND, keys(1000), "owner", data)
    store.confirm(KIND, keys(1000))
    store.delete(items(keys(600)))
    calls = []
    while n_bytes := store.compact(100_000):
        calls.append(n_bytes)
    assert len(calls) >= 4 and max(calls) <= 200_000
    assert sum((store.folder / name).stat().st_size for name in segments(store.folder)) < 500_000
    assert (store.read(KIND, items(keys(400, 600)))[1] == data[600:]).all()


@pytest.mark.parametrize("when", WHEN)
def test_kill_9_in_a_compaction_loses_nothing(tmp_path: Path, when: str) -> None:
    with Store(tmp_path, 0) as store:
        fill(store, 10)
        store.set_unpaired(KIND, keys(1, 9))
        store.delete(items(keys(7)))
        digest, held = store.ready_digest(), store.held_bytes("owner")
    got = python(f"{WHEN[when]}\nstore.compact(1 << 20)\n", tmp_path)
    assert got.returncode == -signal.SIGKILL, got.stderr
    with Store(tmp_path, 0) as store:
        assert store.ready_digest() == digest and store.verify() == 1
        assert len(segments(tmp_path)) == 1 and store.held_bytes("owner") <= held
        assert (store.read(KIND, items(keys(2, 7)))[1] == rows(10)[7:9]).all()
        compact_all(store)
        assert store.verify() == 1 and len(store.rows(KIND)) == 3
        [name] = segments(tmp_path)
        assert (tmp_path / name).stat().st_size == 3 * 32


def test_a_damaged_segment_does_not_stop_compaction(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    fill(store, 4)
    [cut] = segments(store.folder)
    fill(store, 4, 4)
    store.delete(items([*keys(3), *keys(3, 4)]))
    (store.folder / cut).write_bytes(b"")
    assert compact_all(store) == 32 and cut in caplog.text
    assert (store.read(KIND, items(keys(1, 7)))[1] == rows(4)[3:]).all()
    with pytest.raises(CorruptStore, match=cut):
        store.read(KIND, items(keys(1, 3)))


def test_reads_beside_compaction_are_right(store: Store) -> None:
    data = rows(64, 40)
    for start in range(0, 64, 2):
        store.put(KIND, keys(2, start), "owner", data[start : start + 2])
        store.confirm(KIND, keys(2, start))
        store.compact(4096)
        chosen = np.random.default_rng(start).permutation(start + 2)
        found = store.read(KIND, [f"img{i:05}" for i in chosen])[1]
        assert (found == data[chosen]).all()
    assert len(segments(store.folder)) <= 8 * 3
