"""Two servers made of the product's request handling, peer loop and stores, over a simulated world.

Networks are not evaluated: a batch's result is the first entries of its input share, scaled, which
is linear too, so a client can check what it reveals. Everything else is the product's own code.
"""

from __future__ import annotations

import hashlib
import shutil
import types
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from bench.simulation.network import ClientsPort, PeerLinks, PeerTransport
from bench.simulation.world import Event, World
from gpumpc.deploy.config import ServerConfig
from gpumpc.deploy.keys import Card, Role, keygen, load_identity
from gpumpc.engine.engine import Engine
from gpumpc.errors import GpumpcError
from gpumpc.local.compile import Plan
from gpumpc.program.agreement import agreed_fields
from gpumpc.program.compiler import program_of
from gpumpc.program.plan import PlanRecord, plan_hash
from gpumpc.program.program import Program
from gpumpc.ring.backend import Words
from gpumpc.ring.choose import choose_backend
from gpumpc.server.access.checks import Access
from gpumpc.server.access.weight_statements import WeightStatements
from gpumpc.server.audit.exchange import JobAudit
from gpumpc.server.audit.log import AuditLog
from gpumpc.server.index_catalog import IndexCatalog
from gpumpc.server.peer_loop import PeerLoop
from gpumpc.server.requests.handler import RequestHandler
from gpumpc.server.requests.request import Resources
from gpumpc.server.share_store import ShareStore
from gpumpc.shares import Additive
from gpumpc.store import Store
from gpumpc.wire.channel import Channel
from gpumpc.wire.handshake import exchange_hello
from gpumpc.wire.multiplexer import SubChannel

Array = npt.NDArray[np.uint64]
BATCH_SIZE = 2
_PATIENCE_S = 4.0
_ROLES: tuple[Role, Role] = ("server0", "server1")


class SimulatedStore(Store):
    """A store that gives up the turn before each transaction, where a kill may strike."""

    world: World

    def _change(self) -> Any:
        if not cast(Any, self._lock)._is_owned():
            self.world.wait()
        return super()._change()


def stand_in_words(program: Program, words: Array) -> Array:
    """What stands for a program: the first entries of its input words (n, ..), scaled.

    It is linear, so that it maps shares of an input to shares of a result.
    """
    result, n = program.result, int(np.prod(program.result.shape[1:]))
    chosen = words.reshape(len(words), -1)[:, :n].reshape(-1, *result.shape[1:])
    return chosen << np.uint64(result.bits - program.input.bits)


class StandIn:
    """Stands for an engine: sessions and batch numbers as the engine has, no network."""

    def __init__(self, plan: PlanRecord, party: int, world: World) -> None:
        self.plan, self.program = plan, program_of(plan, BATCH_SIZE)
        self.weight_sharing_id, self.session_id, self.next_batch = "0" * 32, b"", 0
        self.backend, self._party, self._world = choose_backend("numpy"), party, world

    def agree(self, channel: SubChannel) -> None:
        """Compare the plans, and begin a session that no earlier process had."""
        own = self._world.random.bytes(16).hex()
        equal = agreed_fields(self.plan, self.program)
        theirs = exchange_hello(channel, equal=equal, informative={"nonce": own})
        both = "".join(sorted((own, theirs["nonce"])))
        self.session_id, self.next_batch = hashlib.sha256(both.encode()).digest()[:16], 0

    def check_ready(self) -> None:
        """Weights are always shared."""

    def run_all(
        self, channel: SubChannel, first_batch: int, batches: Iterable[Words]
    ) -> Iterator[tuple[int, Additive]]:
        """The first entries of each batch's input shares."""
        result = self.program.result
        for words in batches:
            batch, self.next_batch = self.next_batch, self.next_batch + 1
            exchange_hello(channel, equal={"batch": str(batch)})
            scaled = cast(Words, stand_in_words(self.program, np.asarray(words)))
            share = self.backend.reduce(scaled, result.bits)
            yield batch, Additive(share, result.bits, result.frac, result.divisor)


