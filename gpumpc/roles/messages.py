"""What clients, servers and the dealer say to each other: small records, each with raw bytes behind it.

A payload is the record's length (4 bytes, little endian), the record in MessagePack, and the bulk bytes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from gpumpc.errors import BadFrame
from gpumpc.wire.frames import Buffer, decode_record, encode_record

_LENGTH_BYTES = 4

Identifier = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}\\Z")]
IndexName = Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9_-]{0,39}$")]
PlanHash = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}\\Z")]
Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]


class _Record(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    pass


# client -> server


class AskStatus(_Record, frozen=True):
    """Which plans are served, and are they ready?"""


class PutWeights(_Record, frozen=True):
    """Weight shares for a plan under a fresh share-pair id; bulk: what `split_weights` made for this server."""

    plan: PlanHash
    pair_id: Identifier


class PutShares(_Record, frozen=True):
    """Input shares; bulk: a 32-byte seed for server 0, packed words for server 1."""

    plan: PlanHash
    upload: Identifier
    n_items: Count


class Run(_Record, frozen=True):
    """Evaluate an upload; results come back sealed, batch by batch."""

    plan: PlanHash
    job: Identifier
    upload: Identifier


class Keep(_Record, frozen=True):
    """Evaluate an upload and keep the results as shares, one row an item; nothing comes back but progress."""

    plan: PlanHash
    job: Identifier
    upload: Identifier
    items: list[Identifier]


class ListKept(_Record, frozen=True):
    """Which items have results here, usable at both servers?"""

    plan: PlanHash


class Forget(_Record, frozen=True):
    """Delete items: their results, and their rows in every index of this owner."""

    plan: PlanHash
    items: list[Identifier]


class MakeIndex(_Record, frozen=True):
    """A new, empty index over this plan's results."""

    plan: PlanHash
    name: IndexName
    metric: Literal["l2", "ip"]


class AddRows(_Record, frozen=True):
    """Take kept results into an index; items that are there already stay as they are."""

    plan: PlanHash
    job: Identifier
    name: IndexName
    items: list[Identifier]


class RemoveRows(_Record, frozen=True):
    """Take items out of an index."""

    plan: PlanHash
    name: IndexName
    items: list[Identifier]


class AskIndex(_Record, frozen=True):
    """What is in an index?"""

    plan: PlanHash
    name: IndexName


class Search(_Record, frozen=True):
    """The k best rows for each of some kept results; keys come back sealed, batch by batch."""

    plan: PlanHash
    job: Identifier
    name: IndexName
    items: list[Identifier]
    k: Count


class Drop(_Record, frozen=True):
    """Forget an upload."""

    upload: Identifier


ArchiveRequest = Keep | ListKept | Forget | MakeIndex | AddRows | RemoveRows | AskIndex | Search
Request = AskStatus | PutWeights | PutShares | Run | Drop | ArchiveRequest

# server -> client


class PlanStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One served plan. `pair_id` is empty until weights are shared."""

    fields: dict[str, str]
    pair_id: str
    session: str
    next_batch: int
    batches_ahead: int


class Status(_Record, frozen=True):
    """Answer to AskStatus."""

    party: int
    plans: list[PlanStatus]
    peer_connected: bool
    dealer_connected: bool


class Done(_Record, frozen=True):
    """A request is carried out."""


class Kept(_Record, frozen=True):
    """Answer to ListKept and AskIndex: items in order of position, and the index's metric."""

    items: list[Identifier]
    metric: str = ""


class Stored(_Record, frozen=True):
    """Progress of Keep and AddRows: batches done."""

    job: Identifier
    part: int
    of: int


class Queued(_Record, frozen=True):
    """Server 1 has a request that both carry out: only now the client asks server 0, which orders it."""


class Part(_Record, frozen=True):
    """Result share of one batch; bulk: sealed packed words."""

    job: Identifier
    part: int
    of: int
    n_items: int


Reply = Status | Done | Queued | Part | Kept | Stored

# server 0 <-> server 1 (control records)


class Order(_Record, frozen=True):
    """Server 0 says what both do next."""

    plan: PlanHash
    job: Identifier
    what: str
    first_batch: Annotated[int, msgspec.Meta(ge=0)]


class Idle(_Record, frozen=True):
    """Server 0 has nothing to do: what server 1 has waited with for long came to it alone."""


class Accept(_Record, frozen=True):
    """Server 1 has the same request, and all it needs to carry it out."""

    job: Identifier


class Refuse(_Record, frozen=True):
    """Server 1 has not."""

    name: str
    what: str
    why: str
    cure: str


Control = Order | Idle | Accept | Refuse

# server 1 <-> dealer


class Segment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows that one batch of the rows program added, by their slots there."""

    session: Identifier
    batch: Annotated[int, msgspec.Meta(ge=0)]
    slots: list[int]


class RowsTask(_Record, frozen=True):
    """The program that takes rows into an index."""

    metric: Literal["l2", "ip"]


class QueryTask(_Record, frozen=True):
    """The program that answers queries to an index of these rows."""

    metric: Literal["l2", "ip"]
    n_queries: Count
    k: Count
    segments: list[Segment]


SideTask = RowsTask | QueryTask


class Want(_Record, frozen=True):
    """Server 1 asks for one batch of corrections; they come as CORRECTION frames of that session and batch.

    `task` is None for the plan's own program; `pair_id` is then its share pair, else the task's binding.
    """

    plan: PlanHash
    pair_id: Identifier
    nonce_0: Identifier
    nonce_1: Identifier
    session: Identifier
    batch: Annotated[int, msgspec.Meta(ge=0)]
    task: SideTask | None = None


class Alive(_Record, frozen=True):
    """The dealer is there."""


DealerTalk = Want | Alive


def result_aad(plan: str, job: str, part: int, party: int) -> bytes:
    """What a sealed result share is bound to."""
    return f"gpumpc result {plan} {job} {part} {party}".encode()


def pack(record: msgspec.Struct, bulk: Buffer = b"") -> bytes:
    """Record and bulk as one payload."""
    head = encode_record(record)
    return b"".join((len(head).to_bytes(_LENGTH_BYTES, "little"), head, bulk))


def unpack(payload: Buffer, kind: Any) -> tuple[Any, memoryview]:
    """Record of one of the types in `kind` (a Struct or a union of them), and bulk. Raises BadFrame."""
    payload = memoryview(payload)
    size = int.from_bytes(payload[:_LENGTH_BYTES], "little")
    if len(payload) < _LENGTH_BYTES + size:
        raise BadFrame("a message is shorter than its record", "it was cut", "send it again")
    record = decode_record(payload[_LENGTH_BYTES : _LENGTH_BYTES + size], kind)
    return record, payload[_LENGTH_BYTES + size :]
