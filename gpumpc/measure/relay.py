"""A simulated link between two machines: TCP connections pass at a rate and with a delay.

For measuring only. Its one thread sleeps until a socket is ready or the next bytes are due.
"""

from __future__ import annotations

import contextlib
import dataclasses
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Self

_READ_BYTES = 1 << 16
# A few packets: with a larger burst, many small rounds would go faster than the link.
_BURST_BYTES = 1 << 12
# Read ahead of the link: keeps it busy without hiding that it is slow.
_AHEAD_BYTES = 1 << 20
_CONNECT_S = 5.0


@dataclasses.dataclass(frozen=True)
class Shape:
    """A link: the same rate each way, half of the round trip each way."""

    bits_per_second: float
    round_trip_s: float


NETWORKS: Mapping[str, Shape | None] = {
    "loopback": None,
    "lan": Shape(1e9, 0.5e-3),
    "wan": Shape(100e6, 40e-3),
}


class TokenBucket:
    """Lets `bytes_per_second` through, and `burst_bytes` at once after a pause.

    The state is the moment at which the bucket is full again.
    """

    def __init__(self, bytes_per_second: float, burst_bytes: int = _BURST_BYTES) -> None:
        self._rate, self._burst_s = bytes_per_second, burst_bytes / bytes_per_second
        self._full_at = float("-inf")

    def take(self, n_bytes: int, now: float) -> float:
        """When n bytes that arrive now have passed; never before now."""
        self._full_at = max(self._full_at, now) + n_bytes / self._rate
        return max(now, self._full_at - self._burst_s)


class _Way:
    """One direction of the link, shared by all its connections."""

    def __init__(self, shape: Shape) -> None:
        self.delay_s = shape.round_trip_s / 2
        self.bucket = TokenBucket(shape.bits_per_second / 8)
        self.limit_bytes = int(shape.bits_per_second / 8 * self.delay_s) + _AHEAD_BYTES
        self.passed_bytes = 0

    def due(self, n_bytes: int) -> float:
        """When n bytes that are read now arrive at the other end."""
        self.passed_bytes += n_bytes
        return self.bucket.take(n_bytes, time.monotonic()) + self.delay_s


class _End:
    """One socket of a relayed connection, with what is on its way to it."""

    def __init__(self, sock: socket.socket, way: _Way) -> None:
        self.socket, self.way = sock, way
        self.other: _End = self
        # (when due, bytes); no bytes: the other side has finished.
        self.coming: deque[tuple[float, memoryview]] = deque()
        self.coming_bytes = 0
        self.has_finished = self.is_stopped = self.is_full = False


class Relay:
    """A link that any number of connections share, each direction on its own.

    Use as a context manager, or call `close`.
    """

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self._out, self._back = _Way(shape), _Way(shape)
        # select(2) alone takes a timeout in microseconds; the others round it up to a millisecond.
        self._selector = selectors.SelectSelector()
        self._ends: list[_End] = []
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        # Listening sockets with their targets, which the thread takes over when it is woken.
        self._new: deque[tuple[socket.socket, tuple[str, int]]] = deque()
        self._listeners: list[socket.socket] = []
        self._closing = False
        self._selector.register(self._woken, selectors.EVENT_READ, self._take_listeners)
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def endpoint_to(self, target: str) -> str:
        """An endpoint `tcp://host:port` that leads to `target` through the link. Raises OSError."""
        host, port = target.removeprefix("tcp://").rsplit(":", 1)
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        self._new.append((listener, (host, int(port))))
        self._wake()
        return f"tcp://127.0.0.1:{listener.getsockname()[1]}"

    @property
    def passed_bytes(self) -> tuple[int, int]:
        """Bytes taken in so far, towards the targets and back."""
        return self._out.passed_bytes, self._back.passed_bytes

    def close(self) -> None:
        """End every connection; safe to call twice."""
        self._closing = True
        self._wake()
        self._thread.join()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    # the thread

    def _run(self) -> None:
        while not self._closing:
            for key, events in self._selector.select(self._patience_s()):
                key.data(events)
            for end in [*self._ends]:
                self._deliver(end)
        for end in [*self._ends]:
            self._drop(end)
        new = (listener for listener, _ in self._new)
        for sock in (*self._listeners, *new, self._woken, self._waker):
            sock.close()
        self._selector.close()

    def _patience_s(self) -> float | None:
        """Until the next bytes are due that their socket would take."""
        due = [end.coming[0][0] for end in self._ends if end.coming and not end.is_full]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _take_listeners(self, _: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(_READ_BYTES)
        while self._new:
            listener, target = self._new.popleft()
            self._listeners.append(listener)
            accept = partial(self._accept, listener, target)
            self._selector.register(listener, selectors.EVENT_READ, accept)

    def _use(self, end: _End, events: int) -> None:
        """A socket can be read or written."""
        if end in self._ends:
            if events & selectors.EVENT_WRITE:
                end.is_full = False
            if events & selectors.EVENT_READ:
                self._read(end)

    def _accept(self, listener: socket.socket, target: tuple[str, int], _: int) -> None:
        try:
            caller, _address = listener.accept()
        except OSError:
            return
        try:
            called = socket.create_connection(target, _CONNECT_S)
        except OSError:  # nobody listens there yet: the caller tries again
            caller.close()
            return
        near, far = _End(caller, self._back), _End(called, self._out)
        near.other, far.other = far, near
        for end in (near, far):
            end.socket.setblocking(False)
            end.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._ends.append(end)
            self._selector.register(end.socket, selectors.EVENT_READ, partial(self._use, end))

    def _read(self, end: _End) -> None:
        """Take bytes in from `end`, on their way to the other one."""
        try:
            data = end.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        sink = end.other
        end.has_finished = not data
        sink.coming.append((sink.way.due(len(data)), memoryview(data)))
        sink.coming_bytes += len(data)
        self._choose_events(end)

    def _choose_events(self, end: _End) -> None:
        reads = not end.has_finished and end.other.coming_bytes < end.other.way.limit_bytes
        events = selectors.EVENT_READ * reads | selectors.EVENT_WRITE * end.is_full
        known = end.socket in self._selector.get_map()
        if not events:
            if known:
                self._selector.unregister(end.socket)
        elif known:
            self._selector.modify(end.socket, events, partial(self._use, end))
        else:
            self._selector.register(end.socket, events, partial(self._use, end))

    def _deliver(self, end: _End) -> None:
        """Send `end` the bytes that are due, as many as its socket takes."""
        now = time.monotonic()
        moved = False
        while end.coming and end.coming[0][0] <= now and not end.is_full:
            due, data = end.coming.popleft()
            moved = True
            try:
                if not data:
                    end.is_stopped = True
                    end.socket.shutdown(socket.SHUT_WR)
                    continue
                sent = end.socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._drop(end)
                return
            end.coming_bytes -= sent
            if sent < len(data):
                end.coming.appendleft((due, data[sent:]))
                end.is_full = True
        if moved:
            self._choose_events(end)
            self._choose_events(end.other)
        if end.is_stopped and end.other.is_stopped:
            self._drop(end)

    def _drop(self, end: _End) -> None:
        """Close both sockets of a connection."""
        for one in (end, end.other):
            if one in self._ends:
                self._ends.remove(one)
                if one.socket in self._selector.get_map():
                    self._selector.unregister(one.socket)
                one.socket.close()
