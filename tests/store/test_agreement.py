"""What a store keeps to agree with the other one: states, digest of ready rows, changes."""

from pathlib import Path

import numpy as np
import pytest

from gpumpc.errors import MissingFile
from gpumpc.store import RowKey, Store
from tests.store.shares import KIND, fill, items, keys, rows

OTHER = "index/owner/archive"


def recomputed(store: Store, folder: Path) -> str:
    """The digest of a new store with the same ready rows, added in another order."""
    with Store(folder, 0) as fresh:
        for kind, key in reversed(store.all_rows("ready")):
            fresh.put(kind, [key], "owner", rows(1))
            fresh.confirm(kind, [key])
        return fresh.ready_digest()


def test_digest_follows_ready_rows_alone(tmp_path: Path) -> None:
    chosen, folder = np.random.default_rng(5), tmp_path / "store"
    store, seen = Store(folder, 0), set()
    for round_ in range(60):
        of_version = keys(6, version=f"v{chosen.integers(2)}")
        names = [of_version[i] for i in chosen.choice(6, 3, replace=False)]
        kind = [KIND, OTHER][chosen.integers(2)]
        match chosen.integers(7):
            case 0 | 1:
                store.put(kind, names, "owner", rows(3))
            case 2 | 3:
                store.confirm(kind, names)
            case 4:
                store.set_unpaired(kind, names)
            case 5:
                store.delete(items(names)[:1], "owner", kind[:6])
            case _:
                store.delete_rows(kind, names)
        if round_ % 20 == 19:
            store.close()
            store = Store(folder, 0)
        seen.add(store.ready_digest())
        if round_ % 5 == 4:
            assert store.ready_digest() == recomputed(store, tmp_path / f"again{round_}")
    assert len(seen) > 10
    for kind in store.kinds():
        store.delete_kind(kind)
    assert store.ready_digest() == "0" * 64
    store.close()


def test_unpaired_row_is_kept_and_not_read(store: Store) -> None:
    fill(store, 3)
    before = store.ready_digest()
    store.set_unpaired(KIND, keys(2))
    assert store.all_rows("unpaired") == [(KIND, key) for key in keys(2)]
    with pytest.raises(MissingFile):
        store.read(KIND, items(keys(1)), "owner")
    assert store.sweep(older_than_s=-1.0) == 0
    store.confirm(KIND, keys(1))
    assert store.put(KIND, keys(2, version="v2"), "owner", rows(2)) == 1
    states = store.states([(KIND, key) for key in keys(3) + [RowKey("img00001", "v2")]])
    assert states == ["ready", "absent", "ready", "pending"]
    store.confirm(KIND, keys(2, version="v2"))
    assert store.ready_digest() != before
    assert store.delete(items(keys(3)), "owner") == 3 and store.ready_digest() == "0" * 64


def test_changes_and_notes_last_until_they_are_ended(tmp_path: Path) -> None:
    with Store(tmp_path, 0) as store:
        store.begin_change("b", "second")
        store.begin_change("a", "first")
        store.begin_change("a", "another text")
        store.note("index/owner/x", "record", "owner")
    with Store(tmp_path, 0) as store:
        assert store.changes() == {"a": "first", "b": "second"}
        store.end_change("a")
        store.end_change("unknown")
        assert store.changes() == {"b": "second"} and store.noted("index/owner/x") == "record"
        store.remove_note("index/owner/x")
        assert store.noted("index/owner/x") is None
