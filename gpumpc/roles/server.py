"""A server process: one thread answers clients and dealer, one walks programs in lock step with the other server.

Server 0 leads: it takes requests in the order in which they came and orders server 1 to do the same. Server 1 answers
only for requests that it has received itself, so neither server can make the other evaluate anything.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gpumpc.errors import (
    AccessDenied,
    BadFrame,
    CorrelationsMissing,
    GpumpcError,
    HandshakeMismatch,
    InputError,
    PeerLost,
    PeerTimeout,
    RemoteError,
    WireError,
)
from gpumpc.nn import plan as plan_files
from gpumpc.nn.plan import plan_hash
from gpumpc.offline.ledger import Ledger
from gpumpc.offline.pool import Pool, Writer
from gpumpc.offline.secret import Secret
from gpumpc.ring.choose import choose_backend
from gpumpc.roles import messages as m
from gpumpc.roles.config import ServerConfig
from gpumpc.roles.engine import Engine, agreed_fields
from gpumpc.roles.inbox import Inbox, words_of
from gpumpc.roles.keys import Card, agree_root, load_identity, seal
from gpumpc.session import Corrections
from gpumpc.shares import Additive
from gpumpc.wire.channel import FramedChannel
from gpumpc.wire.frames import Kind
from gpumpc.wire.handshake import compare, exchange_hello, pack_hello, unpack_hello
from gpumpc.wire.zmq_channel import Arrival, Listener, ZmqChannel

# A dealer that sent nothing for this long is taken for stopped.
DEALER_SILENCE_S = 4.0
# How long server 1 waits for a client's request that server 0 has received already.
SAME_REQUEST_S = 4.0
_IDLE_S = 0.2
_RECONNECT_S = 0.5

log = logging.getLogger("gpumpc")


class Task(NamedTuple):
    """A request that both servers carry out together."""

    plan: str
    job: str
    what: str
    work: Callable[[FramedChannel, int], None]
    fail: Callable[[GpumpcError], None]


def root_check(root: Secret) -> str:
    """A value that shows two parties have the same root, and nothing of it."""
    return hmac.digest(root.reveal(), b"gpumpc root check", "sha256").hex()[:32]


def result_aad(plan: str, job: str, part: int, party: int) -> bytes:
    """What a sealed result share is bound to."""
    return f"gpumpc result {plan} {job} {part} {party}".encode()


class DealerDesk:
    """Server 1's side of the dealer: asks for batches, stores what comes, and is the engines' source of corrections.

    `hear` and `ask` belong to the listening thread, `take` to the lock-step thread.
    """

    def __init__(self, pool: Pool, wait_s: float) -> None:
        self.pool, self._wait_s = pool, wait_s
        self._last_heard = 0.0
        self._writers: dict[tuple[bytes, int], tuple[Writer, int]] = {}
        self._asked: set[tuple[bytes, int]] = set()

    @property
    def is_connected(self) -> bool:
        """Whether the dealer was heard lately."""
        return time.monotonic() - self._last_heard < DEALER_SILENCE_S

    def restart(self) -> None:
        """A dealer said hello: what an earlier one had begun is begun anew."""
        for writer, _ in self._writers.values():
            writer.abort()
        self._writers.clear()
        self._asked.clear()
        self.heard()

    def heard(self) -> None:
        """The dealer gave a sign of life."""
        self._last_heard = time.monotonic()

    def ask(self, engine: Engine) -> m.Want | None:
        """What to ask for next, if there is room: one batch at a time in flight, one more asked ahead."""
        if not engine.is_ready or not engine.program.cost.dealer_bytes or len(self._asked) > 1:
            return None
        session_id = engine.session_id
        for batch in self.pool.wanted(session_id, engine.next_batch, engine.program.cost.dealer_bytes):
            if (session_id, batch) not in self._asked:
                self._asked.add((session_id, batch))
                plan = plan_hash(engine.plan).hex()
                return m.Want(plan, session_id.hex(), batch, engine.plan.weight_digest, engine.pair_id)
        return None

    def store(self, session_id: bytes, batch: int, n_bytes: int, piece: memoryview) -> None:
        """One piece of a batch that was asked for. Raises BadFrame, ConfigError."""
        key = (session_id, batch)
        if key not in self._asked:
            raise BadFrame(f"corrections of batch {batch} came unasked", "the dealer is of another session", "restart it")
        if key not in self._writers:
            self._writers[key] = (self.pool.writer(session_id, batch, n_bytes), n_bytes)
        writer, left = self._writers.pop(key)
        writer.append(piece)
        left -= len(piece)
        if left:
            self._writers[key] = (writer, left)
        else:
            writer.commit()
            self._asked.discard(key)

    def take(self, session_id: bytes, batch: int, timeout_s: float) -> Corrections:
        """The corrections of a batch, as long as a dealer is there to deal them. Raises CorrelationsMissing."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return self.pool.take(session_id, batch, 0.5)
            except CorrelationsMissing:
                if time.monotonic() > deadline:
                    raise
                if not self.is_connected:
                    raise CorrelationsMissing(
                        f"batch {batch} has no correlated randomness and no dealer is connected",
                        "the dealer has stopped, or was never started",
                        "start `gpumpc dealer`, then ask again: nothing was lost",
                    ) from None

    def discard_before(self, session_id: bytes, batch: int) -> None:
        """Forget batches that can never be used."""
        self.pool.discard_before(session_id, batch)


