"""One connection shared by several batches in flight: one computes while another waits.

Every frame names its session and batch, and so its sub-channel. A sub-channel that waits for a
frame reads the connection for all: a frame of another one goes to that one's inbox.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Sequence

from gpumpc.errors import GpumpcError, PeerTimeout
from gpumpc.wire.channel import Channel
from gpumpc.wire.frames import Buffer, Frame, Kind
from gpumpc.wire.transcript import Place, Transcript
from gpumpc.wire.transport import Finish, frame_refused, peer_silent

_LOOK_S = 0.25
# In lock step a batch is one frame ahead, or as many as a step sends one way.
_MAX_WAITING = 16


class SubChannel(Channel):
    """One batch's channel over a shared connection; for one thread at a time.

    The first sub-channel also carries the control records.
    """

    transport: SubTransport

    def __init__(self, multiplexer: Multiplexer, number: int = 0) -> None:
        self.multiplexer, self.number = multiplexer, number
        connection = multiplexer.connection
        super().__init__(SubTransport(multiplexer), connection.party, connection.patience_s)

    def begin(self, session_id: bytes, batch_index: int) -> None:
        """As `Channel`; this sub-channel also gets frames of the batch that came earlier."""
        super().begin(session_id, batch_index)
        self.transcript = self.multiplexer.claim(self.transport, (bytes(session_id), batch_index))


class SubTransport:
    """The frames of one sub-channel; closing it closes the connection for all."""

    def __init__(self, multiplexer: Multiplexer) -> None:
        self._multiplexer, self._connection = multiplexer, multiplexer.connection.transport
        self.peer = self._connection.peer
        self.inbox: collections.deque[Frame] = collections.deque()
        self.wait_peer = self._connection.wait_peer
        self.put, self.start = multiplexer.put, multiplexer.start
        self.close, self.abort = self._connection.close, self._connection.abort

    def get(self, timeout_s: float) -> Frame:
        """The next frame of this sub-channel. Raises PeerLost, PeerTimeout, BadFrame."""
        return self._multiplexer.get(self, timeout_s)


class Multiplexer:
    """The sub-channels of one connection, with the transcripts of their batches.

    Args:
        connection: used through its sub-channels only from now on.
    """

    def __init__(self, connection: Channel) -> None:
        self.connection = connection
        self._transport = connection.transport
        self._sending = threading.Lock()
        self._changed = threading.Condition()
        self._someone_reads = False
        self._failed: GpumpcError | None = None
        self._error_frame: Frame | None = None
        self._owners: dict[Place, SubTransport] = {}
        self._transcripts: dict[Place, Transcript] = {}
        # Frames of batches that the peer has begun and this end has not: one a sub-channel.
        self._early: dict[Place, collections.deque[Frame]] = {}
        self._n_open = 0
        self.first = SubChannel(self)

    def open(self, n: int) -> list[SubChannel]:
        """`n` sub-channels in addition to the first, valid until `end`."""
        with self._changed:
            self._n_open = n
        return [SubChannel(self, number) for number in range(n)]

    def end(self) -> None:
        """End the use of all sub-channels but the first."""
        with self._changed:
            self._n_open = 0
            first = self.first.transport
            self._owners = {key: owner for key, owner in self._owners.items() if owner is first}
            self._early.clear()

    def claim(self, owner: SubTransport, key: Place) -> Transcript:
        """Give a sub-channel the frames of a batch, and of no other, from now on; where they are
        noted.
        """
        with self._changed:
            self._owners = {k: o for k, o in self._owners.items() if o is not owner}
            self._owners[key] = owner
            owner.inbox.extend(self._early.pop(key, ()))
            return self._transcripts.setdefault(key, Transcript())

    def take_transcripts(self) -> dict[Place, Transcript]:
        """The transcripts of all batches that had messages since the last call, in the order of
        their places, which is the same at both ends.
        """
        with self._changed:
            taken, self._transcripts = self._transcripts, {}
        used = (
            place for place in taken if taken[place].sent.digests or taken[place].received.digests
        )
        return {place: taken[place] for place in sorted(used)}

    def put(self, header: bytes, parts: Sequence[Buffer]) -> None:
        """As `Transport`."""
        with self._sending:
            self._transport.put(header, parts)

    def start(self, header: bytes, parts: Sequence[Buffer]) -> Finish | None:
        """As `Transport`."""
        with self._sending:
            return self._transport.start(header, parts)

    def get(self, reader: SubTransport, timeout_s: float) -> Frame:
        """The next frame of a sub-channel. Raises PeerLost, PeerTimeout, BadFrame."""
        deadline = time.monotonic() + timeout_s
        while True:
            with self._changed:
                frame = self._received(reader)
                if frame is not None:
                    return frame
                if self._someone_reads:
                    self._changed.wait(max(0.0, deadline - time.monotonic()))
                    if self._someone_reads and time.monotonic() > deadline and not reader.inbox:
                        raise peer_silent(reader.peer, timeout_s)
                    continue
                self._someone_reads = True
            frame = self._read(reader, deadline, timeout_s)
            if frame is not None:
                return frame

    def _received(self, reader: SubTransport) -> Frame | None:
        if reader.inbox:
            return reader.inbox.popleft()
        if self._failed is not None:
            raise self._failed
        return self._error_frame

    def _read(self, reader: SubTransport, deadline: float, timeout_s: float) -> Frame | None:
        """Read one frame and deliver it: returned if it is for `reader`, else None."""
        try:
            left_s = max(0.0, deadline - time.monotonic())
            frame = self._transport.get(min(left_s, _LOOK_S) if self._n_open else left_s)
        except PeerTimeout:
            if time.monotonic() >= deadline:
                # with the time of the whole wait, not of the last look
                raise peer_silent(reader.peer, timeout_s) from None
            return None
        except GpumpcError as error:
            self._failed = error
            raise
        else:
            return self._delivered(reader, frame)
        finally:
            with self._changed:
                self._someone_reads = False
                self._changed.notify_all()

    def _delivered(self, reader: SubTransport, frame: Frame) -> Frame | None:
        with self._changed:
            if frame.kind is Kind.ERROR:
                self._error_frame = frame if self._n_open else None  # for every sub-channel
                return frame
            key = (frame.session, frame.batch_index)
            owner = self.first.transport if frame.kind is Kind.CONTROL else self._owners.get(key)
            if owner is not None:
                inbox = owner.inbox
            elif key in self._early or len(self._early) < self._n_open:
                inbox = self._early.setdefault(key, collections.deque())
            else:
                return frame  # of no sub-channel: its reader refuses it
            if owner is reader:
                return frame
            if len(inbox) >= _MAX_WAITING:
                why = f"{_MAX_WAITING} frames of batch {frame.batch_index} wait already: it runs in"
                raise frame_refused(reader.peer, f"{why} lock step")
            inbox.append(frame)
            return None
