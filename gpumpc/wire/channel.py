"""The channel between the two servers, and a pair of channels inside one process.

A channel moves payload bytes in lock step and counts them. `begin` names the (session, batch) that
the next openings belong to; every opening frame carries it with a running number, and a frame that
is not exactly the expected one is refused. Control messages (handshake, job orders) travel the same
way and are not counted: they carry no masked byte.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from gpumpc.cost import Cost
from gpumpc.errors import BadFrame, GpumpcError, PeerLost, PeerTimeout
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
from gpumpc.wire.transcript import Transcript
from gpumpc.wire.transport import Finish, Transport, frame_refused, peer_lost, peer_silent

T = TypeVar("T")

__all__ = ["Buffer", "Channel", "MemoryTransport", "memory_pair"]


class Channel:
    """One server's end: makes, checks and counts the frames that a transport moves.

    One thread at a time may use a channel.

    Args:
        party: this end's party number, 0 or 1.
        patience_s: seconds that a living peer may compute before `exchange` and `receive` raise
            PeerTimeout.

    Attributes:
        transcript: where openings are noted; None notes none.
    """

    def __init__(self, transport: Transport, party: int, patience_s: float) -> None:
        self.transport, self.party, self.patience_s = transport, party, patience_s
        self._controls_out = self._controls_in = 0
        self.transcript: Transcript | None = None
        self.begin(NO_SESSION, 0)

    def wait_peer(self, timeout_s: float) -> None:
        """Wait for the peer to connect. Raises AccessDenied, PeerTimeout, PeerLost, BadFrame."""
        self.transport.wait_peer(timeout_s)

    def begin(self, session_id: bytes, batch_index: int) -> None:
        """Count from zero for one batch (16-byte session id)."""
        self._session, self._batch = bytes(session_id), batch_index
        self._out = self._in = self._rounds = self._bytes_out = self._bytes_in = 0

    def exchange(self, payload: Sequence[Buffer]) -> memoryview:
        """Send one message and receive one, both at once: one round.

        Raises PeerLost, PeerTimeout, BadFrame, RemoteError.
        """
        finish = self._send_opening(payload, self.transport.start)
        try:
            received = self._receive_opening()
            if finish is not None:
                finish(self.patience_s)
        except BaseException:
            if finish is not None:
                # the caller may change its arrays now, so they must not be read any longer
                self.transport.abort()
            raise
        self._rounds += 1
        return received

    def send(self, payload: Sequence[Buffer]) -> None:
        """Send one message: a round, counted at both ends. Raises PeerLost."""
        self._send_opening(payload, self.transport.put)
        self._rounds += 1

    def receive(self) -> memoryview:
        """Receive one message: a round. Raises PeerLost, PeerTimeout, BadFrame, RemoteError."""
        received = self._receive_opening()
        self._rounds += 1
        return received

    def measured(self) -> Cost:
        """Rounds and payload bytes of both directions since `begin` (dealer_bytes = 0)."""
        by_party = self._bytes_out, self._bytes_in
        return Cost(self._rounds, *(by_party if self.party == 0 else by_party[::-1]))

    def send_control(self, record: bytes) -> None:
        """Send an uncounted control record. Raises PeerLost."""
        header = encode_header(Kind.CONTROL, len(record), sequence=self._controls_out)
        self.transport.put(header, [record])
        self._controls_out += 1

    def receive_control(self, timeout_s: float) -> bytes:
        """Wait `timeout_s` seconds for a control record; after PeerTimeout, call again to go on.

        Raises PeerTimeout, PeerLost, BadFrame, RemoteError.
        """
        frame = self._expect(Kind.CONTROL, timeout_s, NO_SESSION, 0, self._controls_in)
        self._controls_in += 1
        return bytes(frame.payload)

    def send_error(self, error: GpumpcError) -> None:
        """Send the error that stops this end; the peer raises RemoteError. Raises PeerLost."""
        record = encode_record(ErrorRecord.of(error))
        self.transport.put(encode_header(Kind.ERROR, len(record)), [record])

    def close(self) -> None:
        """Free the resources; safe to call twice."""
        self.transport.close()

    def _send_opening(
        self, payload: Sequence[Buffer], send: Callable[[bytes, Sequence[Buffer]], T]
    ) -> T:
        n_bytes = sum(map(len, payload))
        place = {"batch_index": self._batch, "sequence": self._out}
        header = encode_header(Kind.OPENING, n_bytes, session=self._session, **place)
        try:
            result = send(header, payload)
        except PeerLost:
            self._raise_error_of_peer()
            raise
        self._out += 1
        self._bytes_out += n_bytes
        if self.transcript is not None:
            # After `start`: the transport may send while this thread reads the payload.
            self.transcript.sent.note(payload)
        return result

    def _raise_error_of_peer(self) -> None:
        # A peer that stopped on an error may have sent it before its connection ended.
        with contextlib.suppress(PeerLost, PeerTimeout, BadFrame):
            self._checked(self.transport.get(0.0))

    def _receive_opening(self) -> memoryview:
        frame = self._expect(Kind.OPENING, self.patience_s, self._session, self._batch, self._in)
        self._in += 1
        self._bytes_in += len(frame.payload)
        if self.transcript is not None:
            self.transcript.received.note([frame.payload])
        return frame.payload

    def _checked(self, frame: Frame) -> Frame:
        """Raises RemoteError for an ERROR frame."""
        if frame.kind is Kind.ERROR:
            raise decode_record(frame.payload, ErrorRecord).as_error(self.transport.peer)
        return frame

    def _expect(
        self, kind: Kind, timeout_s: float, session: bytes, batch_index: int, sequence: int
    ) -> Frame:
        frame = self._checked(self.transport.get(timeout_s))
        if frame.kind is not kind:
            raise self._refused(f"a {kind.name} frame was due and a {frame.kind.name} frame came")
        if frame.session != session:
            raise self._refused("it belongs to another session")
        if frame.batch_index != batch_index:
            why = f"batch {batch_index} is running and the frame is of batch {frame.batch_index}"
            raise self._refused(why)
        if frame.sequence != sequence:
            repeated = frame.sequence < sequence
            cause = "it came twice or late" if repeated else "frames before it are missing"
            why = f"number {sequence} was due and number {frame.sequence} came: {cause}"
            raise self._refused(why)
        return frame

    def _refused(self, why: str) -> BadFrame:
        return frame_refused(self.transport.peer, why)


class MemoryTransport:
    """One end of a `memory_pair`: frames cross as copied bytes, through two queues."""

    def __init__(self, party: int) -> None:
        self.peer = f"server {1 - party}"
        self.inbox: queue.SimpleQueue[tuple[bytes, bytes] | None] = queue.SimpleQueue()
        self.other: MemoryTransport = self
        self.closed = threading.Event()

    def wait_peer(self, timeout_s: float) -> None:
        """Return at once: both ends are in this process."""

    def put(self, header: bytes, parts: Sequence[Buffer]) -> None:
        """As `Transport`."""
        if self.closed.is_set() or self.other.closed.is_set():
            raise self._lost()
        self.other.inbox.put((header, b"".join(parts)))  # a copy: the caller may reuse its arrays

    def start(self, header: bytes, parts: Sequence[Buffer]) -> Finish | None:
        """As `Transport`; the frame is sent on return."""
        self.put(header, parts)
        return None

    def get(self, timeout_s: float) -> Frame:
        """As `Transport`."""
        try:
            parts = self.inbox.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            raise peer_silent(self.peer, timeout_s) from None
        if parts is None:
            self.inbox.put(None)  # closed stays closed: the next call must see it too
            raise self._lost()
        return decode(parts)

    def close(self) -> None:
        """Close this end; the other still gets the frames sent before. Safe to call twice."""
        if not self.closed.is_set():
            self.closed.set()
            self.other.inbox.put(None)
            self.inbox.put(None)  # wakes a thread that waits at this end

    def abort(self) -> None:
        """As `close`."""
        self.close()

    def _lost(self) -> PeerLost:
        end = "this" if self.closed.is_set() else "the other"
        return peer_lost(self.peer, f"{end} end was closed")


def memory_pair(patience_s: float = 120.0) -> tuple[Channel, Channel]:
    """Two connected ends, S0's and S1's, for two threads of one process. Raises nothing."""
    ends = MemoryTransport(0), MemoryTransport(1)
    ends[0].other, ends[1].other = ends[1], ends[0]
    return Channel(ends[0], 0, patience_s), Channel(ends[1], 1, patience_s)
