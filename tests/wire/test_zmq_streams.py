"""A stream beside CURVE: for the servers' channel and for what the dealer sends to a listener."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from gpumpc.cost import Cost
from gpumpc.errors import BadFrame, ConfigError, PeerLost, PeerTimeout, RemoteError, WireError
from gpumpc.wire.frames import Kind, encode_header
from gpumpc.wire.stream import Exchange, Stream
from gpumpc.wire.stream.records import RECORD_BYTES, SEALED_HEADER_BYTES, TAG_BYTES, TICKET_BYTES
from gpumpc.wire.zmq_channel import Arrival, Listener, Requester, ZmqChannel, curve_keypair, link
from gpumpc.wire.zmq_channel import peer_socket as channel
from gpumpc.wire.zmq_channel.endpoint import with_port
from tests.processes.relay import Relay

ANY_PORT = "tcp://127.0.0.1:0"
SESSION = bytes(range(16))
DEADLINE_S = 6.5
S0, S1, DEALER, USER = curve_keypair(), curve_keypair(), curve_keypair(), curve_keypair()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


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


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"tcp://127.0.0.1:{free.getsockname()[1]}"


def both(first: Callable[[], object], second: Callable[[], object]) -> list[object]:
    """What two threads come to, results or errors."""
    with ThreadPoolExecutor() as pool:
        return [_outcome(future) for future in (pool.submit(first), pool.submit(second))]


def _outcome(future: Future[object]) -> object:
    return future.exception(20) or future.result()


def channels(
    stack: ExitStack, make_relay: Callable[[str], Relay] | None = None
) -> tuple[ZmqChannel, ZmqChannel]:
    """Both ends, the stream through a relay."""
    place = free_port()
    reached = place
    if make_relay is not None:
        relay = make_relay(place)
        stack.callback(relay.close)
        reached = relay.endpoint
    s0 = ZmqChannel.bind(ANY_PORT, S0, S1.public, patience_s=5, stream_endpoint=place)
    stack.callback(s0.close)
    s1 = ZmqChannel.connect(s0.endpoint, S1, S0.public, patience_s=5, stream_endpoint=reached)
    stack.callback(s1.close)
    return s0, s1


def met(
    stack: ExitStack, make_relay: Callable[[str], Relay] | None = None
) -> tuple[ZmqChannel, ZmqChannel]:
    s0, s1 = channels(stack, make_relay)
    assert both(s0.wait_peer, s1.wait_peer) == [None, None]
    for end in (s0, s1):
        end.begin(SESSION, 1)
    return s0, s1


# the channel between the servers


@pytest.mark.parametrize("n_bytes", [0, 1000, RECORD_BYTES + 1, 5 << 20])
def test_all_frames_go_by_the_stream_and_are_counted_as_payload(
    stack: ExitStack, n_bytes: int
) -> None:
    relays: list[Relay] = []
    s0, s1 = met(stack, lambda place: relays.append(Relay(place)) or relays[0])  # type: ignore[func-returns-value]  # append returns None, so `or` goes on
    data = [os.urandom(n_bytes) for _ in range(2)]
    assert both(lambda: s0.exchange([data[0]]), lambda: s1.exchange([data[1]])) == [
        data[1],
        data[0],
    ]
    s1.send_control(b"and this")
    assert s0.receive_control(5) == b"and this"
    assert s0.measured() == s1.measured() == Cost(1, n_bytes, n_bytes)
    time.sleep(0.1)
    frame = SEALED_HEADER_BYTES + n_bytes + TAG_BYTES * -(-n_bytes // RECORD_BYTES)
    by_1, by_0 = (len(stream) for stream in relays[0].streams)
    assert by_0 == SEALED_HEADER_BYTES + frame  # the answer at the door, and the opening
    assert (
        by_1
        == TICKET_BYTES
        + SEALED_HEADER_BYTES
        + frame
        + SEALED_HEADER_BYTES
        + len(b"and this")
        + TAG_BYTES
    )


@pytest.mark.parametrize("way", [0, 1])
@pytest.mark.parametrize(
    "at", [0, SEALED_HEADER_BYTES - 1, SEALED_HEADER_BYTES + 50, SEALED_HEADER_BYTES + 115]
)
def test_a_flipped_bit_between_the_servers_reaches_no_session(
    stack: ExitStack, way: int, at: int
) -> None:
    begun = SEALED_HEADER_BYTES + (TICKET_BYTES if way == 0 else 0)  # what is said at the door
    ends = met(stack, lambda place: Tampering(place, begun + at, way))
    sender, receiver = ends[1 - way], ends[way]
    sender.send([bytes(100)])
    with pytest.raises(BadFrame, match="refused.*changed, cut, repeated or moved"):
        receiver.receive()
    assert receiver.measured() == Cost()
    receiver.close()
    with pytest.raises(PeerLost):
        sender.receive()


def test_a_cut_stream_is_a_lost_peer_at_both_ends_though_curve_stands(stack: ExitStack) -> None:
    begun = SEALED_HEADER_BYTES + TICKET_BYTES
    s0, s1 = met(stack, lambda place: Tampering(place, begun + 30, 0, cut=True))
    start = time.monotonic()
    s1.send([bytes(100)])
    for end in (s0, s1):
        with pytest.raises(PeerLost):
            end.receive()
    assert time.monotonic() - start < 2.0


@pytest.mark.parametrize(("way", "at"), [(0, 3), (0, TICKET_BYTES + 3), (1, 3)])
def test_tampering_at_the_door_fails_before_the_first_masked_byte(
    stack: ExitStack, way: int, at: int
) -> None:
    ends = channels(stack, lambda place: Tampering(place, at, way))
    start = time.monotonic()
    found = both(ends[0].wait_peer, ends[1].wait_peer)
    assert isinstance(found[1], WireError) and "peer_bulk" in str(found[1])
    assert way == 1 or isinstance(found[0], WireError)
    assert time.monotonic() - start < DEADLINE_S + 1
    ends[1].close()
    for end in ends:
        with pytest.raises(WireError):
            end.exchange([b"masked"])


def test_an_absent_second_socket_fails_in_time_and_says_what_to_do(stack: ExitStack) -> None:
    s0 = ZmqChannel.bind(ANY_PORT, S0, S1.public)
    stack.callback(s0.close)
    s1 = ZmqChannel.connect(s0.endpoint, S1, S0.public, stream_endpoint=free_port())
    stack.callback(s1.close)
    start = time.monotonic()
    here, there = both(s0.wait_peer, s1.wait_peer)
    assert time.monotonic() - start < DEADLINE_S
    assert (
        isinstance(there, PeerLost)
        and "no stream to server0 at" in there.what
        and "peer_bulk" in there.hint
    )
    assert (
        isinstance(here, PeerTimeout)
        and "no stream of server1 at port" in here.what
        and "peer_bulk" in here.hint
    )
    for end in (s0, s1):  # what has failed once stays so: the keys of a connection are agreed once
        with pytest.raises(PeerLost, match="its stream did not come about"):
            end.wait_peer()


def test_a_stream_port_that_is_taken_is_a_config_error(stack: ExitStack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match="cannot listen for a stream"):
            ZmqChannel.bind(ANY_PORT, S0, S1.public, stream_endpoint=place)
        with pytest.raises(ConfigError, match="cannot listen for a stream"):
            Listener(
                ANY_PORT,
                S0,
                {DEALER.public: "dealer"},
                stream_peers=["dealer"],
                stream_endpoint=place,
            )


def test_a_peer_that_says_something_else_first_is_refused(stack: ExitStack) -> None:
    s0 = ZmqChannel.bind(ANY_PORT, S0, S1.public)
    stack.callback(s0.close)
    odd = link.Link("server0", S1, 1 << 20)
    odd.connect(s0.endpoint, S0.public)
    stack.callback(odd.close)
    odd.put([encode_header(Kind.CONTROL, 1), b"x"])
    with pytest.raises(BadFrame, match="a STREAM frame was due and a CONTROL frame came"):
        s0.wait_peer()


def test_ends_whose_curve_keys_differ_from_what_was_proved_do_not_meet(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if somebody sat between two CURVE connections and passed the hellos on."""
    monkeypatch.setattr(channel, "STREAM_S", 1.0)
    ends = channels(stack)
    ends[1]._link._peer_key = USER.public
    found = both(ends[0].wait_peer, ends[1].wait_peer)
    assert all(isinstance(error, WireError) for error in found), found


