"""What a server signs after a deletion, the same for the server and for who verifies it."""

import time
from typing import Annotated, Literal

import msgspec

from gpumpc.messages.codec import Digest, Identifier, PlanHash, Record, Signature

Deleting = Literal["inputs", "all", "index rows", "index"]
Party = Annotated[int, msgspec.Meta(ge=0, le=1)]
Moment = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")]


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One server states that it holds these rows of `owner` no more: their keys are overwritten.

    Attributes:
        server: which of the two servers.
        owner: the user whose rows they were.
        what: the items' inputs; all their rows; their rows in one index; or that index with all its
            rows, where no item is named.
        index: the index's name; empty for inputs and all.
        items: the digest of the item ids in the order of the request (`items_digest`).
        time: by the server's clock, UTC.
    """

    server: Party
    owner: str
    plan: PlanHash
    job: Identifier
    what: Deleting
    index: str
    n_items: Annotated[int, msgspec.Meta(ge=0)]
    items: Digest
    time: Moment


class Deleted(Record, frozen=True):
    """The reply to a deletion. `signature`: the server's of `receipt_statement`."""

    receipt: Receipt
    signature: Signature


def receipt_statement(receipt: Receipt) -> bytes:
    """What is signed: the JSON of the receipt, without spaces, its fields in their order."""
    return msgspec.json.encode(receipt)


def utc_now() -> str:
    """This moment, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
