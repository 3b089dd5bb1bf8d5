"""Shares at rest: pending until both servers have them, whole or not at all, one party's alone."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from gpumpc.errors import BadFrame, ConfigError, CorruptStore, InputError, MissingFile
from gpumpc.store import RowKey, Store
from gpumpc.store.segments import Matrix
from tests.store.shares import KIND, fill, items, keys, rows, segments


def test_confirmed_rows_are_read_in_any_order(store: Store) -> None:
    names, data = keys(5), rows(5)
    assert store.put(KIND, names, "owner", data) == 5
    store.confirm(KIND, names)
    found, read = store.read(KIND, items(names)[::-1], "owner")
    assert found == names[::-1] and (read == data[::-1]).all()


def test_pending_rows_are_never_read(store: Store) -> None:
    store.put(KIND, keys(2), "owner", rows(2))
    store.confirm(KIND, keys(1))
    assert [row.key for row in store.rows(KIND, "pending")] == keys(2)[1:]
    with pytest.raises(MissingFile, match="item img00001 is not in the store"):
        store.read(KIND, items(keys(2)))
    assert store.sweep(older_than_s=-1.0) == 1 and [row.key for row in store.rows(KIND)] == keys(1)


def test_a_ready_row_stays_and_a_pending_one_is_replaced(store: Store) -> None:
    store.put(KIND, keys(2), "owner", rows(2))
    store.confirm(KIND, keys(1))
    assert store.put(KIND, keys(2, version="v2"), "owner", rows(2, seed=2)) == 1
    store.confirm(KIND, keys(2, version="v2"))
    found, read = store.read(KIND, items(keys(2)))
    assert [key.version for key in found] == ["v1", "v2"]
    assert (read[0] == rows(2)[0]).all() and (read[1] == rows(2, seed=2)[1]).all()


def test_another_owners_item_is_refused(store: Store) -> None:
    store.put(KIND, keys(1), "owner", rows(1))
    with pytest.raises(InputError, match="belongs to someone else"):
        store.put(KIND, keys(1), "other", rows(1))
    store.confirm(KIND, keys(1))
    with pytest.raises(MissingFile):
        store.read(KIND, items(keys(1)), "other")
    assert store.delete(items(keys(1)), "other") == 0 and store.delete(items(keys(1)), "owner") == 1


@pytest.mark.parametrize(
    "names, data",
    [
        (keys(2), rows(3)),
        (keys(1) * 2, rows(2)),
        (keys(1), rows(1).astype(np.uint16)),
        (keys(2), rows(2).reshape(2, 4, 4)),
        (keys(2), rows(2)[:, 0]),
        (keys(2), rows(2, size=0)),
    ],
)
def test_rows_that_do_not_match_their_names_are_refused(
    store: Store, names: list[RowKey], data: Matrix
) -> None:
    with pytest.raises(BadFrame):
        store.put(KIND, names, "owner", data)
    assert not store.rows(KIND) and not segments(store.folder)


def test_segment_is_deleted_with_its_last_row(store: Store) -> None:
    store.put(KIND, keys(2), "owner", rows(2))
    assert len(segments(store.folder)) == 1
    store.delete_rows(KIND, keys(1))
    assert len(segments(store.folder)) == 1
    store.delete_rows(KIND, keys(2))
    assert not segments(store.folder) and store.info() == {"bytes": 0}


def test_rows_survive_reopening(tmp_path: Path) -> None:
    with Store(tmp_path, 1) as store:
        store.put(KIND, keys(3), "owner", rows(3))
        store.confirm(KIND, keys(3))
        store.pair("p" * 32)
        (tmp_path / f"{'0' * 32}.seg").write_bytes(b"of a process that died before its commit")
    with Store(tmp_path, 1) as store:
        assert (store.read(KIND, items(keys(3)))[1] == rows(3)).all()
        assert store.store_pair_id == "p" * 32
        assert store.verify() == len(segments(tmp_path)) == 1 and store.kinds() == [KIND]


def test_store_of_another_pair_or_party_is_refused(store: Store, tmp_path: Path) -> None:
    store.pair("a" * 32)
    store.pair("a" * 32)
    with pytest.raises(CorruptStore, match="belongs to pair aaaaaaaa, not bbbbbbbb"):
        store.pair("b" * 32)
    with pytest.raises(ConfigError, match="another process holds"):
        Store(store.folder, 0)
    store.close()
    with pytest.raises(ConfigError, match="has party 0, not 1.*its own state folder"):
        Store(store.folder, 1)


@pytest.mark.parametrize(
    "damage, why",
    [
        ("a flipped bit", "item img00001 in it is not what was put"),
        ("cut short", "it ends before row 1: it was cut"),
        ("gone", "it is missing"),
    ],
)
def test_damage_is_found_and_the_file_named(store: Store, damage: str, why: str) -> None:
    fill(store, 3)
    [path] = store.folder.glob("*.seg")
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.unlink()
    if damage != "gone":
        path.write_bytes(data if damage == "a flipped bit" else data[:47])
    message = f"{path.name} cannot be read.*{why}.*restore it from this server's backup"
    with pytest.raises(CorruptStore, match=message):
        store.verify()
    with pytest.raises(CorruptStore, match=message):
        store.read(KIND, items(keys(2, 1)))
    if damage != "gone":
        assert (store.read(KIND, items(keys(1)))[1] == rows(1)).all()


def test_notes_are_written_once(store: Store) -> None:
    assert store.noted("index") is None
    assert store.note("index", "first", "owner") == "first"
    assert store.note("index", "second", "owner") == "first"
    assert store.noted("index") == "first"


def test_same_upload_twice_is_stored_once(store: Store) -> None:
    assert store.put(KIND, keys(2), "owner", rows(2)) == 2
    # Pending: the second takes the place of the first.
    assert store.put(KIND, keys(2), "owner", rows(2)) == 2
    store.confirm(KIND, keys(2))
    assert store.put(KIND, keys(2), "owner", rows(2, seed=9)) == 0
    assert len(store.rows(KIND)) == 2 and (store.read(KIND, items(keys(2)))[1] == rows(2)).all()
    store.sweep(0.0)
    assert len(segments(store.folder)) == 1


def test_confirming_another_version_confirms_nothing(store: Store) -> None:
    """The old upload's confirmation comes late: the row in its place is another one."""
    store.put(KIND, keys(1), "owner", rows(1))
    store.put(KIND, keys(1, version="v2"), "owner", rows(1, seed=2))
    store.confirm(KIND, keys(1))
    store.confirm("feature/other", keys(1, version="v2"))
    with pytest.raises(MissingFile):
        store.read(KIND, items(keys(1)))
    store.delete_rows(KIND, keys(1))
    assert [row.key.version for row in store.rows(KIND)] == ["v2"]


