"""All corrections leave the queue, in order, in frames that are neither large nor many."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from gpumpc.engine.correction_queue import FRAME_BYTES, CorrectionQueue

EXECUTOR = ThreadPoolExecutor(1)


def dealing(*sizes):
    def deal(send):
        for i, size in enumerate(sizes):
            send(memoryview(bytes([i]) * size))

    return deal


@pytest.mark.parametrize(
    "sizes", [(), (0,), (5,), (FRAME_BYTES,), (3 * FRAME_BYTES + 7, 1, 0), (FRAME_BYTES - 1,) * 5]
)
def test_corrections_arrive_whole_in_bounded_frames(sizes):
    frames = [frame for frame in CorrectionQueue().frames(EXECUTOR, dealing(*sizes), 5) if frame]
    assert b"".join(part for frame in frames for part in frame) == b"".join(
        bytes([i]) * n for i, n in enumerate(sizes)
    )
    assert all(0 < sum(map(len, frame)) < 2 * FRAME_BYTES for frame in frames)


def test_dealer_error_follows_the_dealt_corrections():
    def deal(send):
        send(memoryview(bytes(FRAME_BYTES)))
        raise ValueError("the dealer")

    frames = list[list[memoryview]]()
    with pytest.raises(ValueError, match="the dealer"):
        frames.extend(CorrectionQueue().frames(EXECUTOR, deal, 5))
    assert len(frames) == 1


def test_slow_step_sends_idle_frames():
    go = threading.Event()

    def deal(send):
        go.wait(5)
        send(memoryview(b"x"))

    frames = CorrectionQueue().frames(EXECUTOR, deal, 0.01)
    assert next(frames) == []
    go.set()
    assert b"".join(part for frame in frames for part in frame) == b"x"


def test_closing_the_frames_stops_the_dealer():
    dealt = []

    def deal(send):
        for i in range(10_000):
            send(memoryview(bytes(FRAME_BYTES)))
            dealt.append(i)

    frames = CorrectionQueue().frames(EXECUTOR, deal, 5)
    next(frames)
    frames.close()
    assert EXECUTOR.submit(lambda: "free").result(5) == "free"
    assert len(dealt) < 100
