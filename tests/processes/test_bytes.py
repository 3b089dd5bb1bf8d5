"""The bytes on the cable, counted outside the engine, are the declared ones and explained framing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpumpc.cost import Cost
from gpumpc.roles import messages as m
from gpumpc.roles.clients import named
from gpumpc.roles.config import load_dealer, load_server
from gpumpc.wire.handshake import pack_hello
from tests.processes.cluster import BATCH, Cluster, close, images
from tests.processes.relay import CURVE_BYTES, HEADER_BYTES, Relay, frames, payloads

N_BATCHES = 3
_IDLE_BYTES = len(m.pack(m.Idle()))
_ALIVE_BYTES = len(m.pack(m.Alive()))


def _reroute(file: Path, old: str, new: str) -> None:
    assert file.read_text().count(old) == 1
    file.write_text(file.read_text().replace(old, new))


@pytest.fixture(scope="module")
def relayed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Relay, Relay]]:
    """A cluster whose servers talk through the first relay, and whose dealer reaches server 1 through the second."""
    cluster = Cluster.make(tmp_path_factory.mktemp("bytes"), ahead="1KiB")
    between = load_server(cluster.setup.server1).peer_connect
    to_server1 = load_dealer(cluster.setup.dealer).server_endpoints[1]
    assert between
    relays = Relay(between), Relay(to_server1)
    _reroute(cluster.setup.server1, between, relays[0].endpoint)
    _reroute(cluster.setup.dealer, to_server1, relays[1].endpoint)
    with cluster:
        yield cluster, *relays
    for relay in relays:
        relay.close()


def test_payload_on_the_cable_is_the_declared_cost(relayed: tuple[Cluster, Relay, Relay]) -> None:
    cluster, between, dealt = relayed
    x = images(N_BATCHES * BATCH)
    with cluster.ready() as client:
        shared = client.share(x)
        before = [len(payloads(bytes(stream))) for stream in between.streams]
        result = client.run(shared).reveal()
        cost: Cost = client.program.cost
        time.sleep(0.3)  # until what the result did not have to wait for has passed the relay as well
        after = [payloads(bytes(stream)) for stream in between.streams]
    assert close(cluster.compiled, x, result)
    from_1, from_0 = (sizes[n:] for sizes, n in zip(after, before, strict=True))
    order = m.Order("0" * 64, "0" * 32, f"user: run None {named(shared.items)}", 0)
    control_0, control_1 = len(m.pack(order)), len(m.pack(m.Accept("0" * 32)))
    openings_0 = [size for size in from_0 if size != _IDLE_BYTES]
    openings_0.remove(control_0)
    from_1.remove(control_1)
    # Both name the rows they are about to read.
    compared = len(pack_hello({"rows": f"input/{'0' * 64} {'0' * 64}"}, {}))
    openings_0.remove(compared)
    from_1.remove(compared)
    assert sum(openings_0) == N_BATCHES * cost.s0_bytes
    assert sum(from_1) == N_BATCHES * cost.s1_bytes
    assert len(openings_0) == len(from_1) == N_BATCHES * cost.rounds
    _check_dealer(cluster, dealt, cost)


def _check_dealer(cluster: Cluster, dealt: Relay, cost: Cost) -> None:
    sizes = [size for size in payloads(bytes(dealt.streams[0])) if size != _ALIVE_BYTES]
    hello, *corrections = sizes
    assert hello > 300 and {*corrections} == {cost.dealer_bytes}
    # Three batches used, and at most two asked ahead.
    assert N_BATCHES <= len(corrections) <= N_BATCHES + 2


def test_all_other_bytes_are_framing(relayed: tuple[Cluster, Relay, Relay]) -> None:
    cluster, between, _ = relayed
    with cluster.ready() as client:
        client.run(client.share(images(BATCH)))
        time.sleep(0.3)
    for stream in map(bytes, between.streams):
        whole = frames(stream)
        payload = payloads(stream)
        sealed = [total for is_command, _, total in whole if not is_command]
        framing = sum(sealed) - sum(payload) - len(payload) * HEADER_BYTES
        # A frame is two parts, each in a CURVE box behind 2 or 9 bytes; heartbeats are small boxes of their own.
        n_beats = len(sealed) - 2 * len(payload)
        assert 0 <= n_beats < 60
        n_parts = 2 * len(payload)
        assert n_parts * (CURVE_BYTES + 2) <= framing <= n_parts * (CURVE_BYTES + 9) + n_beats * (CURVE_BYTES + 2 + 23)
        most = len(payload) * (HEADER_BYTES + 2 * (CURVE_BYTES + 9)) + n_beats * (CURVE_BYTES + 2 + 23)
        assert sum(payload) <= sum(sealed) <= sum(payload) + most
        handshake = len(stream) - sum(sealed)
        assert 0 < handshake < 700  # greeting and four commands
