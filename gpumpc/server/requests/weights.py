"""Weights are shared at both servers."""

import logging

from gpumpc import messages as m
from gpumpc.errors import AccessDenied
from gpumpc.server.requests.request import JointRequest
from gpumpc.wire.multiplexer import SubChannel

log = logging.getLogger("gpumpc")


class ShareWeights(JointRequest[m.ShareWeights]):
    def _description(self) -> str:
        return "weights"

    def check(self) -> None:
        """Raises AccessDenied unless an owner asks."""
        if not self.client.is_owner:
            what = f"{self.client.name} may not share weights"
            raise AccessDenied(what, "only owners may", "add its card to owner_cards")
        self._engine, self._sent = self.engine, bytes(self.bulk)

    def prepare(self) -> str:
        self._raw = self._engine.receive_weights(memoryview(self._sent))
        return ""

    def run(self, channel: SubChannel, first_batch: int) -> None:
        self._engine.install_weights(channel, self.job_id, self._raw)
        self.resources.discard_old_sessions()
        log.info("weights of plan %s are shared", self._engine.plan.name)
        self.client.reply(m.Done())
