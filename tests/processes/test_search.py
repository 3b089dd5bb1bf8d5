"""Results that stay at the servers, and private search over them, in three real processes."""

import secrets
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpumpc.client.client import Client
from gpumpc.client.index import Index
from gpumpc.errors import GpumpcError, RemoteError
from tests.processes.cluster import LIMIT_S, SLACK_S, Cluster, images

N, K = 40, 5


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster.make(tmp_path_factory.mktemp("search"), batch_size=8, pool="1MiB")
    with cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Iterator[Client]:
    with cluster.ready() as client:
        yield client


@pytest.fixture(scope="module")
def gallery(client: Client) -> list[str]:
    x = images(N, seed=7)
    x[31] = x[3]  # a duplicate
    items = sorted(secrets.token_hex(16) for _ in range(N))  # position i of an index is image i
    assert client.extract(client.share(x, items)) == items
    client.delete(items, inputs_only=True)
    assert not {*items} & {*client.list_inputs()} and {*items} <= {*client.list_features()}
    return items


def asked(client: Client) -> list[str]:
    return client.extract(client.share(images(N, seed=7)[:6]))


@pytest.fixture(scope="module", params=["l2", "ip", "cosine"])
def index(request: pytest.FixtureRequest, client: Client, gallery: list[str]) -> Index:
    index = client.create_index(f"gallery-{request.param}", request.param)
    index.add(gallery)
    return index


def test_search_matches_plaintext_search(
    client: Client, index: Index, gallery: list[str], cluster: Cluster
) -> None:
    scores, found = index.search(asked(client), K)
    x = images(N, seed=7)
    x[31] = x[3]
    features = cluster.compiled.evaluate(x, fixed_point=True)
    if index.metric == "cosine":
        features = features / np.linalg.norm(features, axis=1, keepdims=True)
    # Quantisation and truncations of either operand.
    step = 2.0**-index._geometry.value_frac + 2.0**-7
    for i, (row, names) in enumerate(zip(scores, found, strict=True)):
        difference = features[i] - features
        exact = (difference**2).sum(axis=1) if index.metric == "l2" else features @ features[i]
        at = [gallery.index(name) for name in names]
        slack = 4 * step * np.abs(features).max() * features.shape[1]
        assert np.abs(row - exact[at]).max() < slack
        best = np.sort(exact)[:K] if index.metric == "l2" else np.sort(exact)[::-1][:K]
        assert np.abs(row - best).max() < slack
        assert (np.diff(row if index.metric == "l2" else -row) >= 0).all()
        if index.metric != "ip":
            # The image itself; it and its duplicate are one image but for the rounding of each.
            assert at[0] == i or {i, at[0]} == {3, 31}
    if index.metric != "ip":
        assert {gallery.index(name) for name in found[3][:2]} == {3, 31}


def test_index_follows_the_faiss_interface(
    client: Client, gallery: list[str], tmp_path: Path
) -> None:
    index = client.create_index("small", "l2")
    index.add(gallery[:10])
    assert index.ntotal == 10 and index.dim == 3
    index.add(gallery[:12])  # what is there already stays as it is
    assert index.ids == gallery[:12]
    index.remove(gallery[2:4])
    index.save(tmp_path / "small.json")
    again = client.load_index(tmp_path / "small.json")
    assert (again.name, again.metric, again.ids) == ("small", "l2", index.ids)
    saved = (tmp_path / "small.json").read_text()
    (tmp_path / "other.json").write_text(saved.replace(client.plan_id, "0" * 64))
    (tmp_path / "none.json").write_text("{}")
    faults = {"other": "another plan", "none": "not a saved index", "lost": "there is no file"}
    for name, text in faults.items():
        with pytest.raises(GpumpcError, match=text):
            client.load_index(tmp_path / f"{name}.json")
    scores, found = index.search(gallery[2:3], 10)  # a removed row is not found
    assert index.ntotal == 10 and gallery[2] not in found[0] and scores.shape == (1, 10)


def test_deleted_items_leave_the_index(client: Client) -> None:
    items = client.extract(client.share(images(3, seed=9)))
    index = client.create_index("forgetful", "l2")
    index.add(items)
    client.delete(items[:1])
    assert index.ids == sorted(items[1:]) and items[0] not in client.list_features()
    with pytest.raises(RemoteError, match=rf"item {items[0][:8]} is not in the store"):
        index.search(items[:1], 1)