def test_after_an_error_in_an_exchange_the_arrays_are_free(stack: ExitStack) -> None:
    s0, s1 = met(stack)
    data = bytearray(32 << 20)
    s1.send_error(ConfigError("server 1 stops"))
    with pytest.raises(RemoteError, match="server 1 stops"):
        s0.exchange([data])
    with pytest.raises(PeerLost):
        s0.send([b"x"])
    assert s0._stream is not None and s0._stream._send_buffer is not None
    thread = s0._stream._send_buffer._thread
    assert thread is not None and not thread.is_alive()


def test_key_material_does_not_print(stack: ExitStack) -> None:
    for thing in met(stack):
        stream = thing._stream
        assert isinstance(stream, Stream)
        for text in (
            repr(thing),
            repr(stream),
            repr(stream._opener),
            repr(stream._keys),
            repr(vars(stream)),
        ):
            for secret in (stream._keys._peers, stream._opener._secret):
                assert secret.hex() not in text and repr(secret)[2:-1] not in text


# a listener and the dealer


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
                if arrival.frame.kind is Kind.REQUEST:
                    self.listener.reply(
                        arrival.routing_id, Kind.REPLY, b"heard", sequence=arrival.frame.sequence
                    )

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


def test_what_the_dealer_sends_by_its_stream_arrives_in_order_and_is_answered(
    stack: ExitStack,
) -> None:
    serving = Serving(stack)
    dealer = requester(stack, serving)
    dealer.open_stream()
    pieces = [os.urandom(3 << 20), b"", os.urandom(17)]
    for i in range(4):
        dealer.send(Kind.CORRECTION, *pieces, session=SESSION, batch_index=i)
    dealer.send(Kind.REQUEST, b"all there?", sequence=7)
    assert dealer.receive(5).payload == b"heard"
    assert [(a.peer, a.frame.kind, a.frame.batch_index) for a in serving.arrivals[:4]] == [
        ("dealer", Kind.CORRECTION, i) for i in range(4)
    ]
    assert all(arrival.frame.payload == b"".join(pieces) for arrival in serving.arrivals[:4])
    assert len({arrival.routing_id for arrival in serving.arrivals}) == 1


