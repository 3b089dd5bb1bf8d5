"""Receives the requests of clients, and answers each at once or queues it for both servers."""

from collections.abc import Mapping

from gpumpc import messages as m
from gpumpc.deploy.config import ServerConfig
from gpumpc.deploy.rights import Right
from gpumpc.server.requests import evaluations, indexes, items, server_status, weights
from gpumpc.server.requests.request import (
    ClientLink,
    ImmediateRequest,
    JointRequest,
    Request,
    Resources,
)
from gpumpc.wire.zmq_channel import Arrival, Listener

# The right that each takes; None: whoever is listed may look at and delete what is its own, and the
# weights' owner is checked with its signature.
_REQUESTS: Mapping[type, tuple[type[Request[m.Request]], Right | None]] = {
    m.GetStatus: (server_status.GetStatus, None),
    m.GetStoreStatus: (server_status.GetStoreStatus, None),
    m.ShareWeights: (weights.ShareWeights, None),
    m.Share: (items.Share, "share"),
    m.Settle: (items.Settle, "share"),
    m.ListItems: (items.ListItems, None),
    m.Delete: (items.Delete, None),
    m.Run: (evaluations.Run, "run"),
    m.Extract: (evaluations.Extract, "extract"),
    m.GetFeatures: (items.GetFeatures, "fetch"),
    m.IndexCreate: (indexes.IndexCreate, "search"),
    m.IndexAdd: (indexes.IndexAdd, "search"),
    m.IndexRemove: (indexes.IndexRemove, None),
    m.IndexDelete: (indexes.IndexDelete, None),
    m.IndexInfo: (indexes.IndexInfo, None),
    m.IndexSearch: (indexes.IndexSearch, "search"),
}


class RequestHandler:
    """Handles requests in the listening thread; queued ones run in the peer loop's thread."""

    def __init__(self, config: ServerConfig, resources: Resources, listener: Listener) -> None:
        self._resources, self._listener = resources, listener
        self._cards = {card.name: card for card in (*config.owners, *config.users)}
        self._owners = {card.name for card in config.owners}

    def handle(self, arrival: Arrival) -> None:
        """Answer or queue a request.

        Raises AccessDenied without a right to it, and any other reason it must be refused.
        """
        record, bulk = m.unpack(arrival.frame.payload, m.Request)
        peer = arrival.peer
        client = ClientLink(self._listener, arrival, self._cards[peer], peer in self._owners)
        kind, right = _REQUESTS[type(record)]
        request = kind(self._resources, client, record, bulk)
        access = self._resources.access
        if right or isinstance(record, m.ShareWeights):
            self._resources.engine_of(record.plan)
            access.check_approved(record.plan)
        if right:
            access.check(client.name, record.plan, right)
        request.check()
        if isinstance(request, ImmediateRequest):
            request.answer()
        elif isinstance(request, JointRequest):
            self._resources.peer_loop.submit(request)
            if self._resources.party == 1:
                client.reply(m.Queued())
