"""Changes of both stores in three real processes: beside searches and runs, kills, old copies."""

import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpumpc import messages as m
from gpumpc.client.client import Client
from gpumpc.deploy.config import load_server
from gpumpc.errors import GpumpcError, RemoteError
from gpumpc.store import Store
from tests.processes.cluster import LIMIT_S, SLACK_S, Cluster, close, images, rewrite

SEARCH_S = 6.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster.make(tmp_path_factory.mktemp("changes"), pool="1MiB")
    with cluster:
        yield cluster


class Beside(threading.Thread):
    """Repeats a piece of work with a client of its own until it is stopped."""

    def __init__(self, cluster: Cluster, work: Callable[[Client], object]) -> None:
        super().__init__(daemon=True)
        self._cluster, self._work, self._ended = cluster, work, threading.Event()
        self.n_times, self.errors = 0, list[Exception]()

    def run(self) -> None:
        with self._cluster.client() as client:
            while not self._ended.is_set():
                try:
                    self._work(client)
                    self.n_times += 1
                except GpumpcError as error:
                    self.errors.append(error)

    def __enter__(self) -> "Beside":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join(LIMIT_S)


def extracted(client: Client, n: int, seed: int = 2) -> list[str]:
    return client.extract(client.share(images(n, seed)))


def test_search_beside_changes_names_the_right_images(cluster: Cluster) -> None:
    """Rows around the searched ones come and go: every answer is of one list of rows."""
    with cluster.ready() as client:
        asked, others = extracted(client, 4), extracted(client, 6, seed=3)
        index = client.create_index("beside", "l2")
        index.add(asked + others)

        def change(other: Client) -> None:
            opened = other.open_index("beside")
            opened.remove(others[:3])
            opened.add(others[:3])

        n_searches, sizes = 0, set[int]()
        with Beside(cluster, change) as beside:
            deadline = time.monotonic() + SEARCH_S
            while time.monotonic() < deadline or beside.n_times < 5:
                scores, found = index.search(asked, 2)
                assert [row[0] for row in found] == asked and not scores[:, 0].any()
                sizes.add(len(index._known_rows[1]))
                n_searches += 1
        assert not beside.errors and n_searches >= 10 and sizes == {7, 10}


def test_deleting_what_runs_disturbs_no_other_client(cluster: Cluster) -> None:
    with cluster.ready() as client:
        shared = client.share(images(2))

        def run_and_delete(other: Client) -> None:
            items, job = other.share(images(6)), secrets.token_hex(16)
            sequence = other.ask_together(m.Run(other.plan_id, job, items))
            with cluster.client() as third:
                third.delete(items[3:])  # in its turn, so the run still has its rows
            parts = other.collect(job, sequence)
            assert all(len(of_server) == 3 for of_server in parts)

        with Beside(cluster, run_and_delete) as beside:
            while beside.n_times < 5 and not beside.errors:
                assert close(cluster.compiled, images(2), client.run(shared).reveal())
        assert not beside.errors and beside.n_times


# Server 0 has no memory for a run of five items, in its middle.
_FAIL_IN_THE_MIDDLE = """
from gpumpc.server.requests.evaluations import Run
finish = Run._finish_batch
def finish_or_fail(request, channel, batch):
    if len(request.record.items) == 5 and batch.part == 1:
        raise MemoryError
    finish(request, channel, batch)
Run._finish_batch = finish_or_fail
"""


def test_requests_wait_for_a_connection_that_comes_back(tmp_path: Path) -> None:
    """A request that fails in the middle ends the connection; the others are put back."""
    cluster = Cluster.make(tmp_path, pool="1MiB")
    cluster.faults["server0"] = _FAIL_IN_THE_MIDDLE
    with cluster, cluster.ready() as client:
        shared = client.share(images(5))
        with Beside(cluster, lambda other: other.run(shared[:2])) as beside:
            for _ in range(3):
                with pytest.raises(RemoteError, match="the server failed"):
                    client.run(shared)
                n_before, deadline = beside.n_times, time.monotonic() + LIMIT_S
                while beside.n_times < n_before + 3 and time.monotonic() < deadline:
                    time.sleep(0.05)
        assert not beside.errors and beside.n_times >= 9
        assert cluster.processes["server0"].poll() is None


def test_search_takes_no_more_randomness_than_the_limit(tmp_path: Path) -> None:
    """Fewer queries a batch where that is enough; else a refusal that disturbs nobody."""
    cluster = Cluster.make(tmp_path)
    for file in (cluster.setup.server0, cluster.setup.server1):
        rewrite(file, task_limit="12KiB")
    with cluster, cluster.ready() as client:
        items = extracted(client, 40)
        index = client.create_index("many", "l2")
        index.add(items)
        _, found = index.search(items[:8], 2)
        assert [row[0] for row in found] == items[:8]
        with pytest.raises(
            RemoteError, match=r"30 neighbours among 40 rows.*at most \d+ neighbours"
        ):
            index.search(items[:1], 30)
        assert close(cluster.compiled, images(40), client.run(items).reveal())


# The dealer fails at every index task of eight queries.
_NO_MEMORY = """
from gpumpc.engine.dealer_engine import DealerEngine
deal = DealerEngine.deal
def deal_or_fail(engine, sharing, nonces, batch, send, task=None):
    if getattr(task, "n_queries", 0) == 8:
        raise MemoryError
    deal(engine, sharing, nonces, batch, send, task)
DealerEngine.deal = deal_or_fail
"""


