"""Batches that share one connection: each gets its own frames, in any order of the ends."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from gpumpc.cost import Cost
from gpumpc.engine.pipeline import pipelined
from gpumpc.errors import BadFrame, GpumpcError, InputError, PeerLost, PeerTimeout, RemoteError
from gpumpc.wire.channel import memory_pair
from gpumpc.wire.multiplexer import Multiplexer, SubChannel

SESSION = bytes(range(16))
N_ROUNDS = 30


@pytest.fixture
def ends() -> tuple[Multiplexer, Multiplexer]:
    first, second = memory_pair(patience_s=5)
    return Multiplexer(first), Multiplexer(second)


def talk(sub_channel: SubChannel, batch_index: int, pause_s: float = 0.0) -> Cost:
    """A batch in which each end sends its number, and checks that of the other."""
    sub_channel.begin(SESSION, batch_index)
    for i in range(N_ROUNDS):
        received = sub_channel.exchange([f"{sub_channel.party} {batch_index} {i}".encode()])
        assert received == f"{1 - sub_channel.party} {batch_index} {i}".encode()
        time.sleep(pause_s)
    return sub_channel.measured()


def test_first_sub_channel_behaves_like_the_channel(ends: tuple[Multiplexer, Multiplexer]) -> None:
    with ThreadPoolExecutor(2) as threads:
        costs = list(threads.map(lambda end: talk(end.first, 4), ends))
    assert costs[0] == costs[1] and costs[0].rounds == N_ROUNDS
    ends[0].first.send_control(b"order")
    assert ends[1].first.receive_control(1) == b"order"
    ends[0].first.begin(SESSION, 5)
    ends[0].first.send([b"x"])
    with pytest.raises(BadFrame, match="batch 4 is running and the frame is of batch 5"):
        ends[1].first.receive()
    with pytest.raises(PeerTimeout):
        ends[1].first.receive_control(0.01)


@pytest.mark.parametrize("n", [2, 3])
def test_batches_run_concurrently_at_their_own_cost(
    ends: tuple[Multiplexer, Multiplexer], n: int
) -> None:
    """Twelve batches in n sub-channels, either end slower in turn; each has its own cost."""

    def serve(end: Multiplexer) -> list[tuple[int, Cost]]:
        def batch(batch_index: int) -> Callable[[SubChannel], tuple[int, Cost]]:
            pause_s = 0.001 * ((batch_index + end.first.party) % 2)
            return lambda sub_channel: (batch_index, talk(sub_channel, batch_index, pause_s))

        found = []
        for batch_index, cost in pipelined(end.first, n, map(batch, range(12))):
            found.append((batch_index, cost))
            # Control records between batches arrive while other batches run.
            end.first.send_control(b"%d" % batch_index)
            assert end.first.receive_control(5) == b"%d" % batch_index
        return found

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(serve, ends)
    assert [batch_index for batch_index, _ in first] == list(range(12)) and first == second
    assert {cost.rounds for _, cost in first} == {N_ROUNDS}
    with ThreadPoolExecutor(2) as threads:  # and the connection is as good as before
        assert len({*threads.map(lambda end: talk(end.first, 20), ends)}) == 1


def test_failed_batch_ends_the_others(ends: tuple[Multiplexer, Multiplexer]) -> None:
    begun = threading.Barrier(2, timeout=5)

    def fails(sub_channel: SubChannel) -> None:
        begun.wait()
        raise InputError("a bug", "in this test", "")

    def waits(sub_channel: SubChannel) -> None:
        sub_channel.begin(SESSION, 1)
        begun.wait()
        sub_channel.receive()

    def other(end: Multiplexer) -> None:
        list(pipelined(end.first, 2, [partial(talk, batch_index=i) for i in range(2)]))

    start = time.monotonic()
    with ThreadPoolExecutor(2) as threads:
        peer = threads.submit(other, ends[1])
        with pytest.raises(InputError):
            list(pipelined(ends[0].first, 2, [fails, waits]))
        with pytest.raises((RemoteError, PeerLost)):
            peer.result()
    assert time.monotonic() - start < 4


def test_pipeline_raises_the_cause_not_its_consequence(
    ends: tuple[Multiplexer, Multiplexer],
) -> None:
    """A later batch fails and closes the connection; the earlier one only sees it closed."""
    begun = threading.Barrier(2, timeout=5)

    def waits(sub_channel: SubChannel) -> None:
        sub_channel.begin(SESSION, 0)
        begun.wait()
        sub_channel.receive()

    def fails(sub_channel: SubChannel) -> None:
        begun.wait()
        sub_channel.close()
        raise BadFrame("what went wrong", hint="")

    with pytest.raises(BadFrame, match="what went wrong"):
        list(pipelined(ends[0].first, 2, [waits, fails]))


def test_process_exit_does_not_wait_for_the_pipeline() -> None:
    code = """
import threading, time
from gpumpc.engine.pipeline import pipelined
from gpumpc.wire.channel import memory_pair
from gpumpc.wire.multiplexer import Multiplexer
first, second = memory_pair(patience_s=60)
works = [lambda sub_channel: sub_channel.receive()]
run = lambda: list(pipelined(Multiplexer(first).first, 2, works))
threading.Thread(target=run, daemon=True).start()
time.sleep(0.2)
"""
    subprocess.run([sys.executable, "-c", code], timeout=20, check=True)


def test_timeout_names_the_waiting_time(ends: tuple[Multiplexer, Multiplexer]) -> None:
    sub_channel = ends[0].open(1)[0]
    with pytest.raises(PeerTimeout, match="sent nothing for 0.3 s"):
        sub_channel.transport.get(0.3)


def test_frames_of_too_many_early_batches_are_refused(
    ends: tuple[Multiplexer, Multiplexer],
) -> None:
    """No more batches than there are sub-channels may arrive early."""
    sub_channel, _ = ends[1].open(2)
    sub_channel.begin(SESSION, 0)
    for batch_index in (1, 2, 3):
        ends[0].first.begin(SESSION, batch_index)
        ends[0].first.send([b"x"])
    with pytest.raises(BadFrame, match="the frame is of batch 3"):
        sub_channel.receive()
    other = ends[1].open(2)[0]
    other.begin(SESSION, 2)
    assert other.receive() == b"x"


@pytest.mark.parametrize("begun", [True, False])
def test_peer_cannot_fill_the_inbox_of_a_sub_channel(
    ends: tuple[Multiplexer, Multiplexer], begun: bool
) -> None:
    reader, other = ends[1].open(2)
    reader.begin(SESSION, 0)
    if begun:
        other.begin(SESSION, 1)
    ends[0].first.begin(SESSION, 1)
    for _ in range(17):
        ends[0].first.send([b"x"])
    with pytest.raises(BadFrame, match="16 frames of batch 1 wait already"):
        reader.receive()


def test_lost_peer_ends_every_sub_channel(ends: tuple[Multiplexer, Multiplexer]) -> None:
    multiplexer = ends[0].open(3)

    def wait(sub_channel: SubChannel, batch_index: int) -> GpumpcError:
        sub_channel.begin(SESSION, batch_index)
        with pytest.raises(PeerLost) as caught:
            sub_channel.receive()
        return caught.value

    with ThreadPoolExecutor(3) as threads:
        waiting = [
            threads.submit(wait, sub_channel, batch_index)
            for batch_index, sub_channel in enumerate(multiplexer)
        ]
        time.sleep(0.1)
        ends[1].first.close()
        assert len([future.result(4) for future in waiting]) == 3
