"""S1's store of the dealer's corrections: bounded, on disk, each batch read once.

A batch arrives in pieces into `<session>.<batch>.part`; `commit` makes it durable under
`<session>.<batch>.corr` in one step, so a file of that name is always whole. A batch that is taken
while it arrives is read as it comes: its number is reserved, so it is used up whether or not it is
finished, and nothing of it has to outlast the process.

The bound is kept by asking: the server asks the dealer for the batch numbers that `wanted` gives,
and the dealer sends no others.
"""

from __future__ import annotations

import collections
import contextlib
import mmap
import os
import re
import threading
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from gpumpc.errors import (
    BadFrame,
    ConfigError,
    CorrelationsMissing,
    LeftoverCorrelations,
    MaskReused,
)
from gpumpc.offline.pieces import cut
from gpumpc.offline.secret import file_error, lock_file, private_folder, sync_folder

# A longer list would say nothing more to the dealer: it asks again when it has sent these.
_MAX_WANTED = 64
_NAME = re.compile(r"([0-9a-f]{32})\.(\d{1,20})\.corr")

_Key = tuple[bytes, int]


class Pool:
    """The corrections of all sessions of one server; usable from several threads of one process.

    Opening it sweeps away what the process before had not committed.

    Args:
        folder: where the files are; made (0700) where missing.
        capacity_bytes: how much may lie there, except that one batch of a session is always
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
        self._held = lock_file(self.folder / "lock", f"the pool {folder}")
        try:
            self._scan()
        except OSError as error:
            self.close()
            raise self.error(error) from error

    def writer(self, session_id: bytes, batch_index: int, n_bytes: int) -> Writer:
        """Begin to store one batch of `n_bytes` bytes.

        Raises BadFrame if it is here already, ConfigError.
        """
        key = (bytes(session_id), batch_index)
        with self._changed:
            if key in self._committed or key in self._arriving:
                raise BadFrame(
                    f"corrections of batch {batch_index} came twice",
                    "they are here",
                    "see the dealer's log",
                )
            writer = Writer(self, key, n_bytes)
            self._arriving[key] = writer
            return writer

    def wanted(self, session_id: bytes, first_batch: int, n_bytes_per_batch: int) -> list[int]:
        """The next batch numbers to ask the dealer for, from `first_batch` up, in order; empty
        while there is no room.

        Committed, arriving and wanted batches stay within the capacity together. A session without
        any batch at or above `first_batch` is given one whatever the capacity, so that none waits
        for ever. The answer marks nothing: ask again only when the dealer has begun on the last
        one.
        """
        with self._changed:
            here = {*self._committed, *self._arriving}
            used = sum(self._committed.values()) + sum(
                writer.n_bytes for writer in self._arriving.values()
            )
            ahead = {
                batch_index
                for session, batch_index in here
                if session == session_id and batch_index >= first_batch
            }
        room = max(0, self.capacity_bytes - used) // max(1, n_bytes_per_batch)
        n_wanted = min(max(room, 0 if ahead else 1), _MAX_WANTED)
        free = (
            batch_index
            for batch_index in range(first_batch, first_batch + n_wanted + len(ahead))
            if batch_index not in ahead
        )
        return [batch_index for batch_index, _ in zip(free, range(n_wanted), strict=False)]

    def take(self, session_id: bytes, batch_index: int, timeout_s: float) -> Corrections:
        """The corrections of a batch, waiting up to `timeout_s` seconds for the first of them.

        Raises CorrelationsMissing if they do not come, MaskReused if they were handed out already,
        ConfigError.
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
                raise MaskReused(
                    f"batch {batch_index} was taken twice",
                    "its corrections are in use",
                    "take another batch",
                )
            corrections = Corrections(self, key, self._arriving.get(key) or self._committed[key])
            self._taken.add(key)
            return corrections

    def is_taken(self, key: _Key) -> bool:
        """Whether a batch is being read, or was while it arrived: it is not kept."""
        with self._changed:
            return key in self._taken or key not in self._arriving

    def hand_over(self, writer: Writer, piece: memoryview, is_filed: bool) -> bool:
        """Give the next bytes of an arriving batch to whoever reads along: whether somebody does.

        Where nobody does, what is in the file already is counted.
        """
        with self._changed:
            if writer.handed is None and not is_filed:
                return False
            if (
                writer.handed is not None and not writer.ended
            ):  # else it was given up: nobody reads the rest
                writer.handed.append(piece.toreadonly())
            writer.n_written += len(piece)
            self._changed.notify_all()
            return writer.handed is not None

    def wait_written(self, writer: Writer, n_bytes: int) -> bool:
        """Wait for the first `n_bytes` of an arriving batch, as long as more may come: whether they
        are there.
        """
        with self._changed:
            self._changed.wait_for(lambda: writer.n_written >= n_bytes or writer.ended)
            return writer.n_written >= n_bytes

    def ahead(self, session_id: bytes, first_batch: int) -> int:
        """How many batches of a session from `first_batch` up are here, whole."""
        with self._changed:
            return sum(
                session == session_id and batch_index >= first_batch
                for session, batch_index in self._committed
            )

    def sessions(self) -> set[bytes]:
        """The sessions that have committed batches here: discard those that no plan of this server
        uses.
        """
        with self._changed:
            return {session for session, _ in self._committed}

    def discard_before(self, session_id: bytes, batch_index: int) -> None:
        """Delete the committed batches of a session below `batch` that nobody reads: they can never
        be used.
        """
        with self._changed:
            for key in [
                k
                for k in self._committed
                if k[0] == session_id and k[1] < batch_index and k not in self._taken
            ]:
                self.drop(key)

    def close(self) -> None:
        """Let other processes have the folder; safe to call twice. Committed batches stay."""
        if self._held >= 0:
            os.close(self._held)
        self._held = -1

    def path(self, key: _Key, ending: str) -> Path:
        """Where the file of a batch is, while it arrives (`part`) or when it is whole (`corr`)."""
        return self.folder / f"{key[0].hex()}.{key[1]}.{ending}"

    def keep(self, key: _Key) -> None:
        """All of a batch has arrived. Raises OSError."""
        with self._changed:
            writer = self._arriving.get(key)
            if writer is not None and key not in self._taken:
                os.rename(self.path(key, "part"), self.path(key, "corr"))
            if writer is not None:  # else it was dropped meanwhile
                self._committed[key] = writer.n_bytes
            self.end(key)

    def end(self, key: _Key) -> None:
        """Nothing more of a batch comes."""
        with self._changed:
            if writer := self._arriving.pop(key, None):
                writer.ended = True
            self._changed.notify_all()

    def drop(self, key: _Key) -> None:
        """Delete a batch, whole or arriving. Raises ConfigError."""
        with self._changed:
            self._committed.pop(key, None)
            self._taken.discard(key)
            self.end(key)
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
                self._committed[bytes.fromhex(match[1]), int(match[2])] = path.stat().st_size


