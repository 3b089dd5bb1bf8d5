"""One server's side of everything the two servers do in lock step: agree, take in weights, run
batches.

The same engine serves a server process over ZeroMQ and a thread over an in-memory channel. Whatever
the servers must agree on is compared before the first masked byte; every batch number is reserved
durably before it is used.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from pathlib import Path

import gpumpc.program.weight_shares as ws
from gpumpc.engine.evaluation import CorrectionSource, Evaluation, ReservedBatch
from gpumpc.engine.pipeline import pipelined
from gpumpc.engine.session_binding import CLOSED
from gpumpc.errors import ShareError
from gpumpc.offline import seeds
from gpumpc.offline.ledger import Ledger
from gpumpc.offline.secret import Secret, write_private
from gpumpc.program.agreement import agreed_fields
from gpumpc.program.compiler import program_of
from gpumpc.program.plan import PlanRecord
from gpumpc.program.program import Program
from gpumpc.ring.backend import Backend, Words
from gpumpc.session import StaticWeight
from gpumpc.shares import Additive
from gpumpc.wire.channel import Channel
from gpumpc.wire.handshake import exchange_hello
from gpumpc.wire.multiplexer import SubChannel

log = logging.getLogger("gpumpc")


class Engine(Evaluation):
    """One server, one plan, one batch size.

    Args:
        party: 0 or 1.
        root: the secret agreed with the dealer.
        pair_secret: the secret agreed with the other server, which the dealer does not know.
        folder: where the server keeps its weight shares.
        corrections: server 1's pool; None at server 0.
        wait_s: how long a batch waits for the dealer.
        executor: where the next batch is prepared; None prepares nothing.
        in_flight: batches of one request that run at a time, the same number at both servers.
        program: what runs on inputs of the plan in place of its network.
    """

    def __init__(
        self,
        party: int,
        plan: PlanRecord,
        batch_size: int,
        root: Secret,
        pair_secret: Secret,
        ledger: Ledger,
        backend: Backend,
        folder: Path,
        corrections: CorrectionSource | None,
        wait_s: float = 60.0,
        executor: Executor | None = None,
        in_flight: int = 1,
        program: Program | None = None,
    ) -> None:
        program = program or program_of(plan, batch_size)
        super().__init__(
            party, plan, program, root, pair_secret, ledger, backend, corrections, wait_s, executor
        )
        self._why_not_ready = "the servers hold none for this plan"
        self._folder = folder
        self.in_flight = in_flight
        # On a GPU, what one lane copies overlaps with what another computes.
        self._forks = [backend.fork() for _ in range(in_flight)] if in_flight > 1 else []
        self._weights: dict[str, StaticWeight] = {}

    # agreement

    def agree(self, channel: Channel) -> None:
        """Compare everything that does not depend on weights, then take up stored weights if both
        have the same.
        """
        own = self._stored_pair()
        equal = {
            **agreed_fields(self.plan, self.program),
            "secret of the servers": self.pair_secret.fingerprint(),
        }
        equal["batches in flight"] = str(self.in_flight)
        theirs = exchange_hello(channel, equal=equal, informative={"weight sharing": own})
        other = theirs.get("weight sharing", "")
        self.binding = CLOSED
        if own and own == other:
            self._weights = ws.load_static(self._weights_path, self.backend, self.program)
            self.open_session(channel, own)
            self.prepare_next(self._weights)
        elif own or other:
            self._why_not_ready = (
                "the servers' stores do not belong together: here weight sharing "
                f"{own[:8] or 'none'}, "
                f"there {other[:8] or 'none'}; a state folder was lost, restored or exchanged"
            )
            log.warning(
                "the weights of plan %s must be shared again: %s",
                self.plan.name,
                self._why_not_ready,
            )

    @property
    def weight_sharing_id(self) -> str:
        """The weight sharing in use; empty before weights are shared."""
        return self.binding.weight_sharing_id

    @property
    def is_ready(self) -> bool:
        """Whether weights are shared and a session is open."""
        return bool(self.session_id)

    def check_ready(self) -> None:
        """Raises ShareError before weights are shared."""
        if not self.is_ready:
            raise ShareError(
                f"no weights are shared for plan '{self.plan.name}'",
                self._why_not_ready,
                "the model's owner runs `gpumpc share-weights`",
            )

    # weights

    @property
    def _weights_path(self) -> Path:
        return (
            self._folder / f"{self.plan.weight_digest}.{self.program.digest.hex()[:16]}.safetensors"
        )

    def _stored_pair(self) -> str:
        path = self._weights_path.with_suffix(".pair")
        return path.read_text().strip() if path.exists() and self._weights_path.exists() else ""

    def receive_weights(self, sent: memoryview) -> ws.RawShares:
        """What an owner sent to this server, as shares.

        Raises BadFrame if it does not fit the plan.
        """
        return ws.receive_weights(self.program, self.party, sent, self.backend)

    def install_weights(self, channel: Channel, weight_sharing_id: str, raw: ws.RawShares) -> None:
        """Take in weight shares under a fresh share-pair id: open F once, keep it, open a session.

        Raises BatchAlreadyUsed if this pair id was used before, also by a process that died in
        between.
        """
        exchange_hello(channel, equal={"weight sharing": weight_sharing_id})
        session_id = seeds.weight_session(self.plan.weight_digest, weight_sharing_id)
        self.ledger.reserve_once(f"weights {self.plan.weight_digest} {weight_sharing_id}")
        channel.begin(session_id, 0)
        session = self.new_session(
            channel, seeds.SeedTree(self.root.expose(), session_id, 0), None, {}
        )
        weights = ws.open_static(session, self.program, raw)
        # What was installed before goes first, its name before its shares: a half-written pair is
        # none.
        self.binding = CLOSED
        pair_path = self._weights_path.with_suffix(".pair")
        for path in (pair_path, self._weights_path):
            path.unlink(missing_ok=True)
        self._weights = weights
        ws.save_static(self._weights_path, self.backend, self._weights)
        write_private(pair_path, weight_sharing_id.encode())
        self.open_session(channel, weight_sharing_id)
        self.prepare_next(self._weights)

    # batches

    def run(self, channel: Channel, batch_index: int, share: Words) -> Additive:
        """One batch on this server's input share, its number reserved durably first; the result
        share, re-randomised.

        A batch that needs a second try takes the next number: `next_batch` says how many were used.

        Raises ShareError before a session is open, BatchAlreadyUsed, CorrelationsMissing, PeerLost,
        CostMismatch, LeftoverCorrelations.
        """
        self.check_ready()
        result, batch_index = self.evaluate_again(
            channel, batch_index, self._weights, self._operand(share)
        )
        return self._to_release(result, batch_index, self.backend)

    def run_all(
        self, channel: SubChannel, first_batch: int, shares: Iterable[Words]
    ) -> Iterator[tuple[int, Additive]]:
        """(batch, result share) of each input share, in order; several run at a time, each in a
        lane of its own.

        Raises what `run` raises; whatever runs beside a batch that fails is given up.
        """
        if self.in_flight == 1 or self.program.may_repeat:
            batch_index = first_batch
            for share in shares:
                result = self.run(channel, batch_index, share)
                batch_index = self.next_batch
                yield batch_index - 1, result
            return
        self.check_ready()
        latest: collections.deque[ReservedBatch] = collections.deque(maxlen=1)
        try:
            yield from pipelined(
                channel, self.in_flight, self._beginnings(first_batch, shares, latest)
            )
        finally:
            # The last to begin may have waited for a lane when another failed. What has flown is
            # discarded already.
            for reserved in latest:
                self.give_up(reserved)

    def _beginnings(
        self, first_batch: int, shares: Iterable[Words], latest: collections.deque[ReservedBatch]
    ) -> Iterator[Callable[[SubChannel], tuple[int, Additive]]]:
        for batch_index, share in enumerate(shares, first_batch):
            operand, reserved = self._operand(share), self.begin(batch_index, self._weights)
            latest.append(reserved)

            self.backend.synchronize()  # the lane's thread reads the operand

            def evaluate(
                sub_channel: SubChannel,
                reserved: ReservedBatch = reserved,
                operand: Additive = operand,
            ) -> tuple[int, Additive]:
                backend = self._forks[sub_channel.number]
                result = self.carry_out(
                    sub_channel, reserved, self._weights, operand, backend=backend
                )
                released = self._to_release(result, reserved.batch_index, backend)
                backend.synchronize()  # this thread's caller reads it
                return reserved.batch_index, released

            yield evaluate

    def _operand(self, share: Words) -> Additive:
        value = self.program.input
        return Additive(
            self.backend.reduce(share, value.bits), value.bits, value.frac, value.divisor
        )

    def _to_release(self, result: Additive, batch_index: int, backend: Backend) -> Additive:
        return self.rerandomised(
            result.at_bits(backend, self.program.result.bits), batch_index, backend
        )
