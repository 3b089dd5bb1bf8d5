"""The dealer's engine: the corrections of any batch of one plan and its index programs."""

import functools
import sys

from gpumpc import messages as m
from gpumpc.engine import index_programs
from gpumpc.engine.session_binding import SessionBinding
from gpumpc.offline import deal_batch as dealer
from gpumpc.offline import seeds
from gpumpc.offline.secret import Secret
from gpumpc.program.plan import PlanRecord
from gpumpc.program.program import Program
from gpumpc.retrieval.geometry import geometry_of
from gpumpc.retrieval.index_store import draw_masks, weight_mask
from gpumpc.retrieval.programs import ROWS
from gpumpc.ring.backend import Backend, Operand


class DealerEngine:
    """Deals for one plan and batch size.

    Args:
        roots: the secrets agreed with server 0 and with server 1.
        task_bytes: corrections that a batch of an index program may take.
    """

    def __init__(
        self,
        plan: PlanRecord,
        program: Program,
        roots: tuple[Secret, Secret],
        backend: Backend,
        task_bytes: int = sys.maxsize,
    ) -> None:
        self.plan, self.program, self.backend = plan, program, backend
        self._roots, self._task_bytes = roots, task_bytes
        self._masks: dict[str, dict[str, Operand]] = {}

    def deal(
        self,
        weight_sharing_id: str,
        nonces: tuple[bytes, bytes],
        batch_index: int,
        send: dealer.Send,
        task: m.IndexTask | None = None,
    ) -> None:
        """Give `send` the corrections of one batch of the session, in program order.

        Raises InputError, before anything is sent, for an index task above the limit. The same
        roots and arguments give the same bytes again. The session id is computed here from
        this plan and program: two programs or weight sharings are never dealt under one.
        """
        if task is None:
            program = self.program
            masks = self._weight_masks(weight_sharing_id)
        else:
            program = index_programs.program_of_task(self.plan, self.program, task)
            n_bytes = program.cost.dealer_bytes
            index_programs.refuse_costly(self.plan, self.program, task, n_bytes, self._task_bytes)
            weight_sharing_id, masks = index_programs.task_id(task), self._row_masks(task)
        session_id = SessionBinding.of(self.plan, program, weight_sharing_id, nonces).session_id
        cipher, trees = program.params.cipher, self._trees(session_id, batch_index)
        dealing = dealer.Dealing(self.backend, cipher, trees, masks, send)
        dealer.deal_batch(program.steps, dealing)

    def _row_masks(self, task: m.IndexTask) -> dict[str, Operand]:
        """The static mask of an index's rows: both servers' draws, named by origin of each row."""
        if isinstance(task, m.RowsTask):
            return {}
        geometry, cipher = geometry_of(self.program, task.metric), self.program.params.cipher
        versions = index_programs.versions_of(task)
        trees = (functools.partial(seeds.SeedTree, root.expose()) for root in self._roots)
        first, second = (
            draw_masks(self.backend, cipher, geometry, versions, tree) for tree in trees
        )
        mask = weight_mask(self.backend, geometry, first + second)
        return {ROWS: self.backend.operand(mask, geometry.score_bits)}

    def _trees(self, session_id: bytes, batch_index: int) -> tuple[seeds.SeedTree, seeds.SeedTree]:
        first, second = (root.expose() for root in self._roots)
        place = session_id, batch_index
        return seeds.SeedTree(first, *place), seeds.SeedTree(second, *place)

    def _weight_masks(self, weight_sharing_id: str) -> dict[str, Operand]:
        if weight_sharing_id not in self._masks:
            session_id = seeds.weight_session(self.plan.weight_digest, weight_sharing_id)
            trees, shapes = self._trees(session_id, 0), self.program.mask_shapes()
            masks = dealer.weight_masks(self.backend, self.program.params.cipher, trees, shapes)
            # Replaces the masks of an older weight sharing: it is never dealt for again.
            self._masks = {weight_sharing_id: masks}
        return self._masks[weight_sharing_id]
