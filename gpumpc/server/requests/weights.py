"""Weights are shared at both servers."""

import hashlib
import logging
import time

from gpumpc import messages as m
from gpumpc.deploy.signatures import verify
from gpumpc.errors import AccessDenied, BadFrame
from gpumpc.server.requests.request import JointRequest
from gpumpc.wire.multiplexer import SubChannel

log = logging.getLogger("gpumpc")


class ShareWeights(JointRequest[m.ShareWeights]):
    """Takes weights from the plan's owner alone, signed, and the same at both servers."""

    def _description(self) -> str:
        # Both servers compare it, so both have one statement of the owner.
        record = self.record
        statement = m.weights_statement(record.plan, record.weight_sharing_id, record.halves)
        return f"weights {hashlib.sha256(statement).hexdigest()} {record.signature}"

    def check(self) -> None:
        """Raises AccessDenied, BatchAlreadyUsed for an id that was used before, BadFrame."""
        record, party = self.record, self.resources.party
        self._engine, self._sent = self.engine, bytes(self.bulk)
        owner = self.resources.plan_owners.get(record.plan)
        if owner is None or self.client.name != owner.name:
            what = f"{self.client.name} may not share weights of plan '{self._engine.plan.name}'"
            why = f"the plan's owner is {owner.name if owner else 'not named'}"
            hint = "add its card to owner_cards, and its name to plan_owners, at both servers"
            raise AccessDenied(what, why, hint)
        statement = m.weights_statement(record.plan, record.weight_sharing_id, record.halves)
        verify(owner, "weights", statement, bytes.fromhex(record.signature))
        if hashlib.sha256(self._sent).hexdigest() != record.halves[party]:
            what = "the weights that came are not those that their owner signed"
            raise BadFrame(what, "they were changed on the way", "share them again")
        self._engine.check_fresh(record.weight_sharing_id)

    def prepare(self) -> str:
        self._raw = self._engine.receive_weights(memoryview(self._sent))
        return ""

    def run(self, channel: SubChannel, first_batch: int) -> None:
        record, statements = self.record, self.resources.weight_statements
        statement = m.WeightStatement(
            self.client_name, int(time.time()), record.halves, record.signature
        )
        # Before the weights, so that none are ever installed without it.
        statements.add(self.plan, self.job_id, statement)
        self._engine.install_weights(channel, self.job_id, self._raw)
        statements.keep_only(self.plan, self.job_id)
        self.resources.discard_old_sessions()
        log.info("%s shared weights of plan %s", self.client_name, self._engine.plan.name)
        self.reply_last(m.Done())
