"""Channels, in memory and over sockets: the same counts, checks and errors."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from gpumpc.cost import Cost
from gpumpc.errors import BadFrame, BatchAlreadyUsed, PeerLost, PeerTimeout, RemoteError
from gpumpc.wire.channel import Channel, memory_pair
from gpumpc.wire.frames import Kind, encode_header
from tests.wire.ends import SESSION, met

Pair = tuple[Channel, Channel]


@pytest.fixture(params=["memory", "sockets"])
def pair(request: pytest.FixtureRequest, stack: ExitStack) -> Pair:
    ends = memory_pair(patience_s=5) if request.param == "memory" else met(stack)
    for end in ends:
        end.begin(SESSION, 4)
    assert [end.party for end in ends] == [0, 1]
    return ends


@pytest.mark.parametrize("large", [b"12", os.urandom(3 << 20)])
def test_both_ends_count_the_same_rounds_and_bytes(pair: Pair, large: bytes) -> None:
    s0, s1 = pair
    with ThreadPoolExecutor() as pool:
        other = pool.submit(s1.exchange, [b"abc"])
        assert s0.exchange([large, b"", memoryview(b"345")]) == b"abc"
        assert other.result() == large + b"345"
    s0.send([b"only S0"])
    assert s1.receive() == b"only S0"
    s0.send_control(b"not counted")
    assert s1.receive_control(1) == b"not counted"
    assert s0.measured() == s1.measured() == Cost(2, s0_bytes=len(large) + 10, s1_bytes=3)


def test_begin_resets_the_counts(pair: Pair) -> None:
    s0, s1 = pair
    s0.send([b"x"])
    s1.receive()
    for end in pair:
        end.begin(SESSION, 5)
    assert s0.measured() == s1.measured() == Cost()
    s0.send([b"y"])
    assert s1.receive() == b"y"


def test_ends_share_no_memory(pair: Pair) -> None:
    s0, s1 = pair
    buffer = bytearray(b"a" * (1 << 20))
    s0.send([buffer])
    buffer[:] = b"b" * len(buffer)
    received = s1.receive()
    assert received == b"a" * (1 << 20) and received.readonly


@pytest.mark.parametrize(
    ("session", "batch_index", "sequence", "kind", "cause"),
    [
        (bytes(16), 4, 0, Kind.OPENING, "another session"),
        (SESSION, 3, 0, Kind.OPENING, "batch 4 is running and the frame is of batch 3"),
        (SESSION, 4, 1, Kind.OPENING, "frames before it are missing"),
        (SESSION, 4, 0, Kind.CORRECTION, "a CORRECTION frame came"),
        (bytes(16), 0, 0, Kind.CONTROL, "a CONTROL frame came"),
    ],
)
def test_unexpected_frame_is_refused(
    pair: Pair, session: bytes, batch_index: int, sequence: int, kind: Kind, cause: str
) -> None:
    s0, s1 = pair
    s0.transport.put(
        encode_header(kind, 1, session=session, batch_index=batch_index, sequence=sequence), [b"x"]
    )
    with pytest.raises(BadFrame, match=cause):
        s1.receive()
    assert s1.measured() == Cost()


def test_a_duplicate_is_refused(pair: Pair) -> None:
    s0, s1 = pair
    for _ in range(2):
        s0.transport.put(encode_header(Kind.OPENING, 1, session=SESSION, batch_index=4), [b"x"])
    assert s1.receive() == b"x"
    with pytest.raises(BadFrame, match="twice or late"):
        s1.receive()


def test_late_frame_of_the_previous_batch_is_refused(pair: Pair) -> None:
    s0, s1 = pair
    s0.send([b"x"])
    s1.begin(SESSION, 5)
    with pytest.raises(BadFrame, match="batch 5 is running"):
        s1.receive()


def test_a_replayed_control_record_is_refused(pair: Pair) -> None:
    s0, s1 = pair
    s0.send_control(b"job")
    s1.receive_control(1)
    s0.transport.put(encode_header(Kind.CONTROL, 3), [b"job"])
    with pytest.raises(BadFrame, match="twice or late"):
        s1.receive_control(1)


@pytest.mark.parametrize("parts", [(b"GMPC", b""), (encode_header(Kind.OPENING, 5), b"1234")])
def test_a_truncated_frame_is_refused(parts: tuple[bytes, bytes]) -> None:
    s0, s1 = memory_pair()
    s0.transport.put(parts[0], [parts[1]])
    with pytest.raises(BadFrame):
        s1.receive()


def test_closing_one_end_wakes_the_other(pair: Pair) -> None:
    s0, s1 = pair
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(s1.exchange, [b"x"])
        s0.close()
        with pytest.raises(PeerLost, match="server ?0 is gone|connection to server ?0"):
            waiting.result(timeout=5)
    with pytest.raises(PeerLost):
        s1.send([b"x"])
    with pytest.raises(PeerLost, match="this end was closed"):
        s0.exchange([b"x"])
    s0.close()
    s1.close()


def test_frames_sent_before_closing_still_arrive(pair: Pair) -> None:
    s0, s1 = pair
    s0.send([b"last"])
    s0.close()
    assert s1.receive() == b"last"
    for _ in range(2):
        with pytest.raises(PeerLost):
            s1.receive()


def test_closing_wakes_a_thread_at_the_same_end(pair: Pair) -> None:
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(pair[0].receive)
        pair[0].close()
        with pytest.raises(PeerLost, match="this end was closed"):
            waiting.result(timeout=5)


def test_a_timeout_leaves_the_channel_usable(pair: Pair) -> None:
    s0, s1 = pair
    with pytest.raises(PeerTimeout, match="server ?0 sent nothing for 0.01 s"):
        s1.receive_control(0.01)
    s0.send_control(b"late")
    assert s1.receive_control(1) == b"late"


def test_exchange_times_out() -> None:
    s0, _ = memory_pair(patience_s=0.01)
    with pytest.raises(PeerTimeout):
        s0.exchange([b"x"])


def test_error_reaches_the_peer_of_a_closed_end(pair: Pair) -> None:
    s0, s1 = pair
    s0.send_error(BatchAlreadyUsed("batch 3 is spent", "it was used", "start again"))
    s0.close()
    with pytest.raises(RemoteError, match="BatchAlreadyUsed: batch 3 is spent"):
        s1.exchange([b"x"])


def test_error_is_raised_by_receive_control(pair: Pair) -> None:
    s0, s1 = pair
    s0.send_error(BatchAlreadyUsed("batch 3 is spent"))
    with pytest.raises(RemoteError):
        s1.receive_control(1)


def test_thousand_rounds_in_two_threads_are_counted(pair: Pair) -> None:
    def play(end: Channel) -> None:
        for i in range(1000):
            assert end.exchange([i.to_bytes(4, "little")]) == i.to_bytes(4, "little")

    threads = [threading.Thread(target=play, args=(end,)) for end in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert pair[0].measured() == pair[1].measured() == Cost(1000, 4000, 4000)
