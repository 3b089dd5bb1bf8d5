"""Brings a batch's corrections, in frames, from the thread that deals to the one that sends.

Each frame leaves as soon as it is full, so that server 1 begins while the rest is dealt.
"""

import queue
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Executor

from gpumpc.offline.deal_batch import Send

# Corrections travel in frames of about this size: small, so that the first is there soon.
FRAME_BYTES = 1 << 20
# Dealing waits while so many frames, each less than twice that, wait for a slow server.
_WAITING_FRAMES = 16
_LOOK_S = 0.25

Frame = list[memoryview]


class GivenUp(Exception):
    """The reader of the frames has stopped."""


class CorrectionQueue:
    """The frames of one batch."""

    def __init__(self) -> None:
        self._frames: queue.Queue[Frame | None] = queue.Queue(_WAITING_FRAMES)
        self._pending: Frame = []
        self._given_up = threading.Event()

    def frames(
        self, executor: Executor, deal: Callable[[Send], None], idle_s: float
    ) -> Generator[Frame, None, None]:
        """Deal in the executor's thread; yield full frames, and empty ones each `idle_s` without.

        Raises what `deal` raises. A reader that stops before the end also ends the dealing.
        """
        dealing = executor.submit(self._deal, deal)
        try:
            while (frame := self._next(idle_s)) is not None:
                yield frame
            dealing.result()
        finally:
            self._given_up.set()

    def _next(self, idle_s: float) -> Frame | None:
        try:
            return self._frames.get(timeout=idle_s)
        except queue.Empty:
            return []

    def _deal(self, deal: Callable[[Send], None]) -> None:
        try:
            deal(self._take)
            if self._pending:
                self._put(self._pending)
        finally:
            self._put(None)

    def _take(self, piece: memoryview) -> None:
        # In pieces of a frame at most: the queue is bounded, however large a correction is.
        for start in range(0, len(piece), FRAME_BYTES):
            self._pending.append(piece[start : start + FRAME_BYTES])
            if sum(map(len, self._pending)) >= FRAME_BYTES:
                frame, self._pending = self._pending, []
                self._put(frame)

    def _put(self, frame: Frame | None) -> None:
        while not self._given_up.is_set():
            try:
                return self._frames.put(frame, timeout=_LOOK_S)
            except queue.Full:
                continue
        if frame is not None:
            raise GivenUp
