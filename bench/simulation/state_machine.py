"""A state machine over the simulated cluster: requests, kills, lost connections and old copies in
any order, each compared with a plain model.

Hypothesis chooses what happens, and shortens what fails. Between two steps all is at rest, so the
model says exactly which rows each server holds. A request may meet a fault while it runs; it may
then end in an error, and each of its rows is as before or as after. Without a fault it must do what
it says.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from bench.simulation.clients import LONGEST_S, SimulatedClient, Wrong
from bench.simulation.cluster import SimulatedCluster, stand_in_words
from bench.simulation.model import Model, Row, Rows, observed, record_of
from bench.simulation.plans import a_user, small_head, small_plan
from bench.simulation.schedule import new_folder, stand_ins
from bench.simulation.world import World, replaced
from gpumpc import messages as m
from gpumpc.errors import GpumpcError
from gpumpc.program.integers import decode_result, encode_input
from gpumpc.retrieval.index_store import kind_of

T = TypeVar("T")
Request = Callable[[SimulatedClient], T]
# What happens, and after how many frames between the servers.
Fault = tuple[str, int] | None
PLAN, USER = small_plan(), a_user()
HEAD = small_head(PLAN)
_UNKNOWN = "f" * 32
# A fault strikes by then, if few frames are sent.
_LATEST_S = 1.0

picks = st.lists(st.integers(0, 9), min_size=1, max_size=4)
parties = st.sampled_from([(0,), (1,), (0, 1)])
names = st.sampled_from(["a", "b"])
faults: st.SearchStrategy[Fault] = st.none() | st.tuples(
    st.sampled_from(["kill 0", "kill 1", "kill 01", "cut"]), st.integers(0, 8)
)


def image_of(item: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The image (4, 4, 1) of an item, which follows from its id."""
    return np.random.default_rng(int(item, 16)).uniform(-1, 1, (4, 4, 1))


