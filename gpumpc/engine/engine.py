"""One server's side of what the two servers do in lock step: agree, install weights, run batches.

The same engine serves a server process over ZeroMQ and a thread over an in-memory channel. Whatever
the servers must agree on is compared before the first masked byte; every batch number is reserved
durably before it is used.
"""

import hashlib
import logging
from pathlib import Path

import gpumpc.program.weight_shares as ws
from gpumpc.engine.evaluation import Evaluation, ReservedBatch
from gpumpc.engine.party import Party
from gpumpc.engine.session_binding import CLOSED
from gpumpc.errors import CorruptPlan, ShareError
from gpumpc.offline.secret import write_private
from gpumpc.program.agreement import agreed_fields
from gpumpc.program.compiler import program_of
from gpumpc.program.plan import PlanRecord
from gpumpc.program.program import Program
from gpumpc.session import StaticWeight
from gpumpc.wire.channel import Channel
from gpumpc.wire.handshake import exchange_hello

log = logging.getLogger("gpumpc")


def _name_checksum(name: bytes) -> bytes:
    return hashlib.sha256(name).hexdigest()[:16].encode()


class Engine(Evaluation):
    """One server, one plan, one batch size.

    Args:
        folder: where the server stores its weight shares.
        in_flight: see `Evaluation`.
        program: runs on inputs of the plan in place of its network.
    """

    def __init__(
        self,
        party: Party,
        plan: PlanRecord,
        batch_size: int,
        folder: Path,
        in_flight: int = 1,
        program: Program | None = None,
    ) -> None:
        super().__init__(party, plan, program or program_of(plan, batch_size), in_flight)
        self._why_not_ready, self._damage = "the servers hold none for this plan", ""
        self._folder = folder

    # agreement

    def agree(self, channel: Channel) -> None:
        """Compare all that does not depend on weights; load stored weights that both have."""
        own, weights = self._stored_weights()
        equal = {
            **agreed_fields(self.plan, self.program),
            "secret of the servers": self.party.pair_secret.fingerprint(),
            "batches in flight": str(self.in_flight),
        }
        theirs = exchange_hello(channel, equal=equal, informative={"weight sharing": own})
        other = theirs.get("weight sharing", "")
        self.binding = CLOSED
        if own and own == other:
            self.weights = weights
            self.open_session(channel, own)
            self.prepare_next()
        elif own or other:
            here, there = own[:8] or self._damage or "none", other[:8] or "none"
            self._why_not_ready = (
                f"the servers' stores do not belong together: here weight sharing {here}, "
                f"there {there}; a state folder was lost, restored or exchanged"
            )
            text = "the weights of plan %s must be shared again: %s"
            log.warning(text, self.plan.name, self._why_not_ready)

    @property
    def weight_sharing_id(self) -> str:
        """The weight sharing in use; empty before weights are shared."""
        return self.binding.weight_sharing_id

    def check_ready(self) -> None:
        """Raises ShareError before weights are shared."""
        if not self.session_id:
            what, why = f"no weights are shared for plan '{self.plan.name}'", self._why_not_ready
            raise ShareError(what, why, "the model's owner runs `gpumpc share-weights`")

    def begin(self, batch_index: int) -> ReservedBatch:
        """As `Evaluation.begin`; also raises ShareError before weights are shared."""
        self.check_ready()
        return super().begin(batch_index)

    # weights

    @property
    def _weights_path(self) -> Path:
        program = self.program.digest.hex()[:16]
        return self._folder / f"{self.plan.weight_digest}.{program}.safetensors"

    def _stored_weights(self) -> tuple[str, dict[str, StaticWeight]]:
        """The id of the stored weight sharing and its shares; nothing if they are damaged."""
        self._damage, name_path = "", self._weights_path.with_suffix(".pair")
        if not name_path.exists() or not self._weights_path.exists():
            return "", {}
        try:
            weights = ws.load_static(self._weights_path, self.backend, self.program)
            name, _, kept = name_path.read_bytes().partition(b" ")
            if kept != _name_checksum(name):
                what, hint = (
                    f"{name_path} was changed or cut on the disk",
                    "share the weights again",
                )
                raise CorruptPlan(what, "its checksum does not match", hint)
            return name.decode(), weights
        except CorruptPlan as error:
            log.error("%s", error)
            self._damage = error.what
            return "", {}

    def receive_weights(self, sent: memoryview) -> ws.RawShares:
        """Shares from the bytes that an owner sent. Raises BadFrame if they do not fit the plan."""
        return ws.receive_weights(self.program, self.party.number, sent, self.backend)

    def check_fresh(self, weight_sharing_id: str) -> None:
        """Raises BatchAlreadyUsed for an id under which weights were installed before."""
        self.party.ledger.check_once(self._once(weight_sharing_id))

    def _once(self, weight_sharing_id: str) -> str:
        return f"weights {self.plan.weight_digest} {weight_sharing_id}"

    def install_weights(self, channel: Channel, weight_sharing_id: str, raw: ws.RawShares) -> None:
        """Install weight shares under a fresh id: open F once, store it, open a session.

        Raises BatchAlreadyUsed if the id was used before, also by a process that died in between.
        """
        exchange_hello(channel, equal={"weight sharing": weight_sharing_id})
        self.party.ledger.reserve_once(self._once(weight_sharing_id))
        weights = self.open_weights(channel, weight_sharing_id, raw)
        # The installed weights are deleted first, their name before their shares: shares without a
        # name are never loaded.
        self.end_session()
        name_path = self._weights_path.with_suffix(".pair")
        for path in (name_path, self._weights_path):
            path.unlink(missing_ok=True)
        self.weights = weights
        ws.save_static(self._weights_path, self.backend, weights)
        name = weight_sharing_id.encode()
        write_private(name_path, name + b" " + _name_checksum(name))
        self.open_session(channel, weight_sharing_id)
        self.prepare_next()
