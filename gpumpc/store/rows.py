"""A server's shares at rest: encrypted rows of a fixed size in segments, and their manifest.

A row belongs to an item and a kind ("input/PLAN", "feature/PLAN"); its version names the random
values behind the share (an upload, or a session and batch). Only when both servers hold the same
version is the row *ready*: half an upload is never used, and `sweep` removes it. A row that the
other server has lost is *unpaired*: it is not used, and is kept in case the other finds it again or
its owner shares it anew. Each row is encrypted under a key of its own, which the manifest keeps
under the master key: a row is erased with its entry in the manifest.
"""

import itertools
import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from gpumpc.errors import BadFrame, ConfigError, CorruptStore, InputError, MissingFile
from gpumpc.offline.secret import Secret, lock_file, private_folder
from gpumpc.store.disk_reserve import is_full
from gpumpc.store.manifest import RowKey, note_bytes, row_entry_bytes
from gpumpc.store.master_key import KeySource, unlock
from gpumpc.store.row_cipher import TAG_BYTES, RowCipher, RowName, WrongTag, check_value
from gpumpc.store.segments import Matrix, SegmentFolder, segment_bytes

UNLIMITED = 1 << 62
MAX_NOTES = 1000
# What is rewritten at a time to find room for an owner who has deleted rows.
_ROOM_BYTES = 64 << 20
# Rows deleted in one transaction where the disk is full: their pages fit in the reserve.
_GROUP = 32
_STATES = ("pending", "ready", "unpaired")


