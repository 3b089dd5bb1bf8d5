"""The fields that both parties must agree on, compared before the first masked byte.

Both parties send their fields first and compare afterwards, in the order of the fields. So both
have the other's fields, and both raise HandshakeMismatch naming the same one.
"""

from collections.abc import Mapping

import msgspec

from gpumpc.errors import HandshakeMismatch
from gpumpc.wire.channel import Channel
from gpumpc.wire.frames import Buffer, decode_record, encode_record

Hello = dict[str, str]

_ABSENT = "absent"


class HelloRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One party's first message.

    Attributes:
        equal: fields that must be the same at both ends, in order.
        informative: fields that the other end reads (nonces, high-water marks).
    """

    equal: Hello
    informative: Hello


def pack_hello(equal: Mapping[str, str], informative: Mapping[str, str]) -> bytes:
    """The bytes of one hello, for a channel's control record or a frame of kind HELLO."""
    return encode_record(HelloRecord(dict(equal), dict(informative)))


def unpack_hello(data: Buffer) -> HelloRecord:
    """The peer's hello. Raises BadFrame."""
    return decode_record(data, HelloRecord)


def compare(ours: Mapping[str, str], theirs: Mapping[str, str], peer: str) -> None:
    """Raises HandshakeMismatch naming the first field that differs or is missing on one side."""
    for field in [*ours, *(name for name in theirs if name not in ours)]:
        here, there = ours.get(field, _ABSENT), theirs.get(field, _ABSENT)
        if here != there or (field in ours) != (field in theirs):
            raise HandshakeMismatch(field, here, there, peer)


def exchange_hello(
    channel: Channel,
    *,
    equal: Mapping[str, str],
    informative: Mapping[str, str] | None = None,
    timeout_s: float = 5.0,
) -> Hello:
    """Send our fields, compare the peer's `equal` fields with ours, return its `informative` ones.

    Raises HandshakeMismatch (at both ends), PeerTimeout after `timeout_s` seconds, PeerLost,
    BadFrame.
    """
    channel.send_control(pack_hello(equal, informative or {}))
    theirs = unpack_hello(channel.receive_control(timeout_s))
    compare(equal, theirs.equal, f"server {1 - channel.party}")
    return theirs.informative
