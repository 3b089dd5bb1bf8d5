"""The dealer's engine: correction bytes of any batch of one program, for whoever is allowed to ask."""

from __future__ import annotations

from collections.abc import Iterator

from gpumpc.nn.plan import Plan
from gpumpc.nn.program import Program
from gpumpc.offline import dealer, seeds
from gpumpc.offline.secret import Secret
from gpumpc.ring.backend import Backend, Words
from gpumpc.roles.opened import Opened


class DealerEngine:
    """Deals for one plan and batch size.

    Args:
        roots: the secrets agreed with server 0 and with server 1.
    """

    def __init__(self, plan: Plan, program: Program, roots: tuple[Secret, Secret], backend: Backend) -> None:
        self.plan, self.program, self.backend = plan, program, backend
        self._roots = roots
        self._masks: dict[tuple[str, str], dict[str, Words]] = {}

    def deal(self, pair_id: str, nonces: tuple[bytes, bytes], batch: int) -> Iterator[bytes]:
        """The correction bytes of one batch of the session with these nonces, step by step, in program order.

        Dealing is a function of the roots and these names: asked again, it gives the same bytes. The session id is computed
        here, from this plan and program: two programs or share pairs are never dealt under one.
        """
        session_id = Opened.of(self.plan, self.program, pair_id, nonces).session_id
        dealing = dealer.Dealing(
            self.backend,
            self.program.params.cipher,
            self._trees(session_id, batch),
            self._weight_masks(self.plan.weight_digest, pair_id),
        )
        return dealer.deal_batch(self.program.steps, dealing)

    def _trees(self, session_id: bytes, batch: int) -> tuple[seeds.SeedTree, seeds.SeedTree]:
        first, second = (seeds.SeedTree(root.reveal(), session_id, batch) for root in self._roots)
        return first, second

    def _weight_masks(self, version: str, pair_id: str) -> dict[str, Words]:
        key = (version, pair_id)
        if key not in self._masks:
            trees = self._trees(seeds.weight_session(version, pair_id), 0)
            # Only the masks in use are kept: an older share pair is never dealt for again.
            self._masks = {
                key: dealer.weight_masks(self.backend, self.program.params.cipher, trees, self.program.mask_shapes())
            }
        return self._masks[key]
