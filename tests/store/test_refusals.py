"""Files, owners and damage that a store refuses."""

import stat
from pathlib import Path

import pytest

from gpumpc.errors import ConfigError, CorruptStore, ExposedSecret, InputError, MissingFile
from gpumpc.store import RowKey, Store
from tests.store.shares import KIND, fill, items, keys, rows, segments


def test_store_files_are_private(tmp_path: Path) -> None:
    with Store(tmp_path / "store", 0) as store:
        fill(store, 3)
        paths = {path.name.split(".")[-1]: path for path in store.folder.iterdir()}
        assert {
            "seg",
            "sqlite",
            "lock",
            "key",
            "reserve",
            "sqlite-shm",
            "sqlite-wal",
        } <= paths.keys()
        assert {stat.S_IMODE(path.stat().st_mode) for path in paths.values()} == {0o600}
        assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700


def test_folder_writable_by_others_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(ExposedSecret):
        Store(tmp_path, 0)


def test_bad_manifest_is_refused_and_the_lock_released(tmp_path: Path) -> None:
    (tmp_path / "manifest.sqlite").write_bytes(b"this is no database, it only has its name" * 100)
    for _ in range(2):
        with pytest.raises(CorruptStore, match="not a database"):
            Store(tmp_path, 0)


def test_store_of_another_format_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path, 0) as store, store._change() as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'format'")
    with pytest.raises(ConfigError, match="has format 99, not 3"):
        Store(tmp_path, 0)


def test_empty_owner_owns_no_rows(store: Store) -> None:
    fill(store, 1)
    assert store.delete(items(keys(1)), "") == 0 and len(store.rows(KIND)) == 1
    assert store.rows(KIND, owner="") == []
    with pytest.raises(MissingFile):
        store.read(KIND, items(keys(1)), "")
    with pytest.raises(InputError):
        store.put(KIND, keys(1), "", rows(1))
    assert store.delete(items(keys(1))) == 1


def test_put_with_an_item_of_another_owner_stores_nothing(store: Store) -> None:
    fill(store, 1)
    with pytest.raises(InputError):
        store.put(KIND, keys(3), "other", rows(3))
    assert len(store.rows(KIND)) == 1 and len(segments(store.folder)) == 1


def test_hostile_names_are_stored_as_names(tmp_path: Path) -> None:
    odd = ["'; DROP TABLE rows; --", "../../etc/passwd", "%", "", "日本", "a" * 10_000]
    names = [RowKey(name, name) for name in odd]
    with Store(tmp_path, 0) as store:
        store.put("'; --", names, odd[0], rows(len(odd)))
        store.confirm("'; --", names)
        found, data = store.read("'; --", odd, odd[0])
        assert found == names and (data == rows(len(odd))).all()
        assert len(segments(tmp_path)) == 1 and store.delete(["%"], odd[0]) == 1


def test_verify_finds_every_flipped_byte(store: Store) -> None:
    fill(store, 2)
    [name] = segments(store.folder)
    whole = (store.folder / name).read_bytes()
    for i in range(len(whole)):
        (store.folder / name).write_bytes(bytes(b ^ (j == i) for j, b in enumerate(whole)))
        with pytest.raises(CorruptStore, match=name):
            store.verify()
    (store.folder / name).write_bytes(whole)
    assert store.verify() == 1


@pytest.mark.parametrize("left", [0, 1, 31, 32, 33, 64, 95, 97, 128])
def test_segment_of_a_wrong_length_is_never_misread(store: Store, left: int) -> None:
    """Cut in a row, between rows, or grown: what can be read is right, and the rest is refused."""
    fill(store, 3)
    [name] = segments(store.folder)
    whole = (store.folder / name).read_bytes()
    assert len(whole) == 3 * 32
    (store.folder / name).write_bytes((whole + bytes(32))[:left])
    for i, item in enumerate(items(keys(3))):
        if left >= 32 * (i + 1):
            assert (store.read(KIND, [item])[1] == rows(3)[i]).all()
        else:
            with pytest.raises(CorruptStore, match=f"{name}.*it was cut.*backup"):
                store.read(KIND, [item])
    if left < 96:
        with pytest.raises(CorruptStore, match=name):
            store.verify()


def test_rows_of_different_sizes_are_not_read_together(store: Store) -> None:
    fill(store, 1)
    store.put(KIND, keys(1, 1), "owner", rows(1, size=8))
    store.confirm(KIND, keys(1, 1))
    with pytest.raises(CorruptStore):
        store.read(KIND, items(keys(2)))


def test_closed_store_is_an_error(tmp_path: Path) -> None:
    store = Store(tmp_path, 0)
    store.close()
    store.close()
    with pytest.raises(CorruptStore, match="closed"):
        store.put(KIND, keys(1), "owner", rows(1))
    assert not segments(tmp_path)
