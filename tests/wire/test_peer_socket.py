"""The servers' channel over real sockets: authentication, and how soon a loss is noticed."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial

import pytest

from gpumpc.errors import AccessDenied, HandshakeMismatch, PeerLost, PeerTimeout, WireError
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
    # The slow one holds the interpreter lock longer than the heartbeat's limit: only ZeroMQ's
    # thread can answer.
    busy = (
        "end = time.monotonic() + 5.5\nwhile time.monotonic() < end: "
        "sum(range(10**7))\ns1.exchange([b'slow'])"
    )
    ends, peers = [], []
    for then in (busy, "time.sleep(60)"):
        ends.append(bind(stack, 60))
        peers.append(peer_process(ends[-1].transport.endpoint, then))
        stack.callback(peers[-1].wait)
        stack.callback(peers[-1].kill)
    for end in ends:
        end.receive_control(15)
        end.begin(SESSION, 1)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(ends[0].exchange, [b"x"])
        peers[1].send_signal(signal.SIGSTOP)
        assert seconds_until(PeerLost, "server1 is gone", ends[1].receive) < DEADLINE_S
        assert slow.result() == b"slow"


@pytest.mark.parametrize("last", [0, 1])
def test_frames_sent_before_closing_still_arrive(pair: Ends, last: int) -> None:
    leaves, stays = pair[last], pair[1 - last]
    for i in range(20):
        leaves.send([bytes([i]) * 100_000])
    leaves.close()
    for i in range(20):
        assert bytes(stays.receive()[:1]) == bytes([i])
    assert seconds_until(PeerLost, f"server{last} is gone", stays.receive) < DEADLINE_S


def test_a_second_process_with_one_key_ends_the_session(pair: Ends, stack: ExitStack) -> None:
    again = connect(stack, pair[0].transport.endpoint)
    with pytest.raises(WireError):  # it gets no keys
        again.wait_peer(1.0)
    with pytest.raises(PeerLost, match="second time"):
        pair[0].receive_control(5)


def test_unauthenticated_connection_does_not_end_the_session(pair: Ends) -> None:
    s0, s1 = pair
    host, port = s0.transport.endpoint.removeprefix("tcp://").split(":")
    for hello in (b"", b"GET / HTTP/1.1\r\n\r\n"):
        with socket.create_connection((host, int(port))) as other, suppress(OSError):
            other.sendall(hello)
    s1.send_control(b"still here")
    assert s0.receive_control(5) == b"still here"
    with pytest.raises(PeerTimeout):
        s0.receive_control(0.3)


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


@pytest.mark.parametrize("other", ["_check", "close", "abort"])
def test_only_one_thread_at_a_time_uses_the_link(
    pair: Ends, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """With several batches in flight, one thread may close while others check the peer or close."""
    socket_0 = pair[0].transport
    inside = threading.Semaphore(1)
    found: list[str] = []

    def alone(name: str, action: Callable[[], None]) -> Callable[[], None]:
        def guarded() -> None:
            if not inside.acquire(blocking=False):
                found.append(name)
                return
            time.sleep(0.1)
            with suppress(PeerLost):
                action()
            inside.release()

        return guarded

    link = socket_0._link
    for name in ("check", "close"):
        monkeypatch.setattr(link, name, alone(name, getattr(link, name)))
    socket_0._checked_at = 0.0
    threads = [threading.Thread(target=getattr(socket_0, name)) for name in (other, "close")]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    for thread in threads:
        thread.join(DEADLINE_S)
    assert not found and not any(thread.is_alive() for thread in threads)
