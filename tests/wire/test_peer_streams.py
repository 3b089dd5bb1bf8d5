"""The servers' stream under attack, cut or absent: nothing wrong reaches a session."""

import os
import socket
import time
from contextlib import ExitStack

import pytest

from gpumpc.cost import Cost
from gpumpc.errors import BadFrame, ConfigError, PeerLost, PeerTimeout, RemoteError, WireError
from gpumpc.wire.frames import Kind, encode_header
from gpumpc.wire.stream import Stream
from gpumpc.wire.stream.records import RECORD_BYTES, SEALED_HEADER_BYTES, TAG_BYTES, TICKET_BYTES
from gpumpc.wire.zmq_channel import Listener, PeerSocket, link, peer_socket
from tests.processes.relay import Relay
from tests.wire.ends import (
    ANY_PORT,
    DEADLINE_S,
    DEALER,
    S0,
    S1,
    USER,
    Tampering,
    bind,
    both,
    both_ends,
    connect,
    free_port,
    met,
)


@pytest.mark.parametrize("n_bytes", [0, 1000, RECORD_BYTES + 1, 5 << 20])
def test_all_frames_use_the_stream_and_are_counted(stack: ExitStack, n_bytes: int) -> None:
    relays: list[Relay] = []
    s0, s1 = met(stack, lambda place: relays.append(Relay(place)) or relays[0])  # type: ignore[func-returns-value]  # append returns None, so `or` goes on
    data = [os.urandom(n_bytes) for _ in range(2)]
    found = both(lambda: s0.exchange([data[0]]), lambda: s1.exchange([data[1]]))
    assert found == data[::-1]
    s1.send_control(b"and this")
    assert s0.receive_control(5) == b"and this"
    assert s0.measured() == s1.measured() == Cost(1, n_bytes, n_bytes)
    time.sleep(0.1)
    frame = SEALED_HEADER_BYTES + n_bytes + TAG_BYTES * -(-n_bytes // RECORD_BYTES)
    by_1, by_0 = (len(stream) for stream in relays[0].streams)
    assert by_0 == SEALED_HEADER_BYTES + frame  # the listener's HELLO, and the opening
    control = SEALED_HEADER_BYTES + len(b"and this") + TAG_BYTES
    assert by_1 == TICKET_BYTES + SEALED_HEADER_BYTES + frame + control


@pytest.mark.parametrize("way", [0, 1])
@pytest.mark.parametrize(
    "at", [0, SEALED_HEADER_BYTES - 1, SEALED_HEADER_BYTES + 50, SEALED_HEADER_BYTES + 115]
)
def test_flipped_bit_between_the_servers_is_refused(stack: ExitStack, way: int, at: int) -> None:
    begun = SEALED_HEADER_BYTES + (TICKET_BYTES if way == 0 else 0)  # the proof of the keys
    ends = met(stack, lambda place: Tampering(place, begun + at, way))
    sender, receiver = ends[1 - way], ends[way]
    sender.send([bytes(100)])
    with pytest.raises(BadFrame, match="refused.*changed, cut, repeated or moved"):
        receiver.receive()
    assert receiver.measured() == Cost()
    receiver.close()
    with pytest.raises(PeerLost):
        sender.receive()


def test_cut_stream_is_a_lost_peer_at_both_ends(stack: ExitStack) -> None:
    begun = SEALED_HEADER_BYTES + TICKET_BYTES
    s0, s1 = met(stack, lambda place: Tampering(place, begun + 30, 0, cut=True))
    start = time.monotonic()
    s1.send([bytes(100)])
    for end in (s0, s1):
        with pytest.raises(PeerLost):
            end.receive()
    assert time.monotonic() - start < 2.0


@pytest.mark.parametrize(("way", "at"), [(0, 3), (0, TICKET_BYTES + 3), (1, 3)])
def test_tampered_connection_fails_before_masked_bytes(stack: ExitStack, way: int, at: int) -> None:
    ends = both_ends(stack, lambda place: Tampering(place, at, way))
    start = time.monotonic()
    found = both(ends[0].transport.wait_peer, ends[1].transport.wait_peer)
    assert isinstance(found[1], WireError) and "peer_bulk" in str(found[1])
    assert way == 1 or isinstance(found[0], WireError)
    assert time.monotonic() - start < DEADLINE_S + 1
    ends[1].close()
    for end in ends:
        with pytest.raises(WireError):
            end.exchange([b"masked"])


def test_absent_stream_listener_fails_in_time_with_a_hint(stack: ExitStack) -> None:
    s0 = bind(stack)
    s1 = connect(stack, s0.transport.endpoint, stream_endpoint=free_port())
    start = time.monotonic()
    here, there = both(s0.transport.wait_peer, s1.transport.wait_peer)
    assert time.monotonic() - start < DEADLINE_S
    assert isinstance(there, PeerLost) and "no stream to server0 at" in there.what
    assert isinstance(here, PeerTimeout) and "no stream of server1 at port" in here.what
    assert "peer_bulk" in there.hint and "peer_bulk" in here.hint
    for end in (s0, s1):  # what has failed once stays so: the keys of a connection are agreed once
        with pytest.raises(PeerLost, match="its stream did not come about"):
            end.transport.wait_peer()


def test_a_stream_port_that_is_taken_is_a_config_error(stack: ExitStack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match="cannot listen for a stream"):
            PeerSocket.bind(ANY_PORT, S0, S1.public, stream_endpoint=place)
        allowed = {DEALER.public: "dealer"}
        with pytest.raises(ConfigError, match="cannot listen for a stream"):
            Listener(ANY_PORT, S0, allowed, stream_peers=["dealer"], stream_endpoint=place)


def test_peer_that_does_not_begin_with_a_hello_is_refused(stack: ExitStack) -> None:
    s0 = bind(stack)
    odd = link.Link("server0", S1, 1 << 20)
    odd.connect(s0.transport.endpoint, S0.public)
    stack.callback(odd.close)
    odd.put([encode_header(Kind.CONTROL, 1), b"x"])
    with pytest.raises(BadFrame, match="a STREAM frame was due and a CONTROL frame came"):
        s0.transport.wait_peer()


def test_ends_with_other_curve_keys_than_proved_do_not_connect(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with an attacker between two CURVE connections who passes the hellos on."""
    monkeypatch.setattr(peer_socket, "STREAM_S", 1.0)
    ends = both_ends(stack)
    ends[1].transport._link._peer_key = USER.public
    found = both(ends[0].transport.wait_peer, ends[1].transport.wait_peer)
    assert all(isinstance(error, WireError) for error in found), found


def test_failed_exchange_stops_reading_the_arrays(stack: ExitStack) -> None:
    s0, s1 = met(stack)
    data = bytearray(32 << 20)
    s1.send_error(ConfigError("server 1 stops"))
    with pytest.raises(RemoteError, match="server 1 stops"):
        s0.exchange([data])
    with pytest.raises(PeerLost):
        s0.send([b"x"])
    assert s0.transport._stream is not None and s0.transport._stream._send_buffer is not None
    thread = s0.transport._stream._send_buffer._thread
    assert thread is not None and not thread.is_alive()


def test_key_material_does_not_print(stack: ExitStack) -> None:
    for thing in met(stack):
        stream = thing.transport._stream
        assert isinstance(stream, Stream)
        for text in map(repr, (thing, stream, stream._opener, stream._keys, vars(stream))):
            for secret in (stream._keys._peers, stream._opener._secret):
                assert secret.hex() not in text and repr(secret)[2:-1] not in text
