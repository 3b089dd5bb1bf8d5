"""A server process: one thread listens to clients and the dealer, one runs the peer loop."""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gpumpc import messages as m
from gpumpc.deploy.config import ServerConfig
from gpumpc.deploy.keys import Card, agree_pair, agree_root, load_identity
from gpumpc.engine.engine import Engine
from gpumpc.engine.party import Party
from gpumpc.errors import (
    AccessDenied,
    BadFrame,
    ConfigError,
    GpumpcError,
    HandshakeMismatch,
    PeerTimeout,
)
from gpumpc.offline.ledger import Ledger
from gpumpc.offline.pool import Pool
from gpumpc.offline.secret import private_folder, read_private, write_private
from gpumpc.program import plan as plan_files
from gpumpc.program.agreement import agreed_fields
from gpumpc.program.plan import plan_hash
from gpumpc.ring.choose import choose_backend
from gpumpc.server.access.budgets import Budgets
from gpumpc.server.access.checks import Access
from gpumpc.server.access.weight_statements import WeightStatements
from gpumpc.server.audit.exchange import JobAudit
from gpumpc.server.audit.log import AuditLog
from gpumpc.server.dealer_link import DEALER_SILENCE_S, DealerLink
from gpumpc.server.index_catalog import IndexCatalog
from gpumpc.server.peer_loop import PeerLoop, unexpected
from gpumpc.server.requests.handler import RequestHandler
from gpumpc.server.requests.request import Resources
from gpumpc.server.share_store import ShareStore
from gpumpc.store import Store
from gpumpc.wire.channel import Channel
from gpumpc.wire.frames import Frame, Kind
from gpumpc.wire.handshake import compare, pack_hello, unpack_hello
from gpumpc.wire.zmq_channel import Arrival, Listener, PeerSocket

_IDLE_S = 0.2
# How much of the store is rewritten at a time, and how long there is rest when nothing is to do.
_COMPACT_BYTES = 8 << 20
_COMPACT_S = 30.0
_STOP_S = 5.0

log = logging.getLogger("gpumpc")


