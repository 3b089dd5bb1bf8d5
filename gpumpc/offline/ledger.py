"""The durable record of used batches, so that no mask ever hides two values.

A batch number is `reserved` before its first masked byte leaves, `spent` when its run has ended
well, and `burnt` when its run failed, when it was reserved and the process ended, or when it was
skipped. Numbers only go up: none below the high-water mark is reserved again. Every change is on
the disk when the method returns.

The nonces, on which session ids depend, are drawn anew in each process and never stored: a state
folder that is put back from a copy cannot bring a session back. So the rows of a session are
deleted when it ends, at the latest when the next process opens the ledger; from then on no number
of it can be reserved.
"""

import os
import secrets
import sqlite3
from pathlib import Path

from gpumpc.errors import BadValue, BatchAlreadyUsed
from gpumpc.offline.secret import lock_file, private_folder
from gpumpc.offline.sqlite_file import SqliteFile

NONCE_BYTES = 16
# A program whose nonce is forgotten gets another one, which is another session: never an old one.
_MAX_NONCES = 4096
_FORMAT = 1
_MAX_BATCH = 1 << 62
_SCHEMA = """
CREATE TABLE IF NOT EXISTS once (name TEXT PRIMARY KEY) WITHOUT ROWID;
-- One row for the batches first .. first + n - 1 of a session that ended the same way: a million
-- numbers that are skipped or spent cost one row.
CREATE TABLE IF NOT EXISTS batches (
    session BLOB NOT NULL, first INTEGER NOT NULL, n INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('reserved', 'spent', 'burnt')),
    PRIMARY KEY (session, first)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS reserved ON batches (state) WHERE state = 'reserved';
"""
_END = (
    "UPDATE batches SET state = ? WHERE session = ? AND first = ? AND n = 1 AND state = 'reserved'"
)


