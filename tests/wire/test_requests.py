"""Requests and replies over real sockets: a listener, the dealer and users."""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from gpumpc.errors import AccessDenied, ConfigError, PeerLost, PeerTimeout, RemoteError
from gpumpc.wire.frames import Kind, encode_header
from gpumpc.wire.zmq_channel import (
    Arrival,
    CurveKeys,
    Listener,
    PeerSocket,
    Requester,
    curve_keypair,
    curve_public,
)
from tests.wire.ends import ANY_PORT, DEADLINE_S, S0, S1, SESSION, USER, seconds_until


@pytest.fixture
def listener(stack: ExitStack) -> Listener:
    listener = Listener(ANY_PORT, S0, {S1.public: "dealer"})
    stack.callback(listener.close)
    return listener


@pytest.fixture
def dealer(listener: Listener, stack: ExitStack) -> Requester:
    return requester(stack, listener)


def requester(stack: ExitStack, listener: Listener, keys: CurveKeys = S1) -> Requester:
    requester = Requester(listener.endpoint, keys, S0.public)
    stack.callback(requester.close)
    return requester


def test_an_endpoint_in_use_or_unreadable_is_a_config_error(listener: Listener) -> None:
    for endpoint in (listener.endpoint, "tcp://nowhere:x", "7000"):
        with pytest.raises(ConfigError, match="cannot listen"):
            PeerSocket.bind(endpoint, S0, S1.public)
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


def test_a_request_names_its_sender_and_is_answered(listener: Listener, dealer: Requester) -> None:
    dealer.send(Kind.REQUEST, b"wanted?", session=SESSION, batch_index=3, sequence=9)
    arrival = listener.poll(5)
    assert arrival is not None
    assert (arrival.peer, arrival.frame.batch_index, arrival.frame.sequence) == ("dealer", 3, 9)
    listener.reply(arrival.routing_id, Kind.REPLY, b"yes", sequence=9)
    reply = dealer.receive(5)
    assert (reply.kind, reply.payload, reply.sequence) == (Kind.REPLY, b"yes", 9)
    assert listener.poll(0.01) is None


def test_another_thread_replies_while_poll_waits(listener: Listener, dealer: Requester) -> None:
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
    listener: Listener, dealer: Requester
) -> None:
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
    unlisted = requester(stack, listener, USER)
    wrong = Requester(listener.endpoint, S1, USER.public, peer="server0")
    stack.callback(wrong.close)
    denied = seconds_until(AccessDenied, "refused this party's key", lambda: unlisted.receive(5))
    assert denied < DEADLINE_S
    assert seconds_until(PeerTimeout, "no server0 at", lambda: wrong.receive(0.5)) < DEADLINE_S


def test_requester_notices_a_silent_or_lost_server(listener: Listener, dealer: Requester) -> None:
    dealer.wait_peer()
    with pytest.raises(PeerTimeout, match="no reply"):
        dealer.receive(0.05)
    listener.close()
    assert seconds_until(PeerLost, "server is gone", lambda: dealer.receive(10)) < DEADLINE_S


def test_a_frame_above_the_limit_is_refused_by_the_server(stack: ExitStack) -> None:
    listener = Listener(ANY_PORT, S0, {S1.public: "user"}, max_payload_bytes=2000)
    stack.callback(listener.close)
    user = requester(stack, listener)
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


def test_keys_do_not_print_and_match() -> None:
    keys = curve_keypair()
    assert curve_public(keys.secret) == keys.public
    assert keys.secret.decode() not in repr(keys)
    assert isinstance(keys, CurveKeys)
    with pytest.raises(ConfigError):
        curve_public(b"short")
