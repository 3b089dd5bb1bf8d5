"""The manifest of a server's store: its rows' names, small notes, and what both stores agree on."""

import dataclasses
import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from gpumpc.errors import ConfigError, CorruptStore
from gpumpc.offline.sqlite_file import SqliteFile
from gpumpc.store.disk_reserve import DiskReserve, is_full
from gpumpc.store.schema import FORMAT, SCHEMA

# Measured with 40,000 rows, beside what the names take.
_ENTRY_BYTES = 100
_ROWS = "SELECT item, version, owner, state FROM rows WHERE kind = ?"
_OWNED = ("rows", "notes")
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
    hint = "free disk space or memory, then try again; nothing was half written, nothing is lost"
    damaged = "restore this server's state folder from its backup; the other server's stays"

    def __init__(self, folder: Path, party: int) -> None:
        self.folder = folder
        self._reserve = DiskReserve(folder / "reserve")
        open_file = super().__init__
        self._despite_full(lambda: open_file(folder / "manifest.sqlite", SCHEMA, FORMAT))
        with self._explained():
            # Deleted keys are overwritten, and none goes to a file of its own for a moment.
            for pragma in ("secure_delete = ON", "temp_store = MEMORY"):
                self._db.execute(f"PRAGMA {pragma}").fetchall()
            self._check_not_lost()
            for key, value in (("format", str(FORMAT)), ("party", str(party))):
                self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, value))
                found = self._meta(key)
                if found != value:
                    what = f"the store {self.path} has {key} {found}, not {value}"
                    why = "it belongs to the other server or to another version, or was changed"
                    raise ConfigError(what, why, "give this server its own state folder")

    def _check_not_lost(self) -> None:
        """Raises CorruptStore for a new manifest beside segments, which it would call leftovers."""
        found = [*self.folder.glob("*.seg")]
        if found and self._meta("format") is None:
            why = f"it is empty, and there are {len(found)} segments beside it"
            raise CorruptStore(f"the manifest {self.path} was lost", why, self.damaged)

    def _check_manifest(self) -> None:
        """Raises CorruptStore where structure, notes, changes or ready rows are not as written."""
        [[found]] = self._select("PRAGMA integrity_check(1)")
        if found != "ok":
            raise self._changed(str(found))
        self.notes()
        self.changes()
        names = self._select("SELECT kind, item, version FROM rows WHERE state = 'ready'")
        try:
            is_right = sum(map(_row_number, names)) % _DIGEST_MODULUS == int(
                self.ready_digest(), 16
            )
        except (TypeError, ValueError):
            is_right = False
        if not is_right:
            raise self._changed("its ready rows do not match their digest")

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

    def note(self, name: str, text: str, owner: str) -> str:
        """Store an owner's small text under a name unless the name has one; the text stored now."""
        digest, n_bytes = _text_digest(name, owner, text), note_bytes(name, text)
        with self._change() as db:
            add = "INSERT OR IGNORE INTO notes VALUES (?, ?, ?, ?, ?)"
            db.execute(add, (name, owner, text, digest, n_bytes))
        return self.noted(name) or ""

    def noted(self, name: str) -> str | None:
        """The text stored under a name, if any. Raises CorruptStore for a text that was changed."""
        query = "SELECT name, owner, text, sha256 FROM notes WHERE name = ?"
        return self._noted(query, name).get(name)

    def notes(self, prefix: str = "") -> dict[str, str]:
        """Texts by name, of names that begin with `prefix`, sorted. Raises CorruptStore."""
        query = (
            "SELECT name, owner, text, sha256 FROM notes WHERE substr(name, 1, ?) = ? ORDER BY name"
        )
        return self._noted(query, len(prefix), prefix)

    def _noted(self, query: str, *values: object) -> dict[str, str]:
        found = self._select(query, *values)
        for name, owner, text, digest in found:
            if _text_digest(name, owner, text) != digest:
                raise self._changed(f"the text '{name[:40]}' does not match its SHA-256")
        return {name: text for name, _, text, _ in found}

    def _changed(self, why: str) -> CorruptStore:
        return CorruptStore(f"the manifest {self.path} was changed", why, self.damaged)

    def remove_note(self, name: str) -> None:
        """Remove the text of a name, if there is one."""
        self._write_despite_full("DELETE FROM notes WHERE name = ?", name)

    def n_notes(self, owner: str) -> int:
        """How many notes an owner has."""
        return int(self._select("SELECT count(*) FROM notes WHERE owner = ?", owner)[0][0])

    def owners(self) -> dict[str, tuple[int, int]]:
        """How many rows and notes each owner has, of all who have any; by name."""
        counted = "SELECT owner, count(*) FROM {} GROUP BY owner"
        with self._read():
            rows, notes = (dict(self._select(counted.format(table))) for table in _OWNED)
        return {owner: (rows.get(owner, 0), notes.get(owner, 0)) for owner in sorted(rows | notes)}

    def held_bytes(self, owner: str) -> int:
        """Bytes on the disk of all that an owner has here: rows, their keys and names, notes.

        A deleted row counts until its segment is rewritten, except for its key and name.
        """
        found = self._select("SELECT n_bytes FROM usage WHERE owner = ?", owner)
        return int(found[0][0]) if found else 0

    # changes that both servers carry out, or neither

    def begin_change(self, change_id: str, change: str) -> None:
        """Write down a change before it is made; again under the same id is no error."""
        add, digest = (
            "INSERT OR IGNORE INTO changes VALUES (?, ?, ?)",
            _text_digest(change_id, change),
        )
        self._write_despite_full(add, change_id, change, digest)

    def changes(self) -> dict[str, str]:
        """The changes that were begun and not ended, by id. Raises CorruptStore."""
        found = self._select("SELECT id, change, sha256 FROM changes ORDER BY id")
        for change_id, change, digest in found:
            if _text_digest(change_id, change) != digest:
                raise self._changed(f"the change {change_id[:8]} does not match its SHA-256")
        return {change_id: change for change_id, change, _ in found}

    def end_change(self, change_id: str) -> None:
        """Forget a change: it was made, or is not made at all."""
        self._write_despite_full("DELETE FROM changes WHERE id = ?", change_id)

    def _write_despite_full(self, query: str, *values: str) -> None:
        """A small write of a change that may free room."""

        def write() -> None:
            with self._change() as db:
                db.execute(query, values)

        self._despite_full(write)

    def _despite_full(self, work: Callable[[], None]) -> None:
        """Do what changes nothing where it fails; where the disk is full, in the reserve's room."""
        try:
            work()
        except ConfigError as error:
            if not is_full(error) or not self._reserve.release():
                raise
            work()

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

    # states

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

    def kinds(self) -> list[str]:
        """Kinds that have rows."""
        return [row[0] for row in self._select("SELECT DISTINCT kind FROM rows ORDER BY kind")]


def _row(item: str, version: str, owner: str, state: str) -> Row:
    return Row(RowKey(item, version), owner, state)


def _row_number(name: tuple[str, str, str]) -> int:
    """A row's summand, from its kind, item and version."""
    return int.from_bytes(hashlib.sha256("\0".join(name).encode()).digest(), "big")


def _text_digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def note_bytes(name: str, text: str) -> int:
    """What a note takes on the disk."""
    return len(name.encode()) + len(text.encode()) + 2 * _ENTRY_BYTES


def row_entry_bytes(kind: str, key: RowKey, owner: str) -> int:
    """What a row's entry in the manifest takes on the disk, its wrapped key included."""
    n_name_bytes = len(f"{kind}{kind}{key.item}{key.item}{key.version}{owner}".encode())
    return _ENTRY_BYTES + n_name_bytes * 4 // 3
