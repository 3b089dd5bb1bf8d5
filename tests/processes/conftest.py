"""Fixtures of the tests that start processes; a module may have a `cluster` of its own."""

from collections.abc import Iterator

import pytest

from gpumpc.client.client import Client
from gpumpc.deploy.keys import keygen
from tests.processes.cluster import Cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with two users of whom only the first is an owner, and room for few uploads."""
    cluster = Cluster.make(tmp_path_factory.mktemp("bad"))
    keygen(cluster.folder / "second", "second", "user")
    for file in (cluster.setup.server0, cluster.setup.server1):
        listed = 'user_cards = ["user/card.toml", "second/card.toml"]'
        text = file.read_text().replace('user_cards = ["user/card.toml"]', listed)
        file.write_text(text + 'uploads = "128KiB"\n')
    with cluster:
        assert cluster.serves()
        yield cluster


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with cluster.ready() as client:
        yield client


@pytest.fixture
def still_serves(cluster: Cluster) -> Iterator[None]:
    """After the test, all processes live and answer rightly."""
    yield
    assert all(process.poll() is None for process in cluster.processes.values())
    assert cluster.serves()
