"""Clients of a simulated cluster, and the history of what each was told.

An item's rows are, as far as its client knows, present, absent or in doubt: a request that failed
may or may not have been carried out. Whatever is not in doubt is checked against every answer, and
at the end against both servers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from bench.simulation.cluster import SimulatedCluster, stand_in_words
from bench.simulation.network import Requests
from bench.simulation.world import World
from gpumpc import messages as m
from gpumpc.client.client import Client
from gpumpc.client.index import Index
from gpumpc.client.served_plan import ServedPlan
from gpumpc.deploy.keys import Identity
from gpumpc.errors import GpumpcError
from gpumpc.program.integers import decode_result, encode_input
from gpumpc.ring.choose import choose_backend
from gpumpc.store import Store

INDEX = "shared"
_PATIENCE_S = 20.0
# By then every request has ended, well or with an error.
LONGEST_S = 60.0
_IN_DOUBT = None

Presence = bool | None


class Wrong(AssertionError):
    """An answer or a store contradicts what a client was told before."""


class SimulatedClient(Client):
    """The product's client over simulated connections to the servers that run now."""

    def __init__(self, cluster: SimulatedCluster, identity: Identity) -> None:
        self.patience_s, self.backend = _PATIENCE_S, choose_backend("numpy")
        self._identity, self._sequence = identity, 0
        first, second = cluster.identities
        self.server_cards = first.card, second.card
        ports = [cluster.port(party) for party in (0, 1)]
        self._servers = cast(
            Any,
            [
                Requests(cluster.world, port, identity.card.name, f"server {party}")
                for party, port in enumerate(ports)
                if port is not None
            ],
        )
        self.owner = None  # whose weights they are is not of the simulation
        self.served = ServedPlan(self, cluster.plan)
        self.plan, self.plan_id = cluster.plan, self.served.plan_id
        self.batch_size, self.program = self.served.batch_size, self.served.program


@dataclasses.dataclass
class Known:
    """What is known of one item; `changes` counts the beginnings and ends of its changes."""

    values: np.ndarray[Any, np.dtype[np.float64]]
    rows: dict[str, Presence] = dataclasses.field(default_factory=dict)
    changes: int = 0


class History:
    """What the clients were told, of all items."""

    def __init__(self) -> None:
        self.items: dict[str, Known] = {}
        self.n_answers = self.n_errors = self.n_searches = 0
        self.kept: dict[int, set[str]] = {0: set(), 1: set()}
        self.has_old_copy = False

    def lose(self, party: int) -> None:
        """A server's store was put back from an older copy: it may lack rows, and the other server
        keeps every one.
        """
        self.has_old_copy = True
        self.kept[1 - party] |= {*self.with_row("input")}
        self.kept[party].clear()
        for known in self.items.values():
            known.changes += 2
            known.rows.update({what: _IN_DOUBT for what in known.rows if known.rows[what]})

    def with_row(self, what: str, is_present: Presence = True) -> list[str]:
        """Items whose row of this kind is known to be there, or not, or is in doubt."""
        return [i for i, known in self.items.items() if known.rows.get(what, False) is is_present]