class Machine(RuleBasedStateMachine):
    """The cluster and its model.

    Attributes:
        counts: what all machines of this class have done.
    """

    counts: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.model, self._copies = Model(), dict[int, Rows]()
        self._n_items = self._n_copies = 0
        self._open = contextlib.ExitStack()

    @initialize(seed=st.integers(0, 999))
    def start(self, seed: int) -> None:
        """Start both servers with empty stores; the seed orders what happens at once."""
        self.world, folder = World(seed), new_folder()
        logging.disable(logging.CRITICAL)
        self._open.callback(logging.disable, logging.NOTSET)
        self._open.callback(shutil.rmtree, folder, ignore_errors=True)
        self._open.enter_context(replaced(stand_ins(self.world)))
        self.cluster = SimulatedCluster(self.world, [PLAN, HEAD], USER.card, folder)
        self._open.callback(self._end)
        self._do(lambda: self._start_all((0, 1)))
        self._rest()
        self.counts["examples"] += 1

    def _end(self) -> None:
        with contextlib.suppress(BaseException):
            self.world.end()
        for server in self.cluster.servers:
            if server is not None:
                server.share_store.store.close()

    def teardown(self) -> None:
        """End all."""
        self._open.close()

    # how a step is taken

    def _do(self, *works: Callable[[], None]) -> None:
        """Run these in processes of their own until all have ended."""
        left = [len(works)]

        def counted(work: Callable[[], None]) -> Callable[[], None]:
            def run() -> None:
                work()
                left[0] -= 1

            return run

        for number, work in enumerate(works):
            self.world.spawn(f"step {number}", counted(work))
        self.world.run(lambda: not left[0], self.world.now + 10 * LONGEST_S)

    def _rest(self) -> None:
        """Wait until both servers are connected and serve, which they must by themselves."""

        def meet() -> None:
            for _ in range(5):
                if not self.world.wait(lambda: self.cluster.is_whole, LONGEST_S):
                    raise Wrong("the servers do not find each other again")
                # A server may not know yet that it has lost the other; it then says so.
                with contextlib.suppress(GpumpcError):
                    SimulatedClient(self.cluster, USER).delete([_UNKNOWN])
                    return
            raise Wrong("the servers do not serve again")

        self._do(meet)

    def _start_all(self, which: Sequence[int]) -> None:
        for party in which:
            self.cluster.start(party)

    def _strike(self, fault: tuple[str, int]) -> None:
        what, n_frames = fault
        self.counts["faults"] += 1
        links = self.cluster.links
        last = links.n_frames + n_frames
        self.world.wait(lambda: links.n_frames >= last, _LATEST_S)
        if what == "cut":
            self.cluster.links.current.break_off()
            return
        which = [int(party) for party in what.split()[1]]
        for party in which:
            self.cluster.kill(party)
        self._start_all(which)

    def _ask(self, request: Request[T], fault: Fault = None) -> list[T]:
        """The answer of a request; none if a fault made it end in an error."""
        answers, begun = list[T](), self.world.now

        def use() -> None:
            try:
                answers.append(request(SimulatedClient(self.cluster, USER)))
            except (GpumpcError, ValueError) as error:  # a server that is down has no port
                if fault is None or "this is a bug" in str(error):
                    raise Wrong(f"a request failed: {error}") from error
            if self.world.now - begun > LONGEST_S:
                raise Wrong(f"a request took {self.world.now - begun:.0f} s")

        self._do(use, *([lambda: self._strike(fault)] if fault else []))
        self.counts["answers" if answers else "errors"] += 1
        if fault:
            self._rest()
        return answers

    def _change(
        self,
        request: Request[object],
        fault: Fault,
        rows: Iterable[Row],
        is_present: bool,
        is_whole: bool = False,
    ) -> None:
        """A request that makes rows present or absent, at both servers.

        Args:
            is_whole: all of them or none, even if it meets a fault.
        """
        is_done = bool(self._ask(request, fault))
        stores = [server.share_store.store for server in self.cluster.servers if server]
        after = [observed(store) for store in stores]
        self.model.change((after[0], after[1]), {*rows}, is_present, is_done, is_whole)

    def _some(self, kind: str, chosen: Sequence[int]) -> list[str]:
        """Items that have a row which may be used."""
        items = self.model.items(kind)
        return list(dict.fromkeys(items[i % len(items)] for i in chosen))

    # requests

    @rule(n=st.integers(1, 3), fault=faults)
    def share(self, n: int, fault: Fault) -> None:
        """Share new images."""
        items = [f"{self._n_items + i:032x}" for i in range(n)]
        self._n_items += n
        self._share(items, fault)

    @precondition(lambda self: self.model.lost("input"))
    @rule(chosen=picks, fault=faults)
    def share_lost(self, chosen: list[int], fault: Fault) -> None:
        """Share images again that one server has lost."""
        lost = self.model.lost("input")
        self._share(list(dict.fromkeys(lost[i % len(lost)] for i in chosen)), fault)

    def _share(self, items: list[str], fault: Fault) -> None:
        values = np.stack([image_of(item) for item in items])
        rows = [("input", item) for item in items]
        self._change(lambda client: client.share(values, items), fault, rows, True)

    @precondition(lambda self: self.model.items("input"))
    @rule(chosen=picks, fault=faults)
    def extract(self, chosen: list[int], fault: Fault) -> None:
        """Extract features."""
        items = self._some("input", chosen)
        rows = [("feature", item) for item in items]
        self._change(lambda client: client.extract(items), fault, rows, True)

    @rule(name=names, fault=faults)
    def create_index(self, name: str, fault: Fault) -> None:
        """Create an index; one that is there stays."""
        rows = [record_of(kind_of("user", name))]
        self._change(lambda c: c.create_index(name, "l2"), fault, rows, True, True)

    @rule(name=names, fault=faults)
    def delete_index(self, name: str, fault: Fault) -> None:
        """Delete an index, if it is there, with its rows."""
        kind = kind_of("user", name)
        rows = [record_of(kind), *self.model.of_kind(kind)]
        self._change(lambda c: c.delete_index(name), fault, rows, False, True)

    def _has_index(self, name: str) -> bool:
        return record_of(kind_of("user", name)) in self.model.ready()

    @precondition(lambda self: self.model.items("feature"))
    @rule(name=names, chosen=picks, fault=faults)
    def add(self, name: str, chosen: list[int], fault: Fault) -> None:
        """Add features to an index, which is created if it is not there."""
        if not self._has_index(name):
            self.create_index(name, None)
        items = self._some("feature", chosen)
        rows = [(kind_of("user", name), item) for item in items]
        self._change(lambda c: c.open_index(name).add(items), fault, rows, True)

    @rule(name=names, chosen=picks, fault=faults)
    def remove(self, name: str, chosen: list[int], fault: Fault) -> None:
        """Remove rows from an index; their features stay."""
        kind = kind_of("user", name)
        if self._has_index(name) and self.model.items(kind):
            items = self._some(kind, chosen)
            rows = [(kind, item) for item in items]
            self._change(lambda c: c.open_index(name).remove(items), fault, rows, False, True)

    @precondition(lambda self: self.model.every_item())
    @rule(chosen=picks, inputs_only=st.booleans(), fault=faults)
    def delete(self, chosen: list[int], inputs_only: bool, fault: Fault) -> None:
        """Delete images with all their rows, or their inputs alone."""
        every = self.model.every_item()
        items = list(dict.fromkeys(every[i % len(every)] for i in chosen))
        rows = [row for row in self.model.rows() if row[1] in items]
        if inputs_only:
            rows = [row for row in rows if row[0] == "input"]
        self._change(lambda c: c.delete(items, inputs_only), fault, rows, False, True)

    # answers

    @precondition(lambda self: self.model.items("feature"))
    @rule(name=names, chosen=picks, fault=faults)
    def search(self, name: str, chosen: list[int], fault: Fault) -> None:
        """Search an index: each query finds its own row where it is there, else the first."""
        if not self._has_index(name) or not (rows := self.model.items(kind_of("user", name))):
            return
        items = self._some("feature", chosen)

        def request(client: SimulatedClient) -> tuple[list[list[str]], list[str]]:
            index = client.open_index(name)
            return index.search(items, 1)[1], index._known_rows[1]

        for found, searched in self._ask(request, fault):
            if searched != rows:
                raise Wrong(f"index {name} was searched with rows {searched}")
            if found != [[item if item in rows else rows[0]] for item in items]:
                raise Wrong(f"a search for {items} found {found}")

    @precondition(lambda self: self.model.items("feature"))
    @rule(chosen=picks, fault=faults)
    def classify(self, chosen: list[int], fault: Fault) -> None:
        """Classify by a head, on kept features; it shows logits."""
        items = self._some("feature", chosen)
        for got in self._ask(lambda c: np.asarray(c.classify(items, head=HEAD)), fault):
            self._compare(items, got, with_head=True)

    @precondition(lambda self: self.model.items("feature"))
    @rule(chosen=picks, fault=faults)
    def reveal(self, chosen: list[int], fault: Fault) -> None:
        """Reveal kept features."""
        items = self._some("feature", chosen)
        for got in self._ask(lambda client: client.features(items).reveal(), fault):
            self._compare(items, got, with_head=False)

    def _compare(self, items: list[str], got: Any, with_head: bool) -> None:
        stand_ins_of = next(server for server in self.cluster.servers if server).stand_ins
        program, head = (stand_in.program for stand_in in stand_ins_of)
        words = encode_input(program, np.stack([image_of(item) for item in items]))
        words, shown = stand_in_words(program, words), program
        if with_head:
            words, shown = stand_in_words(head, words), head
        if not np.array_equal(got, decode_result(shown, words)):
            raise Wrong(f"results of {items} are of other images")

    @precondition(lambda self: self.model.missing("feature"))
    @rule(chosen=st.integers(0, 9))
    def ask_for_what_is_not_there(self, chosen: int) -> None:
        """Features that were deleted, or lost by a server, are refused."""
        missing = self.model.missing("feature")
        item, refused = missing[chosen % len(missing)], list[bool]()

        def use() -> None:
            with contextlib.suppress(GpumpcError):
                SimulatedClient(self.cluster, USER).features([item]).reveal()
                raise Wrong(f"features of item {item} are there")
            refused.append(True)

        self._do(use)

    @rule()
    def look(self) -> None:
        """What the servers list is what the model says."""

        def request(client: SimulatedClient) -> list[tuple[list[str], list[str]]]:
            wanted: list[Any] = ["inputs", "features"]
            listed = [client.listed(m.ListItems(client.plan_id, what)) for what in wanted]
            return [*listed, (client.list_lost(), [])]

        [(inputs, features, (lost, _))] = self._ask(request)
        for kind, (first, second) in (("input", inputs), ("feature", features)):
            if not first == second == self.model.items(kind):
                raise Wrong(f"{kind} rows are listed as {first} and {second}")
        if lost != sorted({*self.model.lost("input"), *self.model.lost("feature")}):
            raise Wrong(f"lost items are listed as {lost}")

    # faults while nobody asks

    @rule(which=parties, off_s=st.floats(0, 10))
    def crash(self, which: tuple[int, ...], off_s: float) -> None:
        """Kill servers and start them again."""

        def operate() -> None:
            for party in which:
                self.cluster.kill(party)
            self.world.wait(lambda: False, off_s)
            self._start_all(which)

        self._stopped(operate)

    @rule(which=parties)
    def copy(self, which: tuple[int, ...]) -> None:
        """Copy state folders; an older copy is dropped."""

        def operate() -> None:
            for party in which:
                self.cluster.kill(party)
                shutil.rmtree(self._copy_of(party), ignore_errors=True)
                self.cluster.copy(party, self._copy_of(party))
                self._copies[party] = dict(self.model.at[party])
            self._start_all(which)

        self._stopped(operate)

    @precondition(lambda self: self._copies)
    @rule(which=parties)
    def put_back(self, which: tuple[int, ...]) -> None:
        """Put older copies of state folders back: rows that one server alone has are of no use."""
        chosen = [party for party in which if party in self._copies]

        def operate() -> None:
            for party in chosen:
                self.cluster.kill(party)
                place = self._copy_of(party)
                shutil.copytree(place, again := place.with_name("used"))
                self.cluster.put_back(party, again)
                self.counts["old copies"] += 1
                self.model.at[party].clear()
                self.model.at[party].update(self._copies[party])
            self._start_all(chosen)

        self._stopped(operate)

    def _copy_of(self, party: int) -> Any:
        return self.cluster.folder / f"copy{party}"

    def _stopped(self, operate: Callable[[], None]) -> None:
        self._do(operate)
        self._rest()
        stores = [server.share_store.store for server in self.cluster.servers if server]
        self.model.compare((observed(stores[0]), observed(stores[1])))
