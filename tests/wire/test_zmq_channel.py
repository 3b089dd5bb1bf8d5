"""Channels over real sockets: who may talk, who has gone, and how soon that is known."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial

import pytest

from gpumpc.cost import Cost
from gpumpc.errors import (
    AccessDenied,
    BadFrame,
    ConfigError,
    GpumpcError,
    HandshakeMismatch,
    PeerLost,
    PeerTimeout,
    RemoteError,
    WireError,
)
from gpumpc.wire.frames import Kind, encode_header
from gpumpc.wire.handshake import exchange_hello
from gpumpc.wire.zmq_channel import (
    Arrival,
    CurveKeys,
    Listener,
    Requester,
    ZmqChannel,
    curve_keypair,
    curve_public,
)

ANY_PORT = "tcp://127.0.0.1:0"
SESSION = bytes(range(16))
DEADLINE_S = 6.5  # 5 s promised, and slack for a busy machine
S0, S1, STRANGER = curve_keypair(), curve_keypair(), curve_keypair()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def pair(stack: ExitStack) -> tuple[ZmqChannel, ZmqChannel]:
    s0 = ZmqChannel.bind(ANY_PORT, S0, S1.public, patience_s=10)
    stack.callback(s0.close)
    s1 = ZmqChannel.connect(s0.endpoint, S1, S0.public, patience_s=10)
    stack.callback(s1.close)
    meet(s0, s1)
    for end in (s0, s1):
        end.begin(SESSION, 1)
    return s0, s1


def meet(s0: ZmqChannel, s1: ZmqChannel) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(ZmqChannel.wait_peer, (s0, s1)))


@pytest.fixture
def listener(stack: ExitStack) -> Listener:
    listener = Listener(ANY_PORT, S0, {S1.public: "dealer"})
    stack.callback(listener.close)
    return listener


def seconds_until(error: type[GpumpcError], match: str, action: Callable[[], object]) -> float:
    start = time.monotonic()
    with pytest.raises(error, match=match):
        action()
    return time.monotonic() - start


def peer_process(endpoint: str, then: str) -> subprocess.Popen[bytes]:
    """S1 in another process: connects, shakes hands, then does `then`."""
    code = f"""
