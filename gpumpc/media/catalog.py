"""The client's own map from random item ids to files. It never leaves this machine: servers see the ids alone.

An id belongs to pixels, not to a file: the same image twice has one id, and every place where it was found.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from gpumpc.errors import ConfigError
from gpumpc.media.read import FloatArray, Item
from gpumpc.offline.secret import file_error, private_folder, sync_folder

ID_BYTES = 16
_FORMAT = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS items (
    id TEXT PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, added REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS places (
    file TEXT NOT NULL, frame INTEGER NOT NULL, id TEXT NOT NULL REFERENCES items ON DELETE CASCADE,
    PRIMARY KEY (file, frame, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS places_of ON places (id);
"""
_ENTRIES = "SELECT id, file, frame, sha256, added FROM places JOIN items USING (id)"


class Entry(NamedTuple):
    """One place of an image.

    Attributes:
        item_id: 32 hex digits.
        path: its file, absolute.
        frame: number in the file, from 0.
        sha256: digest of the pixels, hex.
        added: when the id was drawn, seconds since 1970.
    """

    item_id: str
    path: Path
    frame: int
    sha256: str
    added: float


class Catalog:
    """The SQLite file of the map (0600, its folder 0700 where it is made here).

    Raises ConfigError where it cannot be opened, read or written; ExposedSecret if others may write in its folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        private_folder(self.path.parent)
        self._lock = threading.Lock()
        self._db = self._open()
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def add(self, item: Item) -> str:
        """The id of an image: the one it has, or a new one, on disk before this returns. Raises ConfigError."""
        return self.add_all([item])[0]

    def add_all(self, items: Iterable[Item]) -> list[str]:
        """The id of each image, in one transaction. Raises ConfigError."""
        rows = [(pixel_digest(item.pixels), os.path.abspath(item.path), item.frame) for item in items]
        with self._change() as db:
            return [_added(db, *row) for row in rows]

    def find(self, item_id: str) -> list[Entry]:
        """Every place of an id; none for an id that is not here. Raises ConfigError."""
        return self._entries(f"{_ENTRIES} WHERE id = ? ORDER BY file, frame, added", item_id)

    def find_file(self, path: Path) -> list[Entry]:
        """The images of a file, by frame. Raises ConfigError."""
        return self._entries(f"{_ENTRIES} WHERE file = ? ORDER BY frame, added", os.path.abspath(path))

    def all(self) -> list[Entry]:
        """Everything, by file and frame. Raises ConfigError."""
        return self._entries(f"{_ENTRIES} ORDER BY file, frame, added")

    def remove(self, item_id: str) -> bool:
        """Forget an id and its places; whether it was here. Raises ConfigError."""
        with self._change() as db:
            return db.execute("DELETE FROM items WHERE id = ?", (item_id,)).rowcount == 1

    def close(self) -> None:
        """Close the file; safe to call twice."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _entries(self, query: str, *arguments: Any) -> list[Entry]:
        with self._lock, self._explained():
            rows = self._db.execute(query, arguments).fetchall()
        return [Entry(item_id, Path(file), frame, digest, added) for item_id, file, frame, digest, added in rows]

    def _open(self) -> sqlite3.Connection:
        try:
            # SQLite gives its -wal and -shm files the mode of the main file, so that must be right first.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            os.chmod(self.path, 0o600)
        except OSError as error:
            raise file_error(f"the catalog {self.path} cannot be opened", error) from error
        return sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)

    def _prepare(self) -> None:
        with self._explained():
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                self._db.execute(f"PRAGMA {pragma}")
            found = self._db.execute("PRAGMA user_version").fetchone()[0]
            if found not in (0, _FORMAT):
                why = f"its format is {found} and this program writes {_FORMAT}"
                raise ConfigError(f"the catalog {self.path} cannot be used", why, "run the newer gpumpc that made it")
            self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_FORMAT}; COMMIT;")
            sync_folder(self.path.parent)

    @contextlib.contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it is on disk afterwards, or nothing."""
        with self._lock, self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise ConfigError(
                f"the catalog {self.path} cannot be used",
                str(error),
                "free some space on its disk and check its permissions, then start again; nothing was half written",
            ) from error
        except OSError as error:
            raise file_error(f"the catalog {self.path} cannot be used", error) from error


def _added(db: sqlite3.Connection, digest: str, file: str, frame: int) -> str:
    fresh = (secrets.token_hex(ID_BYTES), digest, time.time())
    db.execute("INSERT INTO items VALUES (?, ?, ?) ON CONFLICT (sha256) DO NOTHING", fresh)
    item_id = str(db.execute("SELECT id FROM items WHERE sha256 = ?", (digest,)).fetchone()[0])
    # A file that has changed keeps its former id too: the servers may still hold that image.
    db.execute("INSERT OR IGNORE INTO places VALUES (?, ?, ?)", (file, frame, item_id))
    return item_id


def pixel_digest(pixels: FloatArray) -> str:
    """Hex SHA-256 over the shape and the little-endian float64 pixels of an image (H, W, C)."""
    digest = hashlib.sha256(f"gpumpc pixels 1 {pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels, dtype="<f8").data)
    return digest.hexdigest()
