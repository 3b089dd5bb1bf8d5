"""Requests and replies between a server and its dealer, owners and users."""

import collections
import contextlib
import os
import threading
import time
from collections.abc import Collection, Mapping

import zmq

from gpumpc.errors import AccessDenied, BadFrame, GpumpcError, OutOfResources, PeerTimeout
from gpumpc.wire.frames import (
    MAX_PAYLOAD_BYTES,
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
from gpumpc.wire.resources import SeldomWarning, passing_lack
from gpumpc.wire.stream import Stream, StreamListener, dial
from gpumpc.wire.zmq_channel.endpoint import CurveKeys, Endpoint, in_parts, joined, with_port
from gpumpc.wire.zmq_channel.link import CONNECT_S, Link, sender_of
from gpumpc.wire.zmq_channel.streams import STREAM_S, Arrival, Streams

# How long nothing is received after a try that failed for want of resources.
_HOLD_OFF_S = 0.1
# How often a waiting `poll` asks for its sockets anew: one may be left alone for a moment.
_LOOK_S = 0.25


def _no_note(event: int, value: int) -> None:
    """A listener learns from requests who is there."""


class Listener:
    """A server's socket for many known peers (ROUTER, CURVE server, allow-list).

    One thread calls `poll` in a loop. `reply` may be called from any thread: it queues the frame
    and wakes a waiting `poll` through a pipe, and the polling thread sends it (a zmq socket must
    stay in one thread).

    Args:
        endpoint: `tcp://host:port`; port 0 takes a free one, stored in the attribute `endpoint`.
        allowed: public key (z85) -> name of every peer that may connect.
        stream_peers: names of the peers that may send by a stream; if empty, it has no streams.
        stream_endpoint: where to listen for streams; else at the same address, at a free port, of
            which the peers are informed.

    Attributes:
        stream_endpoint: where it listens for streams; empty if it has none.
        malformed: frames dropped because they could not be decoded; their senders got an ERROR
            frame.
        undelivered: replies whose receiver was gone or did not read.

    Raises ConfigError if an endpoint cannot be used, OutOfResources.
    """

    def __init__(
        self,
        endpoint: str,
        keys: CurveKeys,
        allowed: Mapping[bytes, str],
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
        *,
        stream_peers: Collection[str] = (),
        stream_endpoint: str | None = None,
    ) -> None:
        self._max_payload_bytes = max_payload_bytes
        self.malformed = self.undelivered = 0
        self._end = Endpoint(zmq.ROUTER, keys, max_payload_bytes, _no_note)
        # Without this a ROUTER silently drops messages that it cannot deliver.
        self._end.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._streams: Streams | None = None
        self.stream_endpoint = ""
        try:
            self.endpoint = self._end.bind(endpoint, allowed)
            with passing_lack("no pipe can be made now"):
                self._woken, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            if stream_peers:
                place = stream_endpoint or with_port(self.endpoint, 0)
                listener = StreamListener(place, max_payload_bytes)
                self._streams = Streams(listener, keys, allowed, stream_peers)
                self.stream_endpoint = with_port(self.endpoint, listener.port)
        except GpumpcError:
            self._end.close()
            raise
        self._send_buffer: collections.deque[tuple[bytes, bytes, bytes]] = collections.deque()
        self._warning = SeldomWarning()
        self._thread: int | None = None  # the one that polls
        self._streams_first = False
        self._closing = threading.Lock()
        self._closed = False

    def poll(self, timeout_s: float) -> Arrival | None:
        """The next request, or None after `timeout_s` seconds; answers and drops malformed ones."""
        self._thread = threading.get_ident()
        deadline = time.monotonic() + timeout_s
        poller = zmq.Poller()
        poller.register(self._end.socket, zmq.POLLIN)
        poller.register(self._woken, zmq.POLLIN)
        while True:
            arrival = None
            try:
                with passing_lack("a request cannot be received now"):
                    self._flush()
                    arrival = self._receive()
            except OutOfResources as error:
                self._warning.warn(error)
                time.sleep(_HOLD_OFF_S)
            left_s = deadline - time.monotonic()
            if arrival is not None or left_s <= 0:
                return arrival
            filenos = self._streams.filenos() if self._streams else []
            for fileno in filenos:
                poller.register(fileno, zmq.POLLIN)
            poller.poll(int(min(left_s, _LOOK_S) * 1000) + 1)
            for fileno in filenos:
                poller.unregister(fileno)

    def reply(
        self,
        routing_id: bytes,
        kind: Kind,
        payload: Buffer = b"",
        *,
        session: bytes = NO_SESSION,
        batch_index: int = 0,
        sequence: int = 0,
    ) -> None:
        """Send a frame to the sender of an earlier arrival; from any thread.

        It is sent at once if a `poll` is waiting or in the polling thread, else at the next `poll`.
        If the receiver has gone, it counts in `undelivered`. Raises BadFrame if the frame cannot be
        made.
        """
        place = {"batch_index": batch_index, "sequence": sequence}
        header = encode_header(kind, len(payload), session=session, **place)
        self._send_buffer.append((routing_id, header, bytes(payload)))
        if threading.get_ident() == self._thread:
            self._flush()
        else:
            self._wake()

    def reply_error(self, routing_id: bytes, error: GpumpcError, *, sequence: int = 0) -> None:
        """Send a peer the error of its request: its `receive` raises it as RemoteError."""
        self.reply(routing_id, Kind.ERROR, encode_record(ErrorRecord.of(error)), sequence=sequence)

    def lost_streams(self) -> list[bytes]:
        """Routing ids of the peers whose streams have ended since the last call."""
        return self._streams.lost() if self._streams else []

    def close(self) -> None:
        """Send the queued frames and close; from the polling thread; safe to call twice."""
        if self._closed:
            return
        self._flush()
        with self._closing:
            self._closed = True
            os.close(self._waker)
            os.close(self._woken)
        if self._streams is not None:
            self._streams.close()
        self._end.close()

    def _wake(self) -> None:
        with self._closing:
            if self._closed:
                self.undelivered += 1
                return
            with contextlib.suppress(BlockingIOError):  # the pipe is full of wake-ups already
                os.write(self._waker, b"\0")

    def _flush(self) -> None:
        # The pipe before the queue: a frame that is queued later has a wake-up of its own.
        with contextlib.suppress(BlockingIOError):
            os.read(self._woken, 1 << 16)  # a pipe holds no more
        while self._send_buffer:
            try:
                routing_id, header, payload = self._send_buffer.popleft()
                message: list[Buffer] = [routing_id, header, *in_parts(payload)]
                self._end.socket.send_multipart(message, zmq.NOBLOCK, copy=False)
            except zmq.ZMQError:
                self.undelivered += 1

    def _receive(self) -> Arrival | None:
        # In turns, so that clients that send without a pause cannot block the dealer, nor it them.
        self._streams_first = not self._streams_first
        streams = self._streams if self._streams_first else None
        if streams and (arrival := streams.receive(self._refuse)):
            return arrival
        while True:
            try:
                routing_id, *parts = self._end.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return self._streams.receive(self._refuse) if self._streams else None
            try:
                frame = decode(joined(parts), self._max_payload_bytes)
                arrival = Arrival(sender_of(parts[0]) or "", routing_id.bytes, frame)
                if frame.kind is not Kind.STREAM:
                    return arrival
                self._agree(arrival)
            except BadFrame as error:
                self._refuse(routing_id.bytes, error)

    def _refuse(self, routing_id: bytes, error: BadFrame) -> None:
        self.malformed += 1
        self.reply_error(routing_id, error)

    def _agree(self, arrival: Arrival) -> None:
        try:
            if self._streams is None:
                what, why = "no stream is open to this party", "this server has none"
                raise AccessDenied(what, why, "send by requests")
            hello = self._streams.agree(arrival)
        except AccessDenied as error:
            self.reply_error(arrival.routing_id, error)
        else:
            self.reply(arrival.routing_id, Kind.STREAM, hello)


class Requester:
    """A client's end to a Listener (DEALER); for one thread at a time.

    Args:
        endpoint: where the server listens.
        server_key: its public key (z85), pinned.
        peer: the server's name, for messages.

    Raises ConfigError if the endpoint or a key cannot be used, OutOfResources.
    """

    def __init__(
        self,
        endpoint: str,
        keys: CurveKeys,
        server_key: bytes,
        *,
        peer: str = "server",
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
    ) -> None:
        self.peer = peer
        self._max_payload_bytes = max_payload_bytes
        self._link = Link(peer, keys, max_payload_bytes)
        self._link.connect(endpoint, server_key)
        self._stream: Stream | None = None

    def wait_peer(self, timeout_s: float = CONNECT_S) -> None:
        """Wait until both have proved their keys. Raises AccessDenied, PeerTimeout, PeerLost."""
        self._link.wait_peer(timeout_s)

    def open_stream(self, endpoint: str | None = None) -> None:
        """Send every later frame by a stream; answers still arrive over CURVE.

        Only right after `wait_peer`. Raises AccessDenied, PeerTimeout, PeerLost, BadFrame,
        RemoteError if the server has no stream for this party.

        Args:
            endpoint: where to reach it; else at the server's host and the port it announces.
        """
        self._link.wait_peer(CONNECT_S)
        exchange = self._link.exchange()
        self._link.put((encode_header(Kind.STREAM, len(exchange.hello)), exchange.hello))
        frame = self.receive(STREAM_S)
        if frame.kind is not Kind.STREAM:
            what = f"{self.peer} answered with {frame.kind.name} where STREAM was due"
            raise BadFrame(what, hint="use the same version")
        keys, port = exchange.agree(frame.payload)
        endpoint = endpoint or with_port(self._link.endpoint, port)
        self._stream = dial(endpoint, keys, self.peer, STREAM_S, self._max_payload_bytes)
        self._stream.keep_alive(reads=True)

    def send(
        self,
        kind: Kind,
        *payload: Buffer,
        session: bytes = NO_SESSION,
        batch_index: int = 0,
        sequence: int = 0,
    ) -> None:
        """Send one frame, its payload in any number of parts, connecting first (5 s).

        The parts may be changed on return; it waits only for a server that is far behind. Raises
        AccessDenied, PeerTimeout, PeerLost, BadFrame.
        """
        n_bytes, place = sum(map(len, payload)), {"batch_index": batch_index, "sequence": sequence}
        header = encode_header(kind, n_bytes, session=session, **place)
        if self._stream is None:
            whole = bytes(payload[0]) if len(payload) == 1 else b"".join(payload)
            self._link.put([header, *in_parts(whole)])
        else:
            self._link.check()
            self._stream.put(header, payload)

    def receive(self, timeout_s: float, *, errors_of: int | None = None) -> Frame:
        """The next frame from the server, within `timeout_s` seconds.

        Args:
            errors_of: raise only errors that answer the request of this sequence number, or none in
                particular (0); late ones to earlier requests are dropped. Without it every error is
                raised.

        Raises RemoteError for an ERROR frame, AccessDenied, PeerTimeout (call again to go on
        waiting), PeerLost, BadFrame.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            got = self._link.get(max(0.0, deadline - time.monotonic()))
            if got is None:
                raise self._late(timeout_s) if self._link.is_ready else self._link.absent(timeout_s)
            frame, _ = got
            if frame.kind is not Kind.ERROR:
                return frame
            if errors_of is None or frame.sequence in (0, errors_of):
                raise decode_record(frame.payload, ErrorRecord).as_error(self.peer)

    def close(self) -> None:
        """Flush what was sent (at most two seconds) and close; safe to call twice."""
        if self._stream is not None:
            self._stream.close()
        self._link.close()

    def _late(self, timeout_s: float) -> PeerTimeout:
        hint = f"see the log of {self.peer}, or allow more time with timeout_s"
        what = f"{self.peer} sent no reply for {timeout_s:g} s"
        return PeerTimeout(what, "it is up but busy", hint)
