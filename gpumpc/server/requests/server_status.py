"""Requests for the state of a server."""

from gpumpc import messages as m
from gpumpc.engine.engine import Engine
from gpumpc.program.agreement import agreed_fields
from gpumpc.program.plan import plan_hash
from gpumpc.server.requests.request import ImmediateRequest


class GetStatus(ImmediateRequest[m.GetStatus]):
    def answer(self) -> None:
        resources = self.resources
        loop, dealer_connected = resources.peer_loop, resources.dealer_is_connected()
        plans = [self._plan_status(engine) for engine in resources.engines.values()]
        self.client.reply(m.Status(resources.party, plans, loop.is_connected, dealer_connected))

    def _plan_status(self, engine: Engine) -> m.PlanStatus:
        link, session_id = self.resources.dealer_link, engine.session_id
        plan_id, sharing_id = plan_hash(engine.plan).hex(), engine.weight_sharing_id
        owner = self.resources.plan_owners.get(plan_id)
        statements = self.resources.weight_statements
        return m.PlanStatus(
            agreed_fields(engine.plan, engine.program),
            owner.name if owner else "",
            sharing_id,
            statements.find(plan_id, sharing_id) if sharing_id else None,
            session_id.hex(),
            engine.next_batch,
            link.pool.ahead(session_id, engine.next_batch) if link else 0,
        )


class GetStoreStatus(ImmediateRequest[m.GetStoreStatus]):
    def answer(self) -> None:
        store, owner = self.share_store.store, self.client.name
        rows = {kind: n for kind, n in store.info(owner).items() if kind != "bytes"}
        party, held = self.resources.party, store.held_bytes(owner)
        self.client.reply(m.StoreStatus(party, store.store_pair_id, rows, held))
