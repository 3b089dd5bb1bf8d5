"""What clients, servers and the dealer say to each other: small records, each with raw bytes behind it.

A payload is the record's length (4 bytes, little endian), the record in MessagePack, and the bulk bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from gpumpc.errors import BadFrame
from gpumpc.retrieval.programs import Metric
from gpumpc.wire.frames import Buffer, decode_record, encode_record

_LENGTH_BYTES = 4
_ITEM_BYTES = 16

Identifier = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}\\Z")]
ClassName = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
IndexName = Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9_-]{0,39}$")]
PlanHash = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}\\Z")]
Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
Items = list[Identifier]


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
    """Input shares, one row an item; bulk: a 32-byte seed each for server 0, packed words each for server 1.

    `version` is drawn anew for every sending: two halves that do not belong together never have the same.
    """

    plan: PlanHash
    version: Identifier
    items: Items


class Settle(_Record, frozen=True):
    """Compare what both servers hold of these inputs: what both have may be used, half of one is deleted."""

    plan: PlanHash
    job: Identifier
    items: Items


class Run(_Record, frozen=True):
    """Evaluate items; results come back sealed, batch by batch. `source`: see `Keep`."""

    plan: PlanHash
    job: Identifier
    items: Items
    source: PlanHash | None = None


class Keep(_Record, frozen=True):
    """Evaluate items and keep the results as shares, one row an item; nothing comes back but progress.

    `source` None: the items' inputs; else the plan whose kept results are this plan's input.
    """

    plan: PlanHash
    job: Identifier
    items: Items
    source: PlanHash | None = None


class Fetch(_Record, frozen=True):
    """Kept results, sealed to their owner, portion by portion."""

    plan: PlanHash
    job: Identifier
    items: Items


class AskItems(_Record, frozen=True):
    """Which items have inputs, or results, that may be used?"""

    plan: PlanHash
    what: Literal["inputs", "results"]


class AskStore(_Record, frozen=True):
    """How much does this server hold of the asker's?"""


class Forget(_Record, frozen=True):
    """Delete items: their inputs, or everything, rows in every index of this owner included."""

    items: Items
    what: Literal["inputs", "all"] = "all"


class MakeIndex(_Record, frozen=True):
    """A new, empty index over this plan's results; with classes, its rows carry secret labels that can vote."""

    plan: PlanHash
    name: IndexName
    metric: Metric
    classes: tuple[ClassName, ...] = ()


class AddRows(_Record, frozen=True):
    """Take kept results into an index; items that are there already stay as they are.

    Bulk: for an index with classes, this server's share of each item's label, a word modulo 2^64.
    """

    plan: PlanHash
    job: Identifier
    name: IndexName
    items: Items


class RemoveRows(_Record, frozen=True):
    """Take items out of an index."""

    plan: PlanHash
    name: IndexName
    items: Items


class AskIndex(_Record, frozen=True):
    """What is in an index?"""

    plan: PlanHash
    name: IndexName


class Search(_Record, frozen=True):
    """The k best rows for each of some kept results; keys come back sealed, batch by batch, or the label they vote for."""

    plan: PlanHash
    job: Identifier
    name: IndexName
    items: Items
    k: Count
    vote: bool = False


IndexRequest = MakeIndex | AddRows | RemoveRows | AskIndex | Search
ArchiveRequest = PutShares | Settle | Run | Keep | Fetch | AskItems | AskStore | Forget | IndexRequest
Request = AskStatus | PutWeights | ArchiveRequest

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
    """Answer to AskItems and AskIndex; bulk: the items' 16-byte ids, in order of position."""

    metric: str = ""
    classes: tuple[str, ...] = ()


class StoreStatus(_Record, frozen=True):
    """Answer to AskStore: rows by kind and state, and their bytes."""

    party: int
    pair_id: str
    rows: dict[str, int]
    n_bytes: int


class Settled(_Record, frozen=True):
    """Answer to Settle: which of the items are not at both servers."""

    job: Identifier
    missing: Items


class Stored(_Record, frozen=True):
    """Progress of Keep and AddRows: batches done."""

    job: Identifier
    part: int
    of: int


class Queued(_Record, frozen=True):
    """Server 1 has a request that both carry out: only now the client asks server 0, which orders it."""


class Part(_Record, frozen=True):
    """Result share of one batch; bulk: sealed packed words.

    `rows` names what it was read from, where it was read: shares of two different evaluations must not be added.
    """

    job: Identifier
    part: int
    of: int
    n_items: int
    rows: str = ""


Reply = Status | Done | Queued | Part | Kept | Stored | StoreStatus | Settled

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

    metric: Metric


class QueryTask(_Record, frozen=True):
    """The program that answers queries to an index of these rows; with n_labels, the k best vote."""

    metric: Metric
    n_queries: Count
    k: Count
    segments: list[Segment]
    n_labels: Annotated[int, msgspec.Meta(ge=0, le=1 << 16)] = 0


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


def pack_items(items: Sequence[str]) -> bytes:
    """Item ids as 16 bytes each."""
    return bytes.fromhex("".join(items))


def unpack_items(bulk: Buffer) -> list[str]:
    """The inverse of `pack_items`. Raises BadFrame."""
    if len(bulk) % _ITEM_BYTES:
        raise BadFrame("a list of items was cut", "", "ask again")
    text = bytes(bulk).hex()
    return [text[i : i + 2 * _ITEM_BYTES] for i in range(0, len(text), 2 * _ITEM_BYTES)]


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
