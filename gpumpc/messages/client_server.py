"""Records between a client and a server: requests, each with raw bytes behind it, and their
replies.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from gpumpc.messages.codec import ClassName, Count, Identifier, IndexName, Items, PlanHash, Record
from gpumpc.retrieval.programs import Metric

# client -> server


class GetStatus(Record, frozen=True):
    """Which plans are served, and are they ready?"""


class ShareWeights(Record, frozen=True):
    """Weight shares for a plan under a fresh share-pair id; bulk: what `split_weights` made for
    this server.
    """

    plan: PlanHash
    weight_sharing_id: Identifier


class Share(Record, frozen=True):
    """Input shares, one row an item; bulk: a 32-byte seed each for server 0, packed words each for
    server 1.

    `version` is drawn anew for every sending: two halves that do not belong together never have the
    same.
    """

    plan: PlanHash
    version: Identifier
    items: Items


class Settle(Record, frozen=True):
    """Compare what both servers hold of these inputs: what both have may be used, half of one is
    deleted.
    """

    plan: PlanHash
    job: Identifier
    items: Items


class Run(Record, frozen=True):
    """Evaluate items; results come back sealed, batch by batch. `source`: see `Extract`."""

    plan: PlanHash
    job: Identifier
    items: Items
    source: PlanHash | None = None


class Extract(Record, frozen=True):
    """Evaluate items and keep the results as shares, one row an item; nothing comes back but
    progress.

    `source` None: the items' inputs; else the plan whose kept results are this plan's input.
    """

    plan: PlanHash
    job: Identifier
    items: Items
    source: PlanHash | None = None


class GetFeatures(Record, frozen=True):
    """Kept results, sealed to their owner, portion by portion."""

    plan: PlanHash
    job: Identifier
    items: Items


class ListItems(Record, frozen=True):
    """Which items have inputs, or results, that may be used?"""

    plan: PlanHash
    what: Literal["inputs", "features"]


class GetStoreStatus(Record, frozen=True):
    """How much does this server hold of the asker's?"""


class Delete(Record, frozen=True):
    """Delete items: their inputs, or everything, rows in every index of this owner included."""

    items: Items
    what: Literal["inputs", "all"] = "all"


class IndexCreate(Record, frozen=True):
    """A new, empty index over this plan's results; with classes, its rows carry secret labels that
    can vote.
    """

    plan: PlanHash
    name: IndexName
    metric: Metric
    classes: tuple[ClassName, ...] = ()


class IndexAdd(Record, frozen=True):
    """Take kept results into an index; items that are there already stay as they are.

    Bulk: for an index with classes, this server's share of each item's label, a word modulo 2^64.
    """

    plan: PlanHash
    job: Identifier
    name: IndexName
    items: Items


class IndexRemove(Record, frozen=True):
    """Take items out of an index."""

    plan: PlanHash
    name: IndexName
    items: Items


class IndexInfo(Record, frozen=True):
    """What is in an index?"""

    plan: PlanHash
    name: IndexName


class IndexSearch(Record, frozen=True):
    """The k best rows for each of some kept results; keys come back sealed, batch by batch, or the
    label they vote for.
    """

    plan: PlanHash
    job: Identifier
    name: IndexName
    items: Items
    k: Count
    vote: bool = False


IndexRequest = IndexCreate | IndexAdd | IndexRemove | IndexInfo | IndexSearch
ItemRequest = (
    Share
    | Settle
    | Run
    | Extract
    | GetFeatures
    | ListItems
    | GetStoreStatus
    | Delete
    | IndexRequest
)
Request = GetStatus | ShareWeights | ItemRequest

# server -> client


class PlanStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One served plan. `weight_sharing_id` is empty until weights are shared."""

    fields: dict[str, str]
    weight_sharing_id: str
    session: str
    next_batch: int
    batches_ahead: int


class Status(Record, frozen=True):
    """Answer to GetStatus."""

    party: int
    plans: list[PlanStatus]
    peer_connected: bool
    dealer_connected: bool


class Done(Record, frozen=True):
    """A request is carried out."""


class ItemList(Record, frozen=True):
    """Answer to ListItems and IndexInfo; bulk: the items' 16-byte ids, in order of position."""

    metric: str = ""
    classes: tuple[str, ...] = ()


class StoreStatus(Record, frozen=True):
    """Answer to GetStoreStatus: rows by kind and state, and their bytes."""

    party: int
    store_pair_id: str
    rows: dict[str, int]
    n_bytes: int


class Settled(Record, frozen=True):
    """Answer to Settle: which of the items are not at both servers."""

    job: Identifier
    missing: Items


class Progress(Record, frozen=True):
    """Progress of Extract and IndexAdd: batches done."""

    job: Identifier
    part: int
    of: int


class Queued(Record, frozen=True):
    """Server 1 has a request that both carry out: only now the client asks server 0, which orders
    it.
    """


class Part(Record, frozen=True):
    """Result share of one batch; bulk: sealed packed words.

    `rows` names what it was read from, where it was read: shares of two different evaluations must
    not be added.
    """

    job: Identifier
    part: int
    of: int
    n_items: int
    rows: str = ""


Reply = Status | Done | Queued | Part | ItemList | Progress | StoreStatus | Settled
