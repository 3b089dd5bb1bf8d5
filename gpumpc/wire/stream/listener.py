"""Connecting the two ends of a stream: one listens, the other dials.

The dialling end first sends the ticket of its keys, in the clear, and then a sealed HELLO frame;
the listening end answers with one. So each end knows that the other holds the keys before anything
else is sent. A connection that does not get so far occupies a socket for three seconds.
"""

import contextlib
import dataclasses
import select
import socket
import time

from gpumpc.errors import BadFrame, ConfigError, PeerLost, PeerTimeout
from gpumpc.wire.frames import MAX_PAYLOAD_BYTES, Kind, encode_header
from gpumpc.wire.stream.records import TICKET_BYTES, StreamKeys
from gpumpc.wire.stream.stream import Stream

_PENDING_S = 3.0
_MAX_PENDING = 16
_HINT = (
    "let that port through, or name another with the key `peer_bulk` or `dealer_bulk` at both ends"
)


@dataclasses.dataclass
class _Pending:
    """A connection that has not authenticated yet."""

    socket: socket.socket
    deadline: float
    ticket: bytes = b""
    stream: Stream | None = None

    def close(self) -> None:
        self.stream.abort() if self.stream else self.socket.close()


@dataclasses.dataclass(frozen=True)
class _Expected:
    keys: StreamKeys
    peer: str
    deadline: float


class StreamListener:
    """A listening TCP socket for streams whose keys are agreed already; for one thread at a time.

    Args:
        endpoint: `tcp://host:port`; port 0 takes a free one, stored in `port`; host `*` is every
            address.

    Raises ConfigError if the endpoint cannot be used.
    """

    def __init__(self, endpoint: str, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        self._max_payload_bytes = max_payload_bytes
        host, port = host_and_port(endpoint)
        try:
            self._socket = socket.create_server(("" if host == "*" else host, port))
        except OSError as error:
            why, hint = str(error), "give an endpoint like tcp://127.0.0.1:7001 whose port is free"
            raise ConfigError(f"cannot listen for a stream at {endpoint}", why, hint) from error
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._expected: dict[bytes, _Expected] = {}
        self._pending: list[_Pending] = []

    def expect(self, keys: StreamKeys, peer: str, timeout_s: float) -> None:
        """Accept one connection with these keys within `timeout_s` seconds."""
        now = time.monotonic()
        self._expected = {ticket: e for ticket, e in self._expected.items() if e.deadline > now}
        self._expected[keys.ticket] = _Expected(keys, peer, now + timeout_s)

    def filenos(self) -> list[int]:
        """For a poller: call `poll` when one is readable."""
        return [self._socket.fileno(), *(pending.socket.fileno() for pending in self._pending)]

    def wait(self, timeout_s: float) -> None:
        """Wait until `poll` has something to do, at most `timeout_s` seconds."""
        select.select(self.filenos(), [], [], timeout_s)

    def poll(self) -> list[tuple[bytes, Stream]]:
        """Handle new bytes without waiting; ticket and stream of each proved connection."""
        self._accept()
        found = []
        for pending in [*self._pending]:
            try:
                stream = self._authenticated(pending)
            except (BadFrame, PeerLost, OSError):  # not an expected peer
                pending.deadline = 0.0
                continue
            if stream is not None:
                self._pending.remove(pending)
                found.append((pending.ticket, stream))
        for pending in [p for p in self._pending if time.monotonic() > p.deadline]:
            self._pending.remove(pending)
            pending.close()
        return found

    def close(self) -> None:
        """Close the socket and all connections that have not authenticated; safe to call twice."""
        self._socket.close()
        for pending in self._pending:
            pending.close()
        self._pending.clear()
        self._expected.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # no more connections, or one that has gone already
            while True:
                sock, _ = self._socket.accept()
                sock.setblocking(False)
                self._pending.append(_Pending(sock, time.monotonic() + _PENDING_S))
                if len(self._pending) > _MAX_PENDING:
                    self._pending.pop(0).close()

    def _authenticated(self, pending: _Pending) -> Stream | None:
        if len(pending.ticket) < TICKET_BYTES:
            with contextlib.suppress(BlockingIOError):
                data = pending.socket.recv(TICKET_BYTES - len(pending.ticket))
                if not data:
                    raise ConnectionResetError
                pending.ticket += data
            if len(pending.ticket) < TICKET_BYTES:
                return None
        expected = self._expected.get(pending.ticket)
        if expected is None or expected.deadline < time.monotonic():
            raise ConnectionRefusedError
        if pending.stream is None:
            keys, peer = expected.keys, expected.peer
            pending.stream = Stream(pending.socket, keys, peer, self._max_payload_bytes)
        frame = pending.stream.receive()
        if frame is None:
            return None
        if frame.kind is not Kind.HELLO:
            raise ConnectionRefusedError
        # No other connection can use these keys any more: a copy of this one's bytes is refused.
        del self._expected[pending.ticket]
        pending.stream.put(encode_header(Kind.HELLO, 0), [], lambda: None)
        return pending.stream


def dial(
    endpoint: str,
    keys: StreamKeys,
    peer: str,
    timeout_s: float,
    max_payload_bytes: int = MAX_PAYLOAD_BYTES,
) -> Stream:
    """Connect to the listener at `endpoint` of a peer that expects these keys.

    Raises PeerTimeout, PeerLost, BadFrame, ConfigError.
    """
    deadline = time.monotonic() + timeout_s
    what = f"no stream to {peer} at {endpoint}"
    late = f"{what} within {timeout_s:g} s"
    try:
        sock = socket.create_connection(host_and_port(endpoint), timeout_s)
    except TimeoutError as error:
        raise PeerTimeout(late, "nothing answers there", _HINT) from error
    except OSError as error:
        raise PeerLost(what, error.strerror or str(error), _HINT) from error
    stream = Stream(sock, keys, peer, max_payload_bytes)
    try:
        sock.send(keys.ticket)  # fits into any socket's buffer
        stream.put(encode_header(Kind.HELLO, 0), [], lambda: None)
        answer = stream.get(max(0.0, deadline - time.monotonic()), lambda: None)
    except (BadFrame, PeerLost, OSError) as error:
        stream.abort()
        why = "the end that answers there does not hold this connection's keys"
        if isinstance(error, OSError):
            raise PeerLost(what, f"{why}: {error}", _HINT) from error
        raise type(error)(what, f"{why}: {error.why}", _HINT) from error
    if answer is None or answer.kind is not Kind.HELLO:
        stream.abort()
        raise PeerTimeout(late, "something answers there, and is not that peer", _HINT)
    return stream


def host_and_port(endpoint: str) -> tuple[str, int]:
    """The two parts of `tcp://host:port`. Raises ConfigError."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    is_tcp = endpoint.startswith("tcp://") and bool(host)
    if not is_tcp or not port.isdecimal() or int(port) >= 1 << 16:
        why, hint = "it has the form tcp://host:port", "correct it"
        raise ConfigError(f"{endpoint} is not an endpoint", why, hint)
    return host, int(port)
