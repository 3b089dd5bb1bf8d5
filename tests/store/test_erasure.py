"""A deleted row is gone from the disk: its bytes, its ciphertext after compaction, and its key."""

from pathlib import Path

import numpy as np
import pytest

from gpumpc.errors import CorruptStore, MissingFile
from gpumpc.store import RowKey, Store
from gpumpc.store.manifest import note_bytes
from tests.store.shares import KIND, fill, items, keys, rows, segments


def on_disk(*folders: Path) -> bytes:
    """All files of stores one after the other: manifest, its log and index, segments."""
    return b"\n".join(path.read_bytes() for f in folders for path in f.rglob("*") if path.is_file())


def kept_of(store: Store) -> dict[str, tuple[bytes, bytes]]:
    """By item: wrapped key, and ciphertext."""
    query = (
        "SELECT item, wrapped, file, slot_bytes, slot FROM rows "
        "JOIN segments ON segment = segments.id JOIN row_keys ON key_id = row_keys.id"
    )
    found = store._select(query)
    return {
        item: (key, store._read_slots(file, slot_bytes, [slot])[0])
        for item, key, file, slot_bytes, slot in found
    }


def test_deleted_rows_are_nowhere_in_the_folders(tmp_path: Path) -> None:
    """Ten rows at both servers, nine deleted: no plaintext, key or ciphertext of them is left."""
    folders = [tmp_path / "0", tmp_path / "1"]
    plain = [rows(10, 600, seed) for seed in (1, 2)]
    stores = [Store(folder, party) for party, folder in enumerate(folders)]
    for store, data in zip(stores, plain, strict=True):
        store.put(KIND, keys(10), "owner", data)
        store.confirm(KIND, keys(10))
    kept = [kept_of(store) for store in stores]
    secrets = [part for found in kept for pair in found.values() for part in pair]
    assert len(secrets) == 40 and all(part in on_disk(*folders) for part in secrets)
    for store in stores:
        assert store.delete(items(keys(9, 1))) == 9
    assert not [
        key
        for found in kept
        for i, (key, _) in found.items()
        if key in on_disk(*folders) and i != "img00000"
    ]
    for store in stores:
        assert store.compact(1 << 20) > 0 and store.compact(1 << 20) == 0
    left = on_disk(*folders)
    for found in kept:
        for item, parts in found.items():
            assert [part in left for part in parts] == [item == "img00000"] * 2
    assert not [row for data in plain for row in data if row.tobytes()[:16] in left]
    for store, data in zip(stores, plain, strict=True):
        assert (store.read(KIND, items(keys(1)))[1] == data[:1]).all()
        store.close()
    assert not [row for data in plain for row in data if row.tobytes()[:16] in on_disk(*folders)]


def test_no_key_survives_random_changes(tmp_path: Path) -> None:
    """Pages split and merge meanwhile: no copy of a key stays behind in them."""
    draw, seen = np.random.default_rng(3), set[bytes]()
    with Store(tmp_path, 0) as store:
        for step in range(25):
            names = [RowKey(bytes(draw.bytes(16)).hex(), "v") for _ in range(draw.integers(1, 80))]
            store.put(KIND, names, "owner", rows(len(names), 8))
            store.confirm(KIND, names)
            if step % 4 == 3:
                store.compact(1 << 16)
            found = kept_of(store)
            seen |= {key for key, _ in found.values()}
            store.delete([i for i in found if draw.integers(3) == 0])
            live = {key for key, _ in kept_of(store).values()}
            data = (tmp_path / "manifest.sqlite").read_bytes()
            data += (tmp_path / "manifest.sqlite-wal").read_bytes()
            assert all(key in data for key in live)
            assert not [key for key in seen - live if key[12:40] in data or key[-28:] in data]
    assert len(seen) > 500


def test_replaced_and_swept_rows_are_erased_too(store: Store) -> None:
    store.put(KIND, keys(3), "owner", rows(3))
    old = [part for pair in kept_of(store).values() for part in pair]
    assert all(part in on_disk(store.folder) for part in old)
    store.put(KIND, keys(3, version="v2"), "owner", rows(3))
    assert not [part for part in old if part in on_disk(store.folder)]
    newer = [part for pair in kept_of(store).values() for part in pair]
    assert store.sweep(-1.0) == 3 and not segments(store.folder)
    assert not [part for part in newer if part in on_disk(store.folder)]


def test_a_log_left_by_a_crash_is_erased_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(tmp_path / "store", 0) as store:
        fill(store, 4)
        keys_of = {item: key for item, (key, _) in kept_of(store).items()}
        monkeypatch.setattr(store, "_erase", lambda: None)
        store.delete(items(keys(3)))
        copy = tmp_path / "copy"
        copy.mkdir(mode=0o700)
        for path in store.folder.iterdir():  # as a crash would leave them
            (copy / path.name).write_bytes(path.read_bytes())
            (copy / path.name).chmod(0o600)
        monkeypatch.undo()
    assert all(key in on_disk(copy) for key in keys_of.values())
    with Store(copy, 0):
        found = [item for item, key in keys_of.items() if key in on_disk(copy)]
    assert found == ["img00003"]


def test_a_row_in_the_place_of_another_is_refused(store: Store) -> None:
    """Ciphertexts, or keys, or owners exchanged: never another row's bytes."""
    fill(store, 2)
    swap = "UPDATE rows SET slot = 1 - slot"
    with store._change() as db:
        db.execute(swap)
    with pytest.raises(CorruptStore, match=r"\.seg cannot be read.*item img00000"):
        store.read(KIND, items(keys(1)))
    with store._change() as db:
        db.execute(swap)
        db.execute("UPDATE rows SET key_id = 3 - key_id")
    with pytest.raises(CorruptStore, match=r"manifest\.sqlite was changed.*key of item img00000"):
        store.read(KIND, items(keys(1)))
    with store._change() as db:
        db.execute("UPDATE rows SET key_id = 3 - key_id")
    assert (store.read(KIND, items(keys(1, 1)))[1] == rows(2)[1:]).all()
    with store._change() as db:
        db.execute("UPDATE rows SET owner = 'thief' WHERE item = 'img00001'")
    with pytest.raises(CorruptStore, match="manifest"):
        store.read(KIND, items(keys(1, 1)), "thief")


def test_a_changed_note_is_refused(store: Store) -> None:
    store.note("index/o/a", "metric l2", "o")
    assert store.held_bytes("o") == note_bytes("index/o/a", "metric l2")
    with store._change() as db:
        db.execute("UPDATE notes SET text = 'metric ip'")
    for read in (lambda: store.noted("index/o/a"), store.notes):
        with pytest.raises(CorruptStore, match="manifest.*index/o/a"):
            read()


def test_deleted_rows_cannot_be_read_from_a_backup_of_segments(store: Store) -> None:
    """A segment put back from a backup holds the ciphertext, and nothing holds the key."""
    fill(store, 3)
    [name] = segments(store.folder)
    backup = (store.folder / name).read_bytes()
    store.delete(items(keys(2)))
    (store.folder / name).write_bytes(backup)
    with pytest.raises(MissingFile):
        store.read(KIND, items(keys(1)))
    assert (store.read(KIND, items(keys(1, 2)))[1] == rows(3)[2:]).all()
