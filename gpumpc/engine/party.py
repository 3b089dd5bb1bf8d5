"""One of the two servers, whatever program it runs."""

import dataclasses
from concurrent.futures import Executor
from typing import Protocol

from gpumpc.engine.session_binding import SessionBinding
from gpumpc.offline.ledger import Ledger
from gpumpc.offline.secret import Secret
from gpumpc.offline.seeds import SeedTree
from gpumpc.ring.backend import Backend
from gpumpc.session import Corrections


class TakenCorrections(Corrections, Protocol):
    """A batch's corrections, which can be given up."""

    def discard(self) -> None:
        """Delete the rest of the batch; safe to call twice."""


class CorrectionSource(Protocol):
    """Where server 1 finds the dealer's corrections."""

    def take(self, binding: SessionBinding, batch_index: int, timeout_s: float) -> TakenCorrections:
        """Wait for a batch's corrections. Raises CorrelationsMissing."""

    def discard_before(self, session_id: bytes, batch_index: int) -> None:
        """Delete batches that can never be used."""


@dataclasses.dataclass(frozen=True, repr=False)
class Party:
    """A server's secrets, its ledger, and the resources that it computes with.

    Attributes:
        number: 0 or 1.
        root: the secret agreed with the dealer.
        pair_secret: the secret agreed with the other server; the dealer does not know it.
        corrections: server 1's source; None at server 0.
        wait_s: how long a batch waits for the dealer.
        executor: prepares the next batch while one runs; None prepares nothing.
    """

    number: int
    root: Secret
    pair_secret: Secret
    ledger: Ledger
    backend: Backend
    corrections: CorrectionSource | None = None
    wait_s: float = 60.0
    executor: Executor | None = None

    def seed_tree(self, session_id: bytes, batch_index: int) -> SeedTree:
        """The seeds of one batch that the dealer knows too."""
        return SeedTree(self.root.expose(), session_id, batch_index)
