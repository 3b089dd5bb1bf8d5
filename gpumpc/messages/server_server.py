"""Control records between the two servers: server 0 orders, server 1 accepts or refuses."""

from __future__ import annotations

from typing import Annotated

import msgspec

from gpumpc.messages.codec import Identifier, PlanHash, Record


class Order(Record, frozen=True):
    """Server 0 says what both do next."""

    plan: PlanHash
    job: Identifier
    what: str
    first_batch: Annotated[int, msgspec.Meta(ge=0)]


class Idle(Record, frozen=True):
    """Server 0 has nothing to do: what server 1 has waited with for long came to it alone."""


class Accept(Record, frozen=True):
    """Server 1 has the same request, and all it needs to carry it out."""

    job: Identifier


class Refuse(Record, frozen=True):
    """Server 1 has not."""

    name: str
    what: str
    why: str
    hint: str


Control = Order | Idle | Accept | Refuse
