"""One connection shared by several batches in flight, so that one computes while another waits for
the network.

Every frame names its session and batch: that says whose it is. Whoever waits for a frame reads the
connection for all; what belongs to another lane is laid in that lane's inbox.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Sequence

from gpumpc.errors import GpumpcError, PeerTimeout
from gpumpc.wire.channel import FramedChannel
from gpumpc.wire.frames import Buffer, Frame, Kind

_Key = tuple[bytes, int]
_LOOK_S = 0.25
# In lock step a batch is one frame ahead, or as many as a step sends one way.
_MAX_WAITING = 16


class SubChannel(FramedChannel):
    """One batch's share of a connection; for one thread at a time.

    The first lane also carries the control records.
    """

    def __init__(self, multiplexer: Multiplexer, number: int = 0) -> None:
        self.multiplexer, self.number = multiplexer, number
        self.inbox: collections.deque[Frame] = collections.deque()
        connection = multiplexer.connection
        super().__init__(connection.party, connection.peer, connection.patience_s)

    def begin(self, session_id: bytes, batch_index: int) -> None:
        """As `FramedChannel`; frames of this batch that came before are this lane's now."""
        super().begin(session_id, batch_index)
        self.multiplexer.claim(self, (self._session, batch_index))

    def close(self) -> None:
        """Close the connection, for all lanes; safe to call twice."""
        self.multiplexer.connection.close()

    def _put(self, header: bytes, parts: Sequence[Buffer]) -> None:
        self.multiplexer.put(header, parts)

    def _start(self, header: bytes, parts: Sequence[Buffer]) -> Callable[[], None] | None:
        return self.multiplexer.start(header, parts)

    def _abort(self) -> None:
        self.multiplexer.connection._abort()

    def _get(self, timeout_s: float) -> Frame:
        return self.multiplexer.get(self, timeout_s)


class Multiplexer:
    """The lanes of one connection.

    Args:
        connection: used through its lanes only from now on.
    """

    def __init__(self, connection: FramedChannel) -> None:
        self.connection = connection
        self._sending = threading.Lock()
        self._changed = threading.Condition()
        self._someone_reads = False
        self._failed: GpumpcError | None = None
        self._last_words: Frame | None = None
        self._owners: dict[_Key, SubChannel] = {}
        # Frames of batches that the peer has begun and this end has not; their number is bounded by
        # the lanes beside.
        self._early: dict[_Key, collections.deque[Frame]] = {}
        self._n_beside = 0
        self.first = SubChannel(self)

    def open(self, n: int) -> list[SubChannel]:
        """`n` lanes beside the first, until `end`."""
        with self._changed:
            self._n_beside = n
        return [SubChannel(self, number) for number in range(n)]

    def end(self) -> None:
        """No lane but the first is used any longer."""
        with self._changed:
            self._n_beside = 0
            self._owners = {
                key: sub_channel
                for key, sub_channel in self._owners.items()
                if sub_channel is self.first
            }
            self._early.clear()

    def claim(self, sub_channel: SubChannel, key: _Key) -> None:
        """The batch of a lane from now on."""
        with self._changed:
            self._owners = {
                k: owner for k, owner in self._owners.items() if owner is not sub_channel
            }
            self._owners[key] = sub_channel
            sub_channel.inbox.extend(self._early.pop(key, ()))

    def put(self, header: bytes, parts: Sequence[Buffer]) -> None:
        """As `FramedChannel._put`."""
        with self._sending:
            self.connection._put(header, parts)

    def start(self, header: bytes, parts: Sequence[Buffer]) -> Callable[[], None] | None:
        """As `FramedChannel._start`."""
        with self._sending:
            return self.connection._start(header, parts)

    def get(self, sub_channel: SubChannel, timeout_s: float) -> Frame:
        """The next frame of a lane. Raises PeerLost, PeerTimeout, BadFrame."""
        deadline = time.monotonic() + timeout_s
        while True:
            with self._changed:
                frame = self._here(sub_channel)
                if frame is not None:
                    return frame
                if self._someone_reads:
                    self._changed.wait(max(0.0, deadline - time.monotonic()))
                    if (
                        self._someone_reads
                        and time.monotonic() > deadline
                        and not sub_channel.inbox
                    ):
                        raise self.connection._late(timeout_s)
                    continue
                self._someone_reads = True
            frame = self._read(sub_channel, deadline, timeout_s)
            if frame is not None:
                return frame

    def _here(self, sub_channel: SubChannel) -> Frame | None:
        if sub_channel.inbox:
            return sub_channel.inbox.popleft()
        if self._failed is not None:
            raise self._failed
        return self._last_words

    def _read(self, sub_channel: SubChannel, deadline: float, timeout_s: float) -> Frame | None:
        """Read one frame, and lay it where it belongs: the lane's own one is returned.

        None: look again.
        """
        try:
            left_s = max(0.0, deadline - time.monotonic())
            frame = self.connection._get(min(left_s, _LOOK_S) if self._n_beside else left_s)
        except PeerTimeout:
            if time.monotonic() >= deadline:
                raise self.connection._late(timeout_s) from None  # not of the last look alone
            return None
        except GpumpcError as error:
            self._failed = error
            raise
        else:
            return self._laid(sub_channel, frame)
        finally:
            with self._changed:
                self._someone_reads = False
                self._changed.notify_all()

    def _laid(self, sub_channel: SubChannel, frame: Frame) -> Frame | None:
        with self._changed:
            if frame.kind is Kind.ERROR:
                self._last_words = frame if self._n_beside else None  # for every lane
                return frame
            key = (frame.session, frame.batch_index)
            owner = self.first if frame.kind is Kind.CONTROL else self._owners.get(key)
            if owner is None and (key in self._early or len(self._early) < self._n_beside):
                self._wait(self._early.setdefault(key, collections.deque()), frame)
                return None
            if owner is None or owner is sub_channel:
                return frame  # nobody's: whoever reads refuses it
            self._wait(owner.inbox, frame)
            return None

    def _wait(self, inbox: collections.deque[Frame], frame: Frame) -> None:
        if len(inbox) >= _MAX_WAITING:
            raise self.first._refused(
                f"{_MAX_WAITING} frames of batch {frame.batch_index} wait already: it runs in lock "
                "step"
            )
        inbox.append(frame)
