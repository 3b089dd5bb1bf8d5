"""Connecting the two ends of a stream: one listens, the other dials.

The dialling end first sends the ticket of its keys, in the clear, and then a sealed HELLO frame;
the listening end answers with one. So each end knows that the other holds the keys before anything
else is sent. A connection that does not get so far occupies a socket for three seconds at most, or
until too many others wait beside it.
"""

import contextlib
import dataclasses
import select
import socket
import time

from gpumpc.errors import BadFrame, ConfigError, PeerLost, PeerTimeout
from gpumpc.wire.frames import MAX_PAYLOAD_BYTES, Kind, encode_header
from gpumpc.wire.resources import SeldomWarning, lacks_resources, passing_lack
from gpumpc.wire.stream.records import TICKET_BYTES, StreamKeys
from gpumpc.wire.stream.stream import Stream
from gpumpc.wire.unproved import UnprovedConnections

_PENDING_S = 3.0
_MAX_PENDING = 128
# How long no connection is accepted after one failed for want of resources.
_HOLD_OFF_S = 0.2
_HINT = (
    "let that port through, or name another with the key `peer_bulk` or `dealer_bulk` at both ends"
)


@dataclasses.dataclass(eq=False)
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

    Raises ConfigError if the endpoint cannot be used, OutOfResources.
    """

    def __init__(self, endpoint: str, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        self._max_payload_bytes = max_payload_bytes
        host, port = host_and_port(endpoint)
        try:
            with passing_lack(f"cannot listen for a stream at {endpoint} now"):
                self._socket = socket.create_server(("" if host == "*" else host, port))
        except OSError as error:
            why, hint = str(error), "give an endpoint like tcp://127.0.0.1:7001 whose port is free"
            raise ConfigError(f"cannot listen for a stream at {endpoint}", why, hint) from error
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._expected: dict[bytes, _Expected] = {}
        self._pending: UnprovedConnections[_Pending] = UnprovedConnections(_MAX_PENDING)
        self._holds_until, self._warning = 0.0, SeldomWarning()

    def expect(self, keys: StreamKeys, peer: str, timeout_s: float) -> None:
        """Accept one connection with these keys within `timeout_s` seconds."""
        now = time.monotonic()
        self._expected = {ticket: e for ticket, e in self._expected.items() if e.deadline > now}
        self._expected[keys.ticket] = _Expected(keys, peer, now + timeout_s)

    def filenos(self) -> list[int]:
        """For a poller: call `poll` when one is readable."""
        pending = [pending.socket.fileno() for pending in self._pending.all()]
        return pending if self._holds_off() else [self._socket.fileno(), *pending]

    def wait(self, timeout_s: float) -> None:
        """Wait until `poll` has something to do, at most `timeout_s` seconds."""
        poller = select.poll()  # `select` takes no number above 1023
        for fileno in self.filenos():
            poller.register(fileno, select.POLLIN)
        poller.poll(timeout_s * 1000)

    def poll(self) -> list[tuple[bytes, Stream]]:
        """Handle new bytes without waiting; ticket and stream of each proved connection."""
        self._accept()
        found = []
        for pending in self._pending.all():
            try:
                stream = self._authenticated(pending)
            except (BadFrame, PeerLost, OSError):  # not an expected peer
                pending.deadline = 0.0
            else:
                if stream is not None:
                    self._pending.discard(pending)
                    found.append((pending.ticket, stream))
                    continue
            if time.monotonic() > pending.deadline:
                self._pending.discard(pending)
                pending.close()
        return found

    def close(self) -> None:
        """Close the socket and all connections that have not authenticated; safe to call twice."""
        self._socket.close()
        for pending in self._pending.all():
            self._pending.discard(pending)
            pending.close()
        self._expected.clear()

    def _holds_off(self) -> bool:
        return time.monotonic() < self._holds_until

    def _accept(self) -> None:
        """Accept a few: those that prove their keys at once are not closed by the next ones."""
        if self._holds_off():
            return
        try:
            for _ in range(_MAX_PENDING // 2):
                sock, address = self._socket.accept()
                sock.setblocking(False)
                pending = _Pending(sock, time.monotonic() + _PENDING_S)
                if (oldest := self._pending.add(pending, str(address[0]))) is not None:
                    oldest.close()
        except OSError as error:  # no more connections, or one that has gone already
            if lacks_resources(error):
                self._holds_until = time.monotonic() + _HOLD_OFF_S
                self._warning.warn(f"no connection can be accepted for a stream: {error}")

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
        pending.stream.put(encode_header(Kind.HELLO, 0), [])
        return pending.stream


def dial(
    endpoint: str,
    keys: StreamKeys,
    peer: str,
    timeout_s: float,
    max_payload_bytes: int = MAX_PAYLOAD_BYTES,
) -> Stream:
    """Connect to the listener at `endpoint` of a peer that expects these keys.

    Raises PeerTimeout, PeerLost, BadFrame, ConfigError, OutOfResources.
    """
    deadline = time.monotonic() + timeout_s
    what = f"no stream to {peer} at {endpoint}"
    late = f"{what} within {timeout_s:g} s"
    try:
        with passing_lack(f"{what} now"):
            sock = socket.create_connection(host_and_port(endpoint), timeout_s)
    except TimeoutError as error:
        raise PeerTimeout(late, "nothing answers there", _HINT) from error
    except OSError as error:
        raise PeerLost(what, error.strerror or str(error), _HINT) from error
    stream = Stream(sock, keys, peer, max_payload_bytes)
    try:
        sock.send(keys.ticket)  # fits into any socket's buffer
        stream.put(encode_header(Kind.HELLO, 0), [])
        answer = stream.get(max(0.0, deadline - time.monotonic()))
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
