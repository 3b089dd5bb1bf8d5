"""A listener's streams: what the dealer sends in bulk."""

import contextlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from gpumpc.errors import PeerLost, RemoteError
from gpumpc.wire.frames import Kind, encode_header
from gpumpc.wire.stream import Exchange
from gpumpc.wire.stream.records import SEALED_HEADER_BYTES, TICKET_BYTES
from gpumpc.wire.zmq_channel import Arrival, Listener, Requester
from gpumpc.wire.zmq_channel.endpoint import with_port
from tests.wire import ends
from tests.wire.ends import ANY_PORT, DEADLINE_S, DEALER, S0, S1, SESSION, USER, free_port


class Serving:
    """A listener polled by a thread."""

    def __init__(self, stack: ExitStack, **options: object) -> None:
        allowed = {DEALER.public: "dealer", USER.public: "user"}
        self.listener = Listener(ANY_PORT, S1, allowed, stream_peers=["dealer"], **options)  # type: ignore[arg-type]  # options of one test each
        self.arrivals: list[Arrival] = []
        self._stopped = False
        stack.callback(self.listener.close)
        pool = stack.enter_context(ThreadPoolExecutor(1))
        self._serving = pool.submit(self._serve)
        stack.callback(self.stop)

    def stop(self) -> None:
        self._stopped = True
        self._serving.exception(5)

    def _serve(self) -> None:
        while not self._stopped:
            arrival = self.listener.poll(0.05)
            if arrival is not None:
                self.arrivals.append(arrival)
                frame, route = arrival.frame, arrival.routing_id
                if frame.kind is Kind.REQUEST:
                    self.listener.reply(route, Kind.REPLY, b"received", sequence=frame.sequence)

    def wait(self, n: int) -> list[Arrival]:
        deadline = time.monotonic() + DEADLINE_S
        while len(self.arrivals) < n and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.arrivals


def requester(stack: ExitStack, serving: Serving, keys: object = DEALER) -> Requester:
    made = Requester(serving.listener.endpoint, keys, S1.public, peer="server1")  # type: ignore[arg-type]  # keys of either kind
    stack.callback(made.close)
    made.wait_peer()
    return made


def test_dealer_stream_delivers_frames_in_order(stack: ExitStack) -> None:
    serving = Serving(stack)
    dealer = requester(stack, serving)
    dealer.open_stream()
    pieces = [os.urandom(3 << 20), b"", os.urandom(17)]
    for i in range(4):
        dealer.send(Kind.CORRECTION, *pieces, session=SESSION, batch_index=i)
    dealer.send(Kind.REQUEST, b"all there?", sequence=7)
    assert dealer.receive(5).payload == b"received"
    assert [(a.peer, a.frame.kind, a.frame.batch_index) for a in serving.arrivals[:4]] == [
        ("dealer", Kind.CORRECTION, i) for i in range(4)
    ]
    assert all(arrival.frame.payload == b"".join(pieces) for arrival in serving.arrivals[:4])
    assert len({arrival.routing_id for arrival in serving.arrivals}) == 1


def test_busy_clients_do_not_delay_the_dealer(stack: ExitStack) -> None:
    serving = Serving(stack)
    dealer, user = requester(stack, serving), requester(stack, serving, USER)
    dealer.open_stream()
    serving.stop()
    for i in range(8):
        user.send(Kind.REQUEST, b"again", sequence=i)
    dealer.send(Kind.CONTROL, b"alive")
    time.sleep(0.2)
    senders = [arrival.peer for _ in range(9) if (arrival := serving.listener.poll(1.0))]
    assert len(senders) == 9 and "dealer" in senders[:2]


def test_user_without_a_stream_is_still_served(stack: ExitStack) -> None:
    serving = Serving(stack)
    user = requester(stack, serving, USER)
    with pytest.raises(RemoteError, match="AccessDenied: no stream is open to this party"):
        user.open_stream()
    user.send(Kind.REQUEST, b"an upload, ", b"in parts", sequence=1)
    assert user.receive(5).payload == b"received"
    assert serving.arrivals[0].frame.payload == b"an upload, in parts"


def test_listener_without_streams_refuses_a_stream(stack: ExitStack) -> None:
    listener = Listener(ANY_PORT, S0, {DEALER.public: "dealer"})
    stack.callback(listener.close)
    dealer = Requester(listener.endpoint, DEALER, S0.public)
    stack.callback(dealer.close)
    opening, _ = ends.both(dealer.open_stream, lambda: listener.poll(1.0))
    assert isinstance(opening, RemoteError) and "this server has none" in opening.why


def test_flipped_bit_of_a_correction_is_counted_and_refused(stack: ExitStack) -> None:
    place = free_port()
    relay = ends.Tampering(place, TICKET_BYTES + SEALED_HEADER_BYTES + 5_000)
    stack.callback(relay.close)
    serving = Serving(stack, stream_endpoint=place)
    dealer = requester(stack, serving)
    dealer.open_stream(relay.endpoint)
    with contextlib.suppress(PeerLost):  # the listener may close the stream before all is sent
        dealer.send(Kind.CORRECTION, bytes(2 << 20))
    with pytest.raises(RemoteError, match="BadFrame.*record 2 of a connection was refused"):
        dealer.receive(5)
    assert serving.listener.malformed == 1 and not serving.arrivals
    with pytest.raises(PeerLost):
        for _ in range(100):
            dealer.send(Kind.CORRECTION, bytes(1 << 20))
            time.sleep(0.01)
    again = requester(stack, serving)
    relay.at = -1
    again.open_stream(relay.endpoint)
    again.send(Kind.CORRECTION, b"as it should be")
    assert serving.wait(1)[0].frame.payload == b"as it should be"


def test_old_dealer_streams_end_when_new_ones_open(stack: ExitStack) -> None:
    """One that is started again must not wait for its last connection to be noticed as dead."""
    serving = Serving(stack)
    dealers = [requester(stack, serving) for _ in range(6)]
    for i, dealer in enumerate(dealers):
        dealer.open_stream()
        dealer.send(Kind.CORRECTION, b"x", batch_index=i)
        serving.wait(i + 1)
    assert [arrival.frame.batch_index for arrival in serving.arrivals] == [*range(6)]
    assert len(serving.listener._streams._open) == 4  # type: ignore[union-attr]  # this listener has streams
    for dealer in dealers[2:]:
        dealer.send(Kind.CORRECTION, b"y")
    assert len(serving.wait(10)) == 10
    with pytest.raises(PeerLost):
        for _ in range(50):
            dealers[0].send(Kind.CORRECTION, b"z")
            time.sleep(0.01)


def test_dealer_stream_that_cannot_open_fails_in_time(stack: ExitStack) -> None:
    serving = Serving(stack)
    dealer = requester(stack, serving)
    start = time.monotonic()
    with pytest.raises(PeerLost, match="no stream to server1.*dealer_bulk"):
        dealer.open_stream(free_port())
    assert time.monotonic() - start < DEADLINE_S


def test_malformed_hello_is_counted_and_answered(stack: ExitStack) -> None:
    serving = Serving(stack)
    dealer = requester(stack, serving)
    for hello in (b"", Exchange(DEALER.public, S1.public, 7000).hello):
        dealer._link.put([encode_header(Kind.STREAM, len(hello)), hello])
        with pytest.raises(RemoteError, match="BadFrame"):
            dealer.receive(5)
    assert serving.listener.malformed == 2


def test_with_port_replaces_the_port_of_an_endpoint() -> None:
    assert with_port("tcp://10.0.0.10:7020", 7021) == "tcp://10.0.0.10:7021"
