"""The channel between two processes: `python -m bench.bulk_exchange --mb 64 [--over curve]
[--json]`.

Both processes send a message of this size and receive the other's, again and again, as two servers
do in a round; then messages of `--small` bytes, for what a round costs in itself. `--over curve`
sends the same frames inside CURVE, as before there were streams. Wall-clock times on a busy machine
say little: processor seconds of one process stand beside, and how often one of its threads went to
sleep.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bench.command import command_line, show
from bench.schema import row
from gpumpc.wire.channel import Channel
from gpumpc.wire.frames import Kind, encode_header
from gpumpc.wire.zmq_channel import CurveKeys, PeerSocket, curve_keypair
from gpumpc.wire.zmq_channel.endpoint import in_parts
from gpumpc.wire.zmq_channel.link import Link

_WARM_UP = 3
_PATIENCE_S = 60.0
_ANY_PORT = "tcp://127.0.0.1:0"

Exchange = Callable[[Sequence[bytes]], object]


class Timing(NamedTuple):
    """Seconds of one exchange, median and least; its processor seconds and thread switches."""

    median: float
    least: float
    processor: float
    switches: float


class _StreamChannel(Channel):
    """The frames as the two servers send them."""

    def __init__(self, socket: PeerSocket, party: int) -> None:
        super().__init__(socket, party, _PATIENCE_S)
        self.endpoint = socket.endpoint


class _CurveChannel:
    """The same frames inside CURVE."""

    def __init__(self, link: Link) -> None:
        self._link, self.endpoint = link, link.endpoint
        self.wait_peer, self.close = link.wait_peer, link.close

    def exchange(self, payload: Sequence[bytes]) -> object:
        data = b"".join(payload)
        self._link.put((encode_header(Kind.OPENING, len(data)), *in_parts(data)))
        return self._link.get(_PATIENCE_S)


def _make(
    over: str, endpoint: str | None, keys: CurveKeys, peer_key: bytes
) -> _StreamChannel | _CurveChannel:
    if over == "stream":
        if endpoint is None:
            return _StreamChannel(PeerSocket.bind(_ANY_PORT, keys, peer_key), 0)
        return _StreamChannel(PeerSocket.connect(endpoint, keys, peer_key), 1)
    link = Link("the peer", keys, 1 << 30)
    if endpoint is None:
        link.bind(_ANY_PORT, peer_key)
    else:
        link.connect(endpoint, peer_key)
    return _CurveChannel(link)


def measure(exchange: Exchange, n_bytes: int, times: int) -> Timing:
    """Exchange messages of `n_bytes` bytes, `times` times after a warm-up."""
    data, walls = [os.urandom(n_bytes)], []
    for _ in range(_WARM_UP):
        exchange(data)
    before, switches = time.process_time(), _switches()
    for _ in range(times):
        start = time.perf_counter()
        exchange(data)
        walls.append(time.perf_counter() - start)
    processor, switches = time.process_time() - before, _switches() - switches
    return Timing(statistics.median(walls), min(walls), processor / times, switches / times)


def _switches() -> int:
    """How often a thread of this process has gone to sleep to wait for something."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


def play(channel: _StreamChannel | _CurveChannel, sizes: Sequence[tuple[int, int]]) -> list[Timing]:
    """One end's part: both ends do the same."""
    channel.wait_peer(10.0)
    found = [measure(channel.exchange, n_bytes, times) for n_bytes, times in sizes]
    channel.close()
    return found


def run(over: str, sizes: Sequence[tuple[int, int]]) -> list[Timing]:
    """Two processes; what this one measured."""
    own, others = curve_keypair(), curve_keypair()
    channel = _make(over, None, own, others.public)
    told: dict[str, Any] = {"over": over, "sizes": sizes, "endpoint": channel.endpoint}
    told |= {"public": others.public.decode(), "peer": own.public.decode()}
    peer = subprocess.Popen(
        [sys.executable, "-m", "bench.bulk_exchange", "--peer", json.dumps(told)],
        env={**os.environ, "BENCH_CHANNEL_SECRET": others.secret.decode()},
    )
    try:
        return play(channel, sizes)
    finally:
        peer.wait(_PATIENCE_S)


def _be_the_peer(told: dict[str, Any]) -> int:
    keys = CurveKeys(told["public"].encode(), os.environ["BENCH_CHANNEL_SECRET"].encode())
    play(_make(told["over"], told["endpoint"], keys, told["peer"].encode()), told["sizes"])
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = command_line("bulk_exchange", "Time the channel of two processes.")
    parser.add_argument("--mb", type=float, default=64.0, help="millions of bytes each way")
    parser.add_argument("--times", type=int, default=9, help="large exchanges")
    parser.add_argument("--small", type=int, default=1000, help="bytes each way of a small one")
    parser.add_argument("--over", choices=("stream", "curve"), default="stream")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.peer:
        return _be_the_peer(json.loads(options.peer))
    start, n_bytes = time.monotonic(), int(options.mb * 1e6)
    small, large = run(options.over, [(options.small, 2000), (n_bytes, options.times)])
    measured = row(
        seconds_total=time.monotonic() - start,
        seconds_online=large.median,
        online_bytes=n_bytes,
        rounds=1,
        n_threads=1,
        over=options.over,
        bytes_per_second=n_bytes / large.median,
        seconds_least=large.least,
        seconds_processor=large.processor,
        small_online_bytes=options.small,
        seconds_small=small.median,
        seconds_small_least=small.least,
        seconds_small_processor=small.processor,
        switches=large.switches,
        small_switches=small.switches,
    )
    for name, timing in (("large", large), ("small", small)):
        median, least, processor = (f"{seconds * 1e6:,.0f} us" for seconds in timing[:3])
        print(
            f"{options.over}, {name}: median {median}, least {least}, processor {processor},"
            f" {timing.switches:.1f} changes of threads",
            file=sys.stderr,
        )
    print(f"{n_bytes / large.median / 1e9:.3f} GB/s each way, both at once", file=sys.stderr)
    show(measured, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