def test_extracted_item_is_stored_once(client: Client) -> None:
    before = len(client.list_features())
    items = client.extract(client.share(images(2, seed=10)))
    first = client.features(items).reveal()
    progress: list[tuple[int, int]] = []
    client.extract(items, lambda done, of: progress.append((done, of)))
    assert len(client.list_features()) == before + 2 and not progress
    assert np.array_equal(client.features(items).reveal(), first)  # the very shares that were kept


def test_index_tasks_leave_no_row_in_a_ledger(
    client: Client, gallery: list[str], cluster: Cluster
) -> None:
    index = client.create_index("passing", "l2")
    for item in gallery[:3]:
        index.add([item])
        index.search([item], 1)
    client.extract(client.share(images(1, seed=11)))  # what came before has ended at both servers
    for party in (0, 1):
        assert len({session for session, *_ in cluster.ledger(party)}) == 1  # the plan's


def found_in(name: str) -> Any:
    return lambda client, _, gallery: Index(client.served, name, "l2").search(gallery[:1], 1)


# (client, index, gallery) -> a request, by a part of the error that it must raise.
INVALID: dict[str, Any] = {
    f"neighbours each to index 'gallery-.*' of {N} rows.*ask for 1 to {N}": (
        lambda _, index, gallery: index.search(gallery[:1], N + 1)
    ),
    "item 00000000 is not in the store.*share it again": (
        lambda _, index, __: index.search(["0" * 32], 1)
    ),
    "item 11111111 is not in the store": lambda _, index, __: index.add(["1" * 32]),
    "there is no index 'nowhere'.*index create": found_in("nowhere"),
    "there is an index .* already.*another metric": (
        lambda client, i, _: client.create_index(i.name, "ip" if i.metric == "l2" else "l2")
    ),
    "there is no index 'empty'": found_in("empty"),
    "metric 'l1' is not known.*use l2, ip or cosine": (
        lambda client, *_: client.create_index("new", "l1")
    ),
    "one is named twice": lambda client, _, gallery: client.extract([gallery[0]] * 2),
    "item 22222222 is not in the store": lambda client, *_: client.features(["2" * 32]),
    "dimension 5 was asked for.*have 3 entries": (
        lambda client, index, _: client.create_index(index.name, index.metric, dim=5)
    ),
}


@pytest.mark.parametrize("text, what", INVALID.items())
def test_invalid_searches_are_refused(
    client: Client, index: Index, gallery: list[str], what: Any, text: str
) -> None:
    with pytest.raises(GpumpcError, match=text):
        what(client, index, gallery)
    assert index.ntotal == N  # and the servers go on


def test_killed_server_keeps_results_at_both_or_none(tmp_path: Path) -> None:
    """Server 1 dies in the third of four batches, whose results both have stored by then."""
    cluster = Cluster.make(tmp_path, batch_size=2, pool="64KiB")
    cluster.faults["server1"] = _DIE_BETWEEN_PUT_AND_CONFIRM
    items = [secrets.token_hex(16) for _ in range(8)]
    with cluster:
        with cluster.ready() as client:
            client.share(images(8), items)
            with pytest.raises(GpumpcError):
                client.extract(items)
        assert cluster.processes["server1"].wait(5) == -9
        cluster.faults.clear()
        cluster.start()
        with cluster.client() as client:
            client.wait_ready(LIMIT_S + SLACK_S)
            done = client.list_features()
            # Server 0 may hear of the death before it stores the third.
            assert done in (sorted(items[:4]), sorted(items[:6]))
            client.extract(items)
            assert client.list_features() == sorted(items)
            index = client.create_index("after", "l2")
            index.add(items)
            _, found = index.search(items[:1], 1)
            assert found == [[items[0]]]
    begun = Counter(cluster.begun())
    assert not [line for line, times in begun.items() if times > 1]


_DIE_BETWEEN_PUT_AND_CONFIRM = """
import os, signal
from gpumpc.store import Store
put, times = Store.put, []
def put_and_die(store, kind, keys, owner, rows):
    result = put(store, kind, keys, owner, rows)
    if kind.startswith("feature/"):
        times.append(1)
    if len(times) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
Store.put = put_and_die
"""