class Server:
    """One server. `run` returns after `stop`.

    Raises on construction whatever is wrong with the party's files: ConfigError, ExposedSecret, CorruptPlan.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config, self.party = config, config.party
        self._identity = load_identity(config.identity)
        self._root = agree_root(self._identity, config.dealer, self.party)
        self._ledger = Ledger(config.state / "ledger.sqlite")
        self._inbox = Inbox(config.state / "inbox")
        self._desk: DealerDesk | None = None
        if self.party == 1:
            self._desk = DealerDesk(Pool(config.state / "pool", config.ahead_bytes), config.timeout_s)
        self._backend = choose_backend(config.backend)
        self._engines = {plan_hash(engine.plan).hex(): engine for engine in map(self._engine, config.plans)}
        self._cards: dict[str, Card] = {card.name: card for card in (*config.owners, *config.users)}
        self._owners = {card.name for card in config.owners}
        self._listener = Listener(config.listen, self._identity.curve, config.allowed)
        self.endpoint = self._listener.endpoint
        self._dealer_route: bytes | None = None
        self._tasks: queue.Queue[Task] = queue.Queue()
        self._waiting: dict[str, Task] = {}
        self._arrived = threading.Condition()
        self._stopping = threading.Event()
        self._peer_connected = False

    def _engine(self, folder: Path) -> Engine:
        return Engine(
            self.party,
            plan_files.load(folder),
            self.config.batch,
            self._root,
            self._ledger,
            self._backend,
            self.config.state,
            self._desk,
            wait_s=self.config.timeout_s,
        )

    def stop(self) -> None:
        """Ask `run` to return; from any thread or a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Serve until `stop`. Raises HandshakeMismatch if the other server does not agree with this one."""
        worker = threading.Thread(target=self._work, name="lock step", daemon=True)
        worker.start()
        log.info("server %d listens at %s", self.party, self.endpoint)
        while not self._stopping.is_set():
            arrival = self._listener.poll(_IDLE_S)
            if arrival is not None:
                self._answer(arrival)
            self._ask_dealer()
        worker.join(timeout=5.0)
        self._listener.close()
        self._ledger.close()
        if self._desk:
            self._desk.pool.close()
        if self._fatal:
            raise self._fatal

    # listening thread

    def _answer(self, arrival: Arrival) -> None:
        try:
            if arrival.peer == self.config.dealer.name:
                self._hear_dealer(arrival)
            elif arrival.frame.kind is Kind.REQUEST:
                self._answer_client(arrival)
            else:
                raise BadFrame(f"a {arrival.frame.kind.name} frame is no request", "", "use gpumpc's own client")
        except GpumpcError as error:
            log.warning("%s: %s", arrival.peer, error)
            self._listener.reply_error(arrival.routing_id, error, sequence=arrival.frame.sequence)

    def _answer_client(self, arrival: Arrival) -> None:
        request: m.Request
        request, bulk = m.unpack(arrival.frame.payload, m.Request)
        match request:
            case m.AskStatus():
                self._reply(arrival, self._status())
            case m.PutShares():
                self._inbox.put(request, arrival.peer, bulk, self._engine_of(request.plan).program, self.party)
                self._reply(arrival, m.Done())
            case m.Drop():
                self._inbox.drop(request.upload, arrival.peer)
                self._reply(arrival, m.Done())
            case m.PutWeights():
                self._put_weights(arrival, request, bulk)
            case m.Run():
                self._run(arrival, request)

    def _reply(self, arrival: Arrival, reply: m.Reply, bulk: bytes = b"") -> None:
        self._listener.reply(arrival.routing_id, Kind.REPLY, m.pack(reply, bulk), sequence=arrival.frame.sequence)

    def _engine_of(self, plan: str) -> Engine:
        if plan not in self._engines:
            raise HandshakeMismatch("plan", ", ".join(key[:16] for key in self._engines), plan[:16], "the client")
        return self._engines[plan]

    def _status(self) -> m.Status:
        plans = [
            m.PlanStatus(
                agreed_fields(engine.plan, engine.program),
                engine.pair_id,
                engine.session_id.hex(),
                engine.next_batch,
                self._desk.pool.ahead(engine.session_id, engine.next_batch) if self._desk else 0,
            )
            for engine in self._engines.values()
        ]
        return m.Status(self.party, plans, self._peer_connected, bool(self._desk and self._desk.is_connected))

    def _put_weights(self, arrival: Arrival, request: m.PutWeights, bulk: memoryview) -> None:
        engine, sent = self._engine_of(request.plan), bytes(bulk)
        if arrival.peer not in self._owners:
            raise AccessDenied(f"{arrival.peer} may not share weights", "only owners may", "add its card to owner_cards")

        def work(channel: FramedChannel, first_batch: int) -> None:
            engine.install_weights(channel, request.pair_id, memoryview(sent))
            log.info("weights of plan %s are shared", engine.plan.name)
            self._reply(arrival, m.Done())

        self._submit(arrival, Task(request.plan, request.pair_id, "weights", work, lambda e: self._fail(arrival, e)))

    def _run(self, arrival: Arrival, request: m.Run) -> None:
        engine = self._engine_of(request.plan)
        upload, bulk = self._inbox.get(request.upload, arrival.peer, request.plan)
        what = f"run {request.upload} {upload.n_items}"

        def work(channel: FramedChannel, first_batch: int) -> None:
            words = words_of(upload, bulk, engine.program, self.party, self._backend)
            size = engine.program.input.shape[0]
            starts = range(0, upload.n_items, size)
            for part, start in enumerate(starts):
                engine.reserve(first_batch + part)
                n_items = min(size, upload.n_items - start)
                share = words[start : start + size]
                if n_items < size:
                    padding = self._backend.zeros((size - n_items, *share.shape[1:]))
                    share = self._backend.concat([share, padding], 0)
                result = engine.run(channel, first_batch + part, share)
                sealed = self._seal(arrival.peer, request, part, result.with_words(result.words[:n_items]))
                self._reply(arrival, m.Part(request.job, part, len(starts), n_items), sealed)

        self._submit(arrival, Task(request.plan, request.job, what, work, lambda e: self._fail(arrival, e)))

    def _seal(self, user: str, request: m.Run, part: int, result: Additive) -> bytes:
        packed = bytes(self._backend.pack(result.words, result.bits))
        return seal(self._cards[user], packed, result_aad(request.plan, request.job, part, self.party))

    def _fail(self, arrival: Arrival, error: GpumpcError) -> None:
        self._listener.reply_error(arrival.routing_id, error, sequence=arrival.frame.sequence)

    def _submit(self, arrival: Arrival, task: Task) -> None:
        if not self._peer_connected:
            raise PeerLost(
                f"server {self.party} is not connected to server {1 - self.party}",
                "the other server does not run, or their configurations differ",
                "start it, see both logs, then ask again",
            )
        if self.party == 0:
            self._tasks.put(task)
            return
        with self._arrived:
            self._waiting[task.job] = task
            self._arrived.notify_all()

    # dealer

    def _hear_dealer(self, arrival: Arrival) -> None:
        frame = arrival.frame
        if frame.kind is Kind.HELLO:
            self._greet_dealer(arrival)
        elif self._desk is None or self._dealer_route is None:
            return  # server 0 only wants to know that they agree
        elif frame.kind is Kind.CORRECTION:
            self._desk.heard()
            n_bytes = next((e.program.cost.dealer_bytes for e in self._engines.values() if e.session_id == frame.session), 0)
            self._desk.store(frame.session, frame.batch, n_bytes, frame.payload)
        else:
            self._desk.heard()

    def _greet_dealer(self, arrival: Arrival) -> None:
        """Tell the dealer our fields for its plan number `sequence`, then compare: both ends find a difference."""
        index = arrival.frame.sequence
        engines = list(self._engines.values())
        if index >= len(engines):
            raise HandshakeMismatch("number of plans", str(len(engines)), f"at least {index + 1}", "the dealer")
        ours = {"root": root_check(self._root), **agreed_fields(engines[index].plan, engines[index].program)}
        self._listener.reply(arrival.routing_id, Kind.HELLO, pack_hello(ours, {}), sequence=index)
        compare(ours, unpack_hello(arrival.frame.payload).equal, "the dealer")
        if self._desk:
            self._desk.restart()
        self._dealer_route = arrival.routing_id
        log.info("the dealer is here and agrees on plan %s", engines[index].plan.name)

    def _ask_dealer(self) -> None:
        if self._desk is None or self._dealer_route is None or not self._desk.is_connected:
            return
        for engine in self._engines.values():
            want = self._desk.ask(engine)
            if want is not None:
                self._listener.reply(self._dealer_route, Kind.CONTROL, m.pack(want))

    # lock-step thread

    _fatal: GpumpcError | None = None

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                self._with_peer()
            except HandshakeMismatch as error:
                # Nothing can be computed with a peer that does not agree: stop, and say which field differs.
                log.error("%s", error)
                self._fatal = error
                self._stopping.set()
            except GpumpcError as error:
                log.warning("%s", error)
                self._stopping.wait(_RECONNECT_S)
            except Exception as error:  # a bug must stop the server loudly, not leave it half alive
                log.exception("the lock-step thread failed")
                self._fatal = GpumpcError("the server failed", repr(error), "this is a bug: please report the log")
                self._stopping.set()
            finally:
                self._peer_connected = False
                self._drop_waiting()

    def _with_peer(self) -> None:
        channel = self._connect()
        try:
            while not self._stopping.is_set():
                with contextlib.suppress(PeerTimeout):
                    channel.wait_peer(1.0)
                    break
            else:
                return
            exchange_hello(channel, equal={"number of plans": str(len(self._engines))}, told={})
            for engine in self._engines.values():
                engine.agree(channel)
            self._peer_connected = True
            log.info("server %d is connected to server %d and agrees", self.party, 1 - self.party)
            step = self._lead if self.party == 0 else self._follow
            while not self._stopping.is_set():
                step(channel)
        finally:
            channel.close()

    def _connect(self) -> ZmqChannel:
        curve, peer, patience = self._identity.curve, self.config.peer, self.config.timeout_s
        if self.config.peer_listen is not None:
            return ZmqChannel.bind(self.config.peer_listen, curve, peer.curve_key, patience_s=patience)
        return ZmqChannel.connect(self.config.peer_connect or "", curve, peer.curve_key, patience_s=patience)

    def _lead(self, channel: FramedChannel) -> None:
        try:
            task = self._tasks.get(timeout=_IDLE_S)
        except queue.Empty:
            with contextlib.suppress(PeerTimeout):
                channel.receive_control(0.0)  # raises PeerLost as soon as server 1 is gone
            return
        first_batch = self._engines[task.plan].next_batch
        try:
            channel.send_control(m.pack(m.Order(task.plan, task.job, first_batch)))
            answer, _ = m.unpack(channel.receive_control(SAME_REQUEST_S + 2.0), m.Control)
        except GpumpcError as error:
            task.fail(error)
            raise
        if isinstance(answer, m.Refuse):
            task.fail(RemoteError(f"server 1 refuses: {answer.what}", answer.why, answer.cure))
        elif isinstance(answer, m.Accept) and (answer.job, answer.what) == (task.job, task.what):
            self._carry_out(channel, task, first_batch)
        else:
            task.fail(InputError("the two servers were given different requests", "", "send the same to both"))
            raise BadFrame("server 1 accepted another request than was ordered", "", "")

    def _follow(self, channel: FramedChannel) -> None:
        try:
            order, _ = m.unpack(channel.receive_control(_IDLE_S), m.Control)
        except PeerTimeout:
            return
        if not isinstance(order, m.Order):
            raise BadFrame("server 0 sent no order where one was due", "", "restart both servers")
        with self._arrived:
            self._arrived.wait_for(lambda: order.job in self._waiting, SAME_REQUEST_S)
            task = self._waiting.pop(order.job, None)
        if task is None or task.plan != order.plan:
            text = "the request reached server 0 only", "the client sent it to one server", "send it to both servers"
            channel.send_control(m.pack(m.Refuse("InputError", *text)))
            return
        channel.send_control(m.pack(m.Accept(task.job, task.what)))
        self._carry_out(channel, task, order.first_batch)

    def _carry_out(self, channel: FramedChannel, task: Task, first_batch: int) -> None:
        try:
            task.work(channel, first_batch)
        except GpumpcError as error:
            task.fail(error)
            if not isinstance(error, WireError):
                with contextlib.suppress(GpumpcError):
                    channel.send_error(error)
            raise  # the channel may be in the middle of a batch: both servers start a new one

    def _drop_waiting(self) -> None:
        lost = PeerLost(f"server {1 - self.party} went away", "see its log", "ask again: the images are still shared")
        with self._arrived:
            tasks = [*self._waiting.values()]
            self._waiting.clear()
        with contextlib.suppress(queue.Empty):
            while True:
                tasks.append(self._tasks.get_nowait())
        for task in tasks:
            task.fail(lost)
