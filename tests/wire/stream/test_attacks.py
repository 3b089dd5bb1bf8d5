"""Changes that an attacker on the wire makes to frames: every one ends the connection."""

import os
from collections.abc import Callable
from typing import NamedTuple

import pytest

from gpumpc.errors import BadFrame, PeerLost, WireError
from gpumpc.wire.frames import Frame
from gpumpc.wire.stream import Stream
from gpumpc.wire.stream.records import (
    HEADER_LABEL,
    RECORD_BYTES,
    SEALED_HEADER_BYTES,
    TAG_BYTES,
    Opener,
    Sealer,
)
from tests.wire.stream import wires
from tests.wire.stream.wires import SEALED_RECORD_BYTES, Wire, header_of

SMALL, LONG = 100, 2 * RECORD_BYTES + 50
FRAME = SEALED_HEADER_BYTES + SMALL + TAG_BYTES


class Sent(NamedTuple):
    """Bytes on the wire: of four frames, one in the other direction, two of another connection."""

    first: bytes
    second: bytes
    third: bytes
    head: bytes
    records: list[bytes]
    back: bytes
    foreign: list[bytes]

    @property
    def all_small(self) -> bytes:
        return self.first + self.second + self.third


def sent(wire: Wire) -> Sent:
    first, second, third = (wire.take(0, bytes([i]) * SMALL, i) for i in range(3))
    long = wire.take(0, os.urandom(LONG), 3)
    head, body = long[:SEALED_HEADER_BYTES], long[SEALED_HEADER_BYTES:]
    records = [body[i : i + SEALED_RECORD_BYTES] for i in range(0, len(body), SEALED_RECORD_BYTES)]
    back = wire.take(1, bytes(SMALL), 0)
    with Wire() as other:
        foreign = [other.take(0, bytes([i]) * SMALL, i) for i in range(2)]
    return Sent(first, second, third, head, records, back, foreign)


# What reaches end 1, and how many frames are whole and in order before the attack.
ATTACKS: dict[str, tuple[Callable[[Sent], bytes], int]] = {
    "replay": (lambda s: s.first + s.first, 1),
    "late replay": (lambda s: s.all_small + s.first, 3),
    "insertion": (lambda s: s.first + bytes(FRAME) + s.second, 1),
    "a byte too many": (lambda s: s.first + b"\0" + s.second, 1),
    "a byte too few": (lambda s: s.first[:-1] + s.second, 0),
    "another header": (
        lambda s: s.first + s.third[:SEALED_HEADER_BYTES] + s.second[SEALED_HEADER_BYTES:],
        1,
    ),
    "own words sent back": (lambda s: s.back, 0),
    "reordering of frames": (lambda s: s.second + s.first, 0),
    "deletion of a frame": (lambda s: s.first + s.third, 1),
    "deletion of the first": (lambda s: s.second, 0),
    "reordering of records": (lambda s: s.all_small + s.head + moved(s, 1, 0, 2), 3),
    "repetition of a record": (lambda s: s.all_small + s.head + moved(s, 0, 0, 2), 3),
    "deletion of a record": (
        lambda s: s.all_small + s.head + moved(s, 0, 2) + bytes(SEALED_RECORD_BYTES),
        3,
    ),
    "another connection's frame": (lambda s: s.foreign[0], 0),
    "another connection's frame at its place": (lambda s: s.first + s.foreign[1], 1),
    "another connection's record": (
        lambda s: s.first + s.second[:SEALED_HEADER_BYTES] + s.foreign[1][SEALED_HEADER_BYTES:],
        1,
    ),
}


def moved(sent: Sent, *places: int) -> bytes:
    return b"".join(sent.records[i] for i in places)


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_on_the_wire_ends_the_connection(attack: str) -> None:
    """At once, with a clear error, and only the whole frames before it are returned."""
    with Wire() as wire:
        change, n_whole = ATTACKS[attack]
        wire.give(1, change(sent(wire)))
        *frames, error = wire.outcome(1)
        assert isinstance(error, BadFrame) and error.hint
        assert "was changed, cut, repeated or moved" in error.why
        found = [bytes(frame.payload[:1]) for frame in frames if isinstance(frame, Frame)]
        assert found == [bytes([i]) for i in range(n_whole)]
        with pytest.raises(BadFrame):  # and it stays refused, also for what would be right
            wire.ends[1].receive()


@pytest.mark.parametrize("n_bytes", [1, SEALED_HEADER_BYTES - 1, SEALED_HEADER_BYTES, FRAME - 1])
def test_truncated_frame_is_reported_and_dropped(wire: Wire, n_bytes: int) -> None:
    wire.give(1, wire.take(0, b"whole", 0) + wire.take(0, bytes(SMALL), 1)[:n_bytes])
    wire.cut(1)
    frame, error = wire.outcome(1)
    assert isinstance(frame, Frame) and frame.payload == b"whole"
    assert isinstance(error, PeerLost)
    assert "in the middle of a frame, which was dropped" in error.why


def test_truncation_between_frames_ends_the_connection(wire: Wire) -> None:
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


def test_flipped_bit_in_the_last_record_drops_the_frame(wire: Wire) -> None:
    data = bytearray(wire.take(0, bytes(LONG), 0))
    data[-TAG_BYTES - 1] ^= 1
    wire.give(1, bytes(data))
    (error,) = wire.outcome(1)
    assert isinstance(error, BadFrame)
    assert not len(wire.ends[1]._payload)  # what was opened before it is gone as well


def test_sealed_header_is_read_strictly(wire: Wire) -> None:
    keys, ends = wires.both_keys(), wires.tcp_pair()
    sealer, out = keys[0].sealer(), bytearray(SEALED_HEADER_BYTES)
    sealer.seal_into(b"GMPX" + header_of(0)[4:], HEADER_LABEL, memoryview(out))
    ends[0].sendall(out)
    reader = Stream(ends[1], keys[1], "peer")
    with pytest.raises(BadFrame, match="mark of gpumpc"):
        reader.get(5.0)
    reader.abort()
    ends[0].close()


def test_too_large_frame_is_refused_before_allocation() -> None:
    with Wire(max_payload_bytes=1000) as wire:
        wire.ends[0].put(header_of(1001), [bytes(1001)])
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


def test_planted_constant_nonce_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Sealer, Opener):
        monkeypatch.setattr(kind, "_next", _no_count)
    with pytest.raises(AssertionError):
        test_an_attack_on_the_wire_ends_the_connection("replay")


def test_planted_silent_truncation_is_caught(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stream, "_ended", lambda self: self._lost("it closed the connection"))
    with pytest.raises(AssertionError):
        test_truncated_frame_is_reported_and_dropped(wire, 1)


def test_planted_early_payload_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stream, "receive", _hands_out_early)
    with pytest.raises(AssertionError):
        test_an_attack_on_the_wire_ends_the_connection("repetition of a record")
