"""One server's side of one program: a session agreed with the other server, batches run in it."""

import collections
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import gpumpc.program.weight_shares as ws
from gpumpc.engine.party import Party, TakenCorrections
from gpumpc.engine.pipeline import pipelined
from gpumpc.engine.prefetch import Prefetcher
from gpumpc.engine.session_binding import CLOSED, SessionBinding, program_id
from gpumpc.errors import ConfigError, HandshakeMismatch, SelectionFailed
from gpumpc.offline import seeds
from gpumpc.program.plan import PlanRecord
from gpumpc.program.program import Program
from gpumpc.ring.backend import Backend, Words
from gpumpc.session import PartyRandomness, Session, StaticWeight
from gpumpc.shares import Additive
from gpumpc.wire.channel import Channel
from gpumpc.wire.handshake import exchange_hello
from gpumpc.wire.multiplexer import SubChannel

T = TypeVar("T")
# A selection fails less than once in ten thousand batches and rows: never so often in a row.
TRIES = 8

log = logging.getLogger("gpumpc")


@dataclasses.dataclass(frozen=True, repr=False)
class ReservedBatch:
    """A reserved batch, with its corrections and the words that were prefetched for it."""

    session_id: bytes
    batch_index: int
    corrections: TakenCorrections | None
    prefetched: Mapping[str, Words]

    def discard(self) -> None:
        """Delete the corrections of a batch that is not run or has failed."""
        if self.corrections is not None:
            self.corrections.discard()


