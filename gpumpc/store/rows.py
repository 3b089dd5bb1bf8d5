"""A server's shares at rest: fixed-size rows in append-only segments, and their manifest.

A row belongs to an item and a kind ("input/PLAN", "feature/PLAN"); its version names the random
values behind the share (an upload, or a session and batch). Only when both servers hold the same
version is the row *ready*: half an upload is never used, and `sweep` removes it. A row that the
other server has lost is *unpaired*: it is not used, and is kept in case the other finds it again or
its owner shares it anew. A segment is written and synced before the manifest mentions it; a segment
that the manifest does not mention is deleted at the next opening.
"""

import contextlib
import hashlib
import os
import secrets
import sqlite3
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpumpc.errors import BadFrame, ConfigError, CorruptStore, InputError, MissingFile
from gpumpc.offline.secret import lock_file, private_folder, sync_folder, write_private
from gpumpc.store.manifest import Manifest, Row, RowKey

Matrix = npt.NDArray[np.uint8]
_ROWS = "SELECT item, version, owner, state FROM rows WHERE kind = ?"


class Store(Manifest):
    """One server's store; open in one process at a time, usable from several of its threads.

    Args:
        folder: made (0700) where missing.
        party: 0 or 1.

    Raises ConfigError if another process has it open or it is of the other party, CorruptStore if
    it cannot be read.
    """

    def __init__(self, folder: Path, party: int) -> None:
        folder = private_folder(Path(folder))
        self._lock_descriptor = lock_file(folder / "lock", f"the store {folder}")
        try:
            super().__init__(folder, party)
            with self._explained():
                self._sweep_files()
        except BaseException:
            self.close()
            raise

    def _sweep_files(self) -> None:
        known = {row[0] for row in self._db.execute("SELECT file FROM segments")}
        for path in self.folder.glob("*.seg"):
            if path.name not in known:
                path.unlink()

    # rows

    def put(self, kind: str, keys: Sequence[RowKey], owner: str, rows: Matrix) -> int:
        """Add rows (n, row_bytes) as pending, except of ready items; how many were added.

        Raises BadFrame where keys and rows do not fit, InputError for an item of another owner,
        ConfigError for a full disk; then nothing is stored.
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
                self._append(kind, [keys[i] for i in fresh], owner, rows[fresh])
            return len(fresh)

    def _is_settled(self, kind: str, item: str, owner: str) -> bool:
        query = "SELECT owner, state FROM rows WHERE kind = ? AND item = ?"
        found = self._db.execute(query, (kind, item)).fetchone()
        if found and found[0] != owner:
            what = f"item {item[:8]} belongs to someone else"
            raise InputError(what, "item ids are random", "draw a new id")
        return bool(found) and found[1] == "ready"

    def _append(self, kind: str, keys: list[RowKey], owner: str, rows: Matrix) -> None:
        data = np.ascontiguousarray(rows).tobytes()
        name = f"{secrets.token_hex(16)}.seg"
        write_private(self.folder / name, data)
        try:
            sync_folder(self.folder)
            self._enter(kind, keys, owner, name, data, rows.shape[1])
        except (ConfigError, OSError):  # rolled back, so the manifest does not name the segment
            (self.folder / name).unlink(missing_ok=True)
            raise

    def _enter(
        self, kind: str, keys: list[RowKey], owner: str, name: str, data: bytes, row_bytes: int
    ) -> None:
        add = "INSERT INTO segments (file, row_bytes, n_rows, sha256) VALUES (?, ?, ?, ?)"
        digest = hashlib.sha256(data).hexdigest()
        with self._change() as db:
            segment = db.execute(add, (name, row_bytes, len(keys), digest)).lastrowid
            now = time.time()
            query = "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, 'pending', ?, ?, ?)"
            rows = [
                (kind, key.item, key.version, owner, segment, slot, now)
                for slot, key in enumerate(keys)
            ]
            db.executemany(query, rows)

    def confirm(self, kind: str, keys: Iterable[RowKey]) -> None:
        """Make rows ready, as both servers hold them."""
        update = (
            "UPDATE rows SET state = 'ready' "
            "WHERE kind = ? AND item = ? AND version = ? AND state <> 'ready'"
        )
        with self._change() as db:
            names = [(kind, key.item, key.version) for key in keys]
            self._shift_digest(db, added=[n for n in names if db.execute(update, n).rowcount])

    def set_unpaired(self, kind: str, keys: Iterable[RowKey]) -> None:
        """Put ready rows out of use: the other server has lost them."""
        update = (
            "UPDATE rows SET state = 'unpaired' "
            "WHERE kind = ? AND item = ? AND version = ? AND state = 'ready'"
        )
        with self._change() as db:
            names = [(kind, key.item, key.version) for key in keys]
            self._shift_digest(db, removed=[n for n in names if db.execute(update, n).rowcount])

    def all_rows(self, state: str) -> list[tuple[str, RowKey]]:
        """Kind and key of every owner's rows in a state, in order."""
        query = "SELECT kind, item, version FROM rows WHERE state = ? ORDER BY kind, item"
        return [(kind, RowKey(*key)) for kind, *key in self._select(query, state)]

    def states(self, names: Sequence[tuple[str, RowKey]]) -> list[str]:
        """The state of each of these rows, "absent" where it is not here in this version."""
        query = "SELECT state FROM rows WHERE kind = ? AND item = ? AND version = ?"
        with self._read() as db:
            found = [
                db.execute(query, (kind, key.item, key.version)).fetchone() for kind, key in names
            ]
        return [str(row[0]) if row else "absent" for row in found]

    def rows(self, kind: str, state: str | None = None, owner: str | None = None) -> list[Row]:
        """Rows of a kind by item, optionally of one state or owner."""
        query, values = _ROWS, [kind]
        for column, value in (("state", state), ("owner", owner)):
            if value is not None:
                query, values = f"{query} AND {column} = ?", [*values, value]
        return [_row(*found) for found in self._select(query + " ORDER BY item", *values)]

    def find(self, kind: str, items: Iterable[str], owner: str) -> dict[str, Row]:
        """An owner's rows of these items, in any state, by item."""
        query = f"{_ROWS} AND item = ? AND owner = ?"
        with self._read():
            found = [self._db.execute(query, (kind, item, owner)).fetchone() for item in items]
        return {row[0]: _row(*row) for row in found if row is not None}

    def held_bytes(self, owner: str) -> int:
        """Bytes of all rows of an owner."""
        query = "SELECT sum(row_bytes) FROM rows JOIN segments ON segment = id WHERE owner = ?"
        [[n_bytes]] = self._select(query, owner)
        return int(n_bytes or 0)

    def kinds(self) -> list[str]:
        """Kinds that have rows."""
        return [row[0] for row in self._select("SELECT DISTINCT kind FROM rows ORDER BY kind")]

    def read(
        self, kind: str, items: Sequence[str], owner: str | None = None
    ) -> tuple[list[RowKey], Matrix]:
        """Keys and bytes (n, row_bytes) of ready rows. Raises MissingFile, CorruptStore."""
        query = (
            "SELECT version, owner, file, slot, row_bytes FROM rows JOIN segments ON segment = id "
            "WHERE kind = ? AND item = ? AND state = 'ready'"
        )
        keys, places = [], []
        with self._read():
            for item in items:
                found = self._db.execute(query, (kind, item)).fetchone()
                if found is None or (owner is not None and found[1] != owner):
                    raise MissingFile(
                        f"item {item[:8]} is not in the store",
                        "it was never shared here, is not extracted yet, was deleted, or belongs "
                        "to someone else",
                        "see `gpumpc list`, and share it again",
                    )
                keys.append(RowKey(item, found[0]))
                places.append(found[2:])
            return keys, self._gather(places)

    def _gather(self, places: list[tuple[str, int, int]]) -> Matrix:
        if not places:
            return np.zeros((0, 0), dtype=np.uint8)
        out = np.empty((len(places), places[0][2]), dtype=np.uint8)
        maps: dict[str, Matrix] = {}
        for i, (file, slot, row_bytes) in enumerate(places):
            if file not in maps:
                maps[file] = self._map(file, row_bytes)
            if slot >= len(maps[file]) or row_bytes != out.shape[1]:
                why = f"row {slot} of {row_bytes} bytes is not in it as the manifest says"
                raise self._unreadable(file, why)
            out[i] = maps[file][slot]
        return out

    def _map(self, file: str, row_bytes: int) -> Matrix:
        try:
            flat = np.memmap(self.folder / file, dtype=np.uint8, mode="r")
            return flat.reshape(-1, row_bytes)
        except (OSError, ValueError) as error:
            raise self._unreadable(file, str(error)) from error

    def _unreadable(self, file: str, why: str) -> CorruptStore:
        hint = "restore it, or delete its items and share them again"
        return CorruptStore(f"the segment {self.folder / file} cannot be read", why, hint)

    def delete(self, items: Iterable[str], owner: str | None = None, prefix: str = "") -> int:
        """Delete all rows of items, of kinds that begin with `prefix`; how many there were."""
        query = (
            "DELETE FROM rows WHERE item = ? AND substr(kind, 1, ?) = ? "
            "AND (? IS NULL OR owner = ?) RETURNING kind, item, version, state"
        )
        values = [(item, len(prefix), prefix, owner, owner) for item in items]
        with self._change() as db:
            n_rows = self._delete(db, query, values)
        self._drop_unused()
        return n_rows

    def delete_rows(self, kind: str, keys: Iterable[RowKey]) -> None:
        """Delete rows by kind and version."""
        query = (
            "DELETE FROM rows WHERE kind = ? AND item = ? AND version = ? "
            "RETURNING kind, item, version, state"
        )
        with self._change() as db:
            self._delete(db, query, [(kind, key.item, key.version) for key in keys])
        self._drop_unused()

    def delete_kind(self, kind: str) -> None:
        """Delete all rows of a kind."""
        with self._change() as db:
            query = "DELETE FROM rows WHERE kind = ? RETURNING kind, item, version, state"
            self._delete(db, query, [(kind,)])
        self._drop_unused()

    def _delete(
        self, db: sqlite3.Connection, query: str, values: Iterable[tuple[object, ...]]
    ) -> int:
        """Run a query that deletes rows, for each tuple of its values; how many there were."""
        found = [row for chosen in values for row in db.execute(query, chosen).fetchall()]
        self._shift_digest(db, removed=[row[:3] for row in found if row[3] == "ready"])
        return len(found)

    def sweep(self, older_than_s: float) -> int:
        """Delete rows that have been pending for longer: half uploads; how many there were."""
        query = "DELETE FROM rows WHERE state = 'pending' AND since < ?"
        with self._change() as db:
            cursor = db.execute(query, (time.time() - older_than_s,))
        self._drop_unused()
        return cursor.rowcount

    def _drop_unused(self) -> None:
        with self._change() as db:
            query = "SELECT id, file FROM segments WHERE id NOT IN (SELECT segment FROM rows)"
            unused = db.execute(query).fetchall()
            db.executemany("DELETE FROM segments WHERE id = ?", [(row[0],) for row in unused])
        for _, file in unused:
            with contextlib.suppress(FileNotFoundError):
                (self.folder / file).unlink()

    # for people

    def info(self, owner: str | None = None) -> dict[str, int]:
        """Rows by kind and state, of one owner or of all, and the bytes of all on disk."""
        query = "SELECT kind, state, count(*) FROM rows WHERE ? IS NULL OR owner = ? GROUP BY 1, 2"
        with self._read():
            counted = self._select(query, owner, owner)
            [[n_bytes]] = self._select("SELECT sum(row_bytes * n_rows) FROM segments")
        return {**{f"{kind} {state}": n for kind, state, n in counted}, "bytes": int(n_bytes or 0)}

    def verify(self) -> int:
        """Compare every segment's SHA-256; how many there were. Raises CorruptStore."""
        segments = self._select("SELECT file, sha256 FROM segments")
        for file, digest in segments:
            path = self.folder / file
            if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                raise CorruptStore(
                    f"the segment {path} is missing or was changed",
                    "its SHA-256 is not the one in the manifest",
                    "restore it from a backup of this server, or delete its items and share them "
                    "again",
                )
        return len(segments)

    def close(self) -> None:
        """Close the store and release it to other processes; safe to call twice."""
        with self._lock:
            super().close()
            if self._lock_descriptor >= 0:
                os.close(self._lock_descriptor)
            self._lock_descriptor = -1


def _row(item: str, version: str, owner: str, state: str) -> Row:
    return Row(RowKey(item, version), owner, state)
