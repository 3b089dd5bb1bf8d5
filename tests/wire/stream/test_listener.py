"""The two ends of a stream connect, and no other end does."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from gpumpc.errors import BadFrame, ConfigError, PeerLost, PeerTimeout, WireError
from gpumpc.wire.frames import Kind, encode_header
from gpumpc.wire.stream import Stream, StreamKeys, StreamListener, dial
from gpumpc.wire.stream import listener as listener
from gpumpc.wire.stream.records import TICKET_BYTES
from tests.wire.stream.wires import both_keys

LIMIT_S = 5.0


@pytest.fixture
def opened() -> Iterator[StreamListener]:
    opened = StreamListener("tcp://127.0.0.1:0")
    yield opened
    opened.close()


def at(opened: StreamListener) -> str:
    return f"tcp://127.0.0.1:{opened.port}"


def accepted(opened: StreamListener, limit_s: float = LIMIT_S) -> list[tuple[bytes, Stream]]:
    """The connections that prove their keys within some time."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if found := opened.poll():
            return found
        opened.wait(0.02)
    return []


def both_ends(opened: StreamListener, outside: StreamKeys) -> tuple[bytes, Stream, Stream]:
    """The ticket that is accepted, and the streams of the listening and the dialling end."""
    with ThreadPoolExecutor() as pool:
        dialling = pool.submit(dial, at(opened), outside, "server0", LIMIT_S)
        ((ticket, here),) = accepted(opened)
        return ticket, here, dialling.result()


def connection(opened: StreamListener, said: bytes = b"") -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", opened.port))
    sock.sendall(said)
    return sock


def proof(keys: StreamKeys) -> bytes:
    """The first bytes of an honest end, ticket and sealed HELLO."""
    here, there = socket.create_server(("127.0.0.1", 0)), None
    with here:
        stream = Stream(socket.create_connection(here.getsockname()), keys, "x")
        there = here.accept()[0]
    stream.put(encode_header(Kind.HELLO, 0), [])
    said = there.recv(1000)
    stream.abort()
    there.close()
    return keys.ticket + said


def test_two_ends_connect_and_exchange_frames(opened: StreamListener) -> None:
    inside, outside = both_keys()
    opened.expect(inside, "server1", LIMIT_S)
    ticket, here, there = both_ends(opened, outside)
    assert ticket == inside.ticket and (here.peer, there.peer) == ("server1", "server0")
    for source, sink in ((here, there), (there, here)):
        source.put(encode_header(Kind.CONTROL, 2), [b"hi"])
        frame = sink.get(LIMIT_S)
        assert frame is not None and frame.payload == b"hi"
    here.close()
    there.close()


def test_listener_tells_expected_peers_apart(opened: StreamListener) -> None:
    keys = [both_keys() for _ in range(5)]
    for i, (inside, _) in enumerate(keys):
        opened.expect(inside, f"peer{i}", LIMIT_S)
    with ThreadPoolExecutor() as pool:
        calls = [
            pool.submit(dial, at(opened), outside, "server", LIMIT_S)
            for _, outside in reversed(keys)
        ]
        found: dict[bytes, Stream] = {}
        while len(found) < 5:
            found |= dict(accepted(opened))
        streams = [call.result() for call in calls]
    assert {ticket: s.peer for ticket, s in found.items()} == {
        k.ticket: f"peer{i}" for i, (k, _) in enumerate(keys)
    }
    for stream in (*streams, *found.values()):
        stream.abort()


# The first bytes of an end that does not prove its keys, given the ticket of a peer's.
UNPROVED: dict[str, Callable[[bytes], bytes]] = {
    "silent": lambda ticket: b"",
    "unknown ticket": lambda ticket: bytes(TICKET_BYTES) + bytes(60),
    "no proof": lambda ticket: ticket,
    "wrong proof": lambda ticket: ticket + bytes(60),
    "another's proof": lambda ticket: ticket + proof(both_keys()[1])[TICKET_BYTES:],
    "half a ticket": lambda ticket: ticket[:8],
}