class Server:
    """One server. `run` returns after `stop`.

    Raises on construction, for the party's files: ConfigError, ExposedSecret, CorruptPlan.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self._identity = load_identity(config.identity)
        root = agree_root(self._identity, config.dealer, config.party)
        pair_secret = agree_pair(self._identity, config.peer)
        _claim(config.state, self._identity.card)
        ledger = Ledger(config.state / "ledger.sqlite")
        self._dealer_link = link = None
        if config.party == 1:
            self._dealer_link = link = DealerLink(Pool(config.state / "pool", config.pool_bytes))
        backend = choose_backend(config.backend)
        # Batches are prepared here, one after the other.
        self._executor = pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._party = Party(
            config.party, root, pair_secret, ledger, backend, link, config.timeout_s, pool
        )
        engines = map(self._open_engine, config.plans)
        self._engines = {plan_hash(engine.plan).hex(): engine for engine in engines}
        if len(self._engines) != len(config.plans):
            raise ConfigError("a plan is listed twice", hint="name each folder in `plans` once")
        folder = config.state / "store"
        store = Store(folder, config.party, config.store_key, config.uploads_bytes)
        self._share_store = ShareStore(store, config.party, backend)
        self._audit_log = AuditLog(config.state / "audit")
        self._listener = self._listen()
        self.endpoint = self._listener.endpoint
        self._dealer_route: bytes | None = None
        self._dealer_heard_at = -DEALER_SILENCE_S
        self._greeted: bytes | None = None  # a dealer with which this server agrees on every plan
        self._stopping = threading.Event()
        self._next_compaction = 0.0
        access = Access(config, {key: engine.plan for key, engine in self._engines.items()})
        for plan_id in self._engines:
            try:
                access.check_approved(plan_id)
            except AccessDenied as error:  # it is served as soon as they are there
                log.warning("%s", error)
        self._peer_loop = PeerLoop(
            self._engines,
            self._connect,
            self._on_agreement,
            JobAudit(self._identity, config.peer, config.party, self._audit_log),
            self._stopping,
            access.agreed(),
        )
        self._budgets = None
        if config.budgets:
            self._budgets = Budgets(config.state / "budgets.sqlite", config.budgets)
        self._resources = Resources(
            config.party,
            self._engines,
            self._share_store,
            IndexCatalog(self._share_store),
            self._dealer_link,
            self._peer_loop,
            config.task_bytes,
            self._dealer_is_connected,
            dict(zip(self._engines, config.plan_owners, strict=False)),
            access,
            WeightStatements(config.state),
            self._budgets,
            self._identity,
        )
        self._handler = RequestHandler(config, self._resources, self._listener)

    def _open_engine(self, folder: Path) -> Engine:
        config, plan = self.config, plan_files.load(folder)
        return Engine(self._party, plan, config.batch_size, config.state, config.in_flight)

    def _listen(self) -> Listener:
        config = self.config
        return Listener(
            config.listen,
            self._identity.curve,
            config.allowed,
            stream_peers=[config.dealer.name] if self._dealer_link else [],
            stream_endpoint=config.dealer_bulk,
        )

    def stop(self) -> None:
        """Ask `run` to return; from any thread or a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Serve until `stop`. Raises HandshakeMismatch if the other server does not agree."""
        worker = threading.Thread(target=self._peer_loop.run, name="lock step", daemon=True)
        worker.start()
        log.info("server %d listens at %s", self.config.party, self.endpoint)
        try:
            while not self._stopping.is_set():
                arrival = self._listener.poll(_IDLE_S)
                if arrival is not None:
                    self._answer(arrival)
                else:
                    self._compact()
                self._ask_dealer()
        finally:
            self._stopping.set()
            self._end(worker)
        if self._peer_loop.fatal:
            raise self._peer_loop.fatal

    def _compact(self) -> None:
        """Some work on the files of deleted rows, while nobody asks for anything."""
        if time.monotonic() < self._next_compaction:
            return
        n_bytes = 0
        try:
            n_bytes = self._share_store.store.compact(_COMPACT_BYTES)
        except ConfigError as error:
            log.warning("%s", error)
        if not n_bytes:
            self._next_compaction = time.monotonic() + _COMPACT_S

    def _end(self, worker: threading.Thread) -> None:
        if self._dealer_link:
            # Nobody listens to the dealer any longer: a thread that waits for it would never end.
            self._dealer_link.abort()
        worker.join(_STOP_S)
        if worker.is_alive():
            log.warning("stopped in the middle of a batch: its number is burnt; ask for it again")
        self._executor.shutdown(wait=False, cancel_futures=True)
        for engine in self._engines.values():
            engine.stop_preparing()
        self._listener.close()
        self._party.ledger.close()
        self._share_store.store.close()
        if self._budgets:
            self._budgets.close()
        self._audit_log.close()
        if self._dealer_link:
            self._dealer_link.pool.close()

    # listening thread

    def _answer(self, arrival: Arrival) -> None:
        try:
            if arrival.peer == self.config.dealer.name:
                self._receive_from_dealer(arrival)
            elif arrival.frame.kind is Kind.REQUEST:
                self._handler.handle(arrival)
            else:
                what = f"a {arrival.frame.kind.name} frame is not a request"
                raise BadFrame(what, hint="use gpumpc's own client")
        except GpumpcError as error:
            log.warning("%s: %s", arrival.peer, error)
            self._refuse(arrival, error)
        except Exception as error:  # no request may end the server: the others are still served
            log.exception("a request of %s failed", arrival.peer)
            self._refuse(arrival, unexpected(error))

    def _refuse(self, arrival: Arrival, error: GpumpcError) -> None:
        self._listener.reply_error(arrival.routing_id, error, sequence=arrival.frame.sequence)
        if self._dealer_link and arrival.routing_id == self._dealer_route:
            self._dismiss_dealer(self._dealer_link)

    # dealer

    def _receive_from_dealer(self, arrival: Arrival) -> None:
        frame, self._dealer_heard_at = arrival.frame, time.monotonic()
        if frame.kind is Kind.HELLO:
            self._greet_dealer(arrival)
        elif self._dealer_link is not None:  # server 0 only compares the plans
            if arrival.routing_id == self._greeted:
                # A frame after its hellos shows that it agrees on every plan too: from now on only
                # this dealer is asked.
                self._greeted, self._dealer_route = None, arrival.routing_id
                self._dealer_link.restart()
            if arrival.routing_id == self._dealer_route:
                self._dealer_link.note_heartbeat()
                if frame.kind is Kind.CORRECTION:
                    self._store(self._dealer_link, frame)
                elif frame.kind is Kind.CONTROL:
                    record, _ = m.unpack(frame.payload, m.DealerTalk)
                    if isinstance(record, m.DealRefused):
                        log.warning("the dealer refuses: %s (%s)", record.what, record.why)
                        self._dealer_link.refuse(record)

    def _dealer_is_connected(self) -> bool:
        if self._dealer_link:
            return self._dealer_link.is_connected
        return time.monotonic() - self._dealer_heard_at < DEALER_SILENCE_S

    @staticmethod
    def _store(dealer_link: DealerLink, frame: Frame) -> None:
        n_bytes = dealer_link.expected_bytes(frame.session, frame.batch_index)
        if n_bytes is None:
            # It is of a session that has ended, or of a search that was given up.
            dealer_link.drop(frame.session, frame.batch_index)
        else:
            dealer_link.store(frame.session, frame.batch_index, n_bytes, frame.payload)

    def _greet_dealer(self, arrival: Arrival) -> None:
        """Send the dealer our hello for its plan number `sequence`, then compare, as it does."""
        index = arrival.frame.sequence
        engines = list(self._engines.values())
        if index >= len(engines):
            there = f"at least {index + 1}"
            raise HandshakeMismatch("number of plans", str(len(engines)), there, "the dealer")
        ours = {
            "root": self._party.root.fingerprint(),
            "number of plans": str(len(engines)),
            **agreed_fields(engines[index].plan, engines[index].program),
        }
        self._listener.reply(arrival.routing_id, Kind.HELLO, pack_hello(ours, {}), sequence=index)
        compare(ours, unpack_hello(arrival.frame.payload).equal, "the dealer")
        if index + 1 == len(engines):
            self._greeted = arrival.routing_id
        log.info("the dealer is connected and agrees on plan %s", engines[index].plan.name)

    def _dismiss_dealer(self, dealer_link: DealerLink) -> None:
        """Ignore this dealer until it has sent its hellos again, as it does after an error.

        The frames on their way are the rest of a batch that is given up.
        """
        dealer_link.abort()
        self._dealer_route = None

    def _ask_dealer(self) -> None:
        lost = self._listener.lost_streams()
        if self._dealer_link is None or self._dealer_route is None:
            return
        if self._dealer_route in lost:
            self._dealer_link.note_lost()
        if not self._dealer_link.is_connected:
            what = f"the dealer's stream ended, or was silent for {DEALER_SILENCE_S:g} s"
            silent = PeerTimeout(what, hint="it connects again by itself")
            self._listener.reply_error(self._dealer_route, silent)
            self._dismiss_dealer(self._dealer_link)
            return
        link = self._dealer_link
        for want in (link.next_on_demand(), *map(link.next_want, self._engines.values())):
            if want is not None:
                self._listener.reply(self._dealer_route, Kind.CONTROL, m.pack(want))

    # peer loop's thread

    def _on_agreement(self, channel: Channel) -> None:
        self._share_store.meet(channel)
        self._resources.discard_old_sessions()

    def _connect(self) -> Channel:
        config, curve, peer_key = self.config, self._identity.curve, self.config.peer.curve_key
        make, endpoint = PeerSocket.bind, config.peer_listen
        if endpoint is None:
            make, endpoint = PeerSocket.connect, config.peer_connect or ""
        socket = make(endpoint, curve, peer_key, stream_endpoint=config.peer_bulk)
        return Channel(socket, config.party, config.timeout_s)


def _claim(state: Path, card: Card) -> None:
    """Mark a new state folder as this party's. Raises ConfigError if it is another's."""
    path = private_folder(state) / "owner"
    if not path.exists():
        write_private(path, card.curve_key)
    elif read_private(path) != card.curve_key:
        what = f"the state folder of {path} belongs to another party than {card.name}"
        why = "it was exchanged or copied, this party has new keys, or its disk changed that file"
        hint = "give each party its own state folder; if the file alone is damaged, delete it"
        raise ConfigError(what, why, hint)
