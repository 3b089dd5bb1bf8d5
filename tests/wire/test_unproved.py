"""Who is closed when too many connections have proved no key."""

import socket
import time
from contextlib import ExitStack

import pytest
import zmq

from gpumpc.wire.frames import Kind
from gpumpc.wire.unproved import UnprovedConnections
from gpumpc.wire.zmq_channel import Listener, Requester, watch
from tests.wire.ends import ANY_PORT, S0, S1, USER


def test_the_oldest_of_too_many_is_closed() -> None:
    unproved = UnprovedConnections[int](4)
    addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"]
    assert [unproved.add(i, a) for i, a in enumerate(addresses)] == [None] * 4 + [0]
    unproved.discard(1)
    unproved.discard(99)
    assert unproved.all() == [2, 3, 4]


@pytest.mark.parametrize(
    ("addresses", "is_one"),
    [
        (("10.0.0.1", "10.0.0.1"), True),
        (("10.0.0.1", "10.0.0.2"), False),
        (("10.0.0.1", "::ffff:10.0.0.1"), True),
        (("2001:db8::1", "2001:db8::2:1"), True),
        (("2001:db8::1", "2001:db8:0:1::1"), False),
        (("fe80::1%eth0", "fe80::2%eth0"), True),
    ],
)
def test_one_address_holds_at_most_half(addresses: tuple[str, str], is_one: bool) -> None:
    unproved = UnprovedConnections[int](4)
    closed = [unproved.add(i, addresses[i % 2]) for i in range(3)]
    assert closed == [None, None, 0 if is_one else None]


@pytest.fixture
def listener(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Listener:
    """A listener that takes four unproved connections, two of one address."""
    monkeypatch.setattr(watch, "UnprovedConnections", lambda: UnprovedConnections(4))
    listener = Listener(ANY_PORT, S0, {S1.public: "user", USER.public: "other"})
    stack.callback(listener.close)
    return listener


def calls(listener: Listener, stack: ExitStack, n: int) -> list[socket.socket]:
    host, port = listener.endpoint.removeprefix("tcp://").split(":")
    found = []
    for _ in range(n):
        sock = stack.enter_context(socket.create_connection((host, int(port))))
        sock.settimeout(2.0)
        found.append(sock)
    return found


def is_closed(sock: socket.socket) -> bool:
    try:
        while sock.recv(100):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def test_strangers_are_closed_and_peers_with_keys_are_not(
    listener: Listener, stack: ExitStack
) -> None:
    users = [Requester(listener.endpoint, keys, S0.public) for keys in (S1, USER)]
    for user in users:
        stack.callback(user.close)
        user.wait_peer()
    for i in range(3):  # also after those with keys are the oldest
        strangers = calls(listener, stack, 8)
        start = time.monotonic()
        assert all(map(is_closed, strangers[:6]))
        assert time.monotonic() - start < 2.0  # before ZeroMQ itself gives up after three
        for user in users:
            user.send(Kind.REQUEST, bytes([i]))
            arrival = listener.poll(5)
            assert arrival is not None and arrival.frame.payload == bytes([i])


def test_a_number_that_belongs_to_something_else_is_left_alone() -> None:
    """An event of a connection that has gone may be read when its number is another's."""
    guard = watch.Guard()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as here:
        here.connect(server.getsockname())
        there = server.accept()[0]
        for endpoint in (b"tcp://127.0.0.1:1", b"tcp://127.0.0.1:2"):
            for fileno in (there.fileno(), 9999):
                guard.note(zmq.EVENT_ACCEPTED, fileno, endpoint)
        guard._end(watch._Connection(there.fileno(), ("127.0.0.1", 1)))
        here.sendall(b"still there")
        assert there.recv(100) == b"still there" and not guard._unproved.all()
        there.close()
    guard.close()


def test_planted_guard_that_asks_for_no_proof_is_caught(
    listener: Listener, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "has_proved", lambda sock: False)
    user = Requester(listener.endpoint, S1, S0.public)
    stack.callback(user.close)
    user.wait_peer()
    assert is_closed(calls(listener, stack, 4)[0])
    with pytest.raises(Exception, match="server is gone"):
        user.receive(2.0)


def test_large_frames_travel_in_parts(stack: ExitStack) -> None:
    listener = Listener(ANY_PORT, S0, {S1.public: "user"})
    stack.callback(listener.close)
    user = Requester(listener.endpoint, S1, S0.public)
    stack.callback(user.close)
    for n_bytes in (0, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, 5 << 20):
        payload = bytes([n_bytes % 251]) * n_bytes
        user.send(Kind.REQUEST, payload)
        arrival = listener.poll(5)
        assert arrival is not None and arrival.frame.payload == payload
        listener.reply(arrival.routing_id, Kind.REPLY, payload)
        assert user.receive(5).payload == payload
