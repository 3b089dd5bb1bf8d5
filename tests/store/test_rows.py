"""Shares at rest: pending until both servers have them, whole or not at all, one party's alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpumpc.errors import BadFrame, ConfigError, CorruptStore, InputError, MissingFile
from gpumpc.store import RowKey, Store
from gpumpc.store.rows import Matrix


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", 0)


def keys(n: int, version: str = "v1") -> list[RowKey]:
    return [RowKey(f"item{i:03}", version) for i in range(n)]


def rows(n: int, size: int = 16, seed: int = 1) -> Matrix:
    return np.random.default_rng(seed).integers(0, 256, (n, size), dtype=np.uint8)


def items(names: list[RowKey]) -> list[str]:
    return [key.item for key in names]


def test_what_is_confirmed_can_be_read_in_any_order(store: Store) -> None:
    names, data = keys(5), rows(5)
    assert store.put("feature", names, "user", data) == 5
    store.confirm("feature", names)
    found, read = store.read("feature", items(names)[::-1], "user")
    assert found == names[::-1] and (read == data[::-1]).all()


def test_half_an_upload_is_never_read(store: Store) -> None:
    store.put("feature", keys(2), "user", rows(2))
    store.confirm("feature", keys(1))
    assert [row.key for row in store.rows("feature", "pending")] == keys(2)[1:]
    with pytest.raises(MissingFile, match="item item001 is not in the store"):
        store.read("feature", items(keys(2)))
    assert store.sweep(older_than_s=-1.0) == 1 and [
        row.key for row in store.rows("feature")
    ] == keys(1)


def test_a_ready_row_stays_and_a_pending_one_is_replaced(store: Store) -> None:
    store.put("feature", keys(2), "user", rows(2))
    store.confirm("feature", keys(1))
    assert store.put("feature", keys(2, "v2"), "user", rows(2, seed=2)) == 1
    store.confirm("feature", keys(2, "v2"))
    found, read = store.read("feature", items(keys(2)))
    assert [key.version for key in found] == ["v1", "v2"]
    assert (read[0] == rows(2)[0]).all() and (read[1] == rows(2, seed=2)[1]).all()


def test_another_owners_item_is_refused(store: Store) -> None:
    store.put("feature", keys(1), "user", rows(1))
    with pytest.raises(InputError, match="belongs to someone else"):
        store.put("feature", keys(1), "other", rows(1))
    store.confirm("feature", keys(1))
    with pytest.raises(MissingFile):
        store.read("feature", items(keys(1)), "other")
    assert store.delete(items(keys(1)), "other") == 0 and store.delete(items(keys(1)), "user") == 1


@pytest.mark.parametrize(
    "names, data",
    [(keys(2), rows(3)), (keys(1) * 2, rows(2)), (keys(1), rows(1).astype(np.uint16))],
)
def test_rows_that_do_not_fit_their_names(store: Store, names: list[RowKey], data: Matrix) -> None:
    with pytest.raises(BadFrame):
        store.put("feature", names, "user", data)
    assert not store.rows("feature") and not [*store.folder.glob("*.seg")]


def test_segments_go_with_their_last_row(store: Store) -> None:
    store.put("feature", keys(2), "user", rows(2))
    assert len([*store.folder.glob("*.seg")]) == 1
    store.delete_rows("feature", keys(1))
    assert len([*store.folder.glob("*.seg")]) == 1
    store.delete_rows("feature", keys(2))
    assert not [*store.folder.glob("*.seg")] and store.info() == {"bytes": 0}


def test_it_is_all_there_after_reopening(tmp_path: Path) -> None:
    with Store(tmp_path, 1) as store:
        store.put("feature", keys(3), "user", rows(3))
        store.confirm("feature", keys(3))
        store.pair("p" * 32)
        (tmp_path / f"{'0' * 32}.seg").write_bytes(
            b"of a process that died before the manifest was written"
        )
    with Store(tmp_path, 1) as store:
        assert (
            store.read("feature", items(keys(3)))[1] == rows(3)
        ).all() and store.store_pair_id == "p" * 32
        assert store.verify() == len([*tmp_path.glob("*.seg")]) == 1 and store.kinds() == [
            "feature"
        ]


def test_stores_that_do_not_belong_together(store: Store, tmp_path: Path) -> None:
    store.pair("a" * 32)
    store.pair("a" * 32)
    with pytest.raises(CorruptStore, match="belongs to pair aaaaaaaa, not bbbbbbbb"):
        store.pair("b" * 32)
    with pytest.raises(ConfigError, match="another process holds"):
        Store(store.folder, 0)
    store.close()
    with pytest.raises(ConfigError, match="has party 0, not 1.*its own state folder"):
        Store(store.folder, 1)


@pytest.mark.parametrize("damage", ["a flipped bit", "cut short", "gone"])
def test_damage_is_found(store: Store, damage: str) -> None:
    store.put("feature", keys(3), "user", rows(3))
    store.confirm("feature", keys(3))
    [path] = store.folder.glob("*.seg")
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        data[0] ^= 1
        path.write_bytes(data if damage == "a flipped bit" else data[:17])
    with pytest.raises(CorruptStore, match=r"SHA-256 is not the one in the manifest"):
        store.verify()
    if damage != "a flipped bit":
        with pytest.raises(CorruptStore, match="cannot be read"):
            store.read("feature", items(keys(3)))


def test_notes_are_written_once(store: Store) -> None:
    assert store.noted("index") is None
    assert (
        store.note("index", "first")
        == "first"
        == store.note("index", "second")
        == store.noted("index")
    )
