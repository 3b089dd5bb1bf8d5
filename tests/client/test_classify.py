"""Classes as each policy shows them, by heads and by a plan itself, in three real processes."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import gpumpc
from gpumpc import Client, Plan
from gpumpc.client.canaries import Canaries
from gpumpc.deploy.config import write_local
from gpumpc.errors import BadValue, HandshakeMismatch, RemoteError, WrongResult
from gpumpc.local.canary_maker import make_canaries
from gpumpc.program.head import Policy
from tests.processes.cluster import GRAPH, PARAMS, Cluster, images, tiny

NAMES = tuple("abcdefg")
N, SHARE_S = 3, 10.0


@pytest.fixture(scope="module")
def plans() -> dict[str, Plan]:
    """Features; three heads on them, of which one has no names; and features that are logits."""
    below, rng = tiny(), np.random.default_rng(46)
    head = rng.normal(size=(3, 7)), rng.normal(size=7)
    own = gpumpc.compile((GRAPH, dict(below.weights)), params=PARAMS, policy="label", name="own")
    policies: tuple[Policy, ...] = ("label", "top5", "logits")
    return {
        "features": below,
        "own": own,
        **{policy: below.head(*head, NAMES, policy) for policy in policies},
    }


@pytest.fixture(scope="module")
def cluster(
    plans: dict[str, Plan], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Cluster, Path]]:
    folder = tmp_path_factory.mktemp("classify")
    for name, plan in plans.items():
        plan.save(folder / name)
    setup = write_local(folder / "local", [folder / name for name in plans], 2, pool="256KiB")
    with Cluster(setup, plans["features"]) as started:
        for plan in plans.values():
            with gpumpc.connect(setup.client, plan, SHARE_S) as client:
                client.wait_connected(SHARE_S)
                client.share_weights(plan.weights)
        yield started, folder


@pytest.fixture(scope="module")
def client(cluster: tuple[Cluster, Path]) -> Iterator[Client]:
    started, folder = cluster
    with gpumpc.connect(str(started.setup.client), str(folder / "features"), SHARE_S) as client:
        client.wait_ready(SHARE_S)
        yield client


@pytest.fixture(scope="module")
def items(client: Client) -> list[str]:
    return client.extract(client.share(images(N)))


def test_classes_by_each_policy(client: Client, items: list[str], plans: dict[str, Plan]) -> None:
    logits = plans["logits"].evaluate(client.features(items).reveal())
    ranked = (-logits).argsort(axis=1, kind="stable")
    assert np.diff(np.sort(logits, axis=1)).min() > 0.01  # no order depends on a rounding
    assert client.classify(items, plans["label"]) == [NAMES[row[0]] for row in ranked]
    assert client.classify(items, plans["top5"]) == [[NAMES[i] for i in r[:5]] for r in ranked]
    assert np.abs(np.asarray(client.classify(items, plans["logits"])) - logits).max() < 0.01


def test_head_is_given_by_its_folder(
    client: Client, items: list[str], cluster: tuple[Cluster, Path], plans: dict[str, Plan]
) -> None:
    for folder in (cluster[1] / "label", str(cluster[1] / "label")):
        assert client.classify(items, head=folder) == client.classify(items, plans["label"])


def test_canaries_of_a_head_and_of_classes_are_checked(
    client: Client, items: list[str], cluster: tuple[Cluster, Path], plans: dict[str, Plan]
) -> None:
    below, own = plans["features"], plans["own"]
    for policy in ("label", "top5", "logits"):
        known = half(make_canaries(below, 4, plans[policy]))
        found = client.classify(items, plans[policy], canaries=known)
        assert np.array(found).shape == np.array(client.classify(items, plans[policy])).shape
        with pytest.raises(BadValue, match="another plan or head"):
            client.run(items, source=below.record, canaries=known)
        wrong = dataclasses.replace(known, results=known.results + 1)
        with pytest.raises(WrongResult):
            client.classify(items, plans[policy], canaries=wrong)
    assert client.list_inputs() == client.list_features() == sorted(items)
    with gpumpc.connect(cluster[0].setup.client, own, SHARE_S) as of_own:
        shared, known = of_own.share(images(N)), half(make_canaries(own, 4))
        assert of_own.classify(shared, canaries=known) == of_own.classify(shared)
        with pytest.raises(WrongResult):
            of_own.classify(shared, canaries=dataclasses.replace(known, results=known.results + 1))
        of_own.delete(shared)


def half(canaries: Canaries) -> Canaries:
    return dataclasses.replace(canaries, fraction=0.5)


def test_plan_that_ends_in_classes_needs_no_head(
    cluster: tuple[Cluster, Path], plans: dict[str, Plan]
) -> None:
    with gpumpc.connect(cluster[0].setup.client, plans["own"]) as client:
        shared = client.share(images(N))
        expected = plans["own"].evaluate(images(N), fixed_point=True)
        assert client.classify(shared) == [str(int(i)) for i in expected]
        client.delete(shared)


def test_head_that_no_server_serves_is_refused(client: Client, items: list[str]) -> None:
    with pytest.raises(HandshakeMismatch):
        client.classify(items, tiny().head(np.ones((3, 7)), np.zeros(7), NAMES))


def test_items_without_features_are_refused(client: Client, plans: dict[str, Plan]) -> None:
    shared = client.share(images(1))
    with pytest.raises(RemoteError, match="is not in the store"):
        client.classify(shared, plans["label"])
    client.delete(shared)