class Evaluation:
    """Runs one program's batches.

    Args:
        plan: the program is its network, or runs on its inputs or results.
        in_flight: batches of one request that run at a time, the same number at both servers.

    Attributes:
        weights: this server's part of the program's weights; set before the first batch.
        next_batch: the first number that is not reserved.
        first_needed: the first batch whose corrections are still to be taken: a reserved batch
            waits for its own.
    """

    def __init__(
        self, party: Party, plan: PlanRecord, program: Program, in_flight: int = 1
    ) -> None:
        self.party, self.plan, self.program = party, plan, program
        self.backend, self.in_flight = party.backend, in_flight
        self.weights: Mapping[str, StaticWeight] = {}
        self.binding = CLOSED  # one object: another thread reads its parts together
        self.next_batch = self.first_needed = 0
        # On a GPU, what one batch copies overlaps with what another computes.
        self._forks = [party.backend.fork() for _ in range(in_flight)] if in_flight > 1 else []
        self._prefetcher = Prefetcher(party, program, plan.params.cipher)

    @property
    def session_id(self) -> bytes:
        """The session in use; empty before one is open."""
        return self.binding.session_id

    def open_session(self, channel: Channel, weight_sharing_id: str) -> None:
        """Agree on the session id and on the first batch number that neither ledger has seen."""
        ledger, corrections = self.party.ledger, self.party.corrections
        nonce = ledger.nonce(program_id(self.plan, self.program, weight_sharing_id))
        own = {"nonce": nonce.hex()}
        theirs = exchange_hello(
            channel, equal={"weight sharing": weight_sharing_id}, informative=own
        )
        other = _read_field(theirs, "nonce", bytes.fromhex)
        nonces = (nonce, other) if self.party.number == 0 else (other, nonce)
        binding = SessionBinding.of(self.plan, self.program, weight_sharing_id, nonces)
        mark = ledger.high_water(binding.session_id)
        own, shared = {"high-water mark": str(mark)}, {"session": binding.session_id.hex()}
        theirs = exchange_hello(channel, equal=shared, informative=own)
        self.next_batch = self.first_needed = max(mark, _read_field(theirs, "high-water mark", int))
        ledger.open_session(binding.session_id)
        self.binding = binding
        if corrections is not None:
            corrections.discard_before(binding.session_id, self.next_batch)

    def end_session(self) -> None:
        """End the open session for good, if there is one: no batch of it is begun afterwards."""
        binding, self.binding = self.binding, CLOSED
        if binding.session_id:
            program = program_id(self.plan, self.program, binding.weight_sharing_id)
            # Where this fails, the session has ended too; only its rows stay until the next start.
            with contextlib.suppress(ConfigError):
                self.party.ledger.end_session(program, binding.session_id)

    def open_weights(
        self, channel: Channel, weight_sharing_id: str, raw: ws.RawShares
    ) -> dict[str, StaticWeight]:
        """Open F = W - Bm of shares under an id that was never used before."""
        session_id = seeds.weight_session(self.plan.weight_digest, weight_sharing_id)
        channel.begin(session_id, 0)
        session = self._session(channel, ReservedBatch(session_id, 0, None, {}), self.backend)
        return ws.open_static(session, self.program, raw)

    # one batch

    def begin(self, batch_index: int) -> ReservedBatch:
        """Reserve a batch durably and take its corrections and prefetched words.

        Batches begin one after the other, in order. Raises BatchAlreadyUsed, CorrelationsMissing.
        """
        self.party.ledger.reserve(self.session_id, batch_index)
        self.next_batch = batch_index + 1
        try:
            corrections = self._take_corrections(batch_index)
        except BaseException:
            self._burn(self.session_id, batch_index)
            raise
        self.first_needed = batch_index + 1
        prefetched = self._prefetcher.take(self.session_id, batch_index)
        self.prepare_next()
        return ReservedBatch(self.session_id, batch_index, corrections, prefetched)

    def carry_out(
        self,
        channel: Channel,
        reserved: ReservedBatch,
        *inputs: Additive,
        backend: Backend | None = None,
    ) -> Additive:
        """Run a batch that has begun; the output of the program's last step.

        Several may run at a time, each over a channel and on a backend of its own.

        Raises PeerLost, CostMismatch, LeftoverCorrelations, CorrelationsMissing.
        """
        try:
            channel.begin(reserved.session_id, reserved.batch_index)
            session = self._session(channel, reserved, backend or self.backend)
            result = self.program.run(session, *inputs)
            # The corrections and prefetched words must stay until the backend has read them.
            session.backend.synchronize()
        except BaseException:
            self.give_up(reserved)
            raise
        self.party.ledger.spend(reserved.session_id, reserved.batch_index)
        return result

    def give_up(self, reserved: ReservedBatch) -> None:
        """Discard and burn a batch that began and will not end well; safe to call twice."""
        reserved.discard()
        self._burn(reserved.session_id, reserved.batch_index)

    def run(self, channel: Channel, batch_index: int, *inputs: Additive) -> tuple[Additive, int]:
        """One batch: its re-randomised result share, and the number that it had in the end.

        An unlucky sample, which both servers see at once, is drawn again under the next number.

        Raises BatchAlreadyUsed, CorrelationsMissing, PeerLost, CostMismatch, LeftoverCorrelations.
        """
        n_failed = 0
        while True:
            try:
                result = self.carry_out(channel, self.begin(batch_index), *inputs)
                return self.release(result, batch_index), batch_index
            except SelectionFailed:
                n_failed += 1
                if n_failed == TRIES:
                    raise
                log.info("a selection is repeated under a new shuffle")
                batch_index = self.next_batch

    def operand(self, share: Words) -> Additive:
        """An input share of a program that has one input."""
        value = self.program.input
        words = self.backend.reduce(share, value.bits)
        return Additive(words, value.bits, value.frac, value.divisor)

    def release(
        self, result: Additive, batch_index: int, backend: Backend | None = None
    ) -> Additive:
        """The same value under shares that only the two servers can tell from uniform ones.

        The dealer knows the masks inside a step's output. Without this, a user who is given both
        result shares and has the dealer's knowledge would learn values from inside the network.
        """
        backend = backend or self.backend
        result = result.at_bits(backend, self.program.result.bits)
        tree = seeds.SeedTree(self.party.pair_secret.expose(), self.session_id, batch_index)
        words = backend.add_uniform(
            result.words,
            self.plan.params.cipher,
            tree.key("result", "re-randomise"),
            result.bits,
            1 if self.party.number == 0 else -1,
        )
        return result.with_words(words)

    # several batches

    def run_all(
        self, channel: SubChannel, first_batch: int, shares: Iterable[Words]
    ) -> Iterator[tuple[int, Additive]]:
        """(batch number, result share) of each input share, in order.

        Where `in_flight` allows, several run at a time, each in a sub-channel of its own. Raises
        what `run` raises; when one fails, all batches in flight are given up.
        """
        if self.in_flight == 1 or self.program.may_repeat:
            for share in shares:
                result, batch_index = self.run(channel, first_batch, self.operand(share))
                first_batch = self.next_batch
                yield batch_index, result
            return
        latest: collections.deque[ReservedBatch] = collections.deque(maxlen=1)
        try:
            beginnings = self._beginnings(first_batch, shares, latest)
            yield from pipelined(channel, self.in_flight, beginnings)
        finally:
            # The last to begin may have waited for a sub-channel; those that ran are discarded.
            for reserved in latest:
                self.give_up(reserved)

    def _beginnings(
        self, first_batch: int, shares: Iterable[Words], latest: collections.deque[ReservedBatch]
    ) -> Iterator[Callable[[SubChannel], tuple[int, Additive]]]:
        for batch_index, share in enumerate(shares, first_batch):
            operand, reserved = self.operand(share), self.begin(batch_index)
            latest.append(reserved)
            self.backend.synchronize()  # the batch's thread reads the operand

            def evaluate(
                sub_channel: SubChannel,
                reserved: ReservedBatch = reserved,
                operand: Additive = operand,
            ) -> tuple[int, Additive]:
                backend = self._forks[sub_channel.number]
                result = self.carry_out(sub_channel, reserved, operand, backend=backend)
                released = self.release(result, reserved.batch_index, backend)
                backend.synchronize()  # this thread's caller reads it
                return reserved.batch_index, released

            yield evaluate

    # prefetch

    def prepare(self, batch_index: int) -> None:
        """Compute what needs no input of a batch of the open session."""
        self._prefetcher.prepare(self.session_id, batch_index, self.weights)

    def prepare_next(self) -> None:
        """Have the executor, if there is one, prepare the next batch."""
        if self.party.executor is not None:
            self.party.executor.submit(
                self._try_to_prepare, self.session_id, self.next_batch, self.weights
            )

    def _try_to_prepare(
        self, session_id: bytes, batch_index: int, weights: Mapping[str, StaticWeight]
    ) -> None:
        try:
            if (session_id, batch_index) == (self.session_id, self.next_batch):  # else: too late
                self._prefetcher.prepare(session_id, batch_index, weights)
        except Exception:  # the batch computes missing words itself, and raises the cause
            log.exception("batch %d was not prepared", batch_index)

    def stop_preparing(self) -> None:
        """End the preparation: a process that stops waits for it."""
        self._prefetcher.stop()

    def _take_corrections(self, batch_index: int) -> TakenCorrections | None:
        corrections = self.party.corrections
        if corrections is None or not self.program.cost.dealer_bytes:
            return None
        # Numbers that were skipped or burnt since: nothing else would delete their corrections.
        corrections.discard_before(self.session_id, batch_index)
        return corrections.take(self.binding, batch_index, self.party.wait_s)

    def _burn(self, session_id: bytes, batch_index: int) -> None:
        # Where even this fails, the next start burns it.
        with contextlib.suppress(ConfigError):
            self.party.ledger.burn(session_id, batch_index)

    def _session(self, channel: Channel, reserved: ReservedBatch, backend: Backend) -> Session:
        """The session that the program's steps run in. Raises ConfigError for a wrong channel."""
        party = self.party
        if channel.party != party.number:
            what = f"server {party.number} was given the channel of server {channel.party}"
            raise ConfigError(what)
        tree = party.seed_tree(reserved.session_id, reserved.batch_index)
        own = PartyRandomness(party.number, backend, self.plan.params.cipher, tree, self.weights)
        return Session(own, channel, reserved.corrections, reserved.prefetched)


def _read_field(fields: Mapping[str, str], name: str, read: Callable[[str], T]) -> T:
    """A field of the other server's hello. Raises HandshakeMismatch for a malformed one."""
    try:
        return read(fields[name])
    except (KeyError, ValueError):
        bad = "missing or malformed"
        raise HandshakeMismatch(name, "well formed", bad, "the other server") from None
