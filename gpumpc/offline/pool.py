"""Server 1's files of the dealer's corrections: bounded, each batch read once.

A batch arrives in pieces in `<session>.<batch>.part`; `commit` makes it durable under
`<session>.<batch>.corr` in one step, so a file of that name is always whole. It ends in a checksum,
which is compared before the first byte is used. A batch that is taken
while it arrives is read from memory from then on: its number is reserved, so it is used up whether
or not it is finished, and need not outlast the process.

The server keeps the bound: it asks the dealer for the batch numbers that `wanted` gives, and the
dealer sends no others.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import mmap
import os
import re
import threading
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from gpumpc.errors import ConfigError, CorrelationsMissing
from gpumpc.offline import pool_errors
from gpumpc.offline.checksum import CHECKSUM_BYTES, checksum, is_intact
from gpumpc.offline.pieces import cut
from gpumpc.offline.secret import file_error, lock_file, private_folder, sync_folder

# The dealer asks again when it has sent these.
_MAX_WANTED = 64
_NAME = re.compile(r"([0-9a-f]{32})\.(\d{1,20})\.corr")

_Key = tuple[bytes, int]


class Pool:
    """The corrections of all sessions of one server; usable from several threads of one process.

    Opening it deletes the batches that the last process did not commit.

    Args:
        folder: where the files are; made (0700) where missing.
        capacity_bytes: the bound of all files, except that one batch of a session is always
            admitted.

    Raises ConfigError if another process uses the folder or it cannot be used, ExposedSecret if
    others may write there.
    """

    def __init__(self, folder: Path, capacity_bytes: int) -> None:
        self.folder, self.capacity_bytes = private_folder(Path(folder)), capacity_bytes
        self._changed = threading.Condition()
        self._committed: dict[_Key, int] = {}
        self._arriving: dict[_Key, Writer] = {}
        self._taken: set[_Key] = set()
        self._lock_descriptor = lock_file(self.folder / "lock", f"the pool {folder}")
        try:
            self._scan()
        except OSError as error:
            self.close()
            raise self.error(error) from error

    def writer(self, session_id: bytes, batch_index: int, n_bytes: int) -> Writer:
        """Begin to store one batch. Raises BadFrame if it is here already, ConfigError."""
        key = (bytes(session_id), batch_index)
        with self._changed:
            if key in self._committed or key in self._arriving:
                raise pool_errors.sent_twice(batch_index)
            writer = Writer(self, key, n_bytes)
            self._arriving[key] = writer
            return writer

    def wanted(self, session_id: bytes, first_batch: int, n_bytes_per_batch: int) -> list[int]:
        """The next batch numbers to ask the dealer for, from `first_batch` up; none without room.

        Committed, arriving and wanted batches stay within the capacity together. A session without
        any batch at or above `first_batch` gets one whatever the capacity, so that none waits for
        ever. The call changes nothing: call again only when the dealer has begun on the last one.
        """
        with self._changed:
            here = {*self._committed, *self._arriving}
            sizes = [*self._committed.values(), *(w.n_bytes for w in self._arriving.values())]
        own = [number for session, number in here if session == session_id]
        ahead = {number for number in own if number >= first_batch}
        room = max(0, self.capacity_bytes - sum(sizes)) // max(1, n_bytes_per_batch)
        n_wanted = min(max(room, 0 if ahead else 1), _MAX_WANTED)
        free = (number for number in itertools.count(first_batch) if number not in ahead)
        return list(itertools.islice(free, n_wanted))

    def take(self, session_id: bytes, batch_index: int, timeout_s: float) -> Corrections:
        """The corrections of a batch, waiting up to `timeout_s` seconds for the first of them.

        Raises CorrelationsMissing if they do not arrive, MaskReused at a second call, ConfigError.
        """
        key = (bytes(session_id), batch_index)
        with self._changed:
            self._changed.wait_for(
                lambda: key in self._committed or key in self._arriving, timeout_s
            )
            if key not in self._committed and key not in self._arriving:
                raise CorrelationsMissing(
                    f"no corrections for batch {batch_index} within {timeout_s:g} s",
                    "the dealer does not run, has stopped, or is slower than this server",
                    "start gpumpc dealer or see its log; a larger --ahead lets it work further "
                    "ahead",
                )
            if key in self._taken:
                raise pool_errors.taken_twice(batch_index)
            corrections = Corrections(self, key, self._arriving.get(key) or self._committed[key])
            self._taken.add(key)
            return corrections

    def is_taken(self, key: _Key) -> bool:
        """Whether a batch is read, or was read while it arrived, and so needs no durable file."""
        with self._changed:
            return key in self._taken or key not in self._arriving

    def deliver(self, writer: Writer, piece: memoryview, is_filed: bool) -> bool:
        """Deliver the next bytes of an arriving batch to its reader; whether it has one.

        Without a reader, bytes that are in the file are only counted.
        """
        with self._changed:
            if writer.delivered is None and not is_filed:
                return False
            if writer.delivered is not None and not writer.ended:  # an ended batch has no reader
                writer.delivered.append(piece.toreadonly())
            writer.n_written += len(piece)
            self._changed.notify_all()
            return writer.delivered is not None

    def wait_written(self, writer: Writer, n_bytes: int) -> bool:
        """Wait for the first `n_bytes` of an arriving batch, or its end; whether they are there."""
        with self._changed:
            self._changed.wait_for(lambda: writer.n_written >= n_bytes or writer.ended)
            return writer.n_written >= n_bytes

    def ahead(self, session_id: bytes, first_batch: int) -> int:
        """How many committed batches of a session are at or above `first_batch`."""
        with self._changed:
            return sum(key[0] == session_id and key[1] >= first_batch for key in self._committed)

    def sessions(self) -> set[bytes]:
        """The sessions that have committed batches here."""
        with self._changed:
            return {session for session, _ in self._committed}

    def discard_before(self, session_id: bytes, batch_index: int) -> None:
        """Delete a session's committed batches below `batch_index` that have no reader."""
        with self._changed:
            for key in [*self._committed]:
                if key[0] == session_id and key[1] < batch_index and key not in self._taken:
                    self.drop(key)

    def close(self) -> None:
        """Let other processes have the folder; safe to call twice. Committed batches stay."""
        if self._lock_descriptor >= 0:
            os.close(self._lock_descriptor)
        self._lock_descriptor = -1

    def path(self, key: _Key, ending: str) -> Path:
        """Where the file of a batch is, while it arrives (`part`) or when it is whole (`corr`)."""
        return self.folder / f"{key[0].hex()}.{key[1]}.{ending}"

    def complete(self, key: _Key) -> None:
        """Note that all of a batch has arrived. Raises OSError."""
        with self._changed:
            writer = self._arriving.get(key)
            if writer is not None and key not in self._taken:
                os.rename(self.path(key, "part"), self.path(key, "corr"))
            if writer is not None:  # else it was dropped meanwhile
                self._committed[key] = writer.n_bytes
            self.end_arrival(key)

    def end_arrival(self, key: _Key) -> None:
        """Note that no more of a batch arrives."""
        with self._changed:
            if writer := self._arriving.pop(key, None):
                writer.ended = True
            self._changed.notify_all()

    def drop(self, key: _Key) -> None:
        """Delete a batch, whole or arriving. Raises ConfigError."""
        with self._changed:
            self._committed.pop(key, None)
            self._taken.discard(key)
            self.end_arrival(key)
            try:
                for ending in ("part", "corr"):
                    self.path(key, ending).unlink(missing_ok=True)
            except OSError as error:
                raise self.error(error) from error

    def error(self, error: OSError) -> ConfigError:
        """The error for a file operation in this pool that the system refused."""
        return file_error(f"the dealer's corrections cannot be kept in {self.folder}", error)

    def _scan(self) -> None:
        for path in self.folder.iterdir():
            if path.suffix == ".part":
                path.unlink()
            elif match := _NAME.fullmatch(path.name):
                # A file that was cut fails its checksum when it is taken.
                n_bytes = max(0, path.stat().st_size - CHECKSUM_BYTES)
                self._committed[bytes.fromhex(match[1]), int(match[2])] = n_bytes


