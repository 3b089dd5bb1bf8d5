"""Control records between the two servers: server 0 orders, server 1 accepts or refuses."""

from typing import Annotated

import msgspec

from gpumpc.messages.codec import Identifier, PlanHash, Record


class Order(Record, frozen=True):
    """Server 0 orders the job that both run next -> Accept or Refuse.

    `state` identifies the rows that the job reads: server 1 refuses if its own are others.
    """

    plan: PlanHash
    job: Identifier
    what: str
    state: str
    first_batch: Annotated[int, msgspec.Meta(ge=0)]


class Idle(Record, frozen=True):
    """Server 0 has no job: old jobs that wait at server 1 were sent to it alone."""


class Withdraw(Record, frozen=True):
    """Server 0 cannot run a job: server 1 tells its client the same reason."""

    job: Identifier
    name: str
    what: str
    why: str
    hint: str


class Accept(Record, frozen=True):
    """Server 1 has the same job and has prepared it."""

    job: Identifier


class Refuse(Record, frozen=True):
    """Server 1 does not have the job, or cannot run it."""

    name: str
    what: str
    why: str
    hint: str


Control = Order | Idle | Withdraw | Accept | Refuse
