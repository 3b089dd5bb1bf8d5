"""A server's answers to its clients: what it does at once, and what both servers do together."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

from gpumpc import messages as m
from gpumpc.deploy.config import ServerConfig
from gpumpc.deploy.keys import Card, seal
from gpumpc.engine.engine import Engine
from gpumpc.errors import AccessDenied, BadShape, GpumpcError, HandshakeMismatch, PeerLost
from gpumpc.program.agreement import agreed_fields
from gpumpc.retrieval.index_store import IndexRecord
from gpumpc.ring.backend import Backend
from gpumpc.server.dealer_link import DealerLink
from gpumpc.server.indexes import Indexes, filled
from gpumpc.server.jobs import Job, JobQueue, Work
from gpumpc.server.peer_loop import PeerLoop
from gpumpc.server.share_store import INPUTS, RowKind, ShareStore, digest
from gpumpc.shares import Additive
from gpumpc.wire.frames import Kind
from gpumpc.wire.multiplexer import SubChannel
from gpumpc.wire.zmq_channel import Arrival, Listener

# Results in one sealed answer.
FETCHED_PER_PART = 1024

log = logging.getLogger("gpumpc")


class RequestHandler:
    """Answers of one server; `answer` belongs to the listening thread, the work it queues to the
    peer loop's thread.
    """

    def __init__(
        self,
        config: ServerConfig,
        engines: Mapping[str, Engine],
        share_store: ShareStore,
        indexes: Indexes,
        dealer_link: DealerLink | None,
        backend: Backend,
        listener: Listener,
        jobs: JobQueue,
        peer_loop: PeerLoop,
        weights_changed: Callable[[], None],
    ) -> None:
        self.party, self._engines, self._share_store, self._indexes = (
            config.party,
            engines,
            share_store,
            indexes,
        )
        self._dealer_link, self._backend, self._listener = dealer_link, backend, listener
        self._jobs, self._peer_loop, self._weights_changed = jobs, peer_loop, weights_changed
        self._cards: dict[str, Card] = {card.name: card for card in (*config.owners, *config.users)}
        self._owners = {card.name for card in config.owners}

    def answer(self, arrival: Arrival) -> None:
        """Answer a request, or queue it. Raises what stands against it."""
        request: m.Request
        request, bulk = m.unpack(arrival.frame.payload, m.Request)
        match request:
            case m.GetStatus():
                self._reply(arrival, self._status())
            case m.ShareWeights():
                self._put_weights(arrival, request, bulk)
            case m.GetStoreStatus():
                store = self._share_store.store
                rows = {kind: n for kind, n in store.info(arrival.peer).items() if kind != "bytes"}
                self._reply(
                    arrival,
                    m.StoreStatus(
                        self.party, store.store_pair_id, rows, store.held_bytes(arrival.peer)
                    ),
                )
            case m.Share():
                self._share_store.take_in(
                    self._engine_of(request.plan), request, arrival.peer, bulk
                )
                self._reply(arrival, m.Done())
            case m.Delete():
                self._share_store.store.delete(
                    request.items, arrival.peer, INPUTS if request.what == "inputs" else ""
                )
                self._reply(arrival, m.Done())
            case m.ListItems():
                engine = self._engine_of(request.plan)
                row_kind = (
                    self._share_store.inputs(engine)
                    if request.what == "inputs"
                    else self._share_store.results(engine)
                )
                self._reply(
                    arrival,
                    m.ItemList(),
                    m.pack_items(self._share_store.ready(row_kind.kind, arrival.peer)),
                )
            case m.Settle() | m.Run() | m.Extract() | m.GetFeatures():
                self._share_store.check_paired()
                self._answer_items(arrival, request)
            case _:
                self._share_store.check_paired()
                self._answer_index(arrival, request, bytes(bulk))

    def _answer_items(
        self, arrival: Arrival, request: m.Settle | m.Run | m.Extract | m.GetFeatures
    ) -> None:
        if not request.items or len(set(request.items)) != len(request.items):
            raise BadShape(
                "no item is named, or one is named twice",
                "a row has a name of its own",
                "name each once",
            )
        match request:
            case m.Settle():
                self._settle(arrival, request)
            case m.Run():
                self._run(arrival, request)
            case m.Extract():
                self._keep(arrival, request)
            case m.GetFeatures():
                self._fetch(arrival, request)

    def _answer_index(self, arrival: Arrival, request: m.IndexRequest, bulk: bytes) -> None:
        engine, owner = self._engine_of(request.plan), arrival.peer
        if isinstance(request, m.IndexCreate):
            self._indexes.make(engine, request.name, request.metric, owner, request.classes)
            self._reply(arrival, m.Done())
            return
        record = self._indexes.find(engine, request.name, owner)
        match request:
            case m.IndexInfo():
                self._reply(
                    arrival,
                    m.ItemList(record.metric, record.classes),
                    m.pack_items(self._indexes.rows_of(record)),
                )
            case m.IndexRemove():
                self._indexes.remove(record, request.items)
                self._reply(arrival, m.Done())
            case m.IndexAdd():
                self._add_rows(arrival, request, engine, record, bulk)
            case m.IndexSearch():
                self._search(arrival, request, engine, record)

    def _reply(self, arrival: Arrival, reply: m.Reply, bulk: bytes = b"") -> None:
        self._listener.reply(
            arrival.routing_id, Kind.REPLY, m.pack(reply, bulk), sequence=arrival.frame.sequence
        )

    def fail(self, arrival: Arrival, error: GpumpcError) -> None:
        """Tell a client why nothing comes of its request."""
        self._listener.reply_error(arrival.routing_id, error, sequence=arrival.frame.sequence)

    def _engine_of(self, plan: str) -> Engine:
        if plan not in self._engines:
            raise HandshakeMismatch(
                "plan", ", ".join(key[:16] for key in self._engines), plan[:16], "the client"
            )
        return self._engines[plan]

    def _status(self) -> m.Status:
        plans = [
            m.PlanStatus(
                agreed_fields(engine.plan, engine.program),
                engine.weight_sharing_id,
                engine.session_id.hex(),
                engine.next_batch,
                self._dealer_link.pool.ahead(engine.session_id, engine.next_batch)
                if self._dealer_link
                else 0,
            )
            for engine in self._engines.values()
        ]
        return m.Status(
            self.party,
            plans,
            self._peer_loop.is_connected,
            bool(self._dealer_link and self._dealer_link.is_connected),
        )

    # what both servers do together

    def _submit(
        self, arrival: Arrival, plan: str, job: str, what: str, prepare: Callable[[], Work]
    ) -> None:
        lost = PeerLost(
            f"server {self.party} is not connected to server {1 - self.party}",
            "the other server does not run, is starting, or their configurations differ",
            "start it, see both logs, then ask again: nothing was lost",
        )
        task = Job(
            arrival.peer,
            plan,
            job,
            f"{arrival.peer}: {what}",
            prepare,
            lambda error: self.fail(arrival, error),
        )
        self._jobs.put(task)
        # Looked at after it is put: whenever the connection ends, this or the peer loop's thread
        # gives the task up.
        if not self._peer_loop.is_connected:
            self._jobs.pop(job, 0.0)
            raise lost
        if self.party == 1:
            self._reply(arrival, m.Queued())

    def _put_weights(self, arrival: Arrival, request: m.ShareWeights, bulk: memoryview) -> None:
        if arrival.peer not in self._owners:
            raise AccessDenied(
                f"{arrival.peer} may not share weights",
                "only owners may",
                "add its card to owner_cards",
            )
        engine, sent = self._engine_of(request.plan), bytes(bulk)

        def prepare() -> Work:
            raw = engine.receive_weights(memoryview(sent))

            def work(channel: SubChannel, first_batch: int) -> None:
                engine.install_weights(channel, request.weight_sharing_id, raw)
                self._weights_changed()
                log.info("weights of plan %s are shared", engine.plan.name)
                self._reply(arrival, m.Done())

            return work

        self._submit(arrival, request.plan, request.weight_sharing_id, "weights", prepare)

    def _settle(self, arrival: Arrival, request: m.Settle) -> None:
        kind = self._share_store.inputs(self._engine_of(request.plan)).kind

        def work(channel: SubChannel, first_batch: int) -> None:
            missing = self._share_store.settle(channel, kind, request.items, arrival.peer)
            self._reply(arrival, m.Settled(request.job, missing))

        self._submit(
            arrival, request.plan, request.job, f"settle {named(request.items)}", lambda: work
        )

    def _run(self, arrival: Arrival, request: m.Run) -> None:
        def work(channel: SubChannel, first_batch: int, engine: Engine, row_kind: RowKind) -> None:
            for part, of, names, _, result in self._batches(
                channel, engine, row_kind, request.items, arrival.peer, first_batch
            ):
                sealed = self._seal(arrival.peer, request.plan, request.job, part, result)
                self._reply(arrival, m.Part(request.job, part, of, len(names)), sealed)

        self._evaluate(arrival, request, work)

    def _keep(self, arrival: Arrival, request: m.Extract) -> None:
        def work(channel: SubChannel, first_batch: int, engine: Engine, row_kind: RowKind) -> None:
            kind, owner = self._share_store.results(engine).kind, arrival.peer
            self._share_store.reconcile(channel, kind)
            present = {*self._share_store.ready(kind, owner)}
            todo = [item for item in request.items if item not in present]
            for part, of, names, number, result in self._batches(
                channel, engine, row_kind, todo, owner, first_batch
            ):
                self._share_store.store_features(channel, engine, number, owner, names, result)
                self._reply(arrival, m.Progress(request.job, part, of))
            self._reply(arrival, m.Done())

        self._evaluate(arrival, request, work)

    def _evaluate(
        self,
        arrival: Arrival,
        request: m.Run | m.Extract,
        work: Callable[[SubChannel, int, Engine, RowKind], None],
    ) -> None:
        """Queue an evaluation of items, after everything that can be found out at once."""
        engine, owner = self._engine_of(request.plan), arrival.peer
        engine.check_ready()
        row_kind = self._share_store.source_of(
            engine, self._engine_of(request.source) if request.source else None
        )
        self._share_store.keys(row_kind.kind, request.items, owner)

        def prepare() -> Work:
            engine.check_ready()
            if self._dealer_link and engine.program.cost.dealer_bytes:
                self._dealer_link.check(engine.session_id, engine.next_batch)
            keys = self._share_store.keys(row_kind.kind, request.items, owner)

            def together(channel: SubChannel, first_batch: int) -> None:
                self._share_store.compare(channel, row_kind.kind, keys)
                work(channel, first_batch, engine, row_kind)

            return together

        verb = type(request).__name__.lower()
        self._submit(
            arrival,
            request.plan,
            request.job,
            f"{verb} {request.source} {named(request.items)}",
            prepare,
        )

    def _batches(
        self,
        channel: SubChannel,
        engine: Engine,
        row_kind: RowKind,
        items: Sequence[str],
        owner: str,
        batch: int,
    ) -> Iterator[tuple[int, int, list[str], int, Additive]]:
        """(part, of, items, batch number, result share) of each batch."""
        size = engine.program.input.shape[0]
        portions = [[*items[start : start + size]] for start in range(0, len(items), size)]
        shares = (
            filled(engine, self._share_store.words(row_kind, engine, names, owner), size)
            for names in portions
        )
        results = engine.run_all(channel, batch, shares)
        for part, (names, (number, result)) in enumerate(zip(portions, results, strict=True)):
            yield part, len(portions), names, number, result.with_words(result.words[: len(names)])

    def _fetch(self, arrival: Arrival, request: m.GetFeatures) -> None:
        """Answered at once: nothing is computed, and the client sees whether both servers read the
        same rows.
        """
        engine, owner = self._engine_of(request.plan), arrival.peer
        row_kind, portion = self._share_store.results(engine), FETCHED_PER_PART
        of = -(-len(request.items) // portion)
        for part in range(of):
            names = request.items[part * portion : (part + 1) * portion]
            rows = digest(self._share_store.keys(row_kind.kind, names, owner))
            words = self._share_store.words(row_kind, engine, names, owner)
            result = Additive(
                words, row_kind.value.bits, row_kind.value.frac, row_kind.value.divisor
            )
            sealed = self._seal(owner, request.plan, request.job, part, result)
            self._reply(arrival, m.Part(request.job, part, of, len(names), rows), sealed)

    def _add_rows(
        self,
        arrival: Arrival,
        request: m.IndexAdd,
        engine: Engine,
        record: IndexRecord,
        bulk: bytes,
    ) -> None:
        kind = self._share_store.results(engine).kind
        labels = self._indexes.labels_of(record, request.items, bulk)

        def prepare() -> Work:
            keys = self._share_store.keys(kind, request.items, arrival.peer)

            def work(channel: SubChannel, first_batch: int) -> None:
                def progress(part: int, of: int) -> None:
                    self._reply(arrival, m.Progress(request.job, part - 1, of))

                self._share_store.compare(channel, kind, keys)
                self._indexes.add(channel, engine, record, request.items, labels, progress)
                self._reply(arrival, m.Done())

            return work

        self._submit(
            arrival,
            request.plan,
            request.job,
            f"add {request.name} {named(request.items)}",
            prepare,
        )

    def _search(
        self, arrival: Arrival, request: m.IndexSearch, engine: Engine, record: IndexRecord
    ) -> None:
        self._indexes.check_search(record, request.items, request.k, request.vote)
        kind = self._share_store.results(engine).kind

        def prepare() -> Work:
            keys = self._share_store.keys(kind, request.items, arrival.peer)

            def work(channel: SubChannel, first_batch: int) -> None:
                def found(part: int, of: int, best: Additive) -> None:
                    sealed = self._seal(arrival.peer, request.plan, request.job, part, best)
                    self._reply(arrival, m.Part(request.job, part, of, len(best.words)), sealed)

                self._share_store.compare(channel, kind, keys)
                self._indexes.search(
                    channel, engine, record, request.items, request.k, request.vote, found
                )

            return work

        what = f"search {request.name} {request.k} {request.vote} {named(request.items)}"
        self._submit(arrival, request.plan, request.job, what, prepare)

    def _seal(self, user: str, plan: str, job: str, part: int, result: Additive) -> bytes:
        packed = bytes(self._backend.pack(result.words, result.bits))
        return seal(self._cards[user], packed, m.result_aad(plan, job, part, self.party))


def named(items: Sequence[str]) -> str:
    """Short, and different for every list of items."""
    return f"{len(items)} {hashlib.sha256(','.join(items).encode()).hexdigest()}"