@pytest.mark.parametrize("first_bytes", UNPROVED)
def test_unauthenticated_caller_is_refused_and_blocks_nobody(
    opened: StreamListener, first_bytes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "_PENDING_S", 0.3)
    inside, outside = both_keys()
    opened.expect(inside, "server1", LIMIT_S)
    said = UNPROVED[first_bytes](inside.ticket)
    with connection(opened, said) as sock:
        assert not accepted(opened, 0.8)
        sock.settimeout(1.0)
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(100) == b""  # closed without an answer
    for stream in both_ends(opened, outside)[1:]:
        stream.abort()


def test_replayed_proof_is_refused(opened: StreamListener) -> None:
    """The first bytes of a connection open neither that one again nor another one."""
    inside, outside = both_keys()
    opened.expect(inside, "server1", LIMIT_S)
    said = proof(outside)
    with connection(opened, said), connection(opened, said):
        ((_, here),) = accepted(opened)
        assert not accepted(opened, 0.3)
        here.abort()
    again, _ = both_keys()
    opened.expect(again, "server1", LIMIT_S)
    with connection(opened, again.ticket + said[TICKET_BYTES:]):
        assert not accepted(opened, 0.3)


def test_a_peer_that_comes_too_late_is_not_accepted(opened: StreamListener) -> None:
    inside, outside = both_keys()
    opened.expect(inside, "server1", 0.0)
    with connection(opened, proof(outside)):
        assert not accepted(opened, 0.3)


def test_many_unauthenticated_callers_hold_few_sockets(opened: StreamListener) -> None:
    inside, outside = both_keys()
    opened.expect(inside, "server1", LIMIT_S)
    crowd = [connection(opened) for _ in range(60)]
    streams = both_ends(opened, outside)[1:]
    assert len(opened.filenos()) <= 1 + listener._MAX_PENDING
    for stream in streams:
        stream.abort()
    for sock in crowd:
        sock.close()


def answering(answer: bytes) -> tuple[str, socket.socket]:
    """A server of another kind, which sends the same bytes to every connection."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        held = []
        while True:
            try:
                sock, _ = server.accept()
            except OSError:
                break
            sock.sendall(answer)
            held.append(sock)
        for sock in held:
            sock.close()

    threading.Thread(target=serve, daemon=True).start()
    return f"tcp://127.0.0.1:{server.getsockname()[1]}", server


@pytest.mark.parametrize(
    ("answer", "error", "why"),
    [
        (b"", PeerTimeout, "something answers there, and is not that peer"),
        (b"HTTP/1.1 400 Bad Request\r\n" * 20, BadFrame, "does not hold this connection's keys"),
    ],
)
def test_wrong_port_is_reported_within_the_deadline(
    answer: bytes, error: type[WireError], why: str
) -> None:
    endpoint, server = answering(answer)
    start = time.monotonic()
    with pytest.raises(error, match=f"no stream to server0 at {endpoint}.*{why}.*peer_bulk"):
        dial(endpoint, both_keys()[1], "server0", 0.5)
    assert time.monotonic() - start < 2.0
    server.shutdown(socket.SHUT_RDWR)
    server.close()


def test_absent_listener_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    why = f"no stream to server0 at {endpoint}.*refused.*let that port through"
    with pytest.raises(PeerLost, match=why):
        dial(endpoint, both_keys()[1], "server0", 0.5)


@pytest.mark.parametrize(
    "endpoint",
    ["7000", "tcp://nowhere", "tcp://host:x", "ipc://here:1", "tcp://:1", "tcp://host:70000"],
)
def test_malformed_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="tcp://host:port"):
        StreamListener(endpoint)
    with pytest.raises(ConfigError, match="tcp://host:port"):
        dial(endpoint, both_keys()[1], "x", 0.1)


def test_listener_needs_a_free_local_port(opened: StreamListener) -> None:
    for endpoint in (at(opened), "tcp://203.0.113.1:0", "tcp://no.such.host.invalid:0"):
        with pytest.raises(ConfigError, match="cannot listen for a stream"):
            StreamListener(endpoint)


def test_star_listens_on_every_address() -> None:
    opened = StreamListener("tcp://*:0")
    connection(opened).close()
    opened.close()
    opened.close()