class User:
    """One client process: random requests on items of its own, each judged."""

    def __init__(
        self, world: World, cluster: SimulatedCluster, identity: Identity, history: History
    ) -> None:
        self.world, self.cluster, self.identity, self.history = world, cluster, identity, history
        self._own: list[str] = []
        self.client: SimulatedClient | None = None

    def work(self, n_requests: int) -> None:
        """The process: a number of requests, one after the other."""
        for _ in range(n_requests):
            self.world.wait(lambda: False, self.world.random.random() * 0.2)
            acts = [self.share]
            if self._some("input"):
                acts += [self.extract, self.extract, self.delete]
            if self._some("feature"):
                acts += [self.add, self.add, self.reveal]
            if self._some("index"):
                acts += [self.search, self.search, self.search, self.remove]
            acts[self.world.below(len(acts))]()

    def connected(self) -> SimulatedClient:
        """A client of both servers, as soon as they run."""
        while self.client is None:
            self.world.wait(lambda: None not in self.cluster.servers)
            try:
                self.client = SimulatedClient(self.cluster, self.identity)
            except (GpumpcError, ValueError):
                self.world.wait(lambda: False, 0.2)
        return self.client

    def _ask(self, request: Callable[[SimulatedClient], object]) -> bool:
        """Whether a request was carried out; an error tells the client nothing."""
        client, start = self.connected(), self.world.now
        try:
            request(client)
            self.history.n_answers += 1
            return True
        except GpumpcError as error:
            if "this is a bug" in str(error):
                raise Wrong(str(error)) from error
            self.history.n_errors += 1
            self.client = None  # as a new process would
            return False
        finally:
            if self.world.now - start > LONGEST_S:
                raise Wrong(f"a request took {self.world.now - start:.0f} s")

    def _change(
        self, items: Sequence[str], request: Callable[[SimulatedClient], object], **rows: bool
    ) -> None:
        """A request that makes rows of these items present or absent."""
        known = [self.history.items[item] for item in items]
        for one in known:
            one.changes += 1
            for what, is_present in rows.items():
                if one.rows.get(what, False) is not is_present:
                    one.rows[what] = _IN_DOUBT
        is_done = self._ask(request)
        for one in known:
            one.changes += 1
            if is_done:
                one.rows.update(rows)

    def _some(self, what: str) -> list[str]:
        present = [item for item in self.history.with_row(what) if item in self._own]
        n = min(len(present), 1 + self.world.below(4))
        return [present[i] for i in self.world.random.permutation(len(present))[:n]]

    # requests

    def share(self) -> None:
        """Share one to three new images."""
        n, shape = 1 + self.world.below(3), self.cluster.plan.graph.input.shape
        values = self.world.random.uniform(-1, 1, (n, *shape))
        items = [self.world.random.bytes(16).hex() for _ in range(n)]
        for item, one in zip(items, values, strict=True):
            self.history.items[item] = Known(one)
        self._own += items
        self._change(items, lambda client: client.share(values, items), input=True)

    def extract(self) -> None:
        """Extract features of some images."""
        if items := self._some("input"):
            self._change(items, lambda client: client.extract(items), feature=True)

    def add(self) -> None:
        """Add features to the index that all share."""
        if items := self._some("feature"):

            def request(client: SimulatedClient) -> None:
                client.create_index(INDEX, "l2").add(items)

            self._change(items, request, index=True)

    def remove(self) -> None:
        """Remove rows from the index."""
        if items := self._some("index"):
            self._change(items, lambda c: c.open_index(INDEX).remove(items), index=False)

    def delete(self) -> None:
        """Delete some images with all their rows."""
        if items := self._some("input"):
            gone = {"input": False, "feature": False, "index": False}
            self._change(items, lambda client: client.delete(items), **gone)

    def search(self) -> None:
        """Search the index; its rows are judged by what is known of every item."""
        items = self._some("feature")[:3]
        if not items:
            return
        before = {item: (k.changes, k.rows.get("index")) for item, k in self.history.items.items()}
        found: list[Index] = []

        def request(client: SimulatedClient) -> None:
            found.append(client.open_index(INDEX))
            _, ids = found[0].search(items, 1)
            rows = found[0]._known_rows[1]
            for item, [best] in zip(items, ids, strict=True):
                if best != (item if item in rows else rows[0]):
                    raise Wrong(f"item {item[:8]} was found as {best[:8]}")

        if not self._ask(request):
            return
        self.history.n_searches += 1
        rows = {*found[0]._known_rows[1]}
        for item, (changes, is_present) in before.items():
            known = self.history.items[item]
            settled = known.changes == changes and changes % 2 == 0 and is_present is not _IN_DOUBT
            if settled and (item in rows) is not bool(is_present):
                raise Wrong(f"item {item[:8]} is in the searched rows: {item in rows}")

    def reveal(self) -> None:
        """Reveal kept features and compare them with the images."""
        if items := self._some("feature"):
            self._ask(lambda client: check_features(client, self.history, items))


def check_features(client: SimulatedClient, history: History, items: list[str]) -> None:
    """Reveal features: scaled first entries of the inputs (`StandIn`). Raises Wrong."""
    got, program = client.features(items).reveal(), client.program
    inputs = np.stack([history.items[item].values for item in items])
    words = stand_in_words(program, encode_input(program, inputs))
    expected = decode_result(program, words)
    if not (got == expected).all():
        raise Wrong("revealed features are of other images")


def check_store(store: Store, history: History, party: int) -> None:
    """See that nothing is half done, and that a server has deleted nothing because the other had an
    older copy. Raises Wrong.
    """
    pending = [kind for kind, _ in store.all_rows("pending") if not kind.startswith("input/")]
    unpaired = [] if history.has_old_copy else store.all_rows("unpaired")
    if store.changes() or pending or unpaired:
        raise Wrong(f"server {party} has {len(pending)} pending and {len(unpaired)} unpaired rows")
    items = [i for i in history.kept[party] if history.items[i].rows.get("input") is not False]
    found = {item for kind in store.kinds() for item in store.find(kind, items, "user")}
    if lost := {*items} - found:
        raise Wrong(f"the row of item {min(lost)[:8]} was deleted at server {party}")


def judge(client: SimulatedClient, history: History) -> None:
    """Compare both servers with the history, when all is over. Raises Wrong."""
    plan = client.plan_id
    requests: dict[str, m.ListItems | m.IndexInfo] = {
        "input": m.ListItems(plan, "inputs"),
        "feature": m.ListItems(plan, "features"),
        "index": m.IndexInfo(plan, INDEX),
    }
    for what, request in requests.items():
        first, second = client.listed(request)
        if first != second:
            raise Wrong(f"the servers hold different {what} rows")
        for item, known in history.items.items():
            is_present = known.rows.get(what, False)
            if is_present is not _IN_DOUBT and (item in first) is not is_present:
                raise Wrong(f"{what} row of item {item[:8]} is there: {item in first}")
    features, _ = client.listed(requests["feature"])
    if features:
        check_features(client, history, features)
    client.delete_index(INDEX)
    client.create_index(INDEX, "ip")