class Writer:
    """An arriving batch; made by `Pool.writer`. After any error its file is deleted.

    Attributes:
        n_bytes: the announced size.
        n_written: how many bytes have arrived, in the file or delivered to the reader.
        delivered: the reader's bytes, once the batch is taken; those that arrive later are not
            written to the file.
        ended: no more bytes arrive.
    """

    def __init__(self, pool: Pool, key: _Key, n_bytes: int) -> None:
        self._pool, self._key, self.n_bytes = pool, key, n_bytes
        self.n_written, self.ended = 0, False
        self.delivered: collections.deque[memoryview] | None = None
        self._path = pool.path(key, "part")
        try:
            # Unbuffered: a reader maps the file while it is written.
            self._file = open(self._path, "x+b", buffering=0, opener=_private)  # noqa: SIM115  closed by commit or abort
        except OSError as error:
            raise pool.error(error) from error

    def append(self, piece: bytes | memoryview) -> None:
        """Add the next bytes, which are not changed afterwards.

        Raises BadFrame if they are more than announced, ConfigError if the disk is full.
        """
        left = memoryview(piece)
        if self.n_written + len(left) > self.n_bytes:
            self._refuse(self.n_written + len(left))
        try:
            while left and not self._pool.deliver(self, left, is_filed=False):
                n_bytes = self._file.write(left)
                # If the batch was taken during the write, the file was mapped without these bytes.
                self._pool.deliver(self, left[:n_bytes], is_filed=True)
                left = left[n_bytes:]
        except OSError as error:
            self.abort()
            raise self._pool.error(error) from error

    def commit(self) -> None:
        """Make the batch durable. Raises BadFrame unless all bytes are there, ConfigError."""
        if self.n_written != self.n_bytes:
            self._refuse(self.n_written)
        try:
            is_durable = not self._pool.is_taken(self._key)
            if is_durable:
                self._file.write(checksum(_mapped(self._file, self.n_bytes)))
                os.fsync(self._file.fileno())
            self._pool.complete(self._key)
            if is_durable:
                sync_folder(self._pool.folder)
        except OSError as error:
            self.abort()
            raise self._pool.error(error) from error
        self._close()  # only now: a reader may map the file until then

    def deliver_to_reader(self) -> collections.deque[memoryview]:
        """The bytes that have arrived, to which later ones are added; under the pool's lock."""
        pieces = [_mapped(self._file, self.n_written)] if self.n_written else []
        self.delivered = collections.deque(pieces)
        return self.delivered

    def abort(self) -> None:
        """Delete the batch; safe to call twice."""
        with contextlib.suppress(OSError):  # the next start deletes it; the reader must stop now
            self._path.unlink(missing_ok=True)
        self._pool.end_arrival(self._key)
        self._close()

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()

    def _refuse(self, n_bytes: int) -> None:
        self.abort()
        raise pool_errors.wrong_size(self._key[1], self.n_bytes, n_bytes)