class Writer:
    """One batch on its way in; made by `Pool.writer`. After any error nothing of it is left.

    Attributes:
        n_bytes: announced.
        n_written: have come, in the file or handed over.
        handed: for who reads along, what came since the batch was taken: it is not written to the
            file, for nothing of it has to outlast the process.
        ended: nothing more comes.
    """

    def __init__(self, pool: Pool, key: _Key, n_bytes: int) -> None:
        self._pool, self._key, self.n_bytes = pool, key, n_bytes
        self.n_written, self.ended = 0, False
        self.handed: collections.deque[memoryview] | None = None
        self._path = pool.path(key, "part")
        try:
            # Unbuffered: who reads along sees what is written.
            self._file = open(self._path, "x+b", buffering=0, opener=_private)  # noqa: SIM115  closed by commit or abort
        except OSError as error:
            raise pool.error(error) from error

    def append(self, piece: bytes | memoryview) -> None:
        """Add the next bytes, which stay as they are. Raises BadFrame if more come than announced,
        ConfigError if the disk is full.
        """
        left = memoryview(piece)
        if self.n_written + len(left) > self.n_bytes:
            self._refuse(self.n_written + len(left))
        try:
            while left and not self._pool.hand_over(self, left, is_filed=False):
                n_bytes = self._file.write(left)
                # Taken while it was written, it is handed over all the same: the file was mapped
                # without it.
                self._pool.hand_over(self, left[:n_bytes], is_filed=True)
                left = left[n_bytes:]
        except OSError as error:
            self.abort()
            raise self._pool.error(error) from error

    def commit(self) -> None:
        """Make the batch durable and hand it out.

        Raises BadFrame unless all bytes are there, ConfigError.
        """
        if self.n_written != self.n_bytes:
            self._refuse(self.n_written)
        try:
            must_last = not self._pool.is_taken(self._key)
            if must_last:
                os.fsync(self._file.fileno())
            self._pool.keep(self._key)
            if must_last:
                sync_folder(self._pool.folder)
        except OSError as error:
            self.abort()
            raise self._pool.error(error) from error
        self._close()  # only now: until then, who takes the batch reads along

    def read_along(self) -> collections.deque[memoryview]:
        """What has come and what comes, for one reader; under the pool's lock."""
        self.handed = collections.deque(
            [_mapped(self._file, self.n_written)] if self.n_written else []
        )
        return self.handed

    def abort(self) -> None:
        """Leave nothing of the batch behind; safe to call twice."""
        with contextlib.suppress(
            OSError
        ):  # it is swept at the next start; who reads along must hear of it now
            self._path.unlink(missing_ok=True)
        self._pool.end(self._key)
        self._close()

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()

    def _refuse(self, n_bytes: int) -> None:
        self.abort()
        why = f"{self.n_bytes} bytes were announced and {n_bytes} came"
        hint = "run the same plan and version of gpumpc at the dealer and at this server"
        raise BadFrame(f"the corrections of batch {self._key[1]} were refused", why, hint)


