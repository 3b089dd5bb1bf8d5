"""Deleting works where the disk is full: in a reserve's room, and in groups of rows.

A disk is as good as full where each file has a limit of size; the reserve's removal raises it here.
"""

import sqlite3
from pathlib import Path

import pytest

from gpumpc.store import Store
from tests.store.shares import KIND, fill, items, keys, python, segments

FULL = """
from gpumpc.store.disk_reserve import DiskReserve
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
released = []
def limit(n):
    resource.setrlimit(resource.RLIMIT_FSIZE, (n, resource.RLIM_INFINITY))
honest = DiskReserve.release
def release(reserve):
    released.append(1)
    limit(size + 100_000)
    return honest(reserve)
DiskReserve.release = release
DiskReserve.keep = lambda reserve: reserve._path.exists()
size = os.path.getsize(store.path)
"""


@pytest.mark.parametrize("begun", [False, True])
def test_deleting_works_where_the_disk_is_full(tmp_path: Path, begun: bool) -> None:
    with Store(tmp_path, 0) as store:
        for start in range(0, 3000, 1000):
            fill(store, 1000, start)
    text = f"""{FULL}
limit(0)
if {begun}:
    store.begin_change("c", "delete all")
try:
    store.put("feature/plan", keys(1, 9000), "owner", rows(1))
except Exception as error:
    print(type(error).__name__)
print(store.delete([f'img{{i:05}}' for i in range(3000)], "owner"), len(released) > 0)
print(store.changes(), len(store.rows("feature/plan")))
"""
    got = python(text, tmp_path)
    changes = {"c": "delete all"} if begun else {}
    assert got.stdout.splitlines() == ["ConfigError", "3000 True", f"{changes} 0"], got.stderr
    assert not segments(tmp_path)


@pytest.mark.parametrize("is_held", [True, False])
def test_rows_are_deleted_in_groups_that_fit(
    store: Store, monkeypatch: pytest.MonkeyPatch, is_held: bool
) -> None:
    """One transaction is larger than the room, also where what began has used the reserve."""
    fill(store, 500)
    honest, sizes = store._delete_group, []

    def narrow(query: str, values: list[tuple[object, ...]]) -> int:
        sizes.append(len(values))
        if len(values) > 64:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            with store._explained():
                raise error
        return honest(query, values)

    monkeypatch.setattr(store, "_delete_group", narrow)
    if not is_held:
        store._reserve.release()
    assert store.delete(items(keys(500)), "owner") == 500 and len(sizes) > 8
    assert not store.rows(KIND) and store.ready_digest() == "0" * 64


def test_a_store_opens_where_the_disk_is_full(tmp_path: Path) -> None:
    """With what a crash left in the write-ahead log, which opening moves into the manifest."""
    text = "fill(store, 500)\nstore._erase = None\ndie()\n"
    python(text, tmp_path)
    assert (tmp_path / "manifest.sqlite-wal").stat().st_size > 0
    text = f"""store.close()
{FULL}
limit(0)
store = Store(sys.argv[1], 0)
print(len(store.rows("feature/plan", "ready")), store.verify())
"""
    got = python(text, tmp_path)
    assert got.stdout == "500 1\n", got.stderr
