"""The manifest of a server's store: its rows' names, small notes, and what both stores agree on."""

import dataclasses
import hashlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from gpumpc.errors import ConfigError, CorruptStore
from gpumpc.offline.sqlite_file import SqliteFile

FORMAT = 2
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS changes (id TEXT PRIMARY KEY, change TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segments (
    id INTEGER PRIMARY KEY, file TEXT NOT NULL UNIQUE, row_bytes INTEGER NOT NULL,
    n_rows INTEGER NOT NULL, sha256 TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS rows (
    kind TEXT NOT NULL, item TEXT NOT NULL, version TEXT NOT NULL, owner TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'ready', 'unpaired')),
    segment INTEGER NOT NULL REFERENCES segments (id), slot INTEGER NOT NULL, since REAL NOT NULL,
    PRIMARY KEY (kind, item)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_segment ON rows (segment);
CREATE INDEX IF NOT EXISTS by_state ON rows (state) WHERE state <> 'ready';
"""
_DIGEST_MODULUS = 1 << 256


@dataclasses.dataclass(frozen=True, order=True)
class RowKey:
    """Names a shared value and the random values behind its shares: the same at both servers."""

    item: str
    version: str


@dataclasses.dataclass(frozen=True)
class Row:
    """A row's entry in the manifest."""

    key: RowKey
    owner: str
    state: str


class Manifest(SqliteFile):
    """The manifest without its rows' bytes.

    Args:
        folder: the store's folder.
        party: 0 or 1.

    Raises ConfigError if it is of the other party, CorruptStore if it cannot be read.
    """

    noun = "store"
    refusal = CorruptStore
    hint = "free disk space, or restore both servers' stores"

    def __init__(self, folder: Path, party: int) -> None:
        self.folder = folder
        super().__init__(folder / "manifest.sqlite", SCHEMA, FORMAT)
        with self._explained():
            for key, value in (("format", str(FORMAT)), ("party", str(party))):
                self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, value))
                found = self._meta(key)
                if found != value:
                    what = f"the store {folder} has {key} {found}, not {value}"
                    why = "it belongs to the other server, or to another version"
                    raise ConfigError(what, why, "give this server its own state folder")

    def _meta(self, key: str) -> str | None:
        found = self._select("SELECT value FROM meta WHERE key = ?", key)
        return str(found[0][0]) if found else None

    # pairing

    @property
    def store_pair_id(self) -> str:
        """Drawn by the two servers together at their first meeting; empty before."""
        return self._meta("pair") or ""

    def pair(self, store_pair_id: str) -> None:
        """Bind this store to its partner, once. Raises CorruptStore if it is bound to another."""
        with self._change() as db:
            db.execute("INSERT OR IGNORE INTO meta VALUES ('pair', ?)", (store_pair_id,))
        if self.store_pair_id != store_pair_id:
            pairs = f"pair {self.store_pair_id[:8]}, not {store_pair_id[:8]}"
            what = f"the store {self.folder} belongs to {pairs}"
            why = "the two servers' stores do not belong together"
            raise CorruptStore(what, why, "start each server with the state folder it always had")

    # notes

    def note(self, name: str, text: str) -> str:
        """Store a small text under a name unless the name has one; the text stored now."""
        with self._change() as db:
            db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (f"note {name}", text))
        return self.noted(name) or ""

    def noted(self, name: str) -> str | None:
        """The text stored under a name, if any."""
        return self._meta(f"note {name}")

    def remove_note(self, name: str) -> None:
        """Remove the text of a name, if there is one."""
        with self._change() as db:
            db.execute("DELETE FROM meta WHERE key = ?", (f"note {name}",))

    # changes that both servers carry out, or neither

    def begin_change(self, change_id: str, change: str) -> None:
        """Write down a change before it is made; again under the same id is no error."""
        with self._change() as db:
            db.execute("INSERT OR IGNORE INTO changes VALUES (?, ?)", (change_id, change))

    def changes(self) -> dict[str, str]:
        """The changes that were begun and not ended, by id."""
        return dict(self._select("SELECT id, change FROM changes ORDER BY id"))

    def end_change(self, change_id: str) -> None:
        """Forget a change: it was made, or is not made at all."""
        with self._change() as db:
            db.execute("DELETE FROM changes WHERE id = ?", (change_id,))

    # ready rows

    def ready_digest(self) -> str:
        """Hex digest of all ready rows' names, equal for equal sets; known at once."""
        return f"{int(self._meta('ready digest') or '0', 16):064x}"

    def _shift_digest(
        self,
        db: sqlite3.Connection,
        added: Iterable[tuple[str, str, str]] = (),
        removed: Iterable[tuple[str, str, str]] = (),
    ) -> None:
        """Bring the digest up to date, in the transaction that adds or removes ready rows."""
        shift = sum(map(_row_number, added)) - sum(map(_row_number, removed))
        if shift:
            total = (int(self.ready_digest(), 16) + shift) % _DIGEST_MODULUS
            query = "INSERT OR REPLACE INTO meta VALUES ('ready digest', ?)"
            db.execute(query, (f"{total:x}",))


def _row_number(name: tuple[str, str, str]) -> int:
    """A row's summand, from its kind, item and version."""
    return int.from_bytes(hashlib.sha256("\0".join(name).encode()).digest(), "big")
