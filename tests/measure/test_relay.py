"""The relay's rates and delays, with slack: what a busy machine adds is time, never speed."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gpumpc.measure.relay import NETWORKS, Relay, Shape, TokenBucket

SLACK_S = 1.5
LIMIT_S = 20.0


def serve(server: socket.socket) -> None:
    """Answer each connection with what it sends, until it has finished."""

    def echo(end: socket.socket) -> None:
        with end:
            try:
                while data := end.recv(1 << 16):
                    end.sendall(data)
            except OSError:
                pass

    while True:
        try:
            end, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=echo, args=(end,), daemon=True).start()


def address_of(relay: Relay, port: int) -> tuple[str, int]:
    """Where the relay of a local port listens."""
    endpoint = relay.endpoint_to(f"tcp://127.0.0.1:{port}")
    host, number = endpoint.removeprefix("tcp://").split(":")
    return host, int(number)


@contextmanager
def echoing(shape: Shape) -> Iterator[tuple[Relay, tuple[str, int]]]:
    """A relay in front of an echo, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as server, Relay(shape) as relay:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        yield relay, address_of(relay, server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)


def dial(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, LIMIT_S)


def receive(end: socket.socket, n_bytes: int) -> bytes:
    parts = b""
    while len(parts) < n_bytes:
        data = end.recv(1 << 16)
        if not data:
            break
        parts += data
    return parts


def there_and_back(end: socket.socket, data: bytes) -> tuple[bytes, float]:
    start = time.monotonic()
    sender = threading.Thread(target=end.sendall, args=(data,))
    sender.start()
    answer = receive(end, len(data))
    sender.join(LIMIT_S)
    return answer, time.monotonic() - start


def test_bucket_lets_a_burst_through_and_then_the_rate() -> None:
    bucket = TokenBucket(1000.0, burst_bytes=500)
    assert bucket.take(500, now=10.0) == 10.0
    assert bucket.take(100, now=10.0) == pytest.approx(10.1)
    assert bucket.take(900, now=10.0) == pytest.approx(11.0)
    assert bucket.take(100, now=11.0) == pytest.approx(11.1)


def test_bucket_never_holds_more_than_a_burst() -> None:
    bucket = TokenBucket(1000.0, burst_bytes=500)
    bucket.take(500, now=0.0)
    assert bucket.take(1500, now=100.0) == pytest.approx(101.0)


def test_networks_match_the_published_figures() -> None:
    assert NETWORKS == {"loopback": None, "lan": Shape(1e9, 0.0005), "wan": Shape(100e6, 0.04)}


def test_small_message_takes_a_round_trip() -> None:
    with echoing(Shape(1e9, 0.12)) as (_, address), dial(address) as end:
        for _ in range(3):
            answer, seconds = there_and_back(end, b"hello")
            assert answer == b"hello"
            assert 0.12 <= seconds < 0.12 + SLACK_S


def test_short_delay_is_kept() -> None:
    """Half a millisecond each way must not become one: the median of many runs."""
    with echoing(Shape(1e9, 0.001)) as (_, address), dial(address) as end:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        times = sorted(there_and_back(end, b"x")[1] for _ in range(40))
    assert times[0] >= 0.001
    assert times[0] < 0.003


def test_rate_holds_each_way_and_both_ways_at_once() -> None:
    n_bytes, rate = 1_000_000, 2_000_000
    data = bytes(range(256)) * (n_bytes // 256)
    with echoing(Shape(8.0 * rate, 0.0)) as (relay, address), dial(address) as end:
        answer, seconds = there_and_back(end, data)
        assert relay.passed_bytes == (len(data), len(data))
    assert answer == data
    # Both directions carry everything at the same time: half a second, not a whole one; a burst
    # passes at once.
    assert (len(data) - (1 << 12)) / rate * 0.95 <= seconds < len(data) / rate * 1.6 + SLACK_S


def test_pause_earns_no_more_than_one_burst() -> None:
    """Many small rounds with pauses between them may not pass faster than the link."""
    data = bytes(20_000)
    with echoing(Shape(8.0 * 1_000_000, 0.0)) as (_, address), dial(address) as end:
        for _ in range(3):
            _, seconds = there_and_back(end, data)
            assert seconds >= 2 * (len(data) - (1 << 12)) / 1_000_000 * 0.6
            time.sleep(0.1)


def test_connections_share_the_link() -> None:
    rate, data = 2_000_000, bytes(250_000)
    done: list[float] = []

    def one() -> None:
        with dial(address) as end:
            answer, seconds = there_and_back(end, data)
            assert answer == data
            done.append(seconds)

    with echoing(Shape(8.0 * rate, 0.0)) as (_, address):
        threads = [threading.Thread(target=one) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
    assert len(done) == 4
    assert max(done) >= (4 * len(data) - (1 << 12)) / rate * 0.95


def test_end_of_stream_follows_the_last_byte() -> None:
    with echoing(Shape(1e8, 0.05)) as (_, address), dial(address) as end:
        end.sendall(b"last")
        end.shutdown(socket.SHUT_WR)
        assert receive(end, 100) == b"last"


def test_connection_without_a_target_closes_the_link_stays() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with Relay(Shape(1e9, 0.0)) as relay:
        address = address_of(relay, port)
        for _ in range(2):
            with dial(address) as end:
                assert end.recv(1) == b""


def test_waiting_uses_no_processor_time() -> None:
    with echoing(Shape(1e6, 0.2)) as (_, address), dial(address) as end:
        there_and_back(end, b"warm")
        start = time.process_time()
        there_and_back(end, bytes(100_000))
        assert time.process_time() - start < 0.3


def test_close_ends_connections_and_is_idempotent() -> None:
    with echoing(Shape(1e9, 0.0)) as (relay, address), dial(address) as end:
        there_and_back(end, b"x")
        relay.close()
        relay.close()
        try:
            left = end.recv(1)
        except ConnectionError:
            left = b""
        assert left == b""
