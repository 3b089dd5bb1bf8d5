"""The links of a simulated cluster: between the servers, and from a client to a server."""

from __future__ import annotations

import collections
from collections.abc import Sequence

from bench.simulation.world import World
from gpumpc.errors import GpumpcError, PeerLost, PeerTimeout
from gpumpc.wire.frames import (
    NO_SESSION,
    Buffer,
    ErrorRecord,
    Frame,
    Kind,
    decode,
    decode_record,
    encode_header,
    encode_record,
)
from gpumpc.wire.transport import Finish, peer_lost, peer_silent
from gpumpc.wire.zmq_channel import Arrival

_MOST_DELAY_S = 0.02


class PeerLink:
    """One connection between the servers; frames arrive in order, each after a delay."""

    def __init__(self, world: World) -> None:
        self.world, self.is_broken, self.n_joined = world, False, 0
        self.inboxes: tuple[collections.deque[tuple[float, bytes, bytes]], ...] = (
            collections.deque(),
            collections.deque(),
        )

    def break_off(self) -> None:
        """Lose the connection with all that is on its way."""
        self.is_broken = True
        for inbox in self.inboxes:
            inbox.clear()


class PeerTransport:
    """A server's end of a connection to the other (`gpumpc.wire.transport.Transport`)."""

    def __init__(self, links: PeerLinks, party: int) -> None:
        self.peer, self._party, self._links = f"server {1 - party}", party, links
        self._link: PeerLink | None = None
        self._world, self._is_closed = links.world, False

    def wait_peer(self, timeout_s: float) -> None:
        """Wait until the other server connects too."""
        self._link = self._link or self._links.join(self._party)
        link = self._link
        if not self._world.wait(lambda: link.is_broken or link.n_joined == 2, timeout_s):
            raise PeerTimeout(f"{self.peer} does not connect", "it is away", "wait")
        self._check()

    def put(self, header: bytes, parts: Sequence[Buffer]) -> None:
        """Send a frame."""
        self._world.wait()
        link = self._check()
        inbox = link.inboxes[1 - self._party]
        at = self._world.now + self._world.random.random() * _MOST_DELAY_S
        at = max(at, inbox[-1][0] if inbox else 0.0)
        inbox.append((at, header, b"".join(parts)))
        self._links.n_frames += 1
        self._world.look_at(at)

    def start(self, header: bytes, parts: Sequence[Buffer]) -> Finish | None:
        """Send a frame."""
        self.put(header, parts)
        return None

    def get(self, timeout_s: float) -> Frame:
        """The next frame."""
        link = self._check()
        inbox = link.inboxes[self._party]

        def has_arrived() -> bool:
            return link.is_broken or bool(inbox and inbox[0][0] <= self._world.now)

        if not self._world.wait(has_arrived, timeout_s):
            raise peer_silent(self.peer, timeout_s)
        self._check()
        _, header, payload = inbox.popleft()
        return decode([header, payload])

    def close(self) -> None:
        """End the connection at both ends."""
        self._is_closed = True
        if self._link is not None:
            self._link.break_off()

    def abort(self) -> None:
        """As `close`."""
        self.close()

    def _check(self) -> PeerLink:
        if self._link is None or self._link.is_broken or self._is_closed:
            raise peer_lost(self.peer, "the connection was lost")
        return self._link


class PeerLinks:
    """Joins the two servers' ends to one connection at a time.

    Attributes:
        n_frames: sent so far, both ways.
    """

    def __init__(self, world: World) -> None:
        self.world, self.current, self.n_frames = world, PeerLink(world), 0
        self._joined: set[int] = set()

    def join(self, party: int) -> PeerLink:
        """The connection that this server's new end belongs to."""
        if self.current.is_broken or party in self._joined:
            self.current.break_off()
            self.current, self._joined = PeerLink(self.world), set()
        self._joined.add(party)
        self.current.n_joined += 1
        return self.current


class ClientsPort:
    """A server's port for clients (the part of `Listener` that requests use)."""

    def __init__(self, world: World) -> None:
        self._world, self.is_open = world, True
        self.arrivals: collections.deque[Arrival] = collections.deque()
        self._clients: dict[bytes, Requests] = {}

    def attach(self, requests: Requests) -> bytes:
        """Connect a client; its address."""
        routing_id = len(self._clients).to_bytes(4, "big")
        self._clients[routing_id] = requests
        return routing_id

    def reply(
        self, routing_id: bytes, kind: Kind, payload: Buffer = b"", *, sequence: int = 0
    ) -> None:
        """As `Listener.reply`."""
        header = encode_header(kind, len(payload), sequence=sequence)
        self._clients[routing_id].inbox.append(decode([header, bytes(payload)]))

    def reply_error(self, routing_id: bytes, error: GpumpcError, *, sequence: int = 0) -> None:
        """As `Listener.reply_error`."""
        self.reply(routing_id, Kind.ERROR, encode_record(ErrorRecord.of(error)), sequence=sequence)


class Requests:
    """A client's connection to one process of a server (the part of `Requester` that it uses)."""

    def __init__(self, world: World, port: ClientsPort, client: str, peer: str) -> None:
        self._world, self._port, self._client, self.peer = world, port, client, peer
        self.inbox: collections.deque[Frame] = collections.deque()
        self._routing_id = port.attach(self)

    def send(self, kind: Kind, *payload: Buffer, sequence: int = 0) -> None:
        """As `Requester.send`."""
        self._world.wait(lambda: False, self._world.random.random() * _MOST_DELAY_S)
        if not self._port.is_open:
            raise self._lost()
        data = b"".join(payload)
        header = encode_header(kind, len(data), session=NO_SESSION, sequence=sequence)
        frame = decode([header, data])
        self._port.arrivals.append(Arrival(self._client, self._routing_id, frame))

    def receive(self, timeout_s: float, *, errors_of: int | None = None) -> Frame:
        """As `Requester.receive`."""
        deadline = self._world.now + timeout_s
        while True:
            left_s = max(0.0, deadline - self._world.now)
            self._world.wait(lambda: bool(self.inbox) or not self._port.is_open, left_s)
            if not self.inbox:
                if not self._port.is_open:
                    raise self._lost()
                raise peer_silent(self.peer, timeout_s)
            frame = self.inbox.popleft()
            if frame.kind is not Kind.ERROR:
                return frame
            if errors_of is None or frame.sequence in (0, errors_of):
                raise decode_record(frame.payload, ErrorRecord).as_error(self.peer)

    def close(self) -> None:
        """Nothing is left to close."""

    def _lost(self) -> PeerLost:
        return peer_lost(self.peer, "its process has ended")
