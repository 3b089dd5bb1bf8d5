"""Frames: what is sent is what is read, and everything else is refused with its cause."""

import dataclasses

import msgspec
import pytest

from gpumpc.errors import BadFrame, HandshakeMismatch
from gpumpc.wire.frames import (
    HEADER,
    MAX_PAYLOAD_BYTES,
    ErrorRecord,
    Kind,
    decode,
    decode_record,
    encode_header,
    encode_record,
)

SESSION = bytes(range(16))
PAYLOAD = b"\x01\x02\x03\x04\x05"


def header() -> bytes:
    return encode_header(Kind.OPENING, len(PAYLOAD), session=SESSION, batch_index=7, sequence=3)


def test_a_frame_survives_the_wire() -> None:
    frame = decode([header(), PAYLOAD])
    assert (frame.kind, frame.session) == (Kind.OPENING, SESSION)
    assert (frame.batch_index, frame.sequence) == (7, 3)
    assert frame.payload == PAYLOAD
    assert len(header()) == HEADER.size == 44


def test_the_largest_numbers_survive() -> None:
    frame = decode([encode_header(Kind.REPLY, 0, batch_index=2**64 - 1, sequence=2**32 - 1), b""])
    assert (frame.batch_index, frame.sequence) == (2**64 - 1, 2**32 - 1)


def test_a_repr_shows_no_payload() -> None:
    frame = decode([encode_header(Kind.OPENING, 6), b"secret"])
    assert "secret" not in repr(frame) and "memory" not in repr(frame)


def patched(at: int, value: int) -> bytes:
    raw = bytearray(header())
    raw[at] = value
    return bytes(raw)


@pytest.mark.parametrize(
    ("parts", "cause"),
    [
        ([], "0 parts"),
        ([header()], "1 parts"),
        ([header(), PAYLOAD, b""], "3 parts"),
        ([header()[:-1], PAYLOAD], "43 bytes"),
        ([header() + b"\0", PAYLOAD], "45 bytes"),
        ([b"", b""], "0 bytes"),
        ([patched(0, 0), PAYLOAD], "mark of gpumpc"),
        ([patched(4, 2), PAYLOAD], "version is 2"),
        ([patched(5, 0), PAYLOAD], "kind is 0"),
        ([patched(5, 99), PAYLOAD], "kind is 99"),
        ([patched(6, 1), PAYLOAD], "flags are 0x0001"),
        ([header(), PAYLOAD[:-1]], "announces 5 payload bytes and 4 came"),
        ([header(), PAYLOAD + b"\0"], "announces 5 payload bytes and 6 came"),
        ([patched(43, 0x80), PAYLOAD], "the limit is"),
    ],
)
def test_malformed_frame_is_refused_with_its_cause(parts: list[bytes], cause: str) -> None:
    with pytest.raises(BadFrame, match=cause) as caught:
        decode(parts)
    assert caught.value.hint


def test_a_receiver_can_set_a_smaller_limit() -> None:
    with pytest.raises(BadFrame, match="the limit is 4"):
        decode([header(), PAYLOAD], max_payload_bytes=4)


@pytest.mark.parametrize(
    ("n_bytes", "fields"),
    [
        (MAX_PAYLOAD_BYTES + 1, {}),
        (0, {"session": b"short"}),
        (0, {"batch_index": 2**64}),
        (0, {"batch_index": -1}),
        (0, {"sequence": 2**32}),
    ],
)
def test_header_with_invalid_fields_is_not_encoded(n_bytes: int, fields: dict[str, int]) -> None:
    with pytest.raises(BadFrame):
        encode_header(Kind.OPENING, n_bytes, **fields)  # type: ignore[arg-type]  # wrong on purpose


class Record(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    n: int


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        encode_record({"name": "a"}),
        encode_record({"name": "a", "n": "1"}),
        encode_record({"name": "a", "n": 1, "more": 2}),
        encode_record(Record("a", 1)) + b"\0",
        encode_record({"name": b"\xff", "n": 1}),
        b"\x82\xa4name\xa1\xff\xa1n\x01",
        b"\x91" * 100_000,
        bytes(1 << 21),
    ],
)
def test_a_record_is_read_strictly(data: bytes) -> None:
    with pytest.raises(BadFrame):
        decode_record(data, Record)


def test_record_survives_encoding() -> None:
    assert decode_record(encode_record(Record("a", 1)), Record) == Record("a", 1)


def test_error_record_keeps_name_cause_and_hint() -> None:
    error = HandshakeMismatch("plan", "aa", "bb", "server0")
    received = decode_record(encode_record(ErrorRecord.of(error)), ErrorRecord).as_error("server1")
    assert "server1 reports HandshakeMismatch" in str(received) and "'plan'" in str(received)
    assert (received.why, received.hint) == (error.why, error.hint)


def test_hostile_error_text_cannot_control_a_terminal() -> None:
    record = ErrorRecord("X", "\x1b[2Jgone\nand a new line" + "x" * 10_000)
    text = str(record.as_error("server1"))
    assert "\x1b" not in text and "\n" not in text and len(text) < 1000


def test_frames_are_frozen() -> None:
    frame = decode([header(), PAYLOAD])
    with pytest.raises(dataclasses.FrozenInstanceError):
        frame.batch_index = 8  # type: ignore[misc]  # wrong on purpose
