"""The contract of a channel between the two servers, and a real in-memory pair.

A channel moves payload bytes in lock step and counts them. `begin` names the (session, batch) that
the next openings belong to; every opening frame carries it with a running number, and a frame that
is not exactly the expected one is refused. Control messages (handshake, job orders) travel the same
way and are not counted: they carry no masked byte.
"""

from __future__ import annotations

import abc
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

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

T = TypeVar("T")
InMemory = TypeVar("InMemory", bound="MemoryChannel")

__all__ = ["Buffer", "Channel", "FramedChannel", "MemoryChannel", "connect", "memory_pair"]


class Channel(Protocol):
    """One server's end."""

    party: int

    def begin(self, session_id: bytes, batch_index: int) -> None:
        """Start counting anew for one batch (16-byte session id)."""

    def exchange(self, payload: Sequence[Buffer]) -> memoryview:
        """Send one message and receive one: one round. Raises PeerLost, PeerTimeout, BadFrame."""

    def send(self, payload: Sequence[Buffer]) -> None:
        """Send one message: a round, counted at both ends."""

    def receive(self) -> memoryview:
        """Receive one message: a round, counted at both ends."""

    def measured(self) -> Cost:
        """Rounds and payload bytes of both directions since `begin` (dealer_bytes = 0)."""

    def send_control(self, record: bytes) -> None:
        """Send an uncounted control record."""

    def receive_control(self, timeout_s: float) -> bytes:
        """Wait for a control record. Raises PeerTimeout, PeerLost."""

    def close(self) -> None:
        """Give the resources back; safe to call twice."""


class FramedChannel(abc.ABC):
    """What every transport shares: frames are made, checked and counted here; a transport only
    moves them.

    One thread at a time may use a channel.

    Args:
        party: this end's party number, 0 or 1.
        peer: the other end's name, for messages.
        patience_s: seconds that a living peer may compute before `exchange` and `receive` raise
            PeerTimeout.
    """

    def __init__(self, party: int, peer: str, patience_s: float) -> None:
        self.party, self.peer, self.patience_s = party, peer, patience_s
        self._controls_out = self._controls_in = 0
        self.begin(NO_SESSION, 0)

    def begin(self, session_id: bytes, batch_index: int) -> None:
        """Start counting anew for one batch (16-byte session id)."""
        self._session, self._batch = bytes(session_id), batch_index
        self._out = self._in = self._rounds = self._bytes_out = self._bytes_in = 0

    def exchange(self, payload: Sequence[Buffer]) -> memoryview:
        """Send one message and receive one, both at once: one round.

        Raises PeerLost, PeerTimeout, BadFrame, RemoteError.
        """
        finish = self._send_opening(payload, self._start)
        try:
            received = self._receive_opening()
            if finish is not None:
                finish()
        except BaseException:
            if finish is not None:
                # the caller's arrays must not be read any longer: they may be changed now
                self._abort()
            raise
        self._rounds += 1
        return received

    def send(self, payload: Sequence[Buffer]) -> None:
        """Send one message: a round, counted at both ends. Raises PeerLost."""
        self._send_opening(payload, self._put)
        self._rounds += 1

    def receive(self) -> memoryview:
        """Receive one message: a round, counted at both ends.

        Raises PeerLost, PeerTimeout, BadFrame, RemoteError.
        """
        received = self._receive_opening()
        self._rounds += 1
        return received

    def measured(self) -> Cost:
        """Rounds and payload bytes of both directions since `begin` (dealer_bytes = 0)."""
        by_party = (
            (self._bytes_out, self._bytes_in)
            if self.party == 0
            else (self._bytes_in, self._bytes_out)
        )
        return Cost(self._rounds, *by_party)

    def send_control(self, record: bytes) -> None:
        """Send an uncounted control record. Raises PeerLost."""
        self._put(encode_header(Kind.CONTROL, len(record), sequence=self._controls_out), [record])
        self._controls_out += 1

    def receive_control(self, timeout_s: float) -> bytes:
        """Wait `timeout_s` seconds for a control record. Raises PeerTimeout, PeerLost, BadFrame,
        RemoteError.

        After PeerTimeout the channel is as before: call again to go on waiting.
        """
        frame = self._expect(Kind.CONTROL, timeout_s, NO_SESSION, 0, self._controls_in)
        self._controls_in += 1
        return bytes(frame.payload)

    def send_error(self, error: GpumpcError) -> None:
        """Tell the peer why this end stops: it raises RemoteError at its next receive.

        Raises PeerLost.
        """
        record = encode_record(ErrorRecord.of(error))
        self._put(encode_header(Kind.ERROR, len(record)), [record])

    @abc.abstractmethod
    def close(self) -> None:
        """Give the resources back; safe to call twice."""

    @abc.abstractmethod
    def _put(self, header: bytes, parts: Sequence[Buffer]) -> None:
        """Hand one frame, its payload in parts, to the transport; they may be changed on return.

        Raises PeerLost.
        """

    def _start(self, header: bytes, parts: Sequence[Buffer]) -> Callable[[], None] | None:
        """Like `_put`, but the parts must not be changed before a call of what is returned, if that
        is not None.

        Raises PeerLost; so does the call, or PeerTimeout.
        """
        self._put(header, parts)
        return None

    def _abort(self) -> None:
        """Close at once: what has begun with `_start` ends unsent. Raises nothing."""
        self.close()

    @abc.abstractmethod
    def _get(self, timeout_s: float) -> Frame:
        """The next frame of the peer. Raises PeerLost, PeerTimeout, BadFrame."""

    def _send_opening(
        self, payload: Sequence[Buffer], hand_over: Callable[[bytes, Sequence[Buffer]], T]
    ) -> T:
        n_bytes = sum(map(len, payload))
        place = {"batch_index": self._batch, "sequence": self._out}
        header = encode_header(Kind.OPENING, n_bytes, session=self._session, **place)
        try:
            handed = hand_over(header, payload)
        except PeerLost:
            self._raise_last_words()
            raise
        self._out += 1
        self._bytes_out += n_bytes
        return handed

    def _raise_last_words(self) -> None:
        # A peer that stopped on an error may have said so before it went away: that tells more than
        # PeerLost.
        with contextlib.suppress(PeerLost, PeerTimeout, BadFrame):
            frame = self._get(0.0)
            if frame.kind is Kind.ERROR:
                raise decode_record(frame.payload, ErrorRecord).as_error(self.peer)

    def _receive_opening(self) -> memoryview:
        frame = self._expect(Kind.OPENING, self.patience_s, self._session, self._batch, self._in)
        self._in += 1
        self._bytes_in += len(frame.payload)
        return frame.payload

    def _expect(
        self, kind: Kind, timeout_s: float, session: bytes, batch_index: int, sequence: int
    ) -> Frame:
        frame = self._get(timeout_s)
        if frame.kind is Kind.ERROR:
            raise decode_record(frame.payload, ErrorRecord).as_error(self.peer)
        if frame.kind is not kind:
            raise self._refused(f"a {kind.name} frame was due and a {frame.kind.name} frame came")
        if frame.session != session:
            raise self._refused("it belongs to another session")
        if frame.batch_index != batch_index:
            raise self._refused(
                f"batch {batch_index} is running and the frame is of batch {frame.batch_index}"
            )
        if frame.sequence != sequence:
            late = (
                "it came twice or late"
                if frame.sequence < sequence
                else "frames before it are missing"
            )
            raise self._refused(
                f"number {sequence} was due and number {frame.sequence} came: {late}"
            )
        return frame

    def _refused(self, why: str) -> BadFrame:
        return BadFrame(
            f"a frame of {self.peer} was refused", why, "stop this session and start a new one"
        )

    def _lost(self, why: str) -> PeerLost:
        return PeerLost(
            f"the connection to {self.peer} is gone",
            why,
            f"see the log of {self.peer}, start it again and retry",
        )

    def _late(self, timeout_s: float) -> PeerTimeout:
        return PeerTimeout(
            f"{self.peer} sent nothing for {timeout_s:g} s",
            "its process is up but busy, stopped or waiting itself",
            f"see the log of {self.peer}, or allow more time with timeout_s",
        )


