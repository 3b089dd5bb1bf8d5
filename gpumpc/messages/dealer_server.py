"""Records between server 1 and the dealer."""

from typing import Annotated

import msgspec

from gpumpc.messages.codec import Identifier, PlanHash, Record
from gpumpc.messages.index_tasks import IndexTask


class WantBatch(Record, frozen=True):
    """Server 1 asks for one batch of corrections -> CORRECTION frames of that session and batch.

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


DealerTalk = WantBatch | Heartbeat
