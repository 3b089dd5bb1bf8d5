"""Records between server 1 and the dealer."""

from typing import Annotated

import msgspec

from gpumpc.messages.codec import Identifier, PlanHash, Record
from gpumpc.messages.index_tasks import IndexTask


class WantBatch(Record, frozen=True):
    """Server 1 asks for one batch -> its CORRECTION frames, or DealRefused in place of the rest.

    `task` is None for the plan's own program; `weight_sharing_id` is then its weight sharing, else
    the task's id.
    """

    plan: PlanHash
    weight_sharing_id: Identifier
    nonce_0: Identifier
    nonce_1: Identifier
    session: Identifier
    batch_index: Annotated[int, msgspec.Meta(ge=0)]
    task: IndexTask | None = None


class Heartbeat(Record, frozen=True):
    """The dealer is alive, also while it deals."""


class DealRefused(Record, frozen=True):
    """The dealer does not deal a batch, and goes on with others."""

    session: Identifier
    batch_index: Annotated[int, msgspec.Meta(ge=0)]
    what: str
    why: str
    hint: str


DealerTalk = WantBatch | Heartbeat | DealRefused
