"""Server 1's side of the dealer: asks for batches, stores what comes, and is the engines' source of
corrections.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from gpumpc import messages as m
from gpumpc.engine.engine import Engine
from gpumpc.errors import BadFrame, CorrelationsMissing
from gpumpc.offline.pool import Corrections, Pool, Writer
from gpumpc.program.plan import plan_hash

# A dealer that sent nothing for this long is taken for stopped; it gives a sign of life every
# second, also while it deals.
DEALER_SILENCE_S = 3.5
# However small a batch is: each is a file.
MAX_BATCHES_AHEAD = 1024
_NO_BATCH_ABOVE = 1 << 62


class DealerLink:
    """`hear` and `ask` belong to the listening thread, `take` and `keep_only` to the lock-step
    thread.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._last_heard = 0.0
        self._writers: dict[tuple[bytes, int], tuple[Writer, int]] = {}
        # What was asked for, and how many bytes each is.
        self._asked: dict[tuple[bytes, int], int] = {}
        self._side_wants: dict[tuple[bytes, int], tuple[m.WantBatch, int]] = {}

    @property
    def is_connected(self) -> bool:
        """Whether the dealer was heard lately."""
        return self._last_heard > 0 and time.monotonic() - self._last_heard < DEALER_SILENCE_S

    def restart(self) -> None:
        """A dealer said hello: what an earlier one had begun is begun anew."""
        self.give_up()
        self.note_heartbeat()

    def give_up(self) -> None:
        """No dealer is there to finish what it had begun: whoever reads along hears of it."""
        for writer, _ in self._writers.values():
            writer.abort()
        self._writers.clear()
        self._asked.clear()

    def note_heartbeat(self) -> None:
        """The dealer gave a sign of life."""
        self._last_heard = time.monotonic()

    def ask(self, engine: Engine) -> m.WantBatch | None:
        """What to ask for next, if there is room: one batch at a time in flight, one more asked
        ahead.
        """
        binding = engine.binding
        session_id = binding.session_id
        if not session_id or not engine.program.cost.dealer_bytes or len(self._asked) > 1:
            return None
        first = engine.first_needed
        if self.pool.ahead(session_id, first) >= MAX_BATCHES_AHEAD:
            return None
        for batch_index in self.pool.wanted(session_id, first, engine.program.cost.dealer_bytes):
            if (session_id, batch_index) not in self._asked:
                self._asked[session_id, batch_index] = engine.program.cost.dealer_bytes
                plan = plan_hash(engine.plan).hex()
                nonce_0, nonce_1 = (nonce.hex() for nonce in binding.nonces)
                return m.WantBatch(
                    plan, binding.weight_sharing_id, nonce_0, nonce_1, session_id.hex(), batch_index
                )
        return None

    def ask_on_demand(self) -> m.WantBatch | None:
        """What the peer loop's thread waits for beside the plans' batches, asked once, and again
        from a new dealer.
        """
        for key, (want, n_bytes) in [*self._side_wants.items()]:
            if key not in self._asked and not self.pool.ahead(*key):
                self._asked[key] = n_bytes
                return want
        return None

    def expected_bytes(self, session_id: bytes, batch_index: int) -> int | None:
        """Size of a batch that was asked for; None for any other."""
        return self._asked.get((session_id, batch_index))

    def take_on_demand(self, want: m.WantBatch, n_bytes: int, timeout_s: float) -> Corrections:
        """The corrections of one batch of a side program, asked for now.

        Raises CorrelationsMissing.
        """
        key = (bytes.fromhex(want.session), want.batch_index)
        self._side_wants[key] = (want, n_bytes)
        try:
            return self.take(*key, timeout_s)
        finally:
            del self._side_wants[key]

    def store(self, session_id: bytes, batch_index: int, n_bytes: int, piece: memoryview) -> None:
        """One piece of a batch that was asked for. Raises BadFrame, ConfigError."""
        key = (session_id, batch_index)
        if key not in self._asked:
            raise BadFrame(
                f"corrections of batch {batch_index} came unasked",
                "the dealer is of another session",
                "restart it",
            )
        if key not in self._writers:
            self._writers[key] = (self.pool.writer(session_id, batch_index, n_bytes), n_bytes)
        writer, left = self._writers.pop(key)
        writer.append(piece)
        left -= len(piece)
        if left:
            self._writers[key] = (writer, left)
        else:
            writer.commit()
            self._asked.pop(key, None)

    def forget(self, session_id: bytes, batch_index: int) -> None:
        """What comes is of a session that has ended meanwhile."""
        self._asked.pop((session_id, batch_index), None)
        writer, _ = self._writers.pop((session_id, batch_index), (None, 0))
        if writer is not None:
            writer.abort()

    def check(self, session_id: bytes, batch_index: int) -> None:
        """Raises CorrelationsMissing if a batch is not here and no dealer comes: no number is burnt
        for it.

        It waits a moment for a dealer that is starting.
        """
        deadline = time.monotonic() + DEALER_SILENCE_S
        while not self.is_connected and not self.pool.ahead(session_id, batch_index):
            if time.monotonic() > deadline:
                raise self._missing(batch_index)
            time.sleep(0.05)

    def take(self, session_id: bytes, batch_index: int, timeout_s: float) -> Corrections:
        """The corrections of a batch, as long as a dealer is there to deal them.

        Raises CorrelationsMissing.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return self.pool.take(session_id, batch_index, 0.25)
            except CorrelationsMissing:
                if time.monotonic() > deadline:
                    raise
                if not self.is_connected:
                    raise self._missing(batch_index) from None

    def discard_before(self, session_id: bytes, batch_index: int) -> None:
        """Forget batches that can never be used."""
        self.pool.discard_before(session_id, batch_index)

    def keep_only(self, sessions: Collection[bytes]) -> None:
        """Forget all batches of sessions that have ended: they would fill the pool for ever."""
        for session_id in self.pool.sessions() - {*sessions}:
            self.pool.discard_before(session_id, _NO_BATCH_ABOVE)

    def _missing(self, batch_index: int) -> CorrelationsMissing:
        return CorrelationsMissing(
            f"batch {batch_index} has no correlated randomness and no dealer is connected",
            "the dealer has stopped, or was never started",
            "start `gpumpc dealer`, then ask again: nothing was lost",
        )