class Corrections:
    """The corrections of one batch, read from front to back; made by `Pool.take`.

    Args:
        source: what still writes it, or its size where it is whole.
    """

    def __init__(self, pool: Pool, key: _Key, source: Writer | int) -> None:
        self._pool, self._key, self._n_read = pool, key, 0
        self._writer = None if isinstance(source, int) else source
        try:
            if isinstance(source, Writer):
                self._n_bytes, self._pieces = source.n_bytes, source.read_along()
            else:
                with open(pool.path(key, "corr"), "rb") as file:
                    self._n_bytes, self._pieces = source, collections.deque([_mapped(file, source)])
        except OSError as error:
            raise pool.error(error) from error

    def read(self, n_bytes: int) -> memoryview:
        """The next `n_bytes` bytes, read-only, valid as long as they are referred to; waited for
        where they still come.

        Raises CorrelationsMissing.
        """
        if n_bytes > self._n_bytes - self._n_read:
            raise CorrelationsMissing(
                f"batch {self._key[1]} has too few corrections",
                f"a step asks for {n_bytes} bytes and {self._n_bytes - self._n_read} are left",
                "run the same plan and version of gpumpc at the dealer and at this server",
            )
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
        """End the batch and delete its file.

        Raises LeftoverCorrelations if bytes are unread, ConfigError.
        """
        n_unread = self._n_bytes - self._n_read
        self.discard()
        if n_unread:
            raise LeftoverCorrelations(
                f"{n_unread} bytes of the corrections of batch {self._key[1]} were not read",
                "the dealer and this server walked different programs",
                "run the same plan and version of gpumpc at the dealer and at this server",
            )

    def discard(self) -> None:
        """Delete the file of a batch whose run has failed; safe to call twice.

        Raises ConfigError.
        """
        self._pieces.clear()
        self._pool.drop(self._key)


def _mapped(file: BinaryIO | FileIO, n_bytes: int) -> memoryview:
    if not n_bytes:  # an empty file cannot be mapped
        return memoryview(b"")
    return memoryview(mmap.mmap(file.fileno(), n_bytes, access=mmap.ACCESS_READ))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
