"""One schedule: a cluster, clients, faults; judged when all is over."""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

from bench.simulation import index_stand_in
from bench.simulation.clients import (
    INDEX,
    LONGEST_S,
    History,
    SimulatedClient,
    User,
    check_store,
    judge,
)
from bench.simulation.cluster import SimulatedCluster
from bench.simulation.world import Clock, Condition, Secrets, World, replaced
from gpumpc.client import client as client_module
from gpumpc.client import connection, index, served_plan, uploads
from gpumpc.deploy.keys import Identity
from gpumpc.errors import GpumpcError
from gpumpc.local.compile import Plan
from gpumpc.server import peer_loop, store_agreement
from gpumpc.store import rows, segments
from gpumpc.wire import multiplexer

N_CLIENTS, N_REQUESTS = 2, 14
_LIMIT_S = 2000.0
_MEMORY = Path("/dev/shm")  # noqa: S108  a folder of its own is made in it


def outcome(seed: int, plan: Plan, identity: Identity) -> tuple[dict[str, int], Exception | None]:
    """What the schedule of a seed counted, and why it failed; its parties log nothing."""
    schedule, failure = Schedule(seed, plan, identity), None
    logging.disable(logging.CRITICAL)
    try:
        schedule.run()
    except Exception as error:
        failure = error
    finally:
        logging.disable(logging.NOTSET)
    told = schedule.history
    counts = {"schedules": 1, "faults": schedule.n_faults, "answers": told.n_answers}
    return {**counts, "errors": told.n_errors, "searches": told.n_searches}, failure


def stand_ins(world: World) -> dict[Any, dict[str, object]]:
    """What stands in place of which of the product's names, for `replaced`."""
    clock, secrets = Clock(world), Secrets(world)

    class Threading:
        """Stands for the module `threading` in the peer loop."""

        Event = threading.Event

        @staticmethod
        def Condition() -> Condition:
            return Condition(world)

    return {
        peer_loop: {"time": clock, "threading": Threading, "secrets": secrets},
        multiplexer: {"time": clock},
        connection: {"time": clock},
        client_module: {"time": clock, "secrets": secrets},
        uploads: {"time": clock, "secrets": secrets},
        served_plan: {"secrets": secrets},
        index: {"secrets": secrets},
        store_agreement: {"secrets": secrets},
        rows: {"time": clock},
        segments: {"secrets": secrets},
        **index_stand_in.replacements(world),
    }


def new_folder() -> Path:
    """A folder for the stores, in memory where that can be."""
    place = _MEMORY if _MEMORY.is_dir() else None
    return Path(tempfile.mkdtemp(prefix="gpumpc-simulation-", dir=place))


class Schedule:
    """The schedule of a seed.

    Attributes:
        history: what the clients were told, after `run`.
        n_faults: kills, lost connections and old copies.
    """

    def __init__(self, seed: int, plan: Plan, identity: Identity) -> None:
        self.world, self.history, self.n_faults = World(seed), History(), 0
        self._plan, self._identity = plan, identity
        self._n_at_work = N_CLIENTS

    def run(self) -> None:
        """Run it to its end. Raises Wrong, Stuck, or what the product raised."""
        folder = new_folder()
        try:
            with replaced(stand_ins(self.world)):
                cluster = SimulatedCluster(self.world, [self._plan], self._identity.card, folder)
                self._run(cluster)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _run(self, cluster: SimulatedCluster) -> None:
        world, judged = self.world, list[bool]()

        def use() -> None:
            User(world, cluster, self._identity, self.history).work(N_REQUESTS)
            self._n_at_work -= 1

        def operate() -> None:
            for party in (0, 1):
                cluster.start(party)
            self._disturb(cluster)
            for party in (0, 1):
                if cluster.servers[party] is None:
                    cluster.start(party)
            world.wait(lambda: not self._n_at_work)
            judge(self._lasting_client(cluster), self.history)
            stores = [server.share_store.store for server in cluster.servers if server]
            for party, store in enumerate(stores):
                check_store(store, self.history, party)
            if len({store.ready_digest() for store in stores}) > 1:
                raise AssertionError("the two stores hold different rows")
            judged.append(True)

        world.spawn("operator", operate)
        for number in range(N_CLIENTS):
            world.spawn(f"client {number}", use)
        try:
            world.run(lambda: bool(judged), _LIMIT_S)
        finally:
            with contextlib.suppress(BaseException):
                world.end()
            for server in cluster.servers:
                if server is not None:
                    server.share_store.store.close()

    def _lasting_client(self, cluster: SimulatedCluster) -> SimulatedClient:
        """A client that was answered after the last fault; a server may not yet know of one."""
        for _ in range(5):
            if not self.world.wait(lambda: cluster.is_whole, LONGEST_S):
                raise AssertionError("the servers do not find each other again")
            client = SimulatedClient(cluster, self._identity)
            with contextlib.suppress(GpumpcError):
                client.create_index(INDEX, "l2")
                return client
        raise AssertionError("the servers do not serve again")

    def _disturb(self, cluster: SimulatedCluster) -> None:
        """Kill servers and lose connections at random moments."""
        world = self.world
        for _ in range(1 + world.below(6)):
            world.wait(lambda: False, world.random.random() ** 2 * 3.0)
            self.n_faults += 1
            match world.below(9):
                case 0 | 1:
                    cluster.links.current.break_off()
                case 2 | 3:  # both at once
                    for party in (0, 1):
                        cluster.kill(party)
                    for party in (0, 1):
                        cluster.start(party)
                case 4:
                    self._put_back_older(cluster, world.below(2))
                case _:
                    self._restart(cluster, world.below(2))

    def _restart(self, cluster: SimulatedCluster, party: int) -> None:
        cluster.kill(party)
        self.world.wait(lambda: False, self.world.random.random() * 3.0)
        cluster.start(party)

    def _put_back_older(self, cluster: SimulatedCluster, party: int) -> None:
        """Copy a server's store, go on for a while, and put the copy back."""
        copy = cluster.folder / "copy"
        cluster.kill(party)
        cluster.copy(party, copy)
        cluster.start(party)
        self.world.wait(lambda: False, self.world.random.random() * 5.0)
        cluster.kill(party)
        cluster.put_back(party, copy)
        self.history.lose(party)
        cluster.start(party)
