"""The dealer's engine: the corrections of any batch of one plan and its index programs."""

from collections.abc import Callable

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
    """

    def __init__(
        self, plan: PlanRecord, program: Program, roots: tuple[Secret, Secret], backend: Backend
    ) -> None:
        self.plan, self.program, self.backend = plan, program, backend
        self._roots = roots
        self._masks: dict[tuple[str, str], dict[str, Operand]] = {}

    def deal(
        self,
        weight_sharing_id: str,
        nonces: tuple[bytes, bytes],
        batch_index: int,
        send: dealer.Send,
        task: m.IndexTask | None = None,
    ) -> None:
        """Give `send` the corrections of one batch of the session with these nonces, in program
        order.

        The same roots and arguments give the same bytes again. The session id is computed here from
        this plan and program: two programs or weight sharings are never dealt under one.
        """
        if task is None:
            program = self.program
            masks = self._weight_masks(self.plan.weight_digest, weight_sharing_id)
        else:
            program = index_programs.program_of_task(self.plan, self.program, task)
            weight_sharing_id, masks = index_programs.task_id(task), self._row_masks(task)
        session_id = SessionBinding.of(self.plan, program, weight_sharing_id, nonces).session_id
        dealing = dealer.Dealing(
            self.backend, program.params.cipher, self._trees(session_id, batch_index), masks, send
        )
        dealer.deal_batch(program.steps, dealing)

    def _row_masks(self, task: m.IndexTask) -> dict[str, Operand]:
        """The static mask of an index's rows: both servers' draws, named by where each row was
        added.
        """
        if isinstance(task, m.RowsTask):
            return {}
        geometry = geometry_of(self.program, task.metric)
        versions = index_programs.versions_of(task)
        parts = [
            draw_masks(
                self.backend, self.program.params.cipher, geometry, versions, self._tree_of(root)
            )
            for root in self._roots
        ]
        mask = weight_mask(self.backend, geometry, parts[0] + parts[1])
        return {ROWS: self.backend.operand(mask, geometry.score_bits)}

    @staticmethod
    def _tree_of(root: Secret) -> Callable[[bytes, int], seeds.SeedTree]:
        return lambda session_id, batch_index: seeds.SeedTree(
            root.expose(), session_id, batch_index
        )

    def _trees(self, session_id: bytes, batch_index: int) -> tuple[seeds.SeedTree, seeds.SeedTree]:
        first, second = (
            seeds.SeedTree(root.expose(), session_id, batch_index) for root in self._roots
        )
        return first, second

    def _weight_masks(self, version: str, weight_sharing_id: str) -> dict[str, Operand]:
        key = (version, weight_sharing_id)
        if key not in self._masks:
            trees = self._trees(seeds.weight_session(version, weight_sharing_id), 0)
            # Replaces the masks of an older weight sharing: it is never dealt for again.
            self._masks = {
                key: dealer.weight_masks(
                    self.backend, self.program.params.cipher, trees, self.program.mask_shapes()
                )
            }
        return self._masks[key]
