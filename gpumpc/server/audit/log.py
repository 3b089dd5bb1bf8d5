"""A server's log of job records: lines that are only appended, in files of bounded number and size.

A line is a checksum and an entry in JSON. What a killed process left of a line at the end of the
last file is cut off when the log is opened. A line that was changed elsewhere stays, and `gpumpc
audit log` names it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from gpumpc import messages as m
from gpumpc.offline.secret import file_error, private_folder, sync_folder

FILE_BYTES, MAX_FILES = 16 << 20, 64
SYNC_S = 1.0
_CHECKSUM_CHARACTERS = 16

log = logging.getLogger("gpumpc")


class Line(NamedTuple):
    """One line of the log: where it is, and its entry, None where it cannot be read."""

    file: Path
    number: int
    entry: m.Entry | None


def record_digest(record: m.JobRecord) -> str:
    """Hex SHA-256 of what is signed; the next record of the same server holds it."""
    return hashlib.sha256(m.record_statement(record)).hexdigest()


class AuditLog:
    """The log in one folder; for one thread.

    Args:
        folder: made (0700) where missing.
        file_bytes, max_files: a file that would become larger is followed by a new one, and the
            oldest is deleted where there are more.

    Attributes:
        last: the last entry; None in a new log.

    Raises ConfigError where the folder cannot be used.
    """

    def __init__(
        self, folder: Path, file_bytes: int = FILE_BYTES, max_files: int = MAX_FILES
    ) -> None:
        self._folder = private_folder(Path(folder))
        self._file_bytes, self._max_files = file_bytes, max_files
        self._descriptor, self._is_synced, self._synced_at = -1, True, 0.0
        files = _files(self._folder)
        try:
            if files:
                _cut_torn_tail(files[-1])
            self._open(files[-1] if files else self._folder / _name(1))
        except OSError as error:
            raise file_error(f"the log of jobs in {folder} cannot be used", error) from error
        self.last: m.Entry | None = None
        for file in reversed(files):
            entries = [line.entry for line in _lines(file) if line.entry is not None]
            if entries:
                self.last = entries[-1]
                break

    def _open(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        sync_folder(self._folder)
        self.close()
        self._descriptor, self._path = descriptor, path

    def append(self, entry: m.Entry) -> None:
        """Hand an entry to the operating system: it then outlives this process.

        A disk that refuses it loses the entry and nothing else: the job goes on, the next record
        follows on this one, and so the log shows what is missing. The process's log says so.
        """
        self.last, self._is_synced = entry, False
        data = _encoded(entry)
        try:
            self._make_room(len(data))
            before = os.fstat(self._descriptor).st_size
            if os.write(self._descriptor, data) != len(data):
                os.ftruncate(self._descriptor, before)
                raise OSError("the disk is full")
        except OSError as error:
            text = "the record of job %s is not kept: %s"
            log.error(text, entry.own.record.job[:8], error.strerror or error)

    def _make_room(self, n_bytes: int) -> None:
        if os.fstat(self._descriptor).st_size + n_bytes <= self._file_bytes:
            return
        os.fsync(self._descriptor)
        self._open(self._folder / _name(int(self._path.stem) + 1))
        for old in _files(self._folder)[: -self._max_files]:
            old.unlink()

    def sync(self) -> None:
        """Make what was appended durable against a loss of power, at most once in SYNC_S seconds:
        waiting for the disk after each job would take longer than a small job.
        """
        if self._is_synced or time.monotonic() - self._synced_at < SYNC_S:
            return
        with contextlib.suppress(OSError):  # of the disk, which the next `append` tells
            os.fdatasync(self._descriptor)
        self._is_synced, self._synced_at = True, time.monotonic()

    def close(self) -> None:
        """Close the log; safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


def read_log(folder: Path) -> Iterator[Line]:
    """All lines of a log, oldest first. Raises ConfigError where a file cannot be read."""
    for file in _files(folder):
        yield from _lines(file)


def _name(number: int) -> str:
    return f"{number:08}.log"


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*.log"))


def _encoded(entry: m.Entry) -> bytes:
    text = msgspec.json.encode(entry)
    return _checksum(text) + b" " + text + b"\n"


def _checksum(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:_CHECKSUM_CHARACTERS].encode()


def _lines(file: Path) -> Iterator[Line]:
    try:
        whole = file.read_bytes()
    except OSError as error:
        raise file_error(f"the log {file} cannot be read", error) from error
    for number, line in enumerate(whole.splitlines(keepends=True), 1):
        yield Line(file, number, _decoded(line))


def _decoded(line: bytes) -> m.Entry | None:
    checksum, _, text = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != _checksum(text):
        return None
    try:
        return msgspec.json.decode(text, type=m.Entry)
    except msgspec.DecodeError:
        return None


def _cut_torn_tail(file: Path) -> None:
    """Cut off the lines after the last good one."""
    whole, end = file.read_bytes(), 0
    place = 0
    for line in whole.splitlines(keepends=True):
        place += len(line)
        if _decoded(line) is not None:
            end = place
    if end < len(whole):
        log.warning("%s ended in a torn line of %d bytes, which is cut off", file, len(whole) - end)
        os.truncate(file, end)
