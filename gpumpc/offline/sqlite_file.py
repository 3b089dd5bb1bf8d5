"""A private SQLite file: changes are whole and durable, and SQLite's errors explained."""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

from gpumpc.errors import ConfigError
from gpumpc.offline.secret import file_error, sync_folder

# Primary codes of errors that pass: the file is as it was.
_PASSING = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_READONLY,
)


class SqliteFile:
    """The base of ledger, store and catalog, which add their tables.

    Usable from several threads: one lock is held around each transaction.

    Args:
        path: the file; made (0600) where missing. Its folder must be there.
        schema: `CREATE .. IF NOT EXISTS` statements.
        version: the schema's version; a file of another one is refused.

    Attributes:
        refusal: what a file that is damaged raises; ConfigError where the disk is full, or for
            another error that passes.
        hint, damaged: what to do then about an error that passes, and about damage.

    Raises ConfigError (the subclass's `refusal`) where it cannot be opened, read or written.
    """

    noun: ClassVar[str] = "file"
    refusal: ClassVar[type[ConfigError]] = ConfigError
    hint: ClassVar[str] = (
        "free some space on its disk and check its permissions, then start again; nothing was half "
        "written"
    )
    damaged: ClassVar[str] = "restore this file from a backup of this party"

    def __init__(self, path: Path, schema: str, version: int) -> None:
        self.path = path
        self._lock = threading.RLock()
        try:
            # SQLite gives its -wal and -shm files the main file's mode: that must be right first.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            os.chmod(path, 0o600)
        except OSError as error:
            raise file_error(f"the {self.noun} {path} cannot be opened", error) from error
        with self._explained():
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(schema, version)
            except BaseException:
                self._db.close()
                raise

    def _prepare(self, schema: str, version: int) -> None:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self._db.execute(f"PRAGMA {pragma}")
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, version):
            what = f"the {self.noun} {self.path} cannot be used"
            why = f"its format is {found} and this program writes {version}"
            hint = "run the gpumpc that made it, or give this party a new state folder"
            raise ConfigError(what, why, hint)
        if found != version:  # a full disk keeps nobody from opening a file that is made
            script = f"BEGIN IMMEDIATE; {schema} PRAGMA user_version = {version}; COMMIT;"
            self._db.executescript(script)
            sync_folder(self.path.parent)

    def close(self) -> None:
        """Close the file; safe to call twice, also after an opening that failed."""
        with self._lock:
            if hasattr(self, "_db"):
                self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
    def _read(self) -> Iterator[sqlite3.Connection]:
        """Read, while no thread changes anything."""
        with self._lock, self._explained():
            yield self._db

    def _select(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._read() as db:
            return db.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        what = f"the {self.noun} {self.path} cannot be used"
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in _PASSING:
                raise ConfigError(what, str(error), self.hint) from error
            hint = self.hint if isinstance(error, sqlite3.ProgrammingError) else self.damaged
            raise self.refusal(what, str(error), hint) from error
        except UnicodeDecodeError as error:  # of the text of a damaged file
            raise self.refusal(what, str(error), self.damaged) from error
        except OSError as error:
            raise file_error(what, error) from error
