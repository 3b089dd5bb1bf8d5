"""Lines that go silent while three processes work: every error is known within five seconds."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from gpumpc.deploy.config import _free_ports, load_client, load_dealer, load_server
from gpumpc.errors import GpumpcError
from tests.processes.cluster import BATCH, LIMIT_S, SLACK_S, Cluster, images, one_line, rewrite
from tests.wire.test_liveness import SILENCES, Silent


class Lines(NamedTuple):
    """A cluster whose lines can be made silent."""

    cluster: Cluster
    between: Silent
    dealt: tuple[Silent, Silent]  # CURVE, stream
    client: Silent


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lines]:
    cluster = Cluster.make(tmp_path_factory.mktemp("silence"), pool="1KiB")
    setup = cluster.setup
    of_dealer = load_dealer(setup.dealer).server_endpoints
    of_client = load_client(setup.client).server_endpoints
    assert load_server(setup.server1).peer_connect
    ends = [f"tcp://127.0.0.1:{_free_ports(1)[0]}" for _ in range(2)]
    between, curve, stream, client = map(Silent, (ends[0], of_dealer[1], ends[1], of_client[0]))
    rewrite(setup.server0, peer_bulk=ends[0])
    rewrite(setup.server1, peer_bulk=between.endpoint, dealer_bulk=ends[1])
    server_endpoints = [of_dealer[0], curve.endpoint]
    rewrite(setup.dealer, server_endpoints=server_endpoints, dealer_bulk=stream.endpoint)
    rewrite(setup.client, server_endpoints=[client.endpoint, of_client[1]])
    with cluster:
        assert cluster.serves()
        yield Lines(cluster, between, (curve, stream), client)
    for relay in (between, curve, stream, client):
        relay.close()


def seconds_to_error(cluster: Cluster, relays: tuple[Silent, ...], ways: set[int]) -> float:
    """Until the client of a run hears that it fails, from the moment of the silence on."""
    with cluster.ready() as client:
        items = client.share(images(8 * BATCH))
        for relay in relays:
            relay.quiet = frozenset(ways)
        start = time.monotonic()
        with pytest.raises(GpumpcError) as caught:
            client.run(items).reveal()
            client.run(items).reveal()  # batches that were dealt ahead are used up by now
        took_s = time.monotonic() - start
        assert one_line(caught.value)
    for relay in relays:
        relay.quiet = frozenset()
    return took_s


@pytest.mark.parametrize("ways", SILENCES)
def test_silence_between_the_servers_fails_a_run_soon(lines: Lines, ways: set[int]) -> None:
    assert seconds_to_error(lines.cluster, (lines.between,), ways) < LIMIT_S + SLACK_S
    assert lines.cluster.serves()


@pytest.mark.parametrize("ways", SILENCES)
def test_silence_of_the_dealer_fails_a_run_soon(lines: Lines, ways: set[int]) -> None:
    assert seconds_to_error(lines.cluster, lines.dealt, ways) < LIMIT_S + SLACK_S
    assert lines.cluster.serves()


def test_silence_of_the_dealers_curve_alone_fails_soon(lines: Lines) -> None:
    assert seconds_to_error(lines.cluster, lines.dealt[:1], {1}) < LIMIT_S + SLACK_S
    assert lines.cluster.serves()


def test_silence_between_client_and_server_fails_soon(lines: Lines) -> None:
    assert seconds_to_error(lines.cluster, (lines.client,), {0, 1}) < LIMIT_S + SLACK_S
    assert lines.cluster.serves()
