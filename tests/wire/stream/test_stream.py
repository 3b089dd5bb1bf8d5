"""Whole frames over TCP, and everything that somebody on the wire can do to them."""

import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from gpumpc.errors import BadFrame, PeerLost, PeerTimeout, WireError
from gpumpc.wire.frames import Frame, Kind, encode_header
from gpumpc.wire.stream import Stream
from gpumpc.wire.stream import send_buffer as send_buffer
from gpumpc.wire.stream.records import (
    HEADER_LABEL,
    RECORD_BYTES,
    SEALED_HEADER_BYTES,
    TAG_BYTES,
    Opener,
    Sealer,
)
from gpumpc.wire.stream.send_buffer import LARGE_BYTES, pieces
from tests.wire.stream.wires import SEALED_RECORD_BYTES, SESSION, Wire, both_keys, nothing, tcp_pair

SIZES = [0, 1, 1000, RECORD_BYTES - 1, RECORD_BYTES, RECORD_BYTES + 1, 3 * RECORD_BYTES + 7]


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as wire:
        yield wire


@pytest.fixture
def pair() -> Iterator[tuple[Stream, Stream]]:
    ends = [Stream(sock, keys, "peer") for sock, keys in zip(tcp_pair(), both_keys(), strict=True)]
    yield ends[0], ends[1]
    for end in ends:
        end.abort()


def header_of(n_bytes: int, sequence: int = 0) -> bytes:
    return encode_header(Kind.OPENING, n_bytes, session=SESSION, batch_index=1, sequence=sequence)


def put(end: Stream, *parts: bytes | bytearray | memoryview, sequence: int = 0) -> None:
    end.put(header_of(sum(map(len, parts)), sequence), parts, nothing)


def got(end: Stream) -> Frame:
    frame = end.get(5.0, nothing)
    assert frame is not None
    return frame