class SimulatedServer:
    """One server's process, from its start to its end."""

    def __init__(self, cluster: SimulatedCluster, party: int) -> None:
        world = cluster.world
        self.process, self.port = f"server {party}", ClientsPort(world)
        SimulatedStore.world = world
        store = SimulatedStore(cluster.folder / str(party), party)
        self.stand_ins = [StandIn(plan, party, world) for plan in cluster.plans]
        self.share_store = ShareStore(store, party, self.stand_ins[0].backend)
        engines = cast(dict[str, Engine], {plan_hash(s.plan).hex(): s for s in self.stand_ins})
        stopping: Any = Event(world)

        def connect() -> Channel:
            return Channel(PeerTransport(cluster.links, party), party, _PATIENCE_S)

        meet = self.share_store.meet
        identity, peer = cluster.identities[party], cluster.identities[1 - party].card
        self.audit_log = AuditLog(cluster.folder / f"audit{party}")
        audit = JobAudit(identity, peer, party, self.audit_log)
        self.peer_loop = PeerLoop(engines, connect, meet, audit, stopping)
        indexes = IndexCatalog(self.share_store)
        owners = dict.fromkeys(engines, cluster.card)
        card, no_tables = cluster.card, dict[str, Any]()
        fields = {"owners": (), "users": (card,), "plan_owners": (card,), "approvals": None}
        config: Any = types.SimpleNamespace(**fields, rights=no_tables, budgets=no_tables)
        access = Access(cast(ServerConfig, config), dict.fromkeys(engines, cluster.plan))
        statements = WeightStatements(cluster.folder / str(party))
        resources = Resources(
            party,
            engines,
            self.share_store,
            indexes,
            None,
            self.peer_loop,
            1 << 30,
            bool,
            owners,
            access,
            statements,
            None,
            identity,
        )
        self._handler = RequestHandler(cast(ServerConfig, config), resources, cast(Any, self.port))
        self._world = world
        world.spawn(self.process, self.peer_loop.run)
        world.spawn(self.process, self._listen)

    def _listen(self) -> None:
        while True:
            self._world.wait(lambda: bool(self.port.arrivals))
            arrival = self.port.arrivals.popleft()
            try:
                self._handler.handle(arrival)
            except GpumpcError as error:
                sequence = arrival.frame.sequence
                self.port.reply_error(arrival.routing_id, error, sequence=sequence)


class SimulatedCluster:
    """Both servers' folders and the processes over them.

    Args:
        plans: what the servers serve; clients connect for the first.
    """

    def __init__(self, world: World, plans: Sequence[Plan], card: Card, folder: Path) -> None:
        self.plans = [plan.record for plan in plans]
        self.world, self.plan, self.card, self.folder = world, self.plans[0], card, folder
        self.links = PeerLinks(world)
        for role in _ROLES:
            keygen(folder / role, role, role)
        self.identities = [load_identity(folder / role) for role in _ROLES]
        self.servers: list[SimulatedServer | None] = [None, None]

    def start(self, party: int) -> None:
        """Start a server that does not run."""
        self.servers[party] = SimulatedServer(self, party)

    def kill(self, party: int) -> None:
        """Kill a server that runs, and wait until nothing of it is left; from a task."""
        server = self.servers[party]
        if server is None:
            return
        self.servers[party], server.port.is_open = None, False
        self.world.kill(server.process)
        self.world.wait(lambda: not self.world.has_tasks(server.process))
        server.share_store.store.close()
        server.audit_log.close()

    def copy(self, party: int, place: Path) -> None:
        """Copy the folder of a server that does not run."""
        shutil.copytree(self.folder / str(party), place)

    def put_back(self, party: int, place: Path) -> None:
        """Put a copy back in the place of the folder; the copy is used up."""
        shutil.rmtree(self.folder / str(party))
        place.rename(self.folder / str(party))

    def port(self, party: int) -> ClientsPort | None:
        """Where a client reaches a server; None while it is down."""
        server = self.servers[party]
        return None if server is None else server.port

    @property
    def is_whole(self) -> bool:
        """Whether both servers run and are connected."""
        return all(server is not None and server.peer_loop.is_connected for server in self.servers)