class Corrections:
    """The corrections of one batch, read from front to back; made by `Pool.take`.

    Args:
        source: its writer while it arrives, else its size.
    """

    def __init__(self, pool: Pool, key: _Key, source: Writer | int) -> None:
        self._pool, self._key, self._n_read = pool, key, 0
        self._writer = None if isinstance(source, int) else source
        try:
            if isinstance(source, Writer):
                self._n_bytes, self._pieces = source.n_bytes, source.deliver_to_reader()
            else:
                path = pool.path(key, "corr")
                with open(path, "rb") as file:
                    data = _mapped(file, source)
                    file.seek(source)
                    is_whole = is_intact(data, file.read())
                if not is_whole:
                    pool.drop(key)
                    raise pool_errors.damaged(key[1], path)
                self._n_bytes, self._pieces = source, collections.deque([data])
        except OSError as error:
            raise pool.error(error) from error

    def read(self, n_bytes: int) -> memoryview:
        """The next `n_bytes` bytes, read-only, valid while referred to; waits while they arrive.

        Raises CorrelationsMissing.
        """
        if n_bytes > self._n_bytes - self._n_read:
            why = f"a step asks for {n_bytes} bytes and {self._n_bytes - self._n_read} are left"
            raise pool_errors.too_few(self._key[1], why)
        self._n_read += n_bytes
        if self._writer is not None and not self._pool.wait_written(self._writer, self._n_read):
            raise CorrelationsMissing(
                f"the corrections of batch {self._key[1]} ended after {self._writer.n_written} "
                "bytes",
                "the dealer stopped, or its connection was lost, in the middle of this batch",
                "see the dealer's log, then ask again: the batch is given up and the next one is "
                "used",
            )
        return cut(self._pieces, n_bytes)

    def finish(self) -> None:
        """Delete the batch. Raises LeftoverCorrelations if bytes are unread, ConfigError."""
        n_unread = self._n_bytes - self._n_read
        self.discard()
        if n_unread:
            raise pool_errors.left_over(self._key[1], n_unread)

    def discard(self) -> None:
        """Delete the batch of a failed run; safe to call twice. Raises ConfigError."""
        self._pieces.clear()
        self._pool.drop(self._key)


def _mapped(file: BinaryIO | FileIO, n_bytes: int) -> memoryview:
    if not n_bytes:  # an empty file cannot be mapped
        return memoryview(b"")
    return memoryview(mmap.mmap(file.fileno(), n_bytes, access=mmap.ACCESS_READ))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