class Store(SegmentFolder):
    """One server's store; open in one process at a time, usable from several of its threads.

    Args:
        folder: made (0700) where missing.
        party: 0 or 1.
        key: where its master key is; without it, the file `master.key` in the folder, which
            protects no copy of the whole folder. A file that is missing is made at first.
        capacity_bytes: what all of one owner's rows and notes may take on the disk.

    Raises ConfigError if another process has it open, it is of the other party, or its master key
    is missing or another one; CorruptStore if it cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        party: int,
        key: KeySource | None = None,
        capacity_bytes: int = UNLIMITED,
    ) -> None:
        folder = private_folder(Path(folder))
        self._key_source = key or KeySource("file", str(folder / "master.key"))
        self._capacity_bytes = capacity_bytes
        self._lock_descriptor = lock_file(folder / "lock", f"the store {folder}")
        try:
            super().__init__(folder, party)
            self._cipher = RowCipher(self._unlock())
            with self._explained():
                self._check_manifest()
                self._sweep_files()
                self._erase()
            self._reserve.keep()
        except BaseException:
            self.close()
            raise

    def _unlock(self) -> Secret:
        known = self._meta("master key check")
        if known is not None:
            return unlock(self._key_source, lambda key: check_value(key) == known)
        if self._select("SELECT 1 FROM rows LIMIT 1"):
            raise self._changed("it lacks the check value of its master key")
        key = self._key_source.read() or self._key_source.make()
        with self._change() as db:
            db.execute("INSERT INTO meta VALUES ('master key check', ?)", (check_value(key),))
        return key

    def _check_manifest(self) -> None:
        """Raises CorruptStore where any row's entry was changed: its key is bound to its names."""
        super()._check_manifest()
        query = (
            "SELECT kind, item, version, owner, wrapped FROM rows LEFT JOIN row_keys ON key_id = id"
        )
        for *name, wrapped in self._select(query):
            self._unwrap(RowName(*name), wrapped)

    # rows

    def put(self, kind: str, keys: Sequence[RowKey], owner: str, rows: Matrix) -> int:
        """Add rows (n, row_bytes) as pending, except of ready items; how many were added.

        Raises BadFrame where keys and rows do not fit, InputError for an item of another owner,
        ConfigError where the disk is full or the owner has no room; then nothing is stored.
        """
        if len(keys) != len(rows) or len({key.item for key in keys}) != len(keys):
            what = f"{len(keys)} names came for {len(rows)} rows, or one name twice"
            raise BadFrame(what, hint="send them again")
        if rows.ndim != 2 or rows.dtype != np.uint8 or (len(rows) and not rows.shape[1]):
            what = f"rows of shape {rows.shape} and type {rows.dtype} came"
            raise BadFrame(what, "a row is bytes", "send them again")
        with self._read():
            fresh = [i for i, key in enumerate(keys) if not self._is_settled(kind, key.item, owner)]
            if fresh:
                chosen = [keys[i] for i in fresh]
                self._check_disk()
                self.check_room(owner, _put_bytes(kind, chosen, owner, rows.shape[1]))
                self._append(kind, chosen, owner, rows[fresh])
            return len(fresh)

    def _check_disk(self) -> None:
        if not self._reserve.keep():
            what = f"there is no room on the disk of the store {self.folder}"
            raise ConfigError(what, "the disk is full", "delete items, or free some space on it")

    def check_room(self, owner: str, n_bytes: int) -> None:
        """Raises ConfigError where an owner's part of the disk has no room for so many bytes."""
        if self.held_bytes(owner) + n_bytes > self._capacity_bytes:
            self.compact(_ROOM_BYTES, owner)
        held = self.held_bytes(owner)
        if held + n_bytes > self._capacity_bytes:
            raise ConfigError(
                f"there is no room for {n_bytes} bytes more of {owner}",
                f"the rows and indexes of {owner} take {held} of {self._capacity_bytes} bytes on "
                "this disk",
                "delete items or indexes that are not needed any more (`gpumpc delete`), or raise "
                "`uploads` in the servers' configurations",
            )

    def check_note(self, name: str, text: str, owner: str) -> None:
        """Raises ConfigError where an owner has no room for a note, or too many notes."""
        if self.noted(name) is not None:
            return
        if (n_notes := self.n_notes(owner)) >= MAX_NOTES:
            what, why = f"there is no room for another index of {owner}", f"it has {n_notes}"
            raise ConfigError(what, why, "delete indexes that are not needed any more")
        self._check_disk()
        self.check_room(owner, note_bytes(name, text))

    def _is_settled(self, kind: str, item: str, owner: str) -> bool:
        query = "SELECT owner, state FROM rows WHERE kind = ? AND item = ?"
        found = self._db.execute(query, (kind, item)).fetchone()
        if found and found[0] != owner:
            what = f"item {item[:8]} belongs to someone else"
            raise InputError(what, "item ids are random", "draw a new id")
        return bool(found) and found[1] == "ready"

    def _append(self, kind: str, keys: list[RowKey], owner: str, rows: Matrix) -> None:
        names = [RowName(kind, key.item, key.version, owner) for key in keys]
        wrapped, slots = self._cipher.encrypt(names, rows)
        with self._new_segment(owner, slots) as (db, segment):
            old = [(kind, key.item) for key in keys]
            gone = "DELETE FROM rows WHERE kind = ? AND item = ?"
            n_replaced = db.executemany(gone, old).rowcount
            now = time.time()
            entries = [
                (*name, segment, slot, now, key_id, row_entry_bytes(kind, keys[slot], owner))
                for slot, (name, key_id) in enumerate(
                    zip(names, _add_keys(db, wrapped), strict=True)
                )
            ]
            add = "INSERT INTO rows VALUES (?, ?, ?, ?, 'pending', ?, ?, ?, ?, ?)"
            db.executemany(add, entries)
        if n_replaced:
            self._drop_unused()
            self._erase()

    def read(
        self, kind: str, items: Sequence[str], owner: str | None = None
    ) -> tuple[list[RowKey], Matrix]:
        """Keys and bytes (n, row_bytes) of ready rows.

        Raises MissingFile, CorruptStore naming the file where a row is not what was put,
        ConfigError for an error that passes.
        """
        query = (
            "SELECT version, rows.owner, state, wrapped, file, slot_bytes, slot FROM rows "
            "LEFT JOIN segments ON segment = segments.id "
            "LEFT JOIN row_keys ON key_id = row_keys.id WHERE kind = ? AND item = ?"
        )
        names, places = [], []
        with self._read():
            for item in items:
                found = self._db.execute(query, (kind, item)).fetchone()
                if found is not None and found[2] not in _STATES:
                    raise self._changed(f"item {item[:8]} has an unknown state")
                if found is None or owner not in (None, found[1]) or found[2] != "ready":
                    raise MissingFile(
                        f"item {item[:8]} is not in the store",
                        "it was never shared here, is not extracted yet, was deleted, or belongs "
                        "to someone else",
                        "see `gpumpc list`, and share it again",
                    )
                names.append(RowName(kind, item, found[0], found[1]))
                places.append(found[3:])
            rows = self._decrypted(names, places)
        return [RowKey(name.item, name.version) for name in names], rows

    def _decrypted(
        self, names: list[RowName], places: list[tuple[bytes, str | None, int, int]]
    ) -> Matrix:
        """Rows by name, from wrapped key, file, slot size and slot."""
        out: list[bytes] = [b""] * len(names)
        for i, (_, file, slot_bytes, slot) in enumerate(places):
            if file is None or not (isinstance(slot, int) and isinstance(slot_bytes, int)):
                raise self._changed(f"item {names[i].item[:8]} is in no segment of it")
        by_file = sorted(range(len(names)), key=lambda i: (str(places[i][1]), places[i][3]))
        for file, group in itertools.groupby(by_file, key=lambda i: str(places[i][1])):
            chosen = [*group]
            slots = [places[i][3] for i in chosen]
            slot_bytes = places[chosen[0]][2]
            data = self._read_slots(file, slot_bytes, slots)
            for i, row in zip(chosen, data, strict=True):
                out[i] = self._decrypt(names[i], places[i][0], file, row)
        if len({len(row) for row in out}) > 1:
            what = f"rows of {names[0].kind} in {self.folder} have different sizes"
            raise CorruptStore(what, "they were put for different plans", "delete and share again")
        return np.frombuffer(b"".join(out), dtype=np.uint8).reshape(len(out), -1 if out else 0)

    def _decrypt(self, name: RowName, wrapped: bytes, file: str, data: bytes) -> bytes:
        try:
            return self._cipher.decrypt(name, self._unwrap(name, wrapped), data)
        except WrongTag as error:
            why = f"item {name.item[:8]} in it is not what was put: a byte was changed"
            raise self._unreadable(file, why) from error

    def _unwrap(self, name: RowName, wrapped: bytes) -> bytes:
        try:
            return self._cipher.unwrap(name, wrapped)
        except (WrongTag, TypeError) as error:
            raise self._changed(f"the key of item {name.item[:8]} is not what was put") from error

    # deleting

    def delete(self, items: Iterable[str], owner: str | None = None, prefix: str = "") -> int:
        """Erase all rows of items, of kinds that begin with `prefix`; how many there were.

        Where the disk is full, rows are erased in groups: a crash may then leave some of them.
        """
        query = (
            "DELETE FROM rows WHERE kind = ? AND item = ? AND (? IS NULL OR owner = ?) "
            "RETURNING kind, item, version, state"
        )
        with self._read():
            kinds = [kind for kind in self.kinds() if kind.startswith(prefix)]
            places = itertools.product(kinds, items)  # a query by item alone would read all rows
            return self._delete(query, [(*place, owner, owner) for place in places])

    def delete_rows(self, kind: str, keys: Iterable[RowKey]) -> int:
        """Erase rows by kind and version; how many there were."""
        query = (
            "DELETE FROM rows WHERE kind = ? AND item = ? AND version = ? "
            "RETURNING kind, item, version, state"
        )
        return self._delete(query, [(kind, key.item, key.version) for key in keys])

    def delete_kind(self, kind: str) -> None:
        """Erase all rows of a kind."""
        with self._read():
            self.delete_rows(kind, [row.key for row in self.rows(kind)])

    def sweep(self, older_than_s: float) -> int:
        """Erase rows that have been pending for longer: half uploads; how many there were."""
        query = (
            "DELETE FROM rows WHERE kind = ? AND item = ? AND state = 'pending' "
            "RETURNING kind, item, version, state"
        )
        old = "SELECT kind, item FROM rows WHERE state = 'pending' AND since < ?"
        with self._read():
            return self._delete(query, self._select(old, time.time() - older_than_s))

    def _delete(self, query: str, values: list[tuple[object, ...]]) -> int:
        """Run a query that deletes rows, for each tuple of its values; how many there were."""
        with self._read():
            try:
                n_rows = self._delete_group(query, values)
            except ConfigError as error:
                if not is_full(error):
                    raise
                self._reserve.release()  # unless what begins the change has done so
                groups = (values[i : i + _GROUP] for i in range(0, len(values), _GROUP))
                n_rows = sum(self._delete_group(query, group) for group in groups)
            self._drop_unused()
            self._reserve.keep()
        return n_rows

    def _delete_group(self, query: str, values: list[tuple[object, ...]]) -> int:
        with self._change() as db:
            found = [row for chosen in values for row in db.execute(query, chosen).fetchall()]
            self._shift_digest(db, removed=[row[:3] for row in found if row[3] == "ready"])
        if found:
            self._erase()
        return len(found)

    # the master key

    def rotate_key(self, to: KeySource | None = None) -> int:
        """Encrypt all rows' keys under a new master key; how many rows there are.

        Args:
            to: where the new key is, or is made; without it, a new key takes the place of the old
                one in its file.

        It can be interrupted anywhere: the store opens with the old key until all is done, and then
        with the new one alone. Raises ConfigError.
        """
        source = to or self._key_source.successor
        if to is None:
            if self._key_source.kind != "file":
                what = f"the master key in {self._key_source} cannot be replaced here"
                hint = "put a new key in a place of its own and name it with --to"
                raise ConfigError(what, "that place belongs to the operator", hint)
            # Left by a rotation that was interrupted before it changed anything.
            Path(source.name).unlink(missing_ok=True)
        key = source.read() or source.make()
        n_rows = self._rewrap(key)
        if to is None:
            self._key_source.succeed()
        return n_rows

    def _rewrap(self, key: Secret) -> int:
        cipher = RowCipher(key)
        query = "SELECT kind, item, version, owner, wrapped, key_id FROM rows LEFT JOIN row_keys "
        query += "ON key_id = id"
        with self._change() as db:
            entries = db.execute(query).fetchall()
            names = [RowName(*entry[:4]) for entry in entries]
            keys = [
                self._unwrap(name, entry[4]) for name, entry in zip(names, entries, strict=True)
            ]
            wrapped = map(cipher.wrap, names, keys)
            ids = [entry[5] for entry in entries]
            change = "UPDATE row_keys SET wrapped = ? WHERE id = ?"
            db.executemany(change, zip(wrapped, ids, strict=True))
            change = "UPDATE meta SET value = ? WHERE key = 'master key check'"
            db.execute(change, (check_value(key),))
        self._cipher = cipher
        self._erase()
        return len(entries)

    # for people

    def info(self, owner: str | None = None) -> dict[str, int]:
        """Rows by kind and state, of one owner or of all, and the bytes of all on disk."""
        query = "SELECT kind, state, count(*) FROM rows WHERE ? IS NULL OR owner = ? GROUP BY 1, 2"
        with self._read():
            counted = self._select(query, owner, owner)
            [[n_bytes]] = self._select("SELECT sum(n_bytes) FROM usage")
        return {**{f"{kind} {state}": n for kind, state, n in counted}, "bytes": int(n_bytes or 0)}

    def verify(self) -> int:
        """Decrypt every row and check the manifest; how many segments there are. Raises
        CorruptStore."""
        query = (
            "SELECT kind, item, version, owner, wrapped, slot FROM rows "
            "LEFT JOIN row_keys ON key_id = id WHERE segment = ? ORDER BY slot"
        )
        with self._read():
            self._check_manifest()
            segments = self._segments()
            for segment in segments:
                found = self._select(query, segment.id)
                place = (segment.file, segment.slot_bytes)
                for row in found:
                    self._decrypted([RowName(*row[:4])], [(row[4], *place, row[5])])
        return len(segments)

    def close(self) -> None:
        """Close the store and release it to other processes; safe to call twice."""
        with self._lock:
            super().close()
            if self._lock_descriptor >= 0:
                os.close(self._lock_descriptor)
            self._lock_descriptor = -1


def _add_keys(db: sqlite3.Connection, wrapped: list[bytes]) -> list[int]:
    """Write wrapped keys over erased ones, then behind all; their ids."""
    free = "SELECT id FROM row_keys WHERE free = 1 LIMIT ?"
    ids = [int(row[0]) for row in db.execute(free, (len(wrapped),)).fetchall()]
    reuse = "UPDATE row_keys SET wrapped = ?, free = 0 WHERE id = ?"
    db.executemany(reuse, zip(wrapped, ids, strict=False))
    [[last]] = db.execute("SELECT coalesce(max(id), 0) FROM row_keys").fetchall()
    ids += range(last + 1, last + 1 + len(wrapped) - len(ids))
    new = [(key_id, key) for key_id, key in zip(ids, wrapped, strict=True) if key_id > last]
    db.executemany("INSERT INTO row_keys VALUES (?, ?, 0)", new)
    return ids


def _put_bytes(kind: str, keys: Sequence[RowKey], owner: str, row_bytes: int) -> int:
    """What new rows take on the disk."""
    entries = sum(row_entry_bytes(kind, key, owner) for key in keys)
    return entries + segment_bytes(len(keys), row_bytes + TAG_BYTES)