# what is sent arrives


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
    assert len(on_the_wire) == 3 * (
        SEALED_HEADER_BYTES + n_bytes + TAG_BYTES * -(-n_bytes // RECORD_BYTES)
    )


def test_bytes_may_come_one_by_one(wire: Wire) -> None:
    data = wire.take(0, b"slow", 0) + wire.take(0, b"line", 1)
    for i in range(len(data)):
        early = wire.ends[1].receive()
        assert early is None or (
            i == SEALED_HEADER_BYTES + 4 + TAG_BYTES and early.payload == b"slow"
        )
        wire.give(1, data[i : i + 1])
    assert got(wire.ends[1]).payload == b"line"


def test_nothing_of_a_frame_is_on_the_wire_in_the_clear(wire: Wire) -> None:
    data = wire.take(0, b"a word that would be seen" * 10, 0)
    assert b"a word that" not in data and b"GMPC" not in data and SESSION not in data


@pytest.mark.parametrize(
    "cuts",
    [[], [0], [1], [RECORD_BYTES], [5, 5, RECORD_BYTES + 3], [RECORD_BYTES - 1, RECORD_BYTES]],
)
def test_parts_are_joined_wherever_they_are_cut(
    pair: tuple[Stream, Stream], cuts: list[int]
) -> None:
    whole = os.urandom(2 * RECORD_BYTES + 100)
    edges = [0, *sorted(cuts), len(whole)]
    put(pair[0], *(whole[a:b] for a, b in itertools.pairwise(edges)))
    assert got(pair[1]).payload == whole


def test_a_piece_is_a_view_unless_it_lies_across_parts() -> None:
    part = bytearray(20)
    found = [*pieces([part, b"", b"tail"], 8)]
    assert [len(piece) for piece in found] == [8, 8, 8]
    assert [isinstance(piece, memoryview) and piece.obj is part for piece in found] == [
        True,
        True,
        False,
    ]


def test_a_buffer_may_be_reused_as_soon_as_put_returns(pair: tuple[Stream, Stream]) -> None:
    buffer = bytearray(b"a" * (12 << 20))  # more than the kernel takes
    put(pair[0], buffer)
    buffer[:] = b"b" * len(buffer)
    assert got(pair[1]).payload == b"a" * len(buffer)


def test_both_ends_send_much_before_either_receives(pair: tuple[Stream, Stream]) -> None:
    payloads = [os.urandom(9 << 20) for _ in pair]
    for end, payload in zip(pair, payloads, strict=True):
        put(end, payload)
    assert got(pair[0]).payload == payloads[1] and got(pair[1]).payload == payloads[0]


def test_large_frames_leave_while_others_come(pair: tuple[Stream, Stream]) -> None:
    def play(party: int) -> None:
        for i in range(5):
            data = bytes([i, party]) * (5 << 20)
            sending = pair[party].start(header_of(len(data), i), [data], nothing)
            assert sending is not None
            frame = got(pair[party])
            assert frame.sequence == i and frame.payload == bytes([i, 1 - party]) * (5 << 20)
            sending.finish(5.0, nothing)
            put(pair[party], b"small, in between")
            assert got(pair[party]).payload == b"small, in between"

    with ThreadPoolExecutor() as pool:
        list(pool.map(play, range(2)))


def test_a_small_frame_behind_a_large_one_waits_its_turn(pair: tuple[Stream, Stream]) -> None:
    large = os.urandom(12 << 20)
    sending = pair[0].start(header_of(len(large)), [large], nothing)
    assert sending is not None
    with ThreadPoolExecutor() as pool:
        later = pool.submit(put, pair[0], b"behind it", sequence=1)
        assert got(pair[1]).payload == large
        assert got(pair[1]).payload == b"behind it"
        later.result()
    sending.finish(1.0, nothing)


# time


def test_get_keeps_to_its_time_and_asks_whether_the_peer_is_there(
    pair: tuple[Stream, Stream],
) -> None:
    start, asked = time.monotonic(), []
    assert pair[0].get(0.6, lambda: asked.append(1)) is None
    assert 0.6 <= time.monotonic() - start < 1.5 and len(asked) >= 2


def gone() -> None:
    raise PeerLost("the peer is gone", "its heart stopped", "")


def test_a_peer_that_is_known_to_be_gone_ends_the_wait_but_not_what_has_come(
    pair: tuple[Stream, Stream],
) -> None:
    put(pair[0], b"last words")
    time.sleep(0.1)
    frame = pair[1].get(5.0, gone)
    assert frame is not None and frame.payload == b"last words"
    start = time.monotonic()
    with pytest.raises(PeerLost, match="its heart stopped"):
        pair[1].get(5.0, gone)
    assert time.monotonic() - start < 1.0


def test_a_peer_that_takes_nothing_is_a_timeout_or_lost(pair: tuple[Stream, Stream]) -> None:
    large = bytes(64 << 20)
    sending = pair[0].start(header_of(len(large)), [large], nothing)
    assert sending is not None
    for check, error, why in (
        (nothing, PeerTimeout, "took nothing for 0.4 s"),
        (gone, PeerLost, "its heart stopped"),
    ):
        with pytest.raises(error, match=why):
            sending.finish(0.4, check)


def test_put_waits_when_much_is_waiting(
    pair: tuple[Stream, Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_buffer, "_WAITING_BYTES", 1 << 20)
    with pytest.raises(PeerLost, match="its heart stopped"):
        for i in range(100):
            pair[0].put(header_of(1 << 20, i), [bytes(1 << 20)], gone)
    assert i < 40  # the kernel's buffers, and one megabyte
    with pytest.raises(PeerLost):  # half a frame may have left: nothing can follow it
        put(pair[0], b"x")


def test_a_bug_in_the_sending_thread_is_told(
    pair: tuple[Stream, Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_buffer, "pieces", None)
    sending = pair[0].start(header_of(2 << 20), [bytes(2 << 20)], nothing)
    assert sending is not None
    with pytest.raises(PeerLost, match="TypeError in sending"):
        sending.finish(5.0, nothing)


# the end


def test_what_was_sent_before_closing_still_arrives(pair: tuple[Stream, Stream]) -> None:
    put(pair[1], b"never read: closing with unread bytes resets a careless connection")
    time.sleep(0.05)
    for i in range(30):
        put(pair[0], bytes([i]) * 100_000, sequence=i)
    closing = threading.Thread(target=pair[0].close)
    closing.start()
    assert [got(pair[1]).payload[0] for _ in range(30)] == [*range(30)]
    closing.join(5)
    with pytest.raises(PeerLost, match="closed the connection|reset"):
        pair[1].get(5.0, nothing)


def test_closing_does_not_wait_long_for_a_peer_that_does_not_read(
    pair: tuple[Stream, Stream],
) -> None:
    put(pair[0], bytes(20 << 20))
    start = time.monotonic()
    pair[0].close()
    pair[0].close()
    assert time.monotonic() - start < 3.0
    for action in (lambda: put(pair[0], b"x"), pair[0].receive):
        with pytest.raises(PeerLost, match="this end was closed"):
            action()


@pytest.mark.parametrize("n_bytes", [10, 3 << 20, 12 << 20])
def test_closing_does_not_wait_at_all_for_a_peer_that_is_dead(
    pair: tuple[Stream, Stream], n_bytes: int
) -> None:
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


def test_after_abort_no_array_is_read(pair: tuple[Stream, Stream]) -> None:
    """An error in the middle of an exchange: what the caller writes into its arrays afterwards must
    not leave.
    """
    data = bytearray(32 << 20)
    sending = pair[0].start(header_of(len(data)), [data], nothing)
    assert sending is not None
    time.sleep(0.1)
    pair[0].abort()
    assert pair[0]._send_buffer is not None and pair[0]._send_buffer._thread is not None
    assert not pair[0]._send_buffer._thread.is_alive()
    with pytest.raises(PeerLost):
        while pair[1].receive() is None:
            pass


def test_a_vanished_reader_is_lost(pair: tuple[Stream, Stream]) -> None:
    pair[1].abort()
    with pytest.raises(PeerLost, match="peer is gone"):
        for i in range(50):
            put(pair[0], bytes(LARGE_BYTES), sequence=i)
            time.sleep(0.01)


# somebody on the wire

SMALL, LONG = 100, 2 * RECORD_BYTES + 50
FRAME = SEALED_HEADER_BYTES + SMALL + TAG_BYTES


def attacked(wire: Wire, attack: str) -> tuple[bytes, int]:
    """What reaches end 1 of three small frames and a long one, and how many frames are whole and in
    order before it.
    """
    first, second, third = (wire.take(0, bytes([i]) * SMALL, i) for i in range(3))
    long = wire.take(0, os.urandom(LONG), 3)
    head, body = long[:SEALED_HEADER_BYTES], long[SEALED_HEADER_BYTES:]
    records = [body[i : i + SEALED_RECORD_BYTES] for i in range(0, len(body), SEALED_RECORD_BYTES)]
    back = wire.take(1, bytes(SMALL), 0)
    with Wire() as other:
        foreign = [other.take(0, bytes([i]) * SMALL, i) for i in range(2)]
    return {
        "replay": (first + first, 1),
        "late replay": (first + second + third + first, 3),
        "reordering of frames": (second + first, 0),
        "deletion of a frame": (first + third, 1),
        "deletion of the first": (second, 0),
        "reordering of records": (
            first + second + third + head + records[1] + records[0] + records[2],
            3,
        ),
        "repetition of a record": (
            first + second + third + head + records[0] + records[0] + records[2],
            3,
        ),
        "deletion of a record": (
            first + second + third + head + records[0] + records[2] + bytes(SEALED_RECORD_BYTES),
            3,
        ),
        "another connection's frame": (foreign[0], 0),
        "another connection's frame at its place": (first + foreign[1], 1),
        "another connection's record": (
            first + second[:SEALED_HEADER_BYTES] + foreign[1][SEALED_HEADER_BYTES:],
            1,
        ),
        "own words sent back": (back, 0),
        "another header": (first + third[:SEALED_HEADER_BYTES] + second[SEALED_HEADER_BYTES:], 1),
        "insertion": (first + bytes(FRAME) + second, 1),
        "a byte too many": (first + b"\0" + second, 1),
        "a byte too few": (first[:-1] + second, 0),
    }[attack]


ATTACKS = [
    "replay", "late replay", "insertion", "a byte too many", "a byte too few", "another header",
    "own words sent back", "reordering of frames", "deletion of a frame", "deletion of the first",
    "reordering of records", "repetition of a record", "deletion of a record",
    "another connection's frame", "another connection's frame at its place", "another connection's "
                                                                             "record",
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_on_the_wire_ends_the_connection(attack: str) -> None:
    """At once, with a clear error, and nothing is handed out but whole frames before it."""
    with Wire() as wire:
        data, n_whole = attacked(wire, attack)
        wire.give(1, data)
        *frames, error = wire.outcome(1)
        assert (
            isinstance(error, BadFrame)
            and "was changed, cut, repeated or moved" in error.why
            and error.hint
        )
        assert [bytes(f.payload[:1]) for f in frames if isinstance(f, Frame)] == [
            bytes([i]) for i in range(n_whole)
        ]
        with pytest.raises(BadFrame):  # and it stays refused, also for what would be right
            wire.ends[1].receive()


@pytest.mark.parametrize("n_bytes", [1, SEALED_HEADER_BYTES - 1, SEALED_HEADER_BYTES, FRAME - 1])
def test_truncation_in_a_frame_is_told_and_the_frame_dropped(wire: Wire, n_bytes: int) -> None:
    wire.give(1, wire.take(0, b"whole", 0) + wire.take(0, bytes(SMALL), 1)[:n_bytes])
    wire.cut(1)
    frame, error = wire.outcome(1)
    assert isinstance(frame, Frame) and frame.payload == b"whole"
    assert (
        isinstance(error, PeerLost) and "in the middle of a frame, which was dropped" in error.why
    )


def test_truncation_between_frames_is_the_end_of_the_connection(wire: Wire) -> None:
    wire.give(1, wire.take(0, b"whole", 0))
    wire.cut(1)
    assert "it closed the connection" in str(wire.outcome(1)[-1])


@pytest.mark.parametrize("at", [*range(FRAME)])
def test_a_flipped_bit_anywhere_is_refused(at: int) -> None:
    with Wire() as wire:
        data = bytearray(wire.take(0, bytes(SMALL), 0))
        data[at] ^= 1 << at % 8
        wire.give(1, bytes(data))
        (error,) = wire.outcome(1)
        assert isinstance(error, BadFrame)


def test_a_flipped_bit_in_the_last_of_many_records_hands_out_nothing(wire: Wire) -> None:
    data = bytearray(wire.take(0, bytes(LONG), 0))
    data[-TAG_BYTES - 1] ^= 1
    wire.give(1, bytes(data))
    (error,) = wire.outcome(1)
    assert isinstance(error, BadFrame)
    assert not len(wire.ends[1]._payload)  # what was opened before it is gone as well


def test_a_sealed_header_is_read_as_strictly_as_any(wire: Wire) -> None:
    keys = both_keys()
    ends = tcp_pair()
    sealer, out = keys[0].sealer(), bytearray(SEALED_HEADER_BYTES)
    sealer.seal_into(b"GMPX" + header_of(0)[4:], HEADER_LABEL, memoryview(out))
    ends[0].sendall(out)
    reader = Stream(ends[1], keys[1], "peer")
    with pytest.raises(BadFrame, match="mark of gpumpc"):
        reader.get(5.0, nothing)
    reader.abort()
    ends[0].close()


def test_a_frame_above_the_limit_is_refused_before_memory_is_taken() -> None:
    with Wire(max_payload_bytes=1000) as wire:
        wire.ends[0].put(header_of(1001), [bytes(1001)], nothing)
        wire.give(1, wire.read(0, SEALED_HEADER_BYTES))
        (error,) = wire.outcome(1)
        assert isinstance(error, BadFrame) and "1001 payload bytes, the limit is 1000" in error.why


def test_a_repr_shows_no_payload_and_no_key(wire: Wire) -> None:
    assert "secret" not in repr(wire.ends[0]).replace("<secret>", "")


# planted bugs: each must let a test above fail


original_next = Sealer._next
original_receive = Stream.receive


def _no_count(self: Sealer | Opener) -> bytes:
    if self.n_records == 0:
        original_next(self)
    return bytes(12)


def _hands_out_early(self: Stream) -> Frame | None:
    try:
        return original_receive(self)
    except WireError:
        header, self._header = self._header, None
        if header is None:
            raise
        return Frame(header.kind, memoryview(bytes(self._at)), header.session)


def test_planted_a_constant_nonce_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Sealer, Opener):
        monkeypatch.setattr(kind, "_next", _no_count)
    with pytest.raises(AssertionError):
        test_an_attack_on_the_wire_ends_the_connection("replay")


def test_planted_an_end_taken_for_the_end_of_a_frame_is_seen(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stream, "_ended", lambda self: self._lost("it closed the connection"))
    with pytest.raises(AssertionError):
        test_truncation_in_a_frame_is_told_and_the_frame_dropped(wire, 1)


def test_planted_payload_handed_out_before_it_has_opened_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Stream, "receive", _hands_out_early)
    with pytest.raises(AssertionError):
        test_an_attack_on_the_wire_ends_the_connection("repetition of a record")


def test_planted_an_abort_that_does_not_wait_is_seen(
    pair: tuple[Stream, Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(send_buffer.SendBuffer, "stop", lambda self: None)
        with pytest.raises(AssertionError):
            test_after_abort_no_array_is_read(pair)
    assert pair[0]._send_buffer is not None
    pair[0]._send_buffer.stop()


def test_a_socket_error_is_told_as_a_lost_peer(pair: tuple[Stream, Stream]) -> None:
    pair[0]._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    pair[0].abort()  # a reset
    with pytest.raises(PeerLost, match="peer is gone"):
        pair[1].get(5.0, nothing)
