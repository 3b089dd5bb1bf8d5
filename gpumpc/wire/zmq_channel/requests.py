"""Requests and replies between a server and its dealer, owners and users."""

from __future__ import annotations

import collections
import contextlib
import os
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

import zmq

from gpumpc.errors import BadFrame, ConfigError, GpumpcError, PeerTimeout
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
from gpumpc.wire.zmq_channel.endpoint import CurveKeys, Endpoint
from gpumpc.wire.zmq_channel.link import CONNECT_S, Link, sender_of


class Arrival(NamedTuple):
    """A request that reached a Listener.

    Attributes:
        peer: the name the allow-list has for the sender's key.
        routing_id: where a reply must go.
        frame: the request itself.
    """

    peer: str
    routing_id: bytes
    frame: Frame


class Listener:
    """A server's door for many known peers (ROUTER, CURVE server, allow-list).

    One thread calls `poll` in a loop. `reply` may be called from any thread: it queues the frame and wakes a waiting
    `poll` through a pipe, and the polling thread sends it (a zmq socket must stay in one thread).

    Args:
        endpoint: `tcp://host:port`; port 0 takes a free one, and the attribute `endpoint` tells it.
        allowed: public key (z85) -> name of every peer that may connect.

    Attributes:
        malformed: frames dropped because they could not be decoded; their senders got an ERROR frame.
        undelivered: replies whose receiver was gone or did not read.

    Raises ConfigError if the endpoint cannot be had.
    """

    def __init__(
        self,
        endpoint: str,
        keys: CurveKeys,
        allowed: Mapping[bytes, str],
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
    ) -> None:
        self._max_payload_bytes = max_payload_bytes
        self.malformed = self.undelivered = 0
        self._end = Endpoint(zmq.ROUTER, keys, max_payload_bytes)
        # Without this a ROUTER drops what it cannot deliver and nobody learns of it.
        self._end.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        try:
            self.endpoint = self._end.bind(endpoint, allowed)
        except ConfigError:
            self._end.close()
            raise
        self._outbox: collections.deque[tuple[bytes, bytes, bytes]] = collections.deque()
        self._woken, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._thread: int | None = None  # the one that polls
        self._closing = threading.Lock()
        self._closed = False

    def poll(self, timeout_s: float) -> Arrival | None:
        """The next request, or None after `timeout_s` seconds; a malformed one is answered, counted and dropped."""
        self._thread = threading.get_ident()
        deadline = time.monotonic() + timeout_s
        poller = zmq.Poller()
        poller.register(self._end.socket, zmq.POLLIN)
        poller.register(self._woken, zmq.POLLIN)
        while True:
            self._flush()
            arrival = self._receive()
            left_s = deadline - time.monotonic()
            if arrival is not None or left_s <= 0:
                return arrival
            poller.poll(int(left_s * 1000) + 1)

    def reply(
        self,
        routing_id: bytes,
        kind: Kind,
        payload: Buffer = b"",
        *,
        session: bytes = NO_SESSION,
        batch: int = 0,
        sequence: int = 0,
    ) -> None:
        """Send a frame to the sender of an earlier arrival; from any thread.

        It leaves at once if a `poll` is waiting or in the polling thread, else at the next `poll`. A receiver that
        has gone is no error here: it is counted in `undelivered`. Raises BadFrame if the frame cannot be made.
        """
        header = encode_header(kind, len(payload), session=session, batch=batch, sequence=sequence)
        self._outbox.append((routing_id, header, bytes(payload)))
        if threading.get_ident() == self._thread:
            self._flush()
        else:
            self._wake()

    def reply_error(self, routing_id: bytes, error: GpumpcError, *, sequence: int = 0) -> None:
        """Tell a peer why its request failed: its `receive` raises RemoteError with the same texts."""
        self.reply(routing_id, Kind.ERROR, encode_record(ErrorRecord.of(error)), sequence=sequence)

    def close(self) -> None:
        """Send what is queued and close; from the polling thread; safe to call twice."""
        if self._closed:
            return
        self._flush()
        with self._closing:
            self._closed = True
            os.close(self._waker)
            os.close(self._woken)
        self._end.close()

    def _wake(self) -> None:
        with self._closing:
            if self._closed:
                self.undelivered += 1
                return
            with contextlib.suppress(BlockingIOError):  # the pipe is full of wake-ups already
                os.write(self._waker, b"\0")

    def _flush(self) -> None:
        # The pipe before the queue: what is queued later brings a wake-up of its own.
        with contextlib.suppress(BlockingIOError):
            os.read(self._woken, 1 << 16)  # a pipe holds no more
        while self._outbox:
            try:
                self._end.socket.send_multipart(self._outbox.popleft(), zmq.NOBLOCK, copy=False)
            except zmq.ZMQError:
                self.undelivered += 1

    def _receive(self) -> Arrival | None:
        while True:
            try:
                routing_id, *parts = self._end.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return None
            try:
                frame = decode([part.buffer for part in parts], self._max_payload_bytes)
                return Arrival(sender_of(parts[0]) or "", routing_id.bytes, frame)
            except BadFrame as error:
                self.malformed += 1
                self.reply_error(routing_id.bytes, error)


class Requester:
    """A client's end to a Listener (DEALER); for one thread at a time.

    Args:
        endpoint: where the server listens.
        server_key: its public key (z85), pinned.
        peer: the server's name, for messages.

    Raises ConfigError if the endpoint or a key cannot be used.
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
        self._link = Link(peer, keys, max_payload_bytes)
        self._link.connect(endpoint, server_key)

    def wait_peer(self, timeout_s: float = CONNECT_S) -> None:
        """Wait until the server has proved its key and accepted ours. Raises AccessDenied, PeerTimeout, PeerLost."""
        self._link.wait_peer(timeout_s)

    def send(
        self, kind: Kind, payload: Buffer = b"", *, session: bytes = NO_SESSION, batch: int = 0, sequence: int = 0
    ) -> None:
        """Send one frame, connecting first (5 s) and waiting while the server is slow to take it.

        Raises AccessDenied, PeerTimeout, PeerLost, BadFrame.
        """
        header = encode_header(kind, len(payload), session=session, batch=batch, sequence=sequence)
        self._link.put((header, bytes(payload)))

    def receive(self, timeout_s: float, *, errors_of: int | None = None) -> Frame:
        """The next frame from the server, within `timeout_s` seconds.

        Args:
            errors_of: raise only errors that answer the request of this sequence number, or none in particular (0);
                late ones to earlier requests are dropped. Without it every error is raised.

        Raises RemoteError for an ERROR frame, AccessDenied, PeerTimeout (call again to go on waiting), PeerLost,
        BadFrame.
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
        self._link.close()

    def _late(self, timeout_s: float) -> PeerTimeout:
        why, cure = "it is up but busy", f"see the log of {self.peer}, or allow more time with timeout_s"
        return PeerTimeout(f"{self.peer} sent no reply for {timeout_s:g} s", why, cure)
