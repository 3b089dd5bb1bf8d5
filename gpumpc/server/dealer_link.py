"""Server 1's end of the connection to the dealer: batches are asked for, stored and taken."""

import contextlib
import time
from collections.abc import Collection, Iterator

from gpumpc import messages as m
from gpumpc.engine.engine import Engine
from gpumpc.engine.session_binding import SessionBinding
from gpumpc.errors import BadFrame, CorrelationsMissing
from gpumpc.offline.pool import Corrections, Pool, Writer
from gpumpc.program.plan import plan_hash

# A dealer silent for this long has stopped: it sends a heartbeat every second, also while it deals.
DEALER_SILENCE_S = 3.5
# A plan's batch that the dealer could not deal, such as for want of memory, is asked for again.
_ASK_AGAIN_S = 5.0
# However small a batch is: each is a file.
MAX_BATCHES_AHEAD = 1024
_NO_BATCH_ABOVE = 1 << 62

_Key = tuple[bytes, int]


class DealerLink:
    """Asks the dealer for batches and stores them in the pool.

    `take`, `on_demand` and `retain_sessions` belong to the peer loop's thread, everything else to
    the listening thread.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._last_heartbeat = 0.0
        self._writers: dict[_Key, tuple[Writer, int]] = {}
        self._asked: dict[_Key, int] = {}  # bytes of each batch that was asked for
        self._on_demand: dict[_Key, tuple[m.WantBatch, int]] = {}
        self._refused: dict[_Key, tuple[CorrelationsMissing, float]] = {}

    @property
    def is_connected(self) -> bool:
        """Whether the dealer sent something lately."""
        silence_s = time.monotonic() - self._last_heartbeat
        return self._last_heartbeat > 0 and silence_s < DEALER_SILENCE_S

    def restart(self) -> None:
        """A dealer has connected: it deals again what an earlier one had begun."""
        self.abort()
        self.note_heartbeat()

    def abort(self) -> None:
        """Give up the batches that the dealer has begun: reading one raises CorrelationsMissing."""
        for writer, _ in self._writers.values():
            writer.abort()
        self._writers.clear()
        self._asked.clear()

    def note_heartbeat(self) -> None:
        """The dealer sent something."""
        self._last_heartbeat = time.monotonic()

    def note_lost(self) -> None:
        """The dealer's stream has ended: it is not connected until it sends something again."""
        self._last_heartbeat = 0.0

    def next_want(self, engine: Engine) -> m.WantBatch | None:
        """The next batch to ask for, if there is room: one in flight and one more asked ahead."""
        session_id, n_bytes = engine.binding.session_id, engine.program.cost.dealer_bytes
        if not session_id or not n_bytes or len(self._asked) > 1:
            return None
        first = engine.first_needed
        if self.pool.ahead(session_id, first) >= MAX_BATCHES_AHEAD:
            return None
        for batch_index in self.pool.wanted(session_id, first, n_bytes):
            if not self._is_asked_or_refused((session_id, batch_index)):
                self._asked[session_id, batch_index] = n_bytes
                return _want_batch(engine, engine.binding, batch_index)
        return None

    def next_on_demand(self) -> m.WantBatch | None:
        """A batch that `on_demand` waits for: asked for once, and again from a new dealer."""
        for key, (want, n_bytes) in [*self._on_demand.items()]:
            if not self._is_asked_or_refused(key) and not self.pool.ahead(*key):
                self._asked[key] = n_bytes
                return want
        return None

    def _is_asked_or_refused(self, key: _Key) -> bool:
        _, until = self._refused.get(key, (None, 0.0))
        return key in self._asked or time.monotonic() < until

    def refuse(self, refusal: m.DealRefused) -> None:
        """The dealer does not deal a batch: whoever waits for it learns why."""
        key = (bytes.fromhex(refusal.session), refusal.batch_index)
        if key in self._asked:
            self.drop(*key)
            what = f"the dealer does not deal batch {refusal.batch_index}: {refusal.what}"
            error = CorrelationsMissing(what, refusal.why, refusal.hint)
            self._refused[key] = (error, time.monotonic() + _ASK_AGAIN_S)
            for old in [k for k, (_, until) in self._refused.items() if time.monotonic() > until]:
                del self._refused[old]

    @contextlib.contextmanager
    def on_demand(self, want: m.WantBatch, n_bytes: int) -> Iterator[None]:
        """Have the listening thread ask for a batch as long as this context lasts."""
        key = (bytes.fromhex(want.session), want.batch_index)
        self._on_demand[key] = (want, n_bytes)
        try:
            yield
        finally:
            del self._on_demand[key]

    def expected_bytes(self, session_id: bytes, batch_index: int) -> int | None:
        """Size of a batch that was asked for; None for any other."""
        return self._asked.get((session_id, batch_index))

    def store(self, session_id: bytes, batch_index: int, n_bytes: int, piece: memoryview) -> None:
        """Store one piece of a batch that was asked for. Raises BadFrame, ConfigError."""
        key = (session_id, batch_index)
        if key not in self._asked:
            why, hint = "the dealer is of another session", "restart it"
            raise BadFrame(f"corrections of batch {batch_index} came unasked", why, hint)
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

    def drop(self, session_id: bytes, batch_index: int) -> None:
        """Drop what has come of a batch that is not needed any more."""
        self._asked.pop((session_id, batch_index), None)
        if (session_id, batch_index) in self._writers:
            writer, _ = self._writers.pop((session_id, batch_index))
            writer.abort()

    def check(self, session_id: bytes, batch_index: int) -> None:
        """Raises CorrelationsMissing if a batch is not stored and no dealer connects in a moment.

        No number is burnt for the batch then.
        """
        deadline = time.monotonic() + DEALER_SILENCE_S
        while not self.is_connected and not self.pool.ahead(session_id, batch_index):
            if time.monotonic() > deadline:
                raise _missing(batch_index)
            time.sleep(0.05)

    def take(self, binding: SessionBinding, batch_index: int, timeout_s: float) -> Corrections:
        """Wait for corrections while a dealer is connected. Raises CorrelationsMissing."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return self.pool.take(binding.session_id, batch_index, 0.25)
            except CorrelationsMissing:
                if refused := self._refused.get((binding.session_id, batch_index)):
                    raise refused[0] from None
                if time.monotonic() > deadline:
                    raise
                if not self.is_connected:
                    raise _missing(batch_index) from None

    def discard_before(self, session_id: bytes, batch_index: int) -> None:
        """Delete batches that can never be used."""
        self.pool.discard_before(session_id, batch_index)

    def retain_sessions(self, sessions: Collection[bytes]) -> None:
        """Delete all batches of sessions that have ended: they would fill the pool for ever."""
        for session_id in self.pool.sessions() - {*sessions}:
            self.pool.discard_before(session_id, _NO_BATCH_ABOVE)


class OnDemandCorrections:
    """Server 1's corrections of an index task: the dealer is asked when a batch needs them."""

    def __init__(
        self, dealer_link: DealerLink, engine: Engine, task: m.IndexTask, n_bytes: int
    ) -> None:
        self._dealer_link, self._engine = dealer_link, engine
        self._task, self._n_bytes = task, n_bytes

    def take(self, binding: SessionBinding, batch_index: int, timeout_s: float) -> Corrections:
        """See `DealerLink.take`."""
        want = _want_batch(self._engine, binding, batch_index, self._task)
        with self._dealer_link.on_demand(want, self._n_bytes):
            return self._dealer_link.take(binding, batch_index, timeout_s)

    def discard_before(self, session_id: bytes, batch_index: int) -> None:
        """See `DealerLink.discard_before`."""
        self._dealer_link.discard_before(session_id, batch_index)


def _want_batch(
    engine: Engine, binding: SessionBinding, batch_index: int, task: m.IndexTask | None = None
) -> m.WantBatch:
    plan, (nonce_0, nonce_1) = plan_hash(engine.plan).hex(), (n.hex() for n in binding.nonces)
    sharing, session = binding.weight_sharing_id, binding.session_id.hex()
    return m.WantBatch(plan, sharing, nonce_0, nonce_1, session, batch_index, task)


def _missing(batch_index: int) -> CorrelationsMissing:
    what = f"batch {batch_index} has no correlated randomness and no dealer is connected"
    why = "the dealer has stopped, or was never started"
    return CorrelationsMissing(what, why, "start `gpumpc dealer`, then ask again: nothing was lost")
