"""The servers' transport: CURVE authenticates the peer, a second TCP connection moves frames.

The first ends when the second is there: from then on nothing listens at the servers' port, and the
stream's own heartbeat tells whether the peer lives.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from gpumpc.errors import GpumpcError, PeerLost, PeerTimeout
from gpumpc.wire.frames import MAX_PAYLOAD_BYTES, Buffer, Frame, Kind, encode_header
from gpumpc.wire.stream import Exchange, Stream, StreamKeys, StreamListener, dial
from gpumpc.wire.transport import Finish, frame_refused, peer_lost, peer_silent
from gpumpc.wire.zmq_channel.endpoint import CurveKeys, with_port
from gpumpc.wire.zmq_channel.link import CONNECT_S, Link
from gpumpc.wire.zmq_channel.streams import STREAM_S

# CURVE carries one hello each way, so nobody may make this end hold more for a frame of it.
_HELLO_BYTES = 4096
_STEP_S = 0.05


class PeerSocket:
    """One server's end of the connection between the two: made by `bind` or `connect`.

    After `wait_peer` one thread at a time may send, and one receive; any may close. After PeerLost
    it stays unusable: close it, make another.
    """

    def __init__(
        self,
        link: Link,
        max_payload_bytes: int,
        stream_listener: StreamListener | None = None,
        stream_endpoint: str | None = None,
    ) -> None:
        self.peer = link.peer
        self._link, self._max_payload_bytes = link, max_payload_bytes
        self._stream_listener, self._stream_endpoint = stream_listener, stream_endpoint
        self._stream: Stream | None = None
        self._failed: PeerLost | None = None
        # `close` and `abort` return when all is closed, also if another thread has begun it.
        self._closing = threading.Lock()

    @classmethod
    def bind(
        cls,
        endpoint: str,
        keys: CurveKeys,
        peer_key: bytes,
        *,
        peer: str = "server1",
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
        stream_endpoint: str | None = None,
    ) -> PeerSocket:
        """Listen at `endpoint` (`tcp://host:port`, port 0: a free one) for `peer_key` (z85) alone.

        Args:
            stream_endpoint: where to listen for the stream; else at the same address, at a free
                port, which the peer learns.

        Returns at once; the attribute `endpoint` then has the real port. Raises ConfigError if an
        endpoint cannot be used, OutOfResources.
        """
        link = Link(peer, keys, _HELLO_BYTES)
        link.bind(endpoint, peer_key)
        try:
            place = stream_endpoint or with_port(link.endpoint, 0)
            listener = StreamListener(place, max_payload_bytes)
        except GpumpcError:
            link.close()
            raise
        return cls(link, max_payload_bytes, listener)

    @classmethod
    def connect(
        cls,
        endpoint: str,
        keys: CurveKeys,
        peer_key: bytes,
        *,
        peer: str = "server0",
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
        stream_endpoint: str | None = None,
    ) -> PeerSocket:
        """Connect to the server whose public key is `peer_key` (z85).

        Args:
            stream_endpoint: where to reach its stream; else at the host of `endpoint`, at the port
                that the server announces.

        Returns at once. Raises ConfigError, OutOfResources.
        """
        link = Link(peer, keys, _HELLO_BYTES)
        link.connect(endpoint, peer_key)
        return cls(link, max_payload_bytes, stream_endpoint=stream_endpoint)

    @property
    def endpoint(self) -> str:
        """Where this end listens or connects to, with the real port."""
        return self._link.endpoint

    @property
    def stream_endpoint(self) -> str:
        """Where the listening end listens for the stream; empty at the other."""
        return with_port(self.endpoint, self._stream_listener.port) if self._stream_listener else ""

    def wait_peer(self, timeout_s: float = CONNECT_S) -> None:
        """Wait until the peer has proved its key, and then up to 5 seconds for its stream.

        Raises AccessDenied, PeerTimeout, PeerLost, BadFrame. Call it again while the peer is not
        connected.
        """
        self._connected(timeout_s)

    def close(self) -> None:
        """Flush what was sent (at most two seconds) and close; safe to call twice."""
        with self._closing:
            if self._stream is not None:
                self._stream.close()
            self._close_rest()

    def abort(self) -> None:
        """Close at once; the frames that wait are not sent."""
        with self._closing:
            if self._stream is not None:
                self._stream.abort()
            self._close_rest()

    def _close_rest(self) -> None:
        self._failed = self._failed or peer_lost(self.peer, "this end was closed")
        if self._stream_listener is not None:
            self._stream_listener.close()
        self._link.close()

    def put(self, header: bytes, parts: Sequence[Buffer]) -> None:
        """As `Transport`."""
        self._connected(CONNECT_S).put(header, parts)

    def start(self, header: bytes, parts: Sequence[Buffer]) -> Finish | None:
        """As `Transport`."""
        sending = self._connected(CONNECT_S).start(header, parts)
        return None if sending is None else sending.finish

    def get(self, timeout_s: float) -> Frame:
        """As `Transport`."""
        frame = self._connected(timeout_s).get(timeout_s)
        if frame is None:
            raise peer_silent(self.peer, timeout_s)
        return frame

    # the stream

    def _connected(self, timeout_s: float) -> Stream:
        if self._failed is not None:
            raise self._failed
        if self._stream is None:
            self._link.wait_peer(timeout_s)
            try:
                stream = self._met()
            except Exception:
                # It cannot be repeated: keys are agreed once for a connection.
                self._failed = peer_lost(self.peer, "its stream did not come about")
                raise
            self._link.close()
            stream.keep_alive()
            self._stream = stream
        return self._stream

    def _met(self) -> Stream:
        deadline = time.monotonic() + STREAM_S
        exchange = self._link.exchange(self._stream_listener.port if self._stream_listener else 0)
        self._link.put([encode_header(Kind.STREAM, len(exchange.hello)), exchange.hello])
        keys, port = self._agreed(exchange)
        left_s = max(0.1, deadline - time.monotonic())
        if self._stream_listener is not None:
            return self._accepted(self._stream_listener, keys, left_s)
        endpoint = self._stream_endpoint or with_port(self._link.endpoint, port)
        return dial(endpoint, keys, self.peer, left_s, self._max_payload_bytes)

    def _agreed(self, exchange: Exchange) -> tuple[StreamKeys, int]:
        got = self._link.get(STREAM_S)
        if got is None:
            raise peer_silent(self.peer, STREAM_S)
        frame, sender = got
        if sender is not None and sender != self.peer:
            raise frame_refused(self.peer, f"{sender} sent it")
        if frame.kind is not Kind.STREAM:
            why = f"a STREAM frame was due and a {frame.kind.name} frame came"
            raise frame_refused(self.peer, why)
        return exchange.agree(frame.payload)

    def _accepted(self, listener: StreamListener, keys: StreamKeys, timeout_s: float) -> Stream:
        deadline = time.monotonic() + timeout_s
        listener.expect(keys, self.peer, timeout_s)
        while time.monotonic() < deadline:
            for _, stream in listener.poll():
                listener.close()
                return stream
            self._link.check()
            listener.wait(_STEP_S)
        raise PeerTimeout(
            f"no stream of {self.peer} at port {listener.port} within {STREAM_S:g} s",
            f"{self.peer} is there, but its second connection does not arrive",
            f"let port {listener.port} through, or name another with the key `peer_bulk` at both "
            "servers",
        )
