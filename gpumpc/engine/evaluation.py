"""One server's side of one program: a session agreed with the other server, batches run in it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any, Protocol, TypeVar

from gpumpc.engine.session_binding import CLOSED, SessionBinding, program_id
from gpumpc.errors import ConfigError, HandshakeMismatch, SelectionFailed
from gpumpc.offline import seeds
from gpumpc.offline.ledger import Ledger
from gpumpc.offline.secret import Secret
from gpumpc.program.plan import PlanRecord
from gpumpc.program.program import Program
from gpumpc.ring.backend import Backend, Words
from gpumpc.session import Corrections, PartyRandomness, Session, StaticWeight
from gpumpc.shares import Additive
from gpumpc.wire.channel import Channel
from gpumpc.wire.handshake import exchange_hello

T = TypeVar("T")
# A selection fails less than once in ten thousand batches and rows: so often in a row it never
# does.
TRIES = 8
# A plan that would need more memory for what is prepared computes it in its turn.
_MAX_PREPARED_BYTES = 1 << 30

log = logging.getLogger("gpumpc")


class TakenCorrections(Corrections, Protocol):
    """Corrections that a failed run gives up."""

    def discard(self) -> None:
        """Delete what is left of the batch; safe to call twice."""


class CorrectionSource(Protocol):
    """Where server 1 finds the dealer's corrections."""

    def take(self, session_id: bytes, batch_index: int, timeout_s: float) -> TakenCorrections:
        """A batch's corrections, waited for. Raises CorrelationsMissing."""

    def discard_before(self, session_id: bytes, batch_index: int) -> None:
        """Forget batches that can never be used."""


def read_field(fields: Mapping[str, str], name: str, read: Callable[[str], T]) -> T:
    """A field the other server told.

    Raises HandshakeMismatch where it is missing or makes no sense.
    """
    try:
        return read(fields[name])
    except (KeyError, ValueError):
        raise HandshakeMismatch(
            name, "well formed", "missing or malformed", "the other server"
        ) from None


class Prefetch:
    """What a server computes of a batch before its input is there: as much as there is time for.

    Attributes:
        found: by step; grows until the batch begins.
        ended: the batch has begun, nothing more is wanted.
    """

    def __init__(self, session_id: bytes, batch_index: int) -> None:
        self.session_id, self.batch_index = session_id, batch_index
        self.found: dict[str, Words] = {}
        self.ended = False


@dataclasses.dataclass(frozen=True, repr=False)
class ReservedBatch:
    """A reserved batch, with what lies ready for it."""

    session_id: bytes
    batch_index: int
    corrections: TakenCorrections | None
    ahead: Mapping[str, Words]

    def discard(self) -> None:
        """It is not run, or has failed."""
        if self.corrections is not None:
            self.corrections.discard()


