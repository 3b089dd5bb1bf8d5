"""Whole frames over TCP."""

import gc
import itertools
import os
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from gpumpc.errors import BadFrame, PeerLost, PeerTimeout
from gpumpc.wire.frames import Kind
from gpumpc.wire.stream import Stream
from gpumpc.wire.stream import send_buffer as send_buffer
from gpumpc.wire.stream.records import RECORD_BYTES, SEALED_HEADER_BYTES, TAG_BYTES
from gpumpc.wire.stream.send_buffer import LARGE_BYTES, pieces
from tests.wire.stream.wires import SESSION, Wire, both_keys, got, header_of, put, tcp_pair

SIZES = [0, 1, 1000, RECORD_BYTES - 1, RECORD_BYTES, RECORD_BYTES + 1, 3 * RECORD_BYTES + 7]
Streams = tuple[Stream, Stream]


@pytest.fixture
def pair() -> Iterator[Streams]:
    ends = [Stream(sock, keys, "peer") for sock, keys in zip(tcp_pair(), both_keys(), strict=True)]
    yield ends[0], ends[1]
    for end in ends:
        end.abort()


@pytest.mark.parametrize("n_bytes", SIZES)
def test_frames_of_every_size_cross_in_order(wire: Wire, n_bytes: int) -> None:
    payloads = [os.urandom(n_bytes) for _ in range(3)]
    on_the_wire = b"".join(wire.take(0, payload, i) for i, payload in enumerate(payloads))
    wire.give(1, on_the_wire)
    frames = [got(wire.ends[1]) for _ in range(3)]
    assert [frame.payload for frame in frames] == payloads
    assert [(f.kind, f.session, f.batch_index, f.sequence) for f in frames] == [
        (Kind.OPENING, SESSION, 1, i) for i in range(3)
    ]
    assert all(frame.payload.readonly for frame in frames)
    # Exactly what is declared on the cable: a header, its tag, and a tag for each record begun.
    n_records = -(-n_bytes // RECORD_BYTES)
    assert len(on_the_wire) == 3 * (SEALED_HEADER_BYTES + n_bytes + TAG_BYTES * n_records)


def test_frames_are_read_byte_by_byte(wire: Wire) -> None:
    data = wire.take(0, b"slow", 0) + wire.take(0, b"line", 1)
    for i in range(len(data)):
        if early := wire.ends[1].receive():
            assert i == SEALED_HEADER_BYTES + 4 + TAG_BYTES and early.payload == b"slow"
        wire.give(1, data[i : i + 1])
    assert got(wire.ends[1]).payload == b"line"


def test_wire_shows_no_plaintext_of_a_frame(wire: Wire) -> None:
    data = wire.take(0, b"a word that would be seen" * 10, 0)
    assert b"a word that" not in data and b"GMPC" not in data and SESSION not in data


@pytest.mark.parametrize(
    "cuts",
    [[], [0], [1], [RECORD_BYTES], [5, 5, RECORD_BYTES + 3], [RECORD_BYTES - 1, RECORD_BYTES]],
)
def test_parts_are_joined_wherever_they_are_cut(pair: Streams, cuts: list[int]) -> None:
    whole = os.urandom(2 * RECORD_BYTES + 100)
    edges = [0, *sorted(cuts), len(whole)]
    put(pair[0], *(whole[a:b] for a, b in itertools.pairwise(edges)))
    assert got(pair[1]).payload == whole


def test_piece_within_one_part_is_a_view() -> None:
    part = bytearray(20)
    found = [*pieces([part, b"", b"tail"], 8)]
    assert [len(piece) for piece in found] == [8, 8, 8]
    views = [isinstance(piece, memoryview) and piece.obj is part for piece in found]
    assert views == [True, True, False]


def test_a_buffer_may_be_reused_as_soon_as_put_returns(pair: Streams) -> None:
    buffer = bytearray(b"a" * (12 << 20))  # more than the kernel takes
    put(pair[0], buffer)
    buffer[:] = b"b" * len(buffer)
    assert got(pair[1]).payload == b"a" * len(buffer)


def test_both_ends_send_large_frames_before_receiving(pair: Streams) -> None:
    payloads = [os.urandom(9 << 20) for _ in pair]
    for end, payload in zip(pair, payloads, strict=True):
        put(end, payload)
    assert got(pair[0]).payload == payloads[1] and got(pair[1]).payload == payloads[0]


def test_large_frames_are_sent_while_others_arrive(pair: Streams) -> None:
    def play(party: int) -> None:
        for i in range(5):
            data = bytes([i, party]) * (5 << 20)
            sending = pair[party].start(header_of(len(data), i), [data])
            assert sending is not None
            frame = got(pair[party])
            assert frame.sequence == i and frame.payload == bytes([i, 1 - party]) * (5 << 20)
            sending.finish(5.0)
            put(pair[party], b"small, in between")
            assert got(pair[party]).payload == b"small, in between"

    with ThreadPoolExecutor() as pool:
        list(pool.map(play, range(2)))


def test_small_frame_waits_behind_a_large_one(pair: Streams) -> None:
    large = os.urandom(12 << 20)
    sending = pair[0].start(header_of(len(large)), [large])
    assert sending is not None
    with ThreadPoolExecutor() as pool:
        later = pool.submit(put, pair[0], b"behind it", sequence=1)
        assert got(pair[1]).payload == large
        assert got(pair[1]).payload == b"behind it"
        later.result()
    sending.finish(1.0)


def test_get_keeps_its_timeout(pair: Streams) -> None:
    start = time.monotonic()
    assert pair[0].get(0.6) is None
    assert 0.6 <= time.monotonic() - start < 1.5


def test_lost_peer_ends_the_wait_after_received_frames(pair: Streams) -> None:
    put(pair[0], b"sent before")
    time.sleep(0.1)
    pair[1]._lose()
    assert got(pair[1]).payload == b"sent before"
    for action in (lambda: pair[1].get(5.0), lambda: put(pair[1], b"x")):
        start = time.monotonic()
        with pytest.raises(PeerLost, match="sent nothing for .* s, not even a heartbeat"):
            action()
        assert time.monotonic() - start < 1.0


def test_peer_that_reads_nothing_is_a_timeout_or_lost(pair: Streams) -> None:
    large = bytes(64 << 20)
    sending = pair[0].start(header_of(len(large)), [large])
    assert sending is not None
    with pytest.raises(PeerTimeout, match="took nothing for 0.4 s"):
        sending.finish(0.4)
    threading.Timer(0.2, pair[0]._lose).start()
    with pytest.raises(PeerLost, match="not even a heartbeat"):
        sending.finish(10.0)


def test_put_waits_when_the_send_buffer_is_full(
    pair: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_buffer, "_WAITING_BYTES", 1 << 20)
    threading.Timer(1.0, pair[0]._lose).start()
    with pytest.raises(PeerLost, match="not even a heartbeat"):
        for i in range(100):
            put(pair[0], bytes(1 << 20), sequence=i)
    assert i < 40  # the kernel's buffers, and one megabyte
    with pytest.raises(PeerLost):  # half a frame may have left: nothing can follow it
        put(pair[0], b"x")


def test_bug_in_the_sending_thread_is_reported(
    pair: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_buffer, "pieces", None)
    sending = pair[0].start(header_of(2 << 20), [bytes(2 << 20)])
    assert sending is not None
    with pytest.raises(PeerLost, match="TypeError in sending"):
        sending.finish(5.0)


def test_frames_sent_before_closing_still_arrive(pair: Streams) -> None:
    put(pair[1], b"never read: closing with unread bytes resets a careless connection")
    time.sleep(0.05)
    for i in range(30):
        put(pair[0], bytes([i]) * 100_000, sequence=i)
    closing = threading.Thread(target=pair[0].close)
    closing.start()
    assert [got(pair[1]).payload[0] for _ in range(30)] == [*range(30)]
    closing.join(5)
    with pytest.raises(PeerLost, match="closed the connection|reset"):
        pair[1].get(5.0)


def test_closing_waits_briefly_for_a_peer_that_does_not_read(pair: Streams) -> None:
    put(pair[0], bytes(20 << 20))
    start = time.monotonic()
    pair[0].close()
    pair[0].close()
    assert time.monotonic() - start < 3.0
    for action in (lambda: put(pair[0], b"x"), pair[0].receive):
        with pytest.raises(PeerLost, match="this end was closed"):
            action()


@pytest.mark.parametrize("n_bytes", [10, 3 << 20, 12 << 20])
def test_closing_does_not_wait_for_a_dead_peer(pair: Streams, n_bytes: int) -> None:
    """A dealer whose server was killed must be back within seconds."""
    put(pair[0], bytes(n_bytes))
    pair[1].abort()
    with pytest.raises(PeerLost):
        for i in range(100):
            put(pair[0], bytes(n_bytes), sequence=i)
            time.sleep(0.01)
    start = time.monotonic()
    pair[0].close()
    assert time.monotonic() - start < 0.5


def test_abort_stops_reading_the_arrays(pair: Streams) -> None:
    """After an error in an exchange, nothing that the caller writes into its arrays is sent."""
    data = bytearray(32 << 20)
    sending = pair[0].start(header_of(len(data)), [data])
    assert sending is not None
    time.sleep(0.1)
    pair[0].abort()
    assert pair[0]._send_buffer is not None and pair[0]._send_buffer._thread is not None
    assert not pair[0]._send_buffer._thread.is_alive()
    with pytest.raises(PeerLost):
        while pair[1].receive() is None:
            pass


def test_vanished_reader_is_a_lost_peer(pair: Streams) -> None:
    pair[1].abort()
    with pytest.raises(PeerLost, match="peer is gone"):
        for i in range(50):
            put(pair[0], bytes(LARGE_BYTES), sequence=i)
            time.sleep(0.01)


def test_socket_error_is_a_lost_peer(pair: Streams) -> None:
    pair[0]._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    pair[0].abort()  # a reset
    with pytest.raises(PeerLost, match="peer is gone"):
        pair[1].get(5.0)


def test_broken_stream_frees_its_buffers_at_once() -> None:
    """A stranger on the way could else have this end hold half a megabyte a connection."""
    sock, other = tcp_pair()
    broken = Stream(sock, both_keys()[0], "peer")
    other.sendall(bytes(200))
    for _ in range(2):
        with pytest.raises(BadFrame):
            broken.get(5.0)
    broken.abort()
    other.close()
    gone = weakref.ref(broken)
    gc.disable()
    try:
        del broken
        assert gone() is None
    finally:
        gc.enable()


def test_planted_abort_without_waiting_is_caught(
    pair: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_all = send_buffer.SendBuffer._send_all

    def ends_slowly(self: send_buffer.SendBuffer, data: memoryview) -> None:
        try:
            send_all(self, data)
        except OSError:
            time.sleep(0.5)  # the thread that does not wait for it is sure to find it alive
            raise

    with monkeypatch.context() as patch:
        patch.setattr(send_buffer.SendBuffer, "_send_all", ends_slowly)
        patch.setattr(send_buffer.SendBuffer, "stop", lambda self: None)
        with pytest.raises(AssertionError):
            test_abort_stops_reading_the_arrays(pair)
    assert pair[0]._send_buffer is not None
    pair[0]._send_buffer.stop()
