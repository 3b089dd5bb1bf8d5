"""Receives the requests of clients, and answers each at once or queues it for both servers."""

from collections.abc import Mapping

from gpumpc import messages as m
from gpumpc.deploy.config import ServerConfig
from gpumpc.server.requests import evaluations, indexes, items, server_status, weights
from gpumpc.server.requests.request import (
    ClientLink,
    ImmediateRequest,
    JointRequest,
    Request,
    Resources,
)
from gpumpc.wire.zmq_channel import Arrival, Listener

_REQUESTS: Mapping[type, type[Request[m.Request]]] = {
    m.GetStatus: server_status.GetStatus,
    m.GetStoreStatus: server_status.GetStoreStatus,
    m.ShareWeights: weights.ShareWeights,
    m.Share: items.Share,
    m.Settle: items.Settle,
    m.ListItems: items.ListItems,
    m.Delete: items.Delete,
    m.Run: evaluations.Run,
    m.Extract: evaluations.Extract,
    m.GetFeatures: items.GetFeatures,
    m.IndexCreate: indexes.IndexCreate,
    m.IndexAdd: indexes.IndexAdd,
    m.IndexRemove: indexes.IndexRemove,
    m.IndexDelete: indexes.IndexDelete,
    m.IndexInfo: indexes.IndexInfo,
    m.IndexSearch: indexes.IndexSearch,
}


class RequestHandler:
    """Handles requests in the listening thread; queued ones run in the peer loop's thread."""

    def __init__(self, config: ServerConfig, resources: Resources, listener: Listener) -> None:
        self._resources, self._listener = resources, listener
        self._cards = {card.name: card for card in (*config.owners, *config.users)}
        self._owners = {card.name for card in config.owners}

    def handle(self, arrival: Arrival) -> None:
        """Answer or queue a request. Raises the reason it must be refused."""
        record, bulk = m.unpack(arrival.frame.payload, m.Request)
        peer = arrival.peer
        client = ClientLink(self._listener, arrival, self._cards[peer], peer in self._owners)
        request = _REQUESTS[type(record)](self._resources, client, record, bulk)
        request.check()
        if isinstance(request, ImmediateRequest):
            request.answer()
        elif isinstance(request, JointRequest):
            self._resources.peer_loop.submit(request)
            if self._resources.party == 1:
                client.reply(m.Queued())
