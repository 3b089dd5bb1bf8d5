"""The dealer of a session within one process."""

import functools
from collections.abc import Callable

from gpumpc.engine.dealer_engine import DealerEngine
from gpumpc.engine.session_binding import CLOSED, SessionBinding
from gpumpc.offline import deal_batch as dealer
from gpumpc.offline import seeds
from gpumpc.offline.memory_pool import MemoryCorrections, MemoryPool
from gpumpc.offline.secret import Secret
from gpumpc.program.program import Program

Deal = Callable[[dealer.Send], None]


class LocalDealer:
    """Deals into a pool in memory, from which server 1 takes its corrections.

    Attributes:
        binding: of the session that is dealt for.
    """

    def __init__(self, engine: DealerEngine, roots: tuple[Secret, Secret]) -> None:
        self.pool, self.binding = MemoryPool(), CLOSED
        self._engine, self._roots = engine, roots
        self._dealt: set[int] = set()
        self._begun = -1

    def take(
        self, binding: SessionBinding, batch_index: int, timeout_s: float
    ) -> MemoryCorrections:
        """See `MemoryPool.take`. A batch that a repeated selection needs is dealt now."""
        if batch_index > self._begun:
            self.deal(batch_index)
        return self.pool.take(binding.session_id, batch_index, timeout_s)

    def discard_before(self, session_id: bytes, batch_index: int) -> None:
        """See `MemoryPool.discard_before`."""
        self.pool.discard_before(session_id, batch_index)

    def begin(self, batch_index: int) -> None:
        """A run begins with this batch, which another thread deals: `take` only waits for it."""
        self._begun = batch_index

    def deal(self, batch_index: int) -> None:
        """Deal a batch, unless it was dealt before."""
        if batch_index in self._dealt:
            return
        self._dealt.add(batch_index)
        binding, engine = self.binding, self._engine
        sharing, nonces = binding.weight_sharing_id, binding.nonces
        deal = functools.partial(engine.deal, sharing, nonces, batch_index)
        try:
            self._store(binding.session_id, batch_index, engine.program, deal)
        except BaseException:
            self._dealt.discard(batch_index)
            raise

    def deal_once(self, session_id: bytes, program: Program) -> None:
        """Deal the only batch of a program with a session of its own."""
        first, second = (seeds.SeedTree(root.expose(), session_id, 0) for root in self._roots)

        def deal(send: dealer.Send) -> None:
            cipher = program.params.cipher
            dealing = dealer.Dealing(self._engine.backend, cipher, (first, second), {}, send)
            dealer.deal_batch(program.steps, dealing)

        self._store(session_id, 0, program, deal)

    def _store(self, session_id: bytes, batch_index: int, program: Program, deal: Deal) -> None:
        """Server 1 may read the first corrections while later ones are dealt."""
        try:
            writer = self.pool.writer(session_id, batch_index, program.cost.dealer_bytes)
            deal(writer.append)
            writer.commit()
        except BaseException:
            self.pool.fail(session_id, batch_index)
            raise
