"""Two servers' ends over real sockets, and a relay that changes bytes between them."""

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from gpumpc.errors import GpumpcError
from gpumpc.wire.channel import Channel
from gpumpc.wire.zmq_channel import CurveKeys, PeerSocket, curve_keypair
from tests.processes.relay import Relay

ANY_PORT = "tcp://127.0.0.1:0"
SESSION = bytes(range(16))
DEADLINE_S = 6.5  # 5 s promised, and slack for a busy machine
S0, S1, DEALER, USER = curve_keypair(), curve_keypair(), curve_keypair(), curve_keypair()


class End(Channel):
    """A channel over a `PeerSocket`."""

    transport: PeerSocket


Ends = tuple[End, End]
MakeRelay = Callable[[str], Relay]


def bind(stack: ExitStack, patience_s: float = 600.0, stream_endpoint: str | None = None) -> End:
    """Server 0's end."""
    socket = PeerSocket.bind(ANY_PORT, S0, S1.public, stream_endpoint=stream_endpoint)
    stack.callback(socket.close)
    return End(socket, 0, patience_s)


def connect(
    stack: ExitStack,
    endpoint: str,
    keys: CurveKeys = S1,
    server_key: bytes = S0.public,
    *,
    patience_s: float = 600.0,
    stream_endpoint: str | None = None,
) -> End:
    """Server 1's end."""
    socket = PeerSocket.connect(endpoint, keys, server_key, stream_endpoint=stream_endpoint)
    stack.callback(socket.close)
    return End(socket, 1, patience_s)


def both_ends(stack: ExitStack, make_relay: MakeRelay | None = None, patience_s: float = 5) -> Ends:
    """Both ends, not met yet; the stream through a relay, if there is one."""
    place = reached = free_port() if make_relay else None
    if make_relay is not None and place is not None:
        relay = make_relay(place)
        stack.callback(relay.close)
        reached = relay.endpoint
    s0 = bind(stack, patience_s, place)
    return s0, connect(stack, s0.transport.endpoint, patience_s=patience_s, stream_endpoint=reached)


def met(stack: ExitStack, make_relay: MakeRelay | None = None, patience_s: float = 5) -> Ends:
    """Both ends, connected and in batch 1."""
    ends = both_ends(stack, make_relay, patience_s=patience_s)
    meet(ends)
    for end in ends:
        end.begin(SESSION, 1)
    return ends


def meet(ends: Ends) -> None:
    assert both(*(end.transport.wait_peer for end in ends)) == [None, None]


def both(first: Callable[[], object], second: Callable[[], object]) -> list[object]:
    """The outcomes of two threads, results or errors."""
    with ThreadPoolExecutor() as pool:
        futures = pool.submit(first), pool.submit(second)
        return [future.exception(20) or future.result() for future in futures]


def seconds_until(error: type[GpumpcError], match: str, action: Callable[[], object]) -> float:
    start = time.monotonic()
    with pytest.raises(error, match=match):
        action()
    return time.monotonic() - start


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"tcp://127.0.0.1:{free.getsockname()[1]}"


class Tampering(Relay):
    """Flips a bit of the byte number `at` that goes one way, or cuts the connection there."""

    def __init__(self, target: str, at: int = -1, way: int = 0, cut: bool = False) -> None:
        super().__init__(target)
        self.at, self.way, self.cut = at, way, cut

    def passing(self, way: int, n_before: int, data: bytes) -> bytes:
        i = self.at - n_before
        if self.at < 0 or way != self.way or not 0 <= i < len(data):
            return data
        if self.cut:
            for end in self._sockets:
                end.shutdown(socket.SHUT_RDWR)
            return b""
        return data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :]