def test_a_dealer_is_heard_beside_clients_that_send_without_a_pause(stack: ExitStack) -> None:
    serving = Serving(stack)
    dealer, user = requester(stack, serving), requester(stack, serving, USER)
    dealer.open_stream()
    serving.stop()
    for i in range(8):
        user.send(Kind.REQUEST, b"again", sequence=i)
    dealer.send(Kind.CONTROL, b"alive")
    time.sleep(0.2)
    heard = [arrival.peer for _ in range(9) if (arrival := serving.listener.poll(1.0))]
    assert len(heard) == 9 and "dealer" in heard[:2]


def test_a_user_has_no_stream_and_goes_on_without(stack: ExitStack) -> None:
    serving = Serving(stack)
    user = requester(stack, serving, USER)
    with pytest.raises(RemoteError, match="AccessDenied: no stream is open to this party"):
        user.open_stream()
    user.send(Kind.REQUEST, b"an upload, ", b"in parts", sequence=1)
    assert (
        user.receive(5).payload == b"heard"
        and serving.arrivals[0].frame.payload == b"an upload, in parts"
    )


def test_a_listener_without_streams_says_so(stack: ExitStack) -> None:
    listener = Listener(ANY_PORT, S0, {DEALER.public: "dealer"})
    stack.callback(listener.close)
    dealer = Requester(listener.endpoint, DEALER, S0.public)
    stack.callback(dealer.close)
    opening, _ = both(dealer.open_stream, lambda: listener.poll(1.0))
    assert isinstance(opening, RemoteError) and "this server has none" in opening.why


def test_a_flipped_bit_of_a_correction_is_counted_answered_and_nothing_arrives(
    stack: ExitStack,
) -> None:
    place = free_port()
    relay = Tampering(place, TICKET_BYTES + SEALED_HEADER_BYTES + 5_000)
    stack.callback(relay.close)
    serving = Serving(stack, stream_endpoint=place)
    dealer = requester(stack, serving)
    dealer.open_stream(relay.endpoint)
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


def test_two_dealers_with_one_key_do_not_disturb_each_other_and_old_streams_end(
    stack: ExitStack,
) -> None:
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


def test_a_dealers_stream_that_does_not_come_about_fails_in_time(stack: ExitStack) -> None:
    serving = Serving(stack)
    dealer = requester(stack, serving)
    start = time.monotonic()
    with pytest.raises(PeerLost, match="no stream to server1.*dealer_bulk"):
        dealer.open_stream(free_port())
    assert time.monotonic() - start < DEADLINE_S


def test_a_hello_that_is_none_is_counted_and_answered(stack: ExitStack) -> None:
    serving = Serving(stack)
    dealer = requester(stack, serving)
    for hello in (b"", Exchange(DEALER.public, S1.public, 7000).hello):
        dealer._link.put([encode_header(Kind.STREAM, len(hello)), hello])
        with pytest.raises(RemoteError, match="BadFrame"):
            dealer.receive(5)
    assert serving.listener.malformed == 2


def test_the_stream_port_is_beside_the_endpoint() -> None:
    assert with_port("tcp://10.0.0.10:7020", 7021) == "tcp://10.0.0.10:7021"
