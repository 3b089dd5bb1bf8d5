"""How the two ends of a stream find each other: the listening end's door, and the other end's call.

A caller first says the ticket of its connection, in the clear, and then seals a HELLO frame; the
door answers with one. So each end has seen that the other holds the keys before anything else is
said. Whoever does not get so far costs the door a socket for three seconds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import select
import socket
import time

from gpumpc.errors import BadFrame, ConfigError, PeerLost, PeerTimeout
from gpumpc.wire.frames import MAX_PAYLOAD_BYTES, Kind, encode_header
from gpumpc.wire.stream.records import TICKET_BYTES, StreamKeys
from gpumpc.wire.stream.stream import Stream

_CALLER_S = 3.0
_MAX_CALLERS = 16
_CURE = (
    "let that port through, or name another with the key `peer_bulk` or `dealer_bulk` at both ends"
)


@dataclasses.dataclass
class _Caller:
    """Who has connected and has not proved anything yet."""

    socket: socket.socket
    deadline: float
    ticket: bytes = b""
    stream: Stream | None = None

    def hang_up(self) -> None:
        self.stream.abort() if self.stream else self.socket.close()


@dataclasses.dataclass(frozen=True)
class _Expected:
    keys: StreamKeys
    peer: str
    deadline: float


class StreamListener:
    """A listening TCP socket for streams whose keys are agreed already; for one thread at a time.

    Args:
        endpoint: `tcp://host:port`; port 0 takes a free one, which `port` tells; host `*` is every
            address.

    Raises ConfigError if the endpoint cannot be had.
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
        self._callers: list[_Caller] = []

    def expect(self, keys: StreamKeys, peer: str, timeout_s: float) -> None:
        """Let in one connection with these keys, if it comes within `timeout_s` seconds."""
        now = time.monotonic()
        self._expected = {ticket: e for ticket, e in self._expected.items() if e.deadline > now}
        self._expected[keys.ticket] = _Expected(keys, peer, now + timeout_s)

    def filenos(self) -> list[int]:
        """For a poller: when one is readable, `step` is worth a call."""
        return [self._socket.fileno(), *(caller.socket.fileno() for caller in self._callers)]

    def wait(self, timeout_s: float) -> None:
        """Wait until `step` is worth a call, at most `timeout_s` seconds."""
        select.select(self.filenos(), [], [], timeout_s)

    def poll(self) -> list[tuple[bytes, Stream]]:
        """Go on with whoever knocks, without waiting; ticket and stream of each caller that has
        proved its keys.
        """
        self._greet()
        found = []
        for caller in [*self._callers]:
            try:
                stream = self._hear(caller)
            except (BadFrame, PeerLost, OSError):  # no one that is expected
                caller.deadline = 0.0
                continue
            if stream is not None:
                self._callers.remove(caller)
                found.append((caller.ticket, stream))
        for caller in [caller for caller in self._callers if time.monotonic() > caller.deadline]:
            self._callers.remove(caller)
            caller.hang_up()
        return found

    def close(self) -> None:
        """Close the door and hang up on everybody still in it; safe to call twice."""
        self._socket.close()
        for caller in self._callers:
            caller.hang_up()
        self._callers.clear()
        self._expected.clear()

    def _greet(self) -> None:
        with contextlib.suppress(OSError):  # nobody more is there, or has gone again
            while True:
                sock, _ = self._socket.accept()
                sock.setblocking(False)
                self._callers.append(_Caller(sock, time.monotonic() + _CALLER_S))
                if len(self._callers) > _MAX_CALLERS:
                    self._callers.pop(0).hang_up()

    def _hear(self, caller: _Caller) -> Stream | None:
        if len(caller.ticket) < TICKET_BYTES:
            with contextlib.suppress(BlockingIOError):
                said = caller.socket.recv(TICKET_BYTES - len(caller.ticket))
                if not said:
                    raise ConnectionResetError
                caller.ticket += said
            if len(caller.ticket) < TICKET_BYTES:
                return None
        expected = self._expected.get(caller.ticket)
        if expected is None or expected.deadline < time.monotonic():
            raise ConnectionRefusedError
        if caller.stream is None:
            caller.stream = Stream(
                caller.socket, expected.keys, expected.peer, self._max_payload_bytes
            )
        frame = caller.stream.receive()
        if frame is None:
            return None
        if frame.kind is not Kind.HELLO:
            raise ConnectionRefusedError
        # From here on this connection has the keys, and no other can: a copy of what it said comes
        # too late.
        del self._expected[caller.ticket]
        caller.stream.put(encode_header(Kind.HELLO, 0), [], lambda: None)
        return caller.stream


def dial(
    endpoint: str,
    keys: StreamKeys,
    peer: str,
    timeout_s: float,
    max_payload_bytes: int = MAX_PAYLOAD_BYTES,
) -> Stream:
    """Connect to the door at `endpoint` of a peer that expects these keys.

    Raises PeerTimeout, PeerLost, BadFrame, ConfigError.
    """
    deadline = time.monotonic() + timeout_s
    what = f"no stream to {peer} at {endpoint}"
    try:
        sock = socket.create_connection(host_and_port(endpoint), timeout_s)
    except TimeoutError as error:
        raise PeerTimeout(
            f"{what} within {timeout_s:g} s", "nothing answers there", _CURE
        ) from error
    except OSError as error:
        raise PeerLost(what, error.strerror or str(error), _CURE) from error
    stream = Stream(sock, keys, peer, max_payload_bytes)
    try:
        sock.send(keys.ticket)  # fits into any socket's buffer
        stream.put(encode_header(Kind.HELLO, 0), [], lambda: None)
        answer = stream.get(max(0.0, deadline - time.monotonic()), lambda: None)
    except (BadFrame, PeerLost, OSError) as error:
        stream.abort()
        kind, cause = (
            (PeerLost, str(error)) if isinstance(error, OSError) else (type(error), error.why)
        )
        raise kind(
            what, f"whoever answers there does not hold this connection's keys: {cause}", _CURE
        ) from error
    if answer is None or answer.kind is not Kind.HELLO:
        stream.abort()
        raise PeerTimeout(
            f"{what} within {timeout_s:g} s", "something answers there, and is not that peer", _CURE
        )
    return stream


def host_and_port(endpoint: str) -> tuple[str, int]:
    """The two parts of `tcp://host:port`. Raises ConfigError."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    if (
        not endpoint.startswith("tcp://")
        or not host
        or not port.isdecimal()
        or int(port) >= 1 << 16
    ):
        raise ConfigError(
            f"{endpoint} is no endpoint", "it has the form tcp://host:port", "correct it"
        )
    return host, int(port)
