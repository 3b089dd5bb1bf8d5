"""Records between a client and a server: requests and replies, each with raw bytes behind it.

A request's docstring ends with the records that answer it. Requests with a `job` are run by both
servers together; server 1 first answers `Queued`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from gpumpc.messages.codec import (
    ClassName,
    Count,
    Digest,
    Identifier,
    IndexName,
    Items,
    PlanHash,
    Record,
    Signature,
    items_digest,
)
from gpumpc.messages.receipts import Deleted, Deleting, Receipt
from gpumpc.retrieval.programs import Metric

# client -> server


class GetStatus(Record, frozen=True):
    """Ask for the served plans and the state of the connections -> Status."""


class ShareWeights(Record, frozen=True):
    """Share a plan's weights under a fresh weight sharing id -> Queued, Done.

    Bulk: the bytes that `split_weights` made for this server. `halves` are the SHA-256 of both
    servers' bytes, and `signature` is the owner's of `weights_statement`.
    """

    plan: PlanHash
    weight_sharing_id: Identifier
    halves: tuple[Digest, Digest]
    signature: Signature


class Share(Record, frozen=True):
    """Store input shares, one row an item -> Done.

    Bulk: for each item a 32-byte seed at server 0, packed words at server 1. `version` is random
    for every upload: two halves of different uploads never have the same.
    """

    plan: PlanHash
    version: Identifier
    items: Items


class Settle(Record, frozen=True):
    """Confirm the inputs that both servers hold, delete halves -> Queued, Settled."""

    plan: PlanHash
    job: Identifier
    items: Items


class Run(Record, frozen=True):
    """Evaluate items; `source` as in `Extract` -> Queued, a Part for each batch."""

    plan: PlanHash
    job: Identifier
    items: Items
    source: PlanHash | None = None


class Extract(Record, frozen=True):
    """Evaluate items and store the results as shares, one row an item -> Queued, Progress, Done.

    `source` None: the items' inputs; else the plan whose features are this plan's input.
    """

    plan: PlanHash
    job: Identifier
    items: Items
    source: PlanHash | None = None


class GetFeatures(Record, frozen=True):
    """Ask for features -> Parts, sealed to their owner."""

    plan: PlanHash
    job: Identifier
    items: Items


class ListItems(Record, frozen=True):
    """Ask for the items whose inputs, or features, may be used -> ItemList.

    "lost": for the items of which this server alone holds a row.
    """

    plan: PlanHash
    what: Literal["inputs", "features", "lost"]


class GetStoreStatus(Record, frozen=True):
    """Ask how much this server stores for the client -> StoreStatus."""


class Delete(Record, frozen=True):
    """Delete items' inputs, or all their rows, also those in indexes -> Queued, Deleted."""

    plan: PlanHash
    job: Identifier
    items: Items
    what: Literal["inputs", "all"] = "all"


class IndexCreate(Record, frozen=True):
    """Create an empty index over this plan's features -> Queued, Done.

    With classes, its rows carry secret labels that can vote.
    """

    plan: PlanHash
    job: Identifier
    name: IndexName
    metric: Metric
    classes: tuple[ClassName, ...] = ()


class IndexAdd(Record, frozen=True):
    """Add features to an index; items that it has already stay -> Queued, Progress, Done.

    Bulk: for an index with classes, this server's share of each item's label, a word modulo 2^64.
    """

    plan: PlanHash
    job: Identifier
    name: IndexName
    items: Items


class IndexRemove(Record, frozen=True):
    """Remove items from an index -> Queued, Deleted."""

    plan: PlanHash
    job: Identifier
    name: IndexName
    items: Items


class IndexDelete(Record, frozen=True):
    """Delete an index with its rows -> Queued, Deleted. The features stay."""

    plan: PlanHash
    job: Identifier
    name: IndexName


class IndexInfo(Record, frozen=True):
    """Ask for the items, metric and classes of an index -> ItemList."""

    plan: PlanHash
    name: IndexName


