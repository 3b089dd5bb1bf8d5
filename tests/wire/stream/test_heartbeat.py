"""When a heartbeat is sent, and what counts as silence."""

import threading
import time
from collections.abc import Iterator

import pytest

from gpumpc.errors import PeerLost
from gpumpc.wire.frames import Kind, encode_header
from gpumpc.wire.stream import heartbeat
from gpumpc.wire.stream.heartbeat import Heartbeat
from gpumpc.wire.stream.records import SEALED_HEADER_BYTES
from tests.wire.stream.wires import Wire, got, put


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(heartbeat, "_LOOK_S", 0.002)
    yield


def looks_until_lost(heard: list[int | None]) -> int:
    """How often a heartbeat looks before it gives the peer up; `heard` is repeated at its end."""
    looks: list[int] = []
    lost = threading.Event()
    values = iter(heard)
    beating = Heartbeat(lambda: looks.append(1), lambda: next(values, heard[-1]), lost.set)
    beating.start()
    assert lost.wait(10)
    beating.stop()
    beating.stop()
    return len(looks)


def test_pause_of_this_process_is_no_silence_of_the_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look seems to come 100 s after the last, as after SIGCONT: it counts as 0.5 s."""
    clock = iter(range(0, 10**6, 100))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    assert looks_until_lost([1]) == 10  # 4.6 s


def test_every_byte_and_every_doubt_starts_the_silence_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(0, 10**6, 100))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    assert looks_until_lost([1, 1, 1, 2]) == 3 + 10
    assert looks_until_lost([1, 1, 1, None, None, 1]) == 5 + 10


def test_heartbeat_is_a_record_of_a_header_and_no_frame(wire: Wire) -> None:
    put(wire.ends[0], b"first")
    wire.read(0, SEALED_HEADER_BYTES + 5 + 16)
    wire.ends[0].put(encode_header(Kind.HEARTBEAT, 0), [])
    assert len(wire.read(0, SEALED_HEADER_BYTES)) == SEALED_HEADER_BYTES


def test_heartbeats_between_frames_are_skipped(wire: Wire) -> None:
    for payload in (b"first", b"second"):
        wire.give(1, wire.take(0, payload))
        wire.ends[0].put(encode_header(Kind.HEARTBEAT, 0), [])
        wire.give(1, wire.read(0, SEALED_HEADER_BYTES))
    assert [bytes(got(wire.ends[1]).payload) for _ in range(2)] == [b"first", b"second"]
    assert wire.ends[1].receive() is None


def test_heartbeat_with_a_payload_is_handed_out_and_so_refused(wire: Wire) -> None:
    wire.ends[0].put(encode_header(Kind.HEARTBEAT, 3), [b"abc"])
    wire.give(1, wire.read(0, SEALED_HEADER_BYTES + 3 + 16))
    assert got(wire.ends[1]).kind is Kind.HEARTBEAT


def test_replayed_heartbeat_is_refused(wire: Wire) -> None:
    wire.ends[0].put(encode_header(Kind.HEARTBEAT, 0), [])
    wire.give(1, 2 * wire.read(0, SEALED_HEADER_BYTES))
    assert "was refused" in str(wire.outcome(1)[-1])


def test_heartbeat_flows_only_when_nothing_else_does(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "IDLE_S", 0.4)
    put(wire.ends[0], b"x")
    opening = SEALED_HEADER_BYTES + 1 + 16
    wire.read(0, opening)
    wire.ends[0].keep_alive()
    for _ in range(20):
        put(wire.ends[0], b"x")
        time.sleep(0.02)
    sealer = wire.ends[0]._send_buffer._sealer  # type: ignore[union-attr]  # it has sent
    assert sealer.n_records <= 2 * 21 + 1  # none, or one on a machine that stood still meanwhile
    time.sleep(1.0)
    assert sealer.n_records > 2 * 21


def test_heartbeats_and_frames_of_two_threads_stay_in_order(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("IDLE_S", "HEARTBEAT_S"):
        monkeypatch.setattr(heartbeat, name, 0.0)
    put(wire.ends[0], b"begin")
    wire.ends[0].keep_alive()
    sizes = [1, 300_000, 2 << 20] * 20
    relayed = threading.Thread(target=relay, args=(wire,), daemon=True)
    relayed.start()

    def send_all() -> None:
        for size in sizes:
            put(wire.ends[0], bytes(size))

    sending = threading.Thread(target=send_all)
    sending.start()
    assert got(wire.ends[1]).payload == b"begin"
    assert [len(got(wire.ends[1]).payload) for _ in sizes] == sizes
    sending.join()
    assert wire.ends[1]._opener.n_records > 3 * len(sizes)


def relay(wire: Wire) -> None:
    wire.taps[0].settimeout(5)
    try:
        while data := wire.taps[0].recv(1 << 16):
            wire.taps[1].sendall(data)
    except OSError:
        pass


def test_frame_where_heartbeats_alone_are_due_ends_the_stream(wire: Wire) -> None:
    put(wire.ends[1], b"begin")
    wire.ends[1].keep_alive(reads=True)
    wire.give(1, wire.take(0, b"not due"))
    with pytest.raises(PeerLost, match="heartbeats alone were due"):
        for _ in range(100):
            put(wire.ends[1], b"x")
            time.sleep(0.01)
