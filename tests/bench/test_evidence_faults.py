"""The fault proxy does what each fault says, and late, wrong and unclear outcomes are found."""

import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest

from bench.evidence.fault_proxy import KINDS, FaultProxy
from bench.evidence.faults import Request, judged

RIGHT = Request(1.0, 2.0, "right")


def test_requests_that_end_in_time_pass() -> None:
    error = Request(1.0, 9.0, "error PeerLost: x")
    assert not judged([RIGHT, error], began=5.0, limit_s=6.0)
    before = Request(1.0, 9.0, "right")  # slow, but no fault had begun
    assert not judged([before], began=10.0, limit_s=6.0)


def test_bad_outcomes_around_a_fault_are_found() -> None:
    for outcome, ended in (("wrong", 2.0), ("unclear KeyError: 1", 2.0), ("error X: y", 30.0)):
        assert judged([RIGHT, Request(1.0, ended, outcome)], began=1.0, limit_s=6.0)
    assert judged([RIGHT], began=1.0, limit_s=6.0, unfinished=7.0)
    assert not judged([RIGHT], began=1.0, limit_s=6.0, unfinished=5.0)


@pytest.fixture
def line() -> Iterator[tuple[FaultProxy, socket.socket, socket.socket]]:
    """A proxy with one connection: its end and the end of the target."""
    with socket.create_server(("127.0.0.1", 0)) as target:
        proxy = FaultProxy(f"tcp://127.0.0.1:{target.getsockname()[1]}", np.random.default_rng(1))
        host, port = proxy.endpoint.removeprefix("tcp://").split(":")
        near = socket.create_connection((host, int(port)), 2.0)
        far, _ = target.accept()
        far.settimeout(0.5)
        with near, far:
            yield proxy, near, far
        proxy.close()


def heard(end: socket.socket, n: int) -> bytes:
    """Up to n bytes, or what came before half a second of silence."""
    data = b""
    try:
        while len(data) < n and (piece := end.recv(n - len(data))):
            data += piece
    except TimeoutError:
        pass
    return data


# What the target gets of two messages, the first one sent before the fault.
SPOILT = {
    "delay": b"abcdef",
    "duplicate": b"abcdefdef",
    "replay": b"abcabcdef",
    "trickle": b"abcdef",
    "one-way": b"abc",
    "black hole": b"abc",
}


@pytest.mark.parametrize("kind", SPOILT)
def test_fault_changes_what_arrives(line, kind: str) -> None:
    proxy, near, far = line
    near.sendall(b"abc")
    assert heard(far, 3) == b"abc" and not proxy.touched
    proxy.spoil(kind, (0,))
    start = time.monotonic()
    near.sendall(b"def")
    assert b"abc" + heard(far, 6) == SPOILT[kind]
    assert proxy.touched == 1 and (kind != "delay" or time.monotonic() - start >= 0.2)
    far.sendall(b"back")  # the other way is not spoilt
    assert heard(near, 4) == b"back"


def test_corruption_changes_one_bit(line) -> None:
    proxy, near, far = line
    proxy.spoil("corrupt", (0,))
    near.sendall(bytes(8))
    bits = np.unpackbits(np.frombuffer(heard(far, 8), np.uint8))
    assert len(bits) == 64 and bits.sum() == 1


def test_reordering_exchanges_messages(line) -> None:
    proxy, near, far = line
    proxy.spoil("reorder", (0,))
    near.sendall(b"abc")
    assert heard(far, 3) == b""
    near.sendall(b"def")
    assert heard(far, 6) == b"defabc"


def test_drop_ends_the_connection(line) -> None:
    proxy, near, far = line
    near.sendall(b"abc")
    assert heard(far, 3) == b"abc"
    proxy.spoil("drop")
    assert heard(near, 1) == b"" and heard(far, 1) == b"" and proxy.touched
    assert {*SPOILT, "corrupt", "reorder", "drop"} == {*KINDS}
