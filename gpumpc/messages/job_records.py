"""What each server signs after a job that both ran: who asked for what, and what was sent for it.

It holds no value and no share: digests are of one-time padded messages, and items are a digest of
their random ids.
"""

from typing import Annotated

import msgspec

from gpumpc.messages.codec import Digest, Identifier, PlanHash, Record, Signature
from gpumpc.messages.receipts import Moment, Party

FIRST = "0" * 64  # in place of the record before the first
_Number = Annotated[int, msgspec.Meta(ge=0)]


class BatchRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Batches `first`, `first` + 1, .. of correlated randomness of one session."""

    session: Identifier
    first: _Number
    n: Annotated[int, msgspec.Meta(ge=1)]


class Traffic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The openings of a job that went one way, in number and payload bytes, and their digest."""

    n_messages: _Number
    n_bytes: _Number
    digest: Digest


class JobRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One server's account of one job.

    Attributes:
        number: counts this server's records from 0.
        previous: the digest of its record before (`record_digest`), FIRST for number 0.
        time: by the server's clock, UTC.
        request: what both servers compared before they began: user, verb, number and digest of
            item ids.
        batches: the batches that had openings, of all sessions.
    """

    server: Party
    number: _Number
    previous: Digest
    time: Moment
    job: Identifier
    user: str
    plan: PlanHash
    request: str
    batches: list[BatchRange]
    sent: Traffic
    received: Traffic


class SignedRecord(Record, frozen=True):
    """A record as it is sent and kept. `signature`: the server's of `record_statement`."""

    record: JobRecord
    signature: Signature


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One job in a server's log: its own record, and the other server's."""

    own: SignedRecord
    other: SignedRecord


class LastEntry(Record, frozen=True):
    """Sent by each server when they meet: the last entry of its log, if it has one."""

    entry: Entry | None


AuditTalk = SignedRecord | LastEntry


def record_statement(record: JobRecord) -> bytes:
    """What is signed: the JSON of the record, without spaces, its fields in their order."""
    return msgspec.json.encode(record)
