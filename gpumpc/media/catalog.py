"""The client's map from random item ids to files. It never leaves this machine.

An id belongs to pixels, not to a file: the same image twice has one id, and every place where it
was found.
"""

import hashlib
import os
import secrets
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpumpc.media.read import FloatArray, Item
from gpumpc.offline.secret import private_folder
from gpumpc.offline.sqlite_file import SqliteFile

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


class Catalog(SqliteFile):
    """The SQLite file of the map: mode 0600, and a new folder has mode 0700.

    Raises ConfigError where it cannot be opened, read or written; ExposedSecret if others may write
    in its folder.
    """

    noun = "catalog"

    def __init__(self, path: Path) -> None:
        path = Path(path)
        private_folder(path.parent)
        try:
            super().__init__(path, _SCHEMA, _FORMAT)
        except BaseException:
            self.close()
            raise

    def add(self, item: Item) -> str:
        """The id of an image, old or new; it is on disk when this returns. Raises ConfigError."""
        return self.add_all([item])[0]

    def add_all(self, items: Iterable[Item]) -> list[str]:
        """The id of each image, in one transaction. Raises ConfigError."""
        rows = [(pixel_digest(i.pixels), os.path.abspath(i.path), i.frame) for i in items]
        with self._change() as db:
            return [_added(db, *row) for row in rows]

    def find(self, item_id: str) -> list[Entry]:
        """Every place of an id; none for an id that is not here. Raises ConfigError."""
        return self._entries(f"{_ENTRIES} WHERE id = ? ORDER BY file, frame, added", item_id)

    def find_file(self, path: Path) -> list[Entry]:
        """The images of a file, by frame. Raises ConfigError."""
        query = f"{_ENTRIES} WHERE file = ? ORDER BY frame, added"
        return self._entries(query, os.path.abspath(path))

    def all(self) -> list[Entry]:
        """Everything, by file and frame. Raises ConfigError."""
        return self._entries(f"{_ENTRIES} ORDER BY file, frame, added")

    def remove(self, item_id: str) -> bool:
        """Forget an id and its places; whether it was here. Raises ConfigError."""
        with self._change() as db:
            return db.execute("DELETE FROM items WHERE id = ?", (item_id,)).rowcount == 1

    def _entries(self, query: str, *arguments: str) -> list[Entry]:
        with self._read() as db:
            rows = db.execute(query, arguments).fetchall()
        return [Entry(item_id, Path(file), *rest) for item_id, file, *rest in rows]


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