def test_sweep_deletes_only_old_pending_rows(store: Store) -> None:
    fill(store, 2)
    store.put(KIND, keys(2, 2), "owner", rows(2))
    assert store.sweep(60.0) == 0
    with store._change() as db:
        db.execute("UPDATE rows SET since = since - 61 WHERE item IN (?, ?)", items(keys(2, 1)))
    assert store.sweep(60.0) == 1
    assert [row.key for row in store.rows(KIND)] == [*keys(2), *keys(1, 3)]


def test_kinds_are_separate_and_delete_covers_all(store: Store) -> None:
    for i, kind in enumerate(("input/plan", "feature/plan")):
        store.put(kind, keys(2), "owner", rows(2, size=8 * (i + 1)))
        store.confirm(kind, keys(2))
    assert store.read("input/plan", items(keys(1)))[1].shape == (1, 8)
    n_bytes = store.info().pop("bytes")
    assert store.info() == {"input/plan ready": 2, "feature/plan ready": 2, "bytes": n_bytes}
    assert store.delete(items(keys(1))) == 2 and store.info()["bytes"] < n_bytes
    assert store.delete(items(keys(2))) == 2 and store.info() == {"bytes": 0}


def test_empty_put_and_read_do_nothing(store: Store) -> None:
    assert store.put(KIND, [], "owner", rows(0)) == 0 and not segments(store.folder)
    found, data = store.read(KIND, [])
    assert found == [] and len(data) == 0


def test_threads_write_and_read_independently(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def work(store: Store, place: int) -> None:
        try:
            for i in range(5):
                start = 100 * place + 4 * i
                fill(store, 4, start, seed=start)
                assert (store.read(KIND, items(keys(4, start)))[1] == rows(4, seed=start)).all()
                store.delete(items(keys(1, start)))
        except BaseException as error:  # raised again below
            errors.append(error)

    with Store(tmp_path, 0) as store:
        threads = [threading.Thread(target=work, args=(store, place)) for place in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert store.verify() == 20 and store.info()[f"{KIND} ready"] == 60


def test_64_of_20000_rows_are_read(store: Store) -> None:
    data = rows(20_000, size=600)
    for start in range(0, 20_000, 4000):
        store.put(KIND, keys(4000, start), "owner", data[start : start + 4000])
        store.confirm(KIND, keys(4000, start))
    chosen = np.random.default_rng(3).permutation(20_000)[:64]
    found, read = store.read(KIND, [f"img{i:05}" for i in chosen])
    assert (read == data[chosen]).all()
    assert items(found) == [f"img{i:05}" for i in chosen]
    assert store.verify() == 5 and os.listdir(store.folder).count("lock") == 1
