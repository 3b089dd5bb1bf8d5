"""The one frame of this project: a fixed header and raw payload bytes, decoded strictly.

A frame travels as two parts, header and payload, so that a large payload is never copied to be
joined to its header:

    magic 4s "GMPC" | version u8 | kind u8 | flags u16 | session 16s | batch u64 | sequence u32 |
    payload bytes u64

all little-endian, 44 bytes. Small structured records inside a payload are msgspec Structs in
MessagePack. Nothing that can carry code (pickle and its like) is ever read from a wire.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import msgspec

from gpumpc.errors import BadFrame, GpumpcError, RemoteError

Buffer = bytes | bytearray | memoryview

MAGIC = b"GMPC"
VERSION = 1
HEADER = struct.Struct("<4sBBH16sQIQ")
NO_SESSION = bytes(16)
MAX_PAYLOAD_BYTES = 1 << 30
MAX_RECORD_BYTES = 1 << 20
_MAX_TEXT = 600

T = TypeVar("T")


class Kind(enum.IntEnum):
    """The kind of a frame's payload."""

    HELLO = 1
    CONTROL = 2
    OPENING = 3
    CORRECTION = 4
    REQUEST = 5
    REPLY = 6
    ERROR = 7
    STREAM = 8  # the hellos of a key agreement, inside CURVE
    HEARTBEAT = 9  # no payload: the other end of a stream lives and has nothing to send


_KINDS = frozenset(Kind)


@dataclasses.dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Attributes:
        payload: the raw bytes, never shown in a repr.
        session: 16 bytes, all zero without a session.
        batch_index, sequence: the frame's place in its session.
    """

    kind: Kind
    payload: memoryview = dataclasses.field(repr=False)
    session: bytes = NO_SESSION
    batch_index: int = 0
    sequence: int = 0


class ErrorRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An error as sent to the other process: its class name and its three texts, no secrets."""

    name: str
    what: str
    why: str = ""
    hint: str = ""

    @classmethod
    def of(cls, error: GpumpcError) -> ErrorRecord:
        """The record of `error`."""
        texts = (text[:_MAX_TEXT] for text in (error.what, error.why, error.hint))
        return cls(type(error).__name__, *texts)

    def as_error(self, peer: str) -> RemoteError:
        """The exception to raise in the process that received the record."""
        # The texts come from another process: only printable characters reach our terminal and log.
        name, what, why, hint = map(_printable, (self.name, self.what, self.why, self.hint))
        return RemoteError(f"{peer} reports {name}: {what}", why, hint)


def encode_header(
    kind: Kind,
    n_bytes: int,
    *,
    session: bytes = NO_SESSION,
    batch_index: int = 0,
    sequence: int = 0,
) -> bytes:
    """The 44 bytes in front of a payload. Raises BadFrame if a field does not fit."""
    if len(session) != len(NO_SESSION):
        what = f"a session id of {len(session)} bytes cannot be sent"
        raise BadFrame(what, "it has 16 bytes", "pass the whole id")
    if n_bytes > MAX_PAYLOAD_BYTES:
        raise _too_large(n_bytes, MAX_PAYLOAD_BYTES)
    try:
        return HEADER.pack(MAGIC, VERSION, kind, 0, session, batch_index, sequence, n_bytes)
    except struct.error as error:
        what, hint = "a frame header cannot be made", "start a new session"
        raise BadFrame(what, str(error), hint) from error


class Header(NamedTuple):
    """The fields of a frame's header, checked."""

    kind: Kind
    session: bytes
    batch_index: int
    sequence: int
    n_bytes: int


def decode_header(header: Buffer, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> Header:
    """The fields of a payload's 44 header bytes. Raises BadFrame naming the first wrong one."""
    if len(header) != HEADER.size:
        raise _bad(f"its header has {len(header)} bytes and must have {HEADER.size}")
    magic, version, kind, flags, session, batch_index, sequence, n_bytes = HEADER.unpack(header)
    _check_start(magic, version, kind, flags)
    if n_bytes > max_payload_bytes:
        raise _too_large(n_bytes, max_payload_bytes)
    return Header(Kind(kind), session, batch_index, sequence, n_bytes)


def decode(parts: Sequence[Buffer], max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> Frame:
    """Check header and payload field by field. Raises BadFrame naming the first wrong one."""
    if len(parts) != 2:
        raise _bad(f"it has {len(parts)} parts and must have 2, header and payload")
    payload = memoryview(parts[1]).cast("B")
    header = decode_header(memoryview(parts[0]).cast("B"), max_payload_bytes)
    if len(payload) != header.n_bytes:
        raise _bad(f"its header announces {header.n_bytes} payload bytes and {len(payload)} came")
    return Frame(header.kind, payload, header.session, header.batch_index, header.sequence)


def encode_record(record: object) -> bytes:
    """A small structured record (a msgspec Struct or a plain dict) as MessagePack."""
    return msgspec.msgpack.encode(record)


def decode_record(data: Buffer, kind: type[T]) -> T:
    """A record of the type `kind`, strictly: no unknown field, no conversion. Raises BadFrame."""
    if len(data) > MAX_RECORD_BYTES:
        raise _too_large(len(data), MAX_RECORD_BYTES)
    try:
        return msgspec.msgpack.decode(data, type=kind, strict=True)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        name = getattr(kind, "__name__", "known")  # a union of records has no name
        raise _bad(f"it is not a {name} record: {error}") from error


def _check_start(magic: bytes, version: int, kind: int, flags: int) -> None:
    if magic != MAGIC:
        raise _bad("it does not begin with the mark of gpumpc, so another program sent it")
    if version != VERSION:
        raise _bad(f"its format version is {version} and this program reads {VERSION}")
    if kind not in _KINDS:
        raise _bad(f"its kind is {kind}, which is not in use")
    if flags:
        raise _bad(f"its flags are {flags:#06x}, and none is in use in version {VERSION}")


def _bad(why: str) -> BadFrame:
    hint = "run the same version of gpumpc at both ends, and start both again"
    return BadFrame("a frame was refused", why, hint)


def _too_large(n_bytes: int, limit: int) -> BadFrame:
    why = f"it has {n_bytes} payload bytes, the limit is {limit}"
    return BadFrame("a frame was refused", why, "use a smaller batch")


def _printable(text: str) -> str:
    return "".join(c for c in text[:_MAX_TEXT] if c.isprintable())
