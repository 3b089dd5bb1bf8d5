"""What an owner has on the disk is counted as it lies there, and bounded."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpumpc.errors import ConfigError
from gpumpc.store import RowKey, Store
from gpumpc.store import rows as module
from tests.store.shares import fill, items, keys, rows

INPUT, FEATURE = f"input/{'a' * 64}", f"feature/{'b' * 64}"
CAPACITY = 200_000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, 0, capacity_bytes=CAPACITY)


def disk_bytes(store: Store) -> int:
    """Blocks of all files but the reserve and the log, which are of one size whoever has rows."""
    store._erase()
    paths = [path for path in store.folder.iterdir() if path.name != "reserve"]
    return 512 * sum(path.stat().st_blocks for path in paths)


def names(n: int, seed: int) -> list[RowKey]:
    draw = np.random.default_rng(seed)
    return [RowKey(draw.bytes(16).hex(), draw.bytes(16).hex()) for _ in range(n)]


def recounted(store: Store, owner: str) -> int:
    """What an owner has, added up anew."""
    queries = (
        "SELECT n_bytes FROM rows WHERE owner = ?",
        "SELECT n_bytes FROM segments WHERE owner = ?",
        "SELECT n_bytes FROM notes WHERE owner = ?",
    )
    return sum(int(row[0]) for query in queries for row in store._select(query, owner))


@pytest.mark.parametrize("size", [32, 1500])
def test_count_is_near_what_lies_on_the_disk(tmp_path: Path, size: int) -> None:
    with Store(tmp_path, 0) as store:
        empty = disk_bytes(store)
        for i in range(40):
            chosen = names(100, i)
            store.put((INPUT, FEATURE)[i % 2], chosen, "owner", rows(100, size))
            store.confirm((INPUT, FEATURE)[i % 2], chosen)
        store.compact(1 << 24)
        held, taken = store.held_bytes("owner"), disk_bytes(store) - empty
        assert 0.8 * taken <= held <= 1.4 * taken


def fill_rows(store: Store) -> None:
    for i in range(1000):
        store.put(INPUT, names(2, i), "owner", rows(2))


def fill_features(store: Store) -> None:
    for i in range(1000):
        chosen = names(2, i)
        store.put(FEATURE, chosen, "owner", rows(2, 1000))
        store.confirm(FEATURE, chosen)


def fill_unpaired(store: Store) -> None:
    for i in range(1000):
        chosen = names(2, i)
        store.put(FEATURE, chosen, "owner", rows(2))
        store.confirm(FEATURE, chosen)
        store.set_unpaired(FEATURE, chosen)


def fill_notes(store: Store) -> None:
    for i in range(1000):
        store.check_note(f"index/owner/{i}", "class " * 2000, "owner")
        store.note(f"index/owner/{i}", "class " * 2000, "owner")


def fill_deleted(store: Store) -> None:
    """Of each upload all rows but one are deleted: the files stay until they are rewritten."""
    for i in range(2000):
        chosen = names(10, i)
        store.put(INPUT, chosen, "owner", rows(10, 1000))
        store.delete(items(chosen[1:]))


@pytest.mark.parametrize(
    "fill_up", [fill_rows, fill_features, fill_unpaired, fill_notes, fill_deleted]
)
def test_nobody_passes_the_quota(store: Store, fill_up: Callable[[Store], None]) -> None:
    empty = disk_bytes(store)
    with pytest.raises(ConfigError, match=f"no room.*{CAPACITY} bytes.*delete"):
        fill_up(store)
    assert CAPACITY / 2 < store.held_bytes("owner") <= CAPACITY
    assert disk_bytes(store) - empty < 1.5 * CAPACITY
    assert store.held_bytes("owner") == recounted(store, "owner")
    store.put(INPUT, names(2, 5000), "other", rows(2))  # the quota is each owner's own
    assert store.held_bytes("other") == recounted(store, "other")


def test_pending_rows_sent_again_take_no_more(store: Store) -> None:
    store.put(INPUT, keys(50), "owner", rows(50))
    held, taken = store.held_bytes("owner"), disk_bytes(store)
    for version in range(40):
        assert store.put(INPUT, keys(50, version=f"w{version % 10}"), "owner", rows(50)) == 50
    assert store.held_bytes("owner") == held == recounted(store, "owner")
    assert disk_bytes(store) <= taken + 65_536


def test_deleting_makes_room_at_once(store: Store) -> None:
    """The next upload rewrites this owner's segments where it finds no room."""
    data = rows(100, 1500)
    store.put(INPUT, keys(100), "owner", data)
    store.confirm(INPUT, keys(100))
    with pytest.raises(ConfigError, match="no room"):
        store.put(FEATURE, keys(30), "owner", rows(30, 1500))
    assert store.delete(items(keys(40)), "owner") == 40
    assert store.put(FEATURE, keys(30), "owner", rows(30, 1500)) == 30
    assert (store.read(INPUT, items(keys(60, 40)))[1] == data[40:]).all()
    assert store.held_bytes("owner") == recounted(store, "owner") <= CAPACITY


def test_refused_put_changes_nothing(store: Store) -> None:
    fill(store, 3)
    held, files = store.held_bytes("owner"), sorted(store.folder.iterdir())
    with pytest.raises(ConfigError):
        store.put(INPUT, keys(200, 10), "owner", rows(200, 1500))
    assert store.held_bytes("owner") == held and sorted(store.folder.iterdir()) == files


def test_all_deleted_counts_nothing(store: Store) -> None:
    fill(store, 9)
    store.note("index/owner/a", "text", "owner")
    store.put(INPUT, keys(3, 20), "owner", rows(3))
    store.delete(items([*keys(9), *keys(3, 20)]))
    store.remove_note("index/owner/a")
    assert store.held_bytes("owner") == store.info()["bytes"] == 0


def test_number_of_indexes_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NOTES", 3)
    for i in range(3):
        store.check_note(f"index/owner/{i}", "text", "owner")
        store.note(f"index/owner/{i}", "text", "owner")
    with pytest.raises(ConfigError, match=r"another index of owner.*it has 3.*delete indexes"):
        store.check_note("index/owner/3", "text", "owner")
    store.check_note("index/owner/2", "text", "owner")  # it is there already
    store.check_note("index/other/0", "text", "other")
    store.remove_note("index/owner/0")
    store.check_note("index/owner/3", "text", "owner")