def test_dealer_that_cannot_deal_a_batch_goes_on(tmp_path: Path) -> None:
    cluster = Cluster.make(tmp_path)
    cluster.faults["dealer"] = _NO_MEMORY
    rewrite(cluster.setup.dealer, task_limit="12KiB")
    with cluster, cluster.ready() as client:
        items = extracted(client, 40)
        index = client.create_index("many", "l2")
        index.add(items)
        with pytest.raises(RemoteError, match="does not deal batch 0: the dealer failed.*Memory"):
            index.search(items[:8], 2)
        with pytest.raises(RemoteError, match="does not deal batch 0: a search for 30"):
            index.search(items[:1], 30)
        assert index.search(items[:1], 2)[1][0][0] == items[0]
        assert close(cluster.compiled, images(40), client.run(items).reveal())
        assert cluster.processes["dealer"].poll() is None


def test_results_without_room_are_refused_before_they_are_computed(tmp_path: Path) -> None:
    cluster = Cluster.make(tmp_path)
    for file in (cluster.setup.server0, cluster.setup.server1):
        rewrite(file, uploads="64KiB")
    with cluster, cluster.ready() as client:
        few, many = client.share(images(4)), client.share(images(30))
        connections = cluster.log("server0").count("is connected to server 1")
        with pytest.raises(RemoteError, match="no room.*gpumpc delete"):
            client.extract(many)
        assert client.extract(few) and not {*many} & {*client.list_features()}
        index = client.create_index("full", "l2")
        index.add(few)
        assert index.search(few, 1)[1] == [[item] for item in few]
        assert cluster.log("server0").count("is connected to server 1") == connections


_DIE = """
import os, signal
from gpumpc.server import store_agreement as agreement
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
agreement._make = die
"""


def test_change_is_made_at_both_servers(tmp_path: Path) -> None:
    """Server 1 dies before it makes it; `tests/bench/test_machine.py` lets it die at any point."""
    cluster = Cluster.make(tmp_path)
    with cluster:
        with cluster.ready() as client:
            items = client.share(images(3))
        cluster.kill("server1")
        cluster.faults["server1"] = _DIE
        cluster.start()
        with cluster.client() as client:
            client.wait_ready(LIMIT_S + SLACK_S)
            with pytest.raises(GpumpcError):
                client.delete(items[:2])
        assert cluster.processes["server1"].wait(5) == -9
        cluster.faults.clear()
        cluster.start()
        with cluster.client() as client:
            client.wait_ready(LIMIT_S + SLACK_S)
            first, second = client.listed(m.ListItems(client.plan_id, "inputs"))
            assert first == second == items[2:]
            client.delete(items[2:])
            assert [status.n_bytes for status in client.store_status()] == [0, 0]


def test_half_an_index_blocks_no_name(tmp_path: Path) -> None:
    """Its record is at server 0 alone: it can be created, or deleted, at both."""
    cluster = Cluster.make(tmp_path)
    with cluster:
        with cluster.ready() as client:
            client.create_index("half", "l2")
        cluster.kill("server1")
        config = load_server(cluster.setup.server1)
        with Store(config.state / "store", 1, config.store_key) as store:
            store.remove_note("index/user/half")
        cluster.start()
        with cluster.client() as client:
            client.wait_ready(LIMIT_S + SLACK_S)
            with pytest.raises(RemoteError, match="another metric.*gpumpc index delete"):
                client.create_index("half", "cosine")
            client.create_index("half", "l2")
            assert client.open_index("half").ntotal == 0
            client.delete_index("half")
            assert client.create_index("half", "cosine").metric == "cosine"


def test_older_copy_of_one_store_deletes_nothing(tmp_path: Path) -> None:
    """Rows that the restored server lost are named and not used; the right folder heals all."""
    cluster = Cluster.make(tmp_path)
    state, copies = cluster.folder / "state1" / "store", tmp_path / "copies"
    with cluster:
        with cluster.ready() as client:
            old = extracted(client, 2)
        cluster.stop()
        shutil.copytree(state, copies / "old")
        cluster.start()
        with cluster.client() as client:
            client.wait_ready(LIMIT_S + SLACK_S)
            new = extracted(client, 2, seed=4)
            expected = client.features(new).reveal()
        cluster.stop()
        shutil.copytree(state, copies / "right")
        for name in ("old", "right"):
            shutil.rmtree(state)
            shutil.copytree(copies / name, state)
            start = len(cluster.log("server0"))
            cluster.start()
            with cluster.client() as client:
                client.wait_ready(LIMIT_S + SLACK_S)
                if name == "old":
                    cluster.wait_log(
                        "server0", "server 1 has lost 4 rows.*gpumpc list", start=start
                    )
                    assert client.list_lost() == sorted(new)
                    assert client.list_inputs() == client.list_features() == sorted(old)
                    with pytest.raises(RemoteError, match="is not in the store"):
                        client.run(new)
                    assert client.run(old).reveal().shape == (2, 3)
                else:
                    assert not client.list_lost() and {*new} <= {*client.list_features()}
                    assert (client.features(new).reveal() == expected).all()
            cluster.stop()
