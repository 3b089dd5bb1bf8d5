"""Budgets a day: counted at both servers, kept over restarts, refused with the time of reset."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpumpc.deploy.rights import Budget
from gpumpc.errors import AccessDenied, RemoteError
from gpumpc.server.access.budgets import Budgets, Spent
from gpumpc.server.server import Server
from tests.local.small_plan import compiled_plan, numbers
from tests.server.running import client_of, served, share_weights, written

PLAN = compiled_plan()
DAY_S = 86_400
NOON = 20_000 * DAY_S + DAY_S / 2  # 2024-10-04
TABLES = "\n[budgets.tiny]\nimages = 5\nqueries = 2\n"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [NOON]
    monkeypatch.setattr("gpumpc.server.access.budgets.time.time", lambda: now[0])
    return now


def opened(folder: Path) -> Budgets:
    return Budgets(folder / "budgets.sqlite", {"p": Budget(images=10), "none": Budget(queries=0)})


def test_budget_is_of_a_client_a_plan_and_a_day(tmp_path: Path, clock: list[float]) -> None:
    with opened(tmp_path) as budgets:
        budgets.check("ann", "p", "images", 10)
        budgets.spend("ann", "p", "images", 4)
        budgets.spend("ann", "p", "images", 3)
        budgets.spend("bob", "p", "images", 1)
    with opened(tmp_path) as budgets:  # after a restart
        assert budgets.spent("ann", "p", "images") == 7
        budgets.check("ann", "p", "images", 3)
        budgets.check("bob", "p", "images", 9)
        budgets.check("ann", "p", "queries", 10**9)
        budgets.spend("ann", "other", "images", 10**9)
        budgets.check("ann", "other", "images", 10**9)
        with pytest.raises(AccessDenied) as caught:
            budgets.check("ann", "p", "images", 4)
        text = str(caught.value)
        assert "10 a day, and 7 are spent" in text and "at most 3" in text
        assert "wait until 2024-10-05 00:00 UTC" in text
        clock[0] += DAY_S / 2
        budgets.check("ann", "p", "images", 10)
        with pytest.raises(AccessDenied, match=r"`queries` in \[budgets.none\]"):
            budgets.check("ann", "none", "queries", 1)


def test_days_that_have_passed_are_forgotten(tmp_path: Path, clock: list[float]) -> None:
    with opened(tmp_path) as budgets:
        for _ in range(3):
            budgets.spend("ann", "p", "images", 1)
            clock[0] += DAY_S
        assert budgets._select("SELECT count(*) FROM spent") == [(1,)]


def refused(action: Callable[[], object], what: str) -> None:
    with pytest.raises(RemoteError, match=f"AccessDenied: user may not ask for {what} more with"):
        action()


def spent(servers: tuple[Server, Server], what: Spent) -> list[int]:
    found = []
    for server in servers:
        assert server._budgets is not None
        found.append(server._budgets.spent("user", "tiny", what))
    return found


def test_both_servers_count_what_they_accept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpumpc.server.access.budgets._today", lambda: 20_000)  # midnight may come
    setup = written(tmp_path, [PLAN], [], TABLES)
    with served(setup) as servers:
        share_weights(setup, [PLAN])
        with client_of(setup, "user", PLAN) as client:
            items = client.share(numbers(4, 4, 4, 1))
            client.extract(items)
            client.extract(items)  # nothing is evaluated again
            assert spent(servers, "images") == [4, 4]
            refused(lambda: client.run(items), "4 images")
            index = client.create_index("rows", "l2")
            index.add(items)
            index.search(items[:2], k=1)
            refused(lambda: index.search(items[:1], k=1), "1 queries")
            assert spent(servers, "queries") == [2, 2] and spent(servers, "images") == [4, 4]
    with served(setup) as servers, client_of(setup, "user", PLAN) as client:
        client.wait_ready(10.0)
        assert np.shape(client.run(items[:1]).reveal()) == (1, 3)
        refused(lambda: client.run(items[:1]), "1 images")
        assert spent(servers, "images") == [5, 5]