class IndexSearch(Record, frozen=True):
    """Search the k best rows for each item's features -> Queued, IndexRows, a Part for each batch.

    The parts hold keys, or with `vote` the label that the best rows vote for; there are no
    IndexRows then. `known_rows` is the digest of the rows that the client knows.
    """

    plan: PlanHash
    job: Identifier
    name: IndexName
    items: Items
    k: Count
    vote: bool = False
    known_rows: str = ""


DeletionRequest = Delete | IndexRemove | IndexDelete
IndexRequest = IndexCreate | IndexAdd | IndexRemove | IndexDelete | IndexInfo | IndexSearch
ItemRequest = Share | Settle | Run | Extract | GetFeatures | ListItems | GetStoreStatus | Delete
Request = GetStatus | ShareWeights | ItemRequest | IndexRequest

# server -> client


class WeightStatement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an owner signed as it shared weights: `halves` and `signature` as in `ShareWeights`.

    Attributes:
        shared_by: the name of the owner's card.
        shared_at: when the server took them, in seconds since 1970.
    """

    shared_by: str
    shared_at: int
    halves: tuple[Digest, Digest]
    signature: Signature


class PlanStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One served plan. `weight_sharing_id` is empty until its owner has shared the weights.

    `statement` is that of the weights; None also where a server has lost it.
    """

    fields: dict[str, str]
    owner: str
    weight_sharing_id: str
    statement: WeightStatement | None
    session: str
    next_batch: int
    batches_ahead: int


class Status(Record, frozen=True):
    """The reply to GetStatus."""

    party: int
    plans: list[PlanStatus]
    peer_connected: bool
    dealer_connected: bool


class Done(Record, frozen=True):
    """The request is carried out."""


class ItemList(Record, frozen=True):
    """The reply to ListItems, and to IndexInfo with the index's metric and classes.

    Bulk: the items' 16-byte ids; those of an index in order of position.
    """

    metric: str = ""
    classes: tuple[str, ...] = ()


class IndexRows(Record, frozen=True):
    """The rows that a search found its answers in: positions in its parts are of this list alone.

    `digest` is that of the item ids, `items_digest`. Bulk: the ids in order of position, unless the
    client knows rows of this digest.
    """

    job: Identifier
    n_rows: int
    digest: str


class StoreStatus(Record, frozen=True):
    """The reply to GetStoreStatus: rows by kind and state, and their bytes."""

    party: int
    store_pair_id: str
    rows: dict[str, int]
    n_bytes: int


class Settled(Record, frozen=True):
    """The reply to Settle: the items that are not at both servers."""

    job: Identifier
    missing: Items


class Progress(Record, frozen=True):
    """Sent by Extract and IndexAdd after each batch: it was number `part` (from 0) of `of`."""

    job: Identifier
    part: int
    of: int


class Queued(Record, frozen=True):
    """Server 1 has queued the request: only now the client asks server 0, which orders it."""


class Part(Record, frozen=True):
    """The result shares of one batch; bulk: sealed packed words.

    `rows` identifies the stored rows of features: shares of two different evaluations must not be
    added.
    """

    job: Identifier
    part: int
    of: int
    n_items: int
    rows: str = ""


Progressing = Queued | Progress | Part | IndexRows
Reply = Status | Done | Deleted | ItemList | StoreStatus | Settled | Progressing


def receipt_of(request: DeletionRequest, server: int, owner: str, time: str) -> Receipt:
    """What a server states when it has carried out a deletion."""
    what: Deleting = "index" if isinstance(request, IndexDelete) else "index rows"
    index, items = "", [] if isinstance(request, IndexDelete) else request.items
    if isinstance(request, Delete):
        what = request.what
    else:
        index = request.name
    named = index, len(items), items_digest(items)
    return Receipt(server, owner, request.plan, request.job, what, *named, time)
