"""How a record and its bulk bytes make one payload, and the fields that several records share.

A payload is the record's length (4 bytes, little endian), the record in MessagePack, and the bulk
bytes.
"""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from gpumpc.errors import BadFrame
from gpumpc.wire.frames import Buffer, decode_record, encode_record

_LENGTH_BYTES = 4
_ITEM_BYTES = 16

Identifier = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}\\Z")]
ClassName = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
IndexName = Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9_-]{0,39}\\Z")]
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}\\Z")]
Signature = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{128}\\Z")]
PlanHash = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}\\Z")]
Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
Items = list[Identifier]


class Record(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """A message's record; its type travels as a tag."""


def weights_statement(plan: str, weight_sharing_id: str, halves: Sequence[str]) -> bytes:
    """What an owner signs when it shares weights: their plan, and both servers' halves."""
    return " ".join(("weights", plan, weight_sharing_id, *halves)).encode()


def result_aad(plan: str, job: str, part: int, party: int) -> bytes:
    """The additional data that a sealed result share is bound to."""
    return f"gpumpc result {plan} {job} {part} {party}".encode()


def pack_items(items: Sequence[str]) -> bytes:
    """Item ids as 16 bytes each."""
    return bytes.fromhex("".join(items))


def items_digest(items: Sequence[str]) -> str:
    """Hex SHA-256 over item ids in their order."""
    return hashlib.sha256(pack_items(items)).hexdigest()


def unpack_items(bulk: Buffer) -> list[str]:
    """The inverse of `pack_items`. Raises BadFrame."""
    if len(bulk) % _ITEM_BYTES:
        raise BadFrame("a list of items was cut", hint="ask again")
    text = bytes(bulk).hex()
    return [text[i : i + 2 * _ITEM_BYTES] for i in range(0, len(text), 2 * _ITEM_BYTES)]


def pack(record: msgspec.Struct, bulk: Buffer = b"") -> bytes:
    """Record and bulk as one payload."""
    head = encode_record(record)
    return b"".join((len(head).to_bytes(_LENGTH_BYTES, "little"), head, bulk))


def unpack(payload: Buffer, kind: Any) -> tuple[Any, memoryview]:
    """A record of a type in `kind` (a Struct or a union of them), and its bulk. Raises BadFrame."""
    payload = memoryview(payload)
    size = int.from_bytes(payload[:_LENGTH_BYTES], "little")
    if len(payload) < _LENGTH_BYTES + size:
        raise BadFrame("a message is shorter than its record", "it was cut", "send it again")
    record = decode_record(payload[_LENGTH_BYTES : _LENGTH_BYTES + size], kind)
    return record, payload[_LENGTH_BYTES + size :]
