"""The servers' channel over real sockets: authentication, and how soon a loss is noticed."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial

import pytest

from gpumpc.errors import AccessDenied, HandshakeMismatch, PeerLost, PeerTimeout
from gpumpc.wire.handshake import exchange_hello
from tests.wire.ends import (
    DEADLINE_S,
    S0,
    S1,
    SESSION,
    USER,
    End,
    Ends,
    bind,
    connect,
    free_port,
    meet,
    met,
    seconds_until,
)


@pytest.fixture
def pair(stack: ExitStack) -> Ends:
    return met(stack, patience_s=10)


def peer_process(endpoint: str, then: str) -> subprocess.Popen[bytes]:
    """S1 in another process: connects, waits for S0, then does `then`."""
    code = f"""
import os, time
from gpumpc.wire.channel import Channel
from gpumpc.wire.zmq_channel import CurveKeys, PeerSocket
keys = CurveKeys({S1.public!r}, os.environ["KEY"].encode())
s1 = Channel(PeerSocket.connect({endpoint!r}, keys, {S0.public!r}), 1, 60)
s1.wait_peer(5)
s1.begin({SESSION!r}, 1)
s1.send_control(b"up")
{then}
"""
    environment = {**os.environ, "KEY": S1.secret.decode()}
    return subprocess.Popen([sys.executable, "-c", code], env=environment)


def test_port_zero_is_reported_as_a_real_port(pair: Ends) -> None:
    assert int(pair[0].transport.endpoint.rsplit(":", 1)[1]) > 0


def test_both_ends_of_a_mismatched_handshake_name_the_field(pair: Ends) -> None:
    def play(end: End) -> str:
        try:
            exchange_hello(end, equal={"version": "1", "plan": f"plan of {end.party}"})
        except HandshakeMismatch as error:
            return error.field
        finally:
            end.close()
        return "agreed"

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(play, pair)) == ["plan", "plan"]


def test_unlisted_key_is_denied_and_the_peer_connects(stack: ExitStack) -> None:
    s0 = bind(stack)
    unlisted = connect(stack, s0.transport.endpoint, USER, S0.public)
    denied = seconds_until(AccessDenied, "not on its allow-list", unlisted.transport.wait_peer)
    assert denied < DEADLINE_S
    with pytest.raises(PeerTimeout, match="key that is not its own were refused"):
        s0.wait_peer(0.3)
    s1 = connect(stack, s0.transport.endpoint)
    meet((s0, s1))
    s1.send_control(b"in")
    assert s0.receive_control(5) == b"in"


def test_wrong_key_and_absent_server_give_one_timeout_text(stack: ExitStack) -> None:
    s0 = bind(stack)
    wrong = connect(stack, s0.transport.endpoint, S1, USER.public)
    absent = connect(stack, free_port())
    for end, hint in ((wrong, "something listens there"), (absent, "nothing answers there")):
        both = f"does not run there, or its key is not the one in its card here .{hint}"
        assert seconds_until(PeerTimeout, both, partial(end.wait_peer, 1.0)) < DEADLINE_S


def test_killed_peer_is_noticed_during_an_exchange(stack: ExitStack) -> None:
    s0 = bind(stack, 60)
    peer = peer_process(s0.transport.endpoint, "time.sleep(60)")
    stack.callback(peer.wait)
    s0.receive_control(15)
    s0.begin(SESSION, 1)
    threading.Timer(0.3, peer.send_signal, [signal.SIGKILL]).start()
    assert seconds_until(PeerLost, "server1 is gone", lambda: s0.exchange([b"x"])) < DEADLINE_S
    with pytest.raises(PeerLost):
        s0.send([b"x"])


def test_a_frozen_peer_is_noticed_and_a_slow_one_is_not(stack: ExitStack) -> None:
    # The slow one computes in calls that hold the interpreter lock, each for a fraction of a
    # second: the heartbeat's thread has to get it in between. The paused one goes on after 3.5 s.
    busy = (
        "end = time.monotonic() + 5.5\nwhile time.monotonic() < end: "
        "sum(range(10**7))\ns1.exchange([b'slow'])"
    )
    ends, peers = [], []
    for then in (busy, "time.sleep(1)\ns1.exchange([b'paused'])", "time.sleep(60)"):
        ends.append(bind(stack, 60))
        peers.append(peer_process(ends[-1].transport.endpoint, then))
        stack.callback(peers[-1].wait)
        stack.callback(peers[-1].kill)
    for end in ends:
        end.receive_control(15)
        end.begin(SESSION, 1)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(ends[0].exchange, [b"x"])
        for peer in peers[1:]:
            peer.send_signal(signal.SIGSTOP)
        threading.Timer(3.5, peers[1].send_signal, [signal.SIGCONT]).start()
        paused = pool.submit(ends[1].exchange, [b"x"])
        assert seconds_until(PeerLost, "server1 is gone", ends[2].receive) < DEADLINE_S
        assert (slow.result(), paused.result()) == (b"slow", b"paused")


@pytest.mark.parametrize("last", [0, 1])
def test_frames_sent_before_closing_still_arrive(pair: Ends, last: int) -> None:
    leaves, stays = pair[last], pair[1 - last]
    for i in range(20):
        leaves.send([bytes([i]) * 100_000])
    closing = threading.Thread(target=leaves.close)
    closing.start()
    for i in range(20):
        assert bytes(stays.receive()[:1]) == bytes([i])
    closing.join(DEADLINE_S)
    assert seconds_until(PeerLost, f"server{last} is gone", stays.receive) < DEADLINE_S


def test_nothing_listens_while_the_servers_are_connected(pair: Ends) -> None:
    """So neither a stranger nor a second process with the peer's key disturbs them."""
    s0, s1 = pair
    for endpoint in (s0.transport.endpoint, s0.transport.stream_endpoint):
        host, port = endpoint.removeprefix("tcp://").split(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)))
    s1.send_control(b"still here")
    assert s0.receive_control(5) == b"still here"


def test_unauthenticated_connection_does_not_keep_the_peer_out(stack: ExitStack) -> None:
    s0 = bind(stack)
    host, port = s0.transport.endpoint.removeprefix("tcp://").split(":")
    for hello in (b"", b"GET / HTTP/1.1\r\n\r\n"):
        other = stack.enter_context(socket.create_connection((host, int(port))))
        with suppress(OSError):
            other.sendall(hello)
    s1 = connect(stack, s0.transport.endpoint)
    meet((s0, s1))
    s1.send_control(b"here")
    assert s0.receive_control(5) == b"here"


def test_both_ends_can_close_at_once(stack: ExitStack) -> None:
    """A peer that goes while its monitor closes must not stop ZeroMQ's thread for ever."""
    for _ in range(60):
        s0 = bind(stack)
        s1 = connect(stack, s0.transport.endpoint)
        meet((s0, s1))
        threads = [threading.Thread(target=end.close, daemon=True) for end in (s1, s0)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
        assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("other", ["close", "abort"])
def test_only_one_thread_at_a_time_closes(
    pair: Ends, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """With several batches in flight, any thread may close; each returns when all is closed."""
    socket_0 = pair[0].transport
    inside = threading.Semaphore(1)
    found: list[str] = []

    def slow_close() -> None:
        if not inside.acquire(blocking=False):
            found.append("two threads at once")
            return
        time.sleep(0.1)
        inside.release()

    monkeypatch.setattr(socket_0._link, "close", slow_close)
    threads = [threading.Thread(target=getattr(socket_0, name)) for name in (other, "close")]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    for thread in threads:
        thread.join(DEADLINE_S)
    assert not found and not any(thread.is_alive() for thread in threads)
