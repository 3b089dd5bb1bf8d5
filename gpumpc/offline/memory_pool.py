"""Corrections of a session in one process: server 1 reads a batch while the dealer writes it.

A batch need not outlast the process, so there is no file; and because a batch that runs is used up
whether or not it is finished, it may begin before its last byte is dealt. Each batch is read once,
from front to back.
"""

from __future__ import annotations

import collections
import threading
import time

from gpumpc.errors import CorrelationsMissing
from gpumpc.offline import pool_errors
from gpumpc.offline.pieces import cut

_Key = tuple[bytes, int]


class NotDealt(CorrelationsMissing):
    """The dealer's thread has failed: its own error says why."""


class _Batch:
    def __init__(self) -> None:
        self.n_bytes: int | None = None  # until a dealer begins
        self.n_written = 0
        self.pieces: collections.deque[memoryview] = collections.deque()
        self.taken = self.failed = False


class MemoryPool:
    """Batches by (session, number); the dealer's thread writes, server 1's reads. Unbounded."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._batches: dict[_Key, _Batch] = {}

    def writer(self, session_id: bytes, batch_index: int, n_bytes: int) -> MemoryWriter:
        """Begin to store one batch of `n_bytes` bytes. Raises BadFrame if it is here already."""
        with self._changed:
            entry = self._entry((session_id, batch_index))
            if entry.n_bytes is not None or entry.failed:
                raise pool_errors.sent_twice(batch_index)
            entry.n_bytes = n_bytes
        return MemoryWriter(self, entry, (session_id, batch_index))

    def take(self, session_id: bytes, batch_index: int, timeout_s: float) -> MemoryCorrections:
        """A batch's corrections; reads wait for the dealer. Raises MaskReused at a second call."""
        with self._changed:
            entry = self._entry((session_id, batch_index))
            if entry.taken:
                raise pool_errors.taken_twice(batch_index)
            entry.taken = True
        return MemoryCorrections(self, (session_id, batch_index), entry, timeout_s)

    def fail(self, session_id: bytes, batch_index: int) -> None:
        """Note that the dealer will not finish this batch: every read of it raises NotDealt."""
        with self._changed:
            self._entry((session_id, batch_index)).failed = True
            self._changed.notify_all()

    def forget_failures(self) -> None:
        """Let batches that failed be dealt again."""
        with self._changed:
            for key in [key for key, entry in self._batches.items() if entry.failed]:
                del self._batches[key]

    def discard_before(self, session_id: bytes, batch_index: int) -> None:
        """Forget the batches of a session below `batch_index` that have no reader."""
        with self._changed:
            for key, entry in [*self._batches.items()]:
                if key[0] == session_id and key[1] < batch_index and not entry.taken:
                    del self._batches[key]

    def drop(self, key: _Key) -> None:
        """Forget a batch."""
        with self._changed:
            self._batches.pop(key, None)

    @property
    def n_unread_bytes(self) -> int:
        """Bytes that were written and not read."""
        with self._changed:
            return sum(len(piece) for entry in self._batches.values() for piece in entry.pieces)

    def put(self, entry: _Batch, piece: memoryview) -> None:
        """Add the next bytes of a batch."""
        with self._changed:
            entry.pieces.append(piece)
            entry.n_written += len(piece)
            self._changed.notify_all()

    def wait(self, entry: _Batch, n_bytes: int, timeout_s: float) -> bool:
        """Wait for the first `n_bytes` of a batch, or its failure; whether they are there."""
        with self._changed:
            self._changed.wait_for(lambda: entry.n_written >= n_bytes or entry.failed, timeout_s)
            return entry.n_written >= n_bytes

    def _entry(self, key: _Key) -> _Batch:
        return self._batches.setdefault((bytes(key[0]), key[1]), _Batch())


class MemoryWriter:
    """An arriving batch; made by `MemoryPool.writer`."""

    def __init__(self, pool: MemoryPool, entry: _Batch, key: _Key) -> None:
        self._pool, self._entry, self._key = pool, entry, key

    def append(self, piece: bytes | memoryview) -> None:
        """Add the next bytes, not changed afterwards. Raises BadFrame beyond the announced size."""
        if self._entry.n_written + len(piece) > (self._entry.n_bytes or 0):
            self._refuse(self._entry.n_written + len(piece))
        if piece:
            self._pool.put(self._entry, memoryview(piece))

    def commit(self) -> None:
        """Raises BadFrame unless all bytes are there."""
        if self._entry.n_written != self._entry.n_bytes:
            self._refuse(self._entry.n_written)
        if not self._entry.n_bytes:
            self._pool.drop(self._key)  # it has no reader

    def _refuse(self, n_bytes: int) -> None:
        raise pool_errors.wrong_size(self._key[1], self._entry.n_bytes or 0, n_bytes)


class MemoryCorrections:
    """The corrections of one batch, read from front to back; made by `MemoryPool.take`."""

    def __init__(self, pool: MemoryPool, key: _Key, entry: _Batch, timeout_s: float) -> None:
        self._pool, self._key, self._entry = pool, key, entry
        self._deadline = time.monotonic() + timeout_s
        self._n_read = 0

    def read(self, n_bytes: int) -> memoryview:
        """The next `n_bytes` bytes, read-only, waited for. Raises CorrelationsMissing, NotDealt."""
        entry, end = self._entry, self._n_read + n_bytes
        # Once the dealer has begun, bytes beyond the announced size never arrive.
        hopeless = entry.n_bytes is not None and end > entry.n_bytes
        if hopeless or not self._pool.wait(entry, end, max(0.0, self._deadline - time.monotonic())):
            kind = NotDealt if entry.failed else CorrelationsMissing
            why = f"a step asks for {n_bytes} bytes after {self._n_read} of {entry.n_bytes or 0}"
            raise pool_errors.too_few(self._key[1], why, kind)
        self._n_read = end
        return cut(entry.pieces, n_bytes)

    def finish(self) -> None:
        """End the batch. Raises LeftoverCorrelations if bytes are unread."""
        n_unread = (self._entry.n_bytes or 0) - self._n_read
        self.discard()
        if n_unread:
            raise pool_errors.left_over(self._key[1], n_unread)

    def discard(self) -> None:
        """Forget the batch; safe to call twice."""
        self._pool.drop(self._key)