import os, time
from gpumpc.wire.zmq_channel import CurveKeys, ZmqChannel
keys = CurveKeys({S1.public!r}, os.environ["KEY"].encode())
s1 = ZmqChannel.connect({endpoint!r}, keys, {S0.public!r}, patience_s=60)
s1.wait_peer()
s1.begin({SESSION!r}, 1)
s1.send_control(b"up")
{then}
"""
    return subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "KEY": S1.secret.decode()}
    )


def test_port_zero_is_reported_as_a_real_port(pair: tuple[ZmqChannel, ZmqChannel]) -> None:
    assert int(pair[0].endpoint.rsplit(":", 1)[1]) > 0


def test_frames_cross_and_are_counted_alike(pair: tuple[ZmqChannel, ZmqChannel]) -> None:
    s0, s1 = pair
    large = os.urandom(3 << 20)
    with ThreadPoolExecutor() as pool:
        other = pool.submit(s1.exchange, [b"abc"])
        assert s0.exchange([large, b"tail"]) == b"abc"
        assert other.result() == large + b"tail"
    s1.send([b"xy"])
    assert s0.receive() == b"xy"
    assert s0.measured() == s1.measured() == Cost(2, len(large) + 4, 5)


def test_a_buffer_may_be_reused_as_soon_as_send_returns(
    pair: tuple[ZmqChannel, ZmqChannel],
) -> None:
    buffer = bytearray(b"a" * (1 << 20))
    pair[0].send([buffer])
    buffer[:] = b"b" * len(buffer)
    assert bytes(pair[1].receive()) == b"a" * (1 << 20)


def test_a_duplicate_is_refused(pair: tuple[ZmqChannel, ZmqChannel]) -> None:
    s0, s1 = pair
    header = encode_header(Kind.OPENING, 1, session=SESSION, batch_index=1)
    for _ in range(2):
        s0._put(header, [b"x"])
    assert s1.receive() == b"x"
    with pytest.raises(BadFrame, match="twice or late"):
        s1.receive()


def test_both_ends_of_a_mismatched_handshake_name_the_field(
    pair: tuple[ZmqChannel, ZmqChannel],
) -> None:
    def play(end: ZmqChannel) -> str:
        try:
            exchange_hello(end, equal={"version": "1", "plan": f"plan of {end.party}"})
        except HandshakeMismatch as error:
            return error.field
        finally:
            end.close()
        return "agreed"

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(play, pair)) == ["plan", "plan"]


def test_an_unlisted_key_is_denied_and_does_not_disturb(stack: ExitStack) -> None:
    s0 = ZmqChannel.bind(ANY_PORT, S0, S1.public)
    stack.callback(s0.close)
    stranger = ZmqChannel.connect(s0.endpoint, STRANGER, S0.public)
    stack.callback(stranger.close)
    assert seconds_until(AccessDenied, "not on its allow-list", stranger.wait_peer) < DEADLINE_S
    with pytest.raises(PeerTimeout, match="key that is not its own were refused"):
        s0.wait_peer(0.3)
    s1 = ZmqChannel.connect(s0.endpoint, S1, S0.public)
    stack.callback(s1.close)
    meet(s0, s1)
    s1.send_control(b"in")
    assert s0.receive_control(5) == b"in"


def test_a_wrong_server_key_and_an_absent_server_are_one_timeout_naming_both(
    stack: ExitStack,
) -> None:
    s0 = ZmqChannel.bind(ANY_PORT, S0, S1.public)
    stack.callback(s0.close)
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    wrong = ZmqChannel.connect(s0.endpoint, S1, STRANGER.public)
    absent = ZmqChannel.connect(nobody, S1, S0.public)
    for end, hint in ((wrong, "something listens there"), (absent, "nothing answers there")):
        stack.callback(end.close)
        both = f"does not run there, or its key is not the one in its card here .{hint}"
        assert seconds_until(PeerTimeout, both, partial(end.wait_peer, 1.0)) < DEADLINE_S


def test_a_killed_peer_is_noticed_in_the_middle_of_an_exchange(stack: ExitStack) -> None:
    s0 = ZmqChannel.bind(ANY_PORT, S0, S1.public, patience_s=60)
    stack.callback(s0.close)
    peer = peer_process(s0.endpoint, "time.sleep(60)")
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
        ends.append(ZmqChannel.bind(ANY_PORT, S0, S1.public, patience_s=60))
        stack.callback(ends[-1].close)
        peers.append(peer_process(ends[-1].endpoint, then))
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
def test_what_a_peer_sent_before_it_closed_still_arrives(
    pair: tuple[ZmqChannel, ZmqChannel], last: int
) -> None:
    leaves, stays = pair[last], pair[1 - last]
    for i in range(20):
        leaves.send([bytes([i]) * 100_000])
    leaves.close()
    for i in range(20):
        assert bytes(stays.receive()[:1]) == bytes([i])
    assert seconds_until(PeerLost, f"server{last} is gone", stays.receive) < DEADLINE_S


def test_a_second_process_with_one_key_ends_the_session(
    pair: tuple[ZmqChannel, ZmqChannel], stack: ExitStack
) -> None:
    again = ZmqChannel.connect(pair[0].endpoint, S1, S0.public)
    stack.callback(again.close)
    with pytest.raises(WireError):  # nobody agrees on keys with it
        again.wait_peer(1.0)
    with pytest.raises(PeerLost, match="second time"):
        pair[0].receive_control(5)


def test_a_stranger_that_connects_and_leaves_does_not_end_the_session(
    pair: tuple[ZmqChannel, ZmqChannel],
) -> None:
    s0, s1 = pair
    host, port = s0.endpoint.removeprefix("tcp://").split(":")
    for hello in (b"", b"GET / HTTP/1.1\r\n\r\n"):
        with socket.create_connection((host, int(port))) as stranger, suppress(OSError):
            stranger.sendall(hello)
    s1.send_control(b"still here")
    assert s0.receive_control(5) == b"still here"
    with pytest.raises(PeerTimeout):
        s0.receive_control(0.3)


def test_a_closed_channel_says_so(pair: tuple[ZmqChannel, ZmqChannel]) -> None:
    pair[0].close()
    pair[0].close()
    with pytest.raises(PeerLost, match="this end was closed"):
        pair[0].exchange([b"x"])


def test_an_endpoint_in_use_or_unreadable_is_a_config_error(listener: Listener) -> None:
    for endpoint in (listener.endpoint, "tcp://nowhere:x", "7000"):
        with pytest.raises(ConfigError, match="cannot listen"):
            ZmqChannel.bind(endpoint, S0, S1.public)
        with pytest.raises(ConfigError, match="cannot listen"):
            Listener(endpoint, S0, {})
    with pytest.raises(ConfigError, match="cannot connect"):
        Requester("tcp//x", S1, S0.public)
    with pytest.raises(ConfigError, match="cannot connect"):
        Requester(ANY_PORT, S1, b"short")


def serve(listener: Listener, answer: Callable[[Arrival], None]) -> threading.Thread:
    def loop() -> None:
        while (arrival := listener.poll(5)) is not None and arrival.frame.payload != b"stop":
            answer(arrival)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    return thread


def test_a_request_names_its_sender_and_is_answered(listener: Listener, stack: ExitStack) -> None:
    dealer = Requester(listener.endpoint, S1, S0.public)
    stack.callback(dealer.close)
    dealer.send(Kind.REQUEST, b"wanted?", session=SESSION, batch_index=3, sequence=9)
    arrival = listener.poll(5)
    assert arrival is not None
    assert (arrival.peer, arrival.frame.batch_index, arrival.frame.sequence) == ("dealer", 3, 9)
    listener.reply(arrival.routing_id, Kind.REPLY, b"yes", sequence=9)
    reply = dealer.receive(5)
    assert (reply.kind, reply.payload, reply.sequence) == (Kind.REPLY, b"yes", 9)
    assert listener.poll(0.01) is None


def test_another_thread_replies_while_poll_waits(listener: Listener, stack: ExitStack) -> None:
    dealer = Requester(listener.endpoint, S1, S0.public)
    stack.callback(dealer.close)
    arrivals: list[Arrival] = []
    thread = serve(listener, arrivals.append)
    dealer.send(Kind.REQUEST, b"later")
    while not arrivals:
        time.sleep(0.01)
    start = time.monotonic()
    listener.reply(arrivals[0].routing_id, Kind.REPLY, b"now")
    assert dealer.receive(5).payload == b"now"
    assert time.monotonic() - start < 3  # woken, not at the end of the 5 s poll
    dealer.send(Kind.REQUEST, b"stop")
    thread.join(10)


def test_a_malformed_frame_is_answered_counted_and_dropped(
    listener: Listener, stack: ExitStack
) -> None:
    dealer = Requester(listener.endpoint, S1, S0.public)
    stack.callback(dealer.close)
    for parts in ((b"rubbish", b""), (b"",), (encode_header(Kind.REQUEST, 1), b"x", b"y")):
        dealer._link.put(parts)
    dealer.send(Kind.REQUEST, b"good")
    arrival = listener.poll(5)
    assert arrival is not None and arrival.frame.payload == b"good"
    assert listener.malformed == 3
    for _ in range(3):
        with pytest.raises(RemoteError, match="server reports BadFrame"):
            dealer.receive(5)


def test_a_reply_to_a_peer_that_left_is_counted(listener: Listener) -> None:
    listener.poll(0)
    listener.reply(b"nobody", Kind.REPLY, b"x")
    assert listener.undelivered == 1


def test_a_requester_learns_why_it_is_not_served(listener: Listener, stack: ExitStack) -> None:
    stranger = Requester(listener.endpoint, STRANGER, S0.public)
    wrong = Requester(listener.endpoint, S1, STRANGER.public, peer="server0")
    for end in (stranger, wrong):
        stack.callback(end.close)
    assert (
        seconds_until(AccessDenied, "refused this party's key", lambda: stranger.receive(5))
        < DEADLINE_S
    )
    assert seconds_until(PeerTimeout, "no server0 at", lambda: wrong.receive(0.5)) < DEADLINE_S


def test_a_requester_notices_that_the_server_has_gone_or_is_silent(
    listener: Listener, stack: ExitStack
) -> None:
    dealer = Requester(listener.endpoint, S1, S0.public)
    stack.callback(dealer.close)
    dealer.wait_peer()
    with pytest.raises(PeerTimeout, match="no reply"):
        dealer.receive(0.05)
    listener.close()
    assert seconds_until(PeerLost, "server is gone", lambda: dealer.receive(10)) < DEADLINE_S


def test_a_frame_above_the_limit_is_refused_by_the_server(stack: ExitStack) -> None:
    listener = Listener(ANY_PORT, S0, {S1.public: "user"}, max_payload_bytes=2000)
    stack.callback(listener.close)
    user = Requester(listener.endpoint, S1, S0.public)
    stack.callback(user.close)
    user.send(Kind.REQUEST, bytes(2000))
    assert listener.poll(5) is not None
    user.send(Kind.REQUEST, bytes(2001))
    assert listener.poll(0.2) is None
    with pytest.raises(RemoteError, match="2001 payload bytes, the limit is 2000"):
        user.receive(5)
    user.send(Kind.REQUEST, bytes(200_000))  # ZeroMQ itself hangs up before it has read that much
    with pytest.raises(PeerLost):
        user.receive(5)
    assert listener.poll(0.05) is None


def test_keys_do_not_show_and_belong_together() -> None:
    keys = curve_keypair()
    assert curve_public(keys.secret) == keys.public
    assert keys.secret.decode() not in repr(keys)
    assert isinstance(keys, CurveKeys)
    with pytest.raises(ConfigError):
        curve_public(b"short")


def test_both_ends_can_close_at_once() -> None:
    """A peer that goes while its monitor closes must not stop ZeroMQ's thread: closing would wait
    for ever.
    """
    for _ in range(60):
        s0 = ZmqChannel.bind(ANY_PORT, S0, S1.public)
        s1 = ZmqChannel.connect(s0.endpoint, S1, S0.public)
        meet(s0, s1)
        threads = [threading.Thread(target=end.close, daemon=True) for end in (s1, s0)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
        assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("other", ["_check", "close", "_abort"])
def test_one_thread_at_a_time_touches_the_link(
    pair: tuple[ZmqChannel, ZmqChannel], monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """With several batches in flight one thread may close while others still look after the peer,
    or close as well.
    """
    s0, _ = pair
    inside = threading.Semaphore(1)
    met: list[str] = []

    def alone(name: str, action: Callable[[], None]) -> Callable[[], None]:
        def guarded() -> None:
            if not inside.acquire(blocking=False):
                met.append(name)
                return
            time.sleep(0.1)
            with suppress(PeerLost):
                action()
            inside.release()

        return guarded

    for name in ("check", "close"):
        monkeypatch.setattr(s0._link, name, alone(name, getattr(s0._link, name)))
    s0._checked_at = 0.0
    threads = [threading.Thread(target=getattr(s0, name)) for name in (other, "close")]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    for thread in threads:
        thread.join(DEADLINE_S)
    assert not met and not any(thread.is_alive() for thread in threads)
