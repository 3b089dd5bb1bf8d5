"""Sending frames as records: at once as long as the kernel takes them, else in a thread.

A call never waits for the peer to read, as two ends that both send before they receive would wait
for each other. The rest that the kernel does not take at once is sent by a thread: sealed already,
so that the caller may use its arrays again (`put`), or sealed there straight from the caller's
arrays while it receives (`start`).
"""

from __future__ import annotations

import collections
import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from gpumpc.errors import PeerLost, PeerTimeout
from gpumpc.wire.frames import Buffer
from gpumpc.wire.stream.records import (
    HEADER_LABEL,
    RECORD_BYTES,
    SEALED_HEADER_BYTES,
    TAG_BYTES,
    Sealer,
)
from gpumpc.wire.transport import peer_lost

T = TypeVar("T", bound=Buffer)

# From this size on, a second thread that seals and sends is worth a change of threads.
LARGE_BYTES = 1 << 20
# Sealed bytes that may wait for a peer that does not read, before `put` waits as well.
_WAITING_BYTES = 64 << 20
_LOOK_S = 0.25


class SendBuffer:
    """The sending half of a stream. One thread at a time may call `put` and `start`, and another
    `put_if_idle`.
    """

    def __init__(self, sock: socket.socket, sealer: Sealer, peer: str) -> None:
        self._socket, self._sealer, self._peer = sock, sealer, peer
        self._scratch = memoryview(bytearray(SEALED_HEADER_BYTES + RECORD_BYTES + TAG_BYTES))
        # Whoever holds it takes the next numbers of records.
        self._numbering = threading.Lock()
        self._sent_at = time.monotonic()
        self._beats = False  # whether the last frame was sent by `put_if_idle`
        self._changed = threading.Condition()
        self._waiting: collections.deque[bytes | Sending] = collections.deque()
        self._waiting_bytes = 0
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._error: OSError | None = None

    def put(self, header: bytes, parts: Sequence[Buffer]) -> None:
        """Send one frame; the parts may be changed on return. Waits only while much is unsent.

        Raises PeerLost.
        """
        with self._numbering:
            self._beats = False
            self._put(header, parts)

    def put_if_idle(self, header: bytes, idle_s: float, again_s: float) -> None:
        """Send a frame without a payload if nothing was sent for `idle_s` seconds, else nothing.

        After a first one the next follow every `again_s` seconds. Never waits, and raises nothing:
        a peer that is gone shows elsewhere.
        """
        due_s = again_s if self._beats else idle_s
        if time.monotonic() - self._sent_at < due_s or not self._numbering.acquire(blocking=False):
            return
        try:
            if not self._waiting:
                self._beats = True
                with contextlib.suppress(PeerLost):
                    self._put(header, [])
        finally:
            self._numbering.release()

    def fail(self, why: str) -> None:
        """Send nothing more, because the peer is gone: every caller raises PeerLost."""
        with self._changed:
            self._error = self._error or OSError(0, why)
            self._changed.notify_all()

    def _put(self, header: bytes, parts: Sequence[Buffer]) -> None:
        self._check()
        if self._waiting:
            self._after_large()
        try:
            for record in self._sealed(header, parts):
                # While the queue is empty only this thread sends, and only it adds to the queue.
                rest = record if self._waiting else record[self._send_now(record) :]
                if rest:
                    self._enqueue(bytes(rest))
                while self._waiting_bytes > _WAITING_BYTES:
                    self._await_change()
        except BaseException:
            self._stopped = True  # nothing can follow half a frame
            raise

    def start(self, header: bytes, parts: Sequence[Buffer]) -> Sending | None:
        """Begin to send one frame from the parts, not to be changed before `Sending.finish`.

        A small frame is sent at once, and the answer is None. Raises PeerLost.
        """
        if sum(map(len, parts)) < LARGE_BYTES:
            self.put(header, parts)
            return None
        with self._numbering:
            self._beats = False
            self._check()
            self._after_large()
            sending = Sending(self, header, parts)
            self._enqueue(sending)
        return sending

    def flush(self, deadline: float) -> None:
        """Wait until all is sent, or until `deadline` (monotonic); raises nothing."""
        with self._changed:
            while self._waiting and not self._error and not self._stopped:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return
                self._changed.wait(left_s)

    def stop(self) -> None:
        """Send nothing more, and read no array any longer. The socket must be shut down before."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def await_end(self, sending: Sending, timeout_s: float) -> None:
        """Wait until a frame is sent. Raises PeerTimeout, PeerLost."""
        deadline = time.monotonic() + timeout_s
        while sending in self._waiting:
            self._check()
            if time.monotonic() > deadline:
                what = f"{self._peer} took nothing for {timeout_s:g} s"
                hint = f"see the log of {self._peer}, or allow more time with timeout_s"
                raise PeerTimeout(what, "its process is up but busy or stopped", hint)
            self._await_change()
        self._check()  # it may have ended in an error

    def _after_large(self) -> None:
        # One thread at a time takes the numbers of records, in the order in which they are sent.
        while any(isinstance(item, Sending) for item in [*self._waiting]):
            self._await_change()

    def _sealed(self, header: bytes, parts: Sequence[Buffer]) -> Iterator[memoryview]:
        """One frame's records, the first with the header's; each valid until the next."""
        start = SEALED_HEADER_BYTES
        self._sealer.seal_into(header, HEADER_LABEL, self._scratch[:start])
        whole = sum(map(len, parts)) <= RECORD_BYTES
        for piece in [joined(parts)] if whole and any(parts) else pieces(parts, RECORD_BYTES):
            end = start + len(piece) + TAG_BYTES
            self._sealer.seal_into(piece, header, self._scratch[start:end])
            yield self._scratch[:end]
            start = 0
        if start:
            yield self._scratch[:start]

    def _send_now(self, data: memoryview) -> int:
        sent = 0
        try:
            while sent < len(data):
                sent += self._socket.send(data[sent:])
                self._sent_at = time.monotonic()
        except BlockingIOError:
            pass
        except OSError as error:
            self._error = self._error or error
            self._check()
        return sent

    def _enqueue(self, item: bytes | Sending) -> None:
        with self._changed:
            self._waiting.append(item)
            self._waiting_bytes += len(item)
            if self._thread is None:
                name = "gpumpc-sending"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _await_change(self) -> None:
        with self._changed:
            self._check()
            if self._waiting:
                self._changed.wait(_LOOK_S)

    def _check(self) -> None:
        if self._error or self._stopped:
            why = (self._error and self._error.strerror) or "this end was closed"
            raise peer_lost(self._peer, why)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopped)
                if self._stopped:
                    return
                item = self._waiting[0]
            try:
                for record in self._records(item):
                    self._send_all(record)
            except OSError as error:
                self._error = self._error or error
            except Exception as error:  # a bug: the thread that waits must raise it
                self._error = self._error or OSError(0, f"{type(error).__name__} in sending")
            with self._changed:
                self._waiting.popleft()
                self._waiting_bytes -= len(item)
                self._stopped |= self._error is not None
                self._changed.notify_all()

    def _records(self, item: bytes | Sending) -> Iterable[memoryview]:
        if isinstance(item, bytes):
            return [memoryview(item)]
        return self._sealed(item.header, item.parts)

    def _send_all(self, data: memoryview) -> None:
        poller = select.poll()
        poller.register(self._socket, select.POLLOUT)
        while data:
            if self._stopped:
                raise BrokenPipeError(0, "this end was closed")
            try:
                data = data[self._socket.send(data) :]
                self._sent_at = time.monotonic()
            except BlockingIOError:
                poller.poll(_LOOK_S * 1000)


class Sending:
    """A large frame that the thread seals and sends straight from the caller's arrays."""

    def __init__(self, send_buffer: SendBuffer, header: bytes, parts: Sequence[Buffer]) -> None:
        self._send_buffer, self.header, self.parts = send_buffer, header, parts

    def __len__(self) -> int:
        return 0  # it takes no memory of its own

    def finish(self, timeout_s: float) -> None:
        """Wait until all is sent. Raises PeerTimeout, PeerLost."""
        self._send_buffer.await_end(self, timeout_s)


def pieces(parts: Sequence[Buffer], size: int) -> Iterator[Buffer]:
    """The bytes of all parts in order, `size` at a time: views, except of a piece across parts."""
    across: list[memoryview] = []
    n_across = 0
    for part in parts:
        view = memoryview(part)
        view = view.cast("B") if view.nbytes else memoryview(b"")
        while view:
            piece = view[: size - n_across]
            view = view[len(piece) :]
            across.append(piece)
            n_across += len(piece)
            if n_across == size:
                yield joined(across)
                across, n_across = [], 0
    if across:
        yield joined(across)


def joined(parts: Sequence[T]) -> T | bytes:
    """All parts as one; a single part is not copied."""
    return parts[0] if len(parts) == 1 else b"".join(parts)