class MemoryChannel(FramedChannel):
    """One end of `memory_pair`: frames cross as copied bytes, through two queues."""

    def __init__(self, party: int, patience_s: float) -> None:
        super().__init__(party, f"server {1 - party}", patience_s)
        self._inbox: queue.SimpleQueue[tuple[bytes, bytes] | None] = queue.SimpleQueue()
        self._other: MemoryChannel = self
        self._closed = threading.Event()

    def close(self) -> None:
        """Close this end; the other reads what was sent before and then raises PeerLost.

        Safe to call twice.
        """
        if not self._closed.is_set():
            self._closed.set()
            self._other._inbox.put(None)
            self._inbox.put(None)  # wakes a thread that waits at this end

    def _put(self, header: bytes, parts: Sequence[Buffer]) -> None:
        if self._closed.is_set():
            raise self._lost("this end was closed")
        if self._other._closed.is_set():
            raise self._lost("the other end was closed")
        self._other._inbox.put((header, b"".join(parts)))  # a copy: the caller may reuse its arrays

    def _get(self, timeout_s: float) -> Frame:
        deadline = time.monotonic() + timeout_s
        try:
            parts = self._inbox.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise self._late(timeout_s) from None
        if parts is None:
            self._inbox.put(None)  # closed stays closed: the next call must see it too
            raise self._lost(
                "this end was closed" if self._closed.is_set() else "the other end was closed"
            )
        return decode(parts)


def memory_pair(patience_s: float = 120.0) -> tuple[MemoryChannel, MemoryChannel]:
    """Two connected ends, S0's and S1's, for two threads of one process. Raises nothing."""
    return connect(MemoryChannel(0, patience_s), MemoryChannel(1, patience_s))


def connect(first: InMemory, second: InMemory) -> tuple[InMemory, InMemory]:
    """Make two ends a pair."""
    first._other, second._other = second, first
    return first, second