class Evaluation:
    """Runs one program's batches.

    Args:
        party: 0 or 1.
        root: the secret agreed with the dealer.
        pair_secret: the secret agreed with the other server, which the dealer does not know.
        corrections: server 1's source; None at server 0.
        wait_s: how long a batch waits for the dealer.
        executor: where the next batch is prepared while one runs and after; None prepares nothing.
    """

    def __init__(
        self,
        party: int,
        plan: PlanRecord,
        program: Program,
        root: Secret,
        pair_secret: Secret,
        ledger: Ledger,
        backend: Backend,
        corrections: CorrectionSource | None,
        wait_s: float,
        executor: Executor | None = None,
    ) -> None:
        self.party, self.plan, self.program, self.backend = party, plan, program, backend
        # One object: another thread reads its parts together.
        self.binding = CLOSED
        self.next_batch = 0
        # The first batch whose corrections are still to be taken: a reserved batch waits for its
        # own.
        self.first_needed = 0
        self.root, self.pair_secret, self.ledger = root, pair_secret, ledger
        self.corrections, self.wait_s = corrections, wait_s
        self._executor = executor
        self._backend_ahead = backend.fork() if executor else backend
        self._prefetch = Prefetch(b"", 0)

    @property
    def session_id(self) -> bytes:
        """The session in use; empty before one is open."""
        return self.binding.session_id

    def open_session(self, channel: Channel, weight_sharing_id: str) -> None:
        """Agree on the session id and on the first batch number neither ledger has seen."""
        nonce = self.ledger.nonce(program_id(self.plan, self.program, weight_sharing_id))
        theirs = exchange_hello(
            channel, equal={"weight sharing": weight_sharing_id}, informative={"nonce": nonce.hex()}
        )
        other = read_field(theirs, "nonce", bytes.fromhex)
        nonces = (nonce, other) if self.party == 0 else (other, nonce)
        binding = SessionBinding.of(self.plan, self.program, weight_sharing_id, nonces)
        mark = self.ledger.high_water(binding.session_id)
        theirs = exchange_hello(
            channel,
            equal={"session": binding.session_id.hex()},
            informative={"high-water mark": str(mark)},
        )
        self.next_batch = self.first_needed = max(mark, read_field(theirs, "high-water mark", int))
        self.binding = binding
        if self.corrections is not None:
            self.corrections.discard_before(binding.session_id, self.next_batch)

    def evaluate(
        self,
        channel: Channel,
        batch_index: int,
        weights: Mapping[str, StaticWeight],
        *inputs: Additive,
    ) -> Any:
        """One batch, its number reserved durably first; what the program's output step returns.

        Raises BatchAlreadyUsed, CorrelationsMissing, PeerLost, CostMismatch, LeftoverCorrelations.
        """
        return self.carry_out(channel, self.begin(batch_index, weights), weights, *inputs)

    def begin(self, batch_index: int, weights: Mapping[str, StaticWeight]) -> ReservedBatch:
        """Reserve a batch and take what lies ready for it. Batches begin one after the other, in
        order.

        Raises BatchAlreadyUsed, CorrelationsMissing.
        """
        self.ledger.reserve(self.session_id, batch_index)
        self.next_batch = batch_index + 1
        try:
            corrections = self._take(batch_index)
        except BaseException:
            self._burn(self.session_id, batch_index)
            raise
        self.first_needed = batch_index + 1
        ahead = self._prepared(batch_index)
        self.prepare_next(weights)
        return ReservedBatch(self.session_id, batch_index, corrections, ahead)

    def carry_out(
        self,
        channel: Channel,
        reserved: ReservedBatch,
        weights: Mapping[str, StaticWeight],
        *inputs: Additive,
        backend: Backend | None = None,
    ) -> Any:
        """The run of a batch that has begun; several may run at a time, each over a channel and on
        a backend of its own.

        Raises PeerLost, CostMismatch, LeftoverCorrelations, CorrelationsMissing.
        """
        try:
            channel.begin(reserved.session_id, reserved.batch_index)
            tree = seeds.SeedTree(self.root.expose(), reserved.session_id, reserved.batch_index)
            session = self.new_session(
                channel, tree, reserved.corrections, weights, reserved.ahead, backend
            )
            result = self.program.run(session, *inputs)
            # Only now may what was made elsewhere for this batch be given up.
            session.backend.synchronize()
        except BaseException:
            self.give_up(reserved)
            raise
        self.ledger.spend(reserved.session_id, reserved.batch_index)
        return result

    def give_up(self, reserved: ReservedBatch) -> None:
        """A batch that began will not end well; safe to call twice."""
        reserved.discard()
        self._burn(reserved.session_id, reserved.batch_index)

    def _burn(self, session_id: bytes, batch_index: int) -> None:
        # Where even this fails, the next start burns it.
        with contextlib.suppress(ConfigError):
            self.ledger.burn(session_id, batch_index)

    def evaluate_again(
        self,
        channel: Channel,
        batch_index: int,
        weights: Mapping[str, StaticWeight],
        *inputs: Additive,
    ) -> tuple[Any, int]:
        """A batch that begins with this number, and the number it had in the end.

        An unlucky sample, which both servers see at once, is drawn again under the next number.
        """
        for _ in range(TRIES - 1):
            try:
                return self.evaluate(channel, batch_index, weights, *inputs), batch_index
            except SelectionFailed:
                log.info("a selection is repeated under a new shuffle")
                batch_index = self.next_batch
        return self.evaluate(channel, batch_index, weights, *inputs), batch_index

    def rerandomised(
        self, result: Additive, batch_index: int, backend: Backend | None = None
    ) -> Additive:
        """The same value under shares that only the two servers can tell from uniform ones.

        The dealer knows the masks inside a step's output. Who held such a share beside the dealer's
        knowledge, as the user does who is given both result shares, would learn values from inside
        the network.
        """
        key = seeds.SeedTree(self.pair_secret.expose(), self.session_id, batch_index).key(
            "result", "re-randomise"
        )
        sign = 1 if self.party == 0 else -1
        words = (backend or self.backend).add_uniform(
            result.words, self.plan.params.cipher, key, result.bits, sign
        )
        return result.with_words(words)

    def _take(self, batch_index: int) -> TakenCorrections | None:
        if self.corrections is None or not self.program.cost.dealer_bytes:
            return None
        # Numbers that were skipped or burnt since: their corrections would lie there for ever.
        self.corrections.discard_before(self.session_id, batch_index)
        return self.corrections.take(self.session_id, batch_index, self.wait_s)

    def prepare(
        self, session_id: bytes, batch_index: int, weights: Mapping[str, StaticWeight]
    ) -> None:
        """Compute what needs no input of a batch, until the batch begins or all is there. Nothing
        leaves the server.

        Args:
            session_id: the one that the weights belong to; another may have been opened meanwhile.
        """
        if self.program.prepared_bytes > _MAX_PREPARED_BYTES:
            return
        self._prefetch = preparation = Prefetch(session_id, batch_index)
        tree = seeds.SeedTree(self.root.expose(), session_id, batch_index)
        backend = self._backend_ahead
        draws = PartyRandomness(self.party, backend, self.plan.params.cipher, tree, weights)
        for step, words in self.program.prepare(draws):
            if preparation.ended:
                return
            backend.synchronize()  # another thread reads it
            preparation.found[step] = words

    def prepare_next(self, weights: Mapping[str, StaticWeight]) -> None:
        """Begin to prepare the next batch beside whatever else this server does."""
        if self._executor is not None:
            self._executor.submit(self._try_to_prepare, self.session_id, self.next_batch, weights)

    def _try_to_prepare(
        self, session_id: bytes, batch_index: int, weights: Mapping[str, StaticWeight]
    ) -> None:
        try:
            if (session_id, batch_index) == (
                self.session_id,
                self.next_batch,
            ):  # or it came too late
                self.prepare(session_id, batch_index, weights)
        except Exception:  # the batch itself computes what is missing, and says what is wrong
            log.exception("batch %d was not prepared", batch_index)

    def stop_preparing(self) -> None:
        """End what is being prepared: a process that stops waits for it."""
        self._prefetch.ended = True

    def _prepared(self, batch_index: int) -> dict[str, Words]:
        """What is there for a batch that begins."""
        preparation, self._prefetch = self._prefetch, Prefetch(b"", 0)
        preparation.ended = True
        is_its = (preparation.session_id, preparation.batch_index) == (self.session_id, batch_index)
        return {**preparation.found} if is_its else {}

    def new_session(
        self,
        channel: Channel,
        tree: seeds.SeedTree,
        corrections: Corrections | None,
        weights: Mapping[str, StaticWeight],
        ahead: Mapping[str, Words] | None = None,
        backend: Backend | None = None,
    ) -> Session:
        """What the program's steps run in. Raises ConfigError for the other party's channel."""
        if channel.party != self.party:
            raise ConfigError(
                f"server {self.party} was given the channel of server {channel.party}"
            )
        cipher = self.plan.params.cipher
        own = PartyRandomness(self.party, backend or self.backend, cipher, tree, weights)
        return Session(own, channel, corrections, ahead)