class Ledger(SqliteFile):
    """One party's ledger file; open in one process at a time, usable from several of its threads.

    Opening it ends all sessions of earlier processes.

    Args:
        path: the SQLite file; it and its folder are made (0600, 0700) where missing.

    Raises ConfigError if another process has it open, or if it cannot be read or written;
    ExposedSecret if others may write in its folder.
    """

    noun = "ledger"
    damaged = "move it away and start again: a new ledger begins new sessions"

    def __init__(self, path: Path) -> None:
        path = Path(path)
        private_folder(path.parent)
        self._nonces: dict[bytes, bytes] = {}
        self._sessions: set[bytes] = set()  # those that are open
        self._lock_descriptor = lock_file(path.with_name(path.name + ".lock"), f"the ledger {path}")
        try:
            super().__init__(path, _SCHEMA, _FORMAT)
            with self._change() as db:
                db.execute("DELETE FROM batches")
                db.execute("DROP TABLE IF EXISTS nonces")  # of older versions
        except BaseException:
            self.close()
            raise

    def nonce(self, program_id: bytes) -> bytes:
        """This party's 16 random bytes for a program; others after `close`, or when long unused."""
        with self._lock:
            drawn = self._nonces.pop(program_id, None) or secrets.token_bytes(NONCE_BYTES)
            self._nonces[program_id] = drawn  # the last used is last
            if len(self._nonces) > _MAX_NONCES:
                del self._nonces[next(iter(self._nonces))]
            return drawn

    def open_session(self, session_id: bytes) -> None:
        """Let batches of a session be reserved; again after a new agreement on the same session."""
        with self._lock:
            self._sessions.add(session_id)

    def end_session(self, program_id: bytes, session_id: bytes) -> None:
        """End a session for good: forget its program's nonce first, then its numbers.

        Raises ConfigError; the session has ended even so, and the next start deletes its rows.
        """
        with self._lock:
            self._nonces.pop(program_id, None)
            self._sessions.discard(session_id)
            with self._change() as db:
                db.execute("DELETE FROM batches WHERE session = ?", (session_id,))

    def high_water(self, session_id: bytes) -> int:
        """The first batch number of a session that was neither reserved nor skipped."""
        with self._change() as db:
            return _high_water(db, session_id)

    def reserve(self, session_id: bytes, batch_index: int) -> None:
        """Take a batch number, durably, before anything is sent under it; burn skipped numbers.

        Raises BatchAlreadyUsed below the high-water mark or where the session is not open, BadValue
        out of range, ConfigError.
        """
        if not 0 <= batch_index < _MAX_BATCH:
            what, why = f"{batch_index} is not a batch number", "they count from 0 up"
            raise BadValue(what, why, "use the session's high-water mark")
        with self._change() as db:
            if session_id not in self._sessions:
                raise BatchAlreadyUsed(
                    f"batch {batch_index} of session {session_id.hex()} may have been used before",
                    "the session is not open; nothing tells which numbers of an ended one are free",
                    "open a new session",
                )
            mark = _high_water(db, session_id)
            if batch_index < mark:
                raise BatchAlreadyUsed(
                    f"batch {batch_index} of session {session_id.hex()} was used before",
                    f"the next free number is {mark}; one mask must never hide two values",
                    "ask for a new batch",
                )
            add = "INSERT INTO batches VALUES (?, ?, ?, ?)"
            if batch_index > mark:
                db.execute(add, (session_id, mark, batch_index - mark, "burnt"))
            db.execute(add, (session_id, batch_index, 1, "reserved"))

    def spend(self, session_id: bytes, batch_index: int) -> None:
        """Note that a reserved batch ended well. Raises BatchAlreadyUsed, ConfigError."""
        with self._change() as db:
            if not _end(db, session_id, batch_index, "spent"):
                raise BatchAlreadyUsed(
                    f"batch {batch_index} of session {session_id.hex()} cannot be spent",
                    "it is not reserved: it was never taken, or is spent or burnt",
                    "reserve a batch before the run and spend it once after it",
                )

    def burn(self, session_id: bytes, batch_index: int) -> None:
        """Burn a batch that is reserved still. Raises ConfigError."""
        with self._change() as db:
            _end(db, session_id, batch_index, "burnt")

    def reserve_once(self, name: str) -> None:
        """Take a name that can be taken only once, such as the opening of one weight mask.

        Raises BatchAlreadyUsed at the second call, also after a restart; ConfigError.
        """
        with self._change() as db:
            if db.execute("INSERT OR IGNORE INTO once VALUES (?)", (name,)).rowcount != 1:
                raise _done_before(name)

    def check_once(self, name: str) -> None:
        """Raises BatchAlreadyUsed if `reserve_once` has taken a name."""
        if self._select("SELECT name FROM once WHERE name = ?", name):
            raise _done_before(name)

    def counts(self, session_id: bytes) -> dict[str, int]:
        """How many batches of a session are in each state; states without one are left out."""
        with self._change() as db:
            query = "SELECT state, sum(n) FROM batches WHERE session = ? GROUP BY state"
            return {str(state): int(n) for state, n in db.execute(query, (session_id,))}

    def close(self) -> None:
        """Close the file and release it to other processes; safe to call twice."""
        with self._lock:
            super().close()
            if self._lock_descriptor >= 0:
                os.close(self._lock_descriptor)
            self._lock_descriptor = -1


def _end(db: sqlite3.Connection, session_id: bytes, batch_index: int, state: str) -> bool:
    """End a reserved batch and join it to neighbours that ended the same way; whether it was."""
    if db.execute(_END, (state, session_id, batch_index)).rowcount != 1:
        return False
    first, end = batch_index, batch_index + 1
    query = "SELECT first, n, state FROM batches WHERE session = ? AND first {} ? ORDER BY first {}"
    before = db.execute(query.format("<", "DESC LIMIT 1"), (session_id, first)).fetchone()
    if before and before[0] + before[1] == first and before[2] == state:
        first = before[0]
    after = db.execute(query.format(">=", "LIMIT 1"), (session_id, end)).fetchone()
    if after and after[0] == end and after[2] == state:
        end += after[1]
    if end - first > 1:
        within = "DELETE FROM batches WHERE session = ? AND first > ? AND first < ?"
        db.execute(within, (session_id, first, end))
        grow = "UPDATE batches SET n = ? WHERE session = ? AND first = ?"
        db.execute(grow, (end - first, session_id, first))
    return True


def _done_before(name: str) -> BatchAlreadyUsed:
    return BatchAlreadyUsed(
        f"'{name}' was done before",
        "it opens a value under a mask that may be used once",
        "use what was stored the first time; if it is lost, make a new version under a new name",
    )


def _high_water(db: sqlite3.Connection, session_id: bytes) -> int:
    # The last run ends highest: runs never overlap and are added in order.
    query = "SELECT first + n FROM batches WHERE session = ? ORDER BY first DESC LIMIT 1"
    row = db.execute(query, (session_id,)).fetchone()
    return int(row[0]) if row else 0
