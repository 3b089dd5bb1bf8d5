"""A listener's streams: the bulk connections of peers that CURVE has authenticated."""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from gpumpc.errors import AccessDenied, BadFrame, PeerLost
from gpumpc.wire.frames import Frame
from gpumpc.wire.stream import Exchange, Stream, StreamListener
from gpumpc.wire.zmq_channel.endpoint import CurveKeys

# How long a peer may take to connect once the keys are agreed.
STREAM_S = 5.0
# A peer that was started again may have an older stream that is still open.
_MAX_STREAMS_A_PEER = 4
_MAX_AGREED = 16


class Arrival(NamedTuple):
    """A request that reached a Listener.

    Attributes:
        peer: the name the allow-list has for the sender's key.
        routing_id: the address of a reply.
    """

    peer: str
    routing_id: bytes
    frame: Frame


class Streams:
    """The streams of one listener, for the one thread that polls it.

    Args:
        keys: the listener's own CURVE keys.
        names_by_key: CURVE public key -> name, of every peer that may connect.
        peers: the names of the peers that may open a stream.
    """

    def __init__(
        self,
        listener: StreamListener,
        keys: CurveKeys,
        names_by_key: Mapping[bytes, str],
        peers: Collection[str],
    ) -> None:
        self._stream_listener, self._own_key, self._peers = listener, keys.public, frozenset(peers)
        self._keys_by_name = {name: key for key, name in names_by_key.items()}
        self._agreed: dict[bytes, tuple[str, bytes]] = {}
        self._open: dict[bytes, tuple[str, Stream]] = {}
        self._lost: list[bytes] = []

    def agree(self, arrival: Arrival) -> bytes:
        """Agree on a stream's keys with a peer; this end's hello. Raises AccessDenied, BadFrame."""
        if arrival.peer not in self._peers:
            what, why = "no stream is open to this party", "it is for bulk of the dealer alone"
            raise AccessDenied(what, why, "send by requests")
        peer_key, port = self._keys_by_name[arrival.peer], self._stream_listener.port
        exchange = Exchange(self._own_key, peer_key, port)
        keys, _ = exchange.agree(arrival.frame.payload)
        self._stream_listener.expect(keys, arrival.peer, STREAM_S)
        self._agreed[keys.ticket] = (arrival.peer, arrival.routing_id)
        for forgotten in [*self._agreed][:-_MAX_AGREED]:
            del self._agreed[forgotten]
        return exchange.hello

    def receive(self, refuse: Callable[[bytes, BadFrame], None]) -> Arrival | None:
        """The next frame that has arrived whole, without waiting.

        Args:
            refuse: called with the routing id of a peer whose stream was closed for a record that
                does not open, and the error.
        """
        for ticket, stream in self._stream_listener.poll():
            known = self._agreed.pop(ticket, None)
            if known is None:
                stream.abort()
            else:
                self._add(*known, stream)
        for routing_id, (peer, stream) in [*self._open.items()]:
            try:
                frame = stream.receive()
            except PeerLost:
                self._drop(routing_id)
                self._lost.append(routing_id)
            except BadFrame as error:
                self._drop(routing_id)
                refuse(routing_id, error)
            else:
                if frame is not None:
                    return Arrival(peer, routing_id, frame)
        return None

    def lost(self) -> list[bytes]:
        """The routing ids whose streams have ended since the last call."""
        lost, self._lost = self._lost, []
        return lost

    def filenos(self) -> list[int]:
        """The sockets for a poller."""
        streams = (stream.fileno() for _, stream in self._open.values())
        return [*self._stream_listener.filenos(), *streams]

    def close(self) -> None:
        """Close the listener and all streams; safe to call twice."""
        self._stream_listener.close()
        for routing_id in [*self._open]:
            self._drop(routing_id)

    def _add(self, peer: str, routing_id: bytes, stream: Stream) -> None:
        if routing_id in self._open:
            self._drop(routing_id)
        same = [other for other, (name, _) in self._open.items() if name == peer]
        for oldest in same[: max(0, len(same) + 1 - _MAX_STREAMS_A_PEER)]:
            self._drop(oldest)
        stream.keep_alive()
        self._open[routing_id] = (peer, stream)

    def _drop(self, routing_id: bytes) -> None:
        self._open.pop(routing_id)[1].abort()
