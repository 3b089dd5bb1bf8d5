"""The channel between the two servers, over ZeroMQ."""

from __future__ import annotations

from gpumpc.wire.channel import FramedChannel
from gpumpc.wire.frames import MAX_PAYLOAD_BYTES, Frame
from gpumpc.wire.zmq_channel.endpoint import CurveKeys
from gpumpc.wire.zmq_channel.link import CONNECT_S, Link


class ZmqChannel(FramedChannel):
    """One server's end of the connection between the two servers: made by `bind` or `connect`, then `wait_peer`.

    One thread at a time may use it. After PeerLost it stays unusable: close it and make a new one.
    """

    def __init__(self, party: int, link: Link, patience_s: float) -> None:
        super().__init__(party, link.peer, patience_s)
        self._link = link

    @classmethod
    def bind(
        cls, endpoint: str, keys: CurveKeys, peer_key: bytes, *, peer: str = "server1", party: int = 0,
        patience_s: float = 600.0, max_payload_bytes: int = MAX_PAYLOAD_BYTES,
    ) -> ZmqChannel:  # fmt: skip
        """Listen at `endpoint` (`tcp://host:port`, port 0 for a free one) for the owner of `peer_key` (z85) alone.

        Returns at once; `endpoint` then tells the real port. Raises ConfigError if the endpoint cannot be had.
        """
        link = Link(peer, keys, max_payload_bytes)
        link.bind(endpoint, peer_key)
        return cls(party, link, patience_s)

    @classmethod
    def connect(
        cls, endpoint: str, keys: CurveKeys, peer_key: bytes, *, peer: str = "server0", party: int = 1,
        patience_s: float = 600.0, max_payload_bytes: int = MAX_PAYLOAD_BYTES,
    ) -> ZmqChannel:  # fmt: skip
        """Connect to the server whose public key is `peer_key` (z85). Returns at once. Raises ConfigError."""
        link = Link(peer, keys, max_payload_bytes)
        link.connect(endpoint, peer_key)
        return cls(party, link, patience_s)

    @property
    def endpoint(self) -> str:
        """Where this end listens or connects to, with the real port."""
        return self._link.endpoint

    def wait_peer(self, timeout_s: float = CONNECT_S) -> None:
        """Wait until the peer has proved its key. Raises AccessDenied, PeerTimeout, PeerLost."""
        self._link.wait_peer(timeout_s)

    def close(self) -> None:
        """Flush what was sent (at most two seconds) and close; safe to call twice."""
        self._link.close()

    def _put(self, header: bytes, payload: bytes) -> None:
        self._link.put((header, payload))

    def _get(self, timeout_s: float) -> Frame:
        got = self._link.get(timeout_s)
        if got is None:
            raise self._late(timeout_s)
        frame, sender = got
        if sender is not None and sender != self.peer:
            raise self._refused(f"{sender} sent it")
        return frame
