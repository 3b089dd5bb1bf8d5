"""A server's answers to its clients: what it does at once, and what both servers do together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping

from gpumpc.errors import AccessDenied, BadShape, GpumpcError, HandshakeMismatch, PeerLost
from gpumpc.ring.backend import Backend, Words
from gpumpc.roles import messages as m
from gpumpc.roles.archive import Archive
from gpumpc.roles.config import ServerConfig
from gpumpc.roles.desk import DealerDesk
from gpumpc.roles.engine import Engine, agreed_fields
from gpumpc.roles.inbox import Inbox, words_of
from gpumpc.roles.keys import Card, seal
from gpumpc.roles.lockstep import LockStep
from gpumpc.roles.tasks import Task, TaskQueue, Work
from gpumpc.shares import Additive
from gpumpc.wire.channel import FramedChannel
from gpumpc.wire.frames import Kind
from gpumpc.wire.zmq_channel import Arrival, Listener

log = logging.getLogger("gpumpc")


class ClientDesk:
    """Answers of one server; `answer` belongs to the listening thread, the work it queues to the lock-step thread."""

    def __init__(
        self,
        config: ServerConfig,
        engines: Mapping[str, Engine],
        inbox: Inbox,
        archive: Archive,
        desk: DealerDesk | None,
        backend: Backend,
        listener: Listener,
        tasks: TaskQueue,
        lock_step: LockStep,
        weights_changed: Callable[[], None],
    ) -> None:
        self.party, self._engines, self._inbox, self._archive = config.party, engines, inbox, archive
        self._desk, self._backend, self._listener = desk, backend, listener
        self._tasks, self._lock_step, self._weights_changed = tasks, lock_step, weights_changed
        self._cards: dict[str, Card] = {card.name: card for card in (*config.owners, *config.users)}
        self._owners = {card.name for card in config.owners}

    def answer(self, arrival: Arrival) -> None:
        """Answer a request, or queue it. Raises what stands against it."""
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
            case m.Keep():
                self._keep(arrival, request)
            case _:
                self._archive.check_paired()
                self._answer_archive(arrival, request)

    def _answer_archive(self, arrival: Arrival, request: m.ArchiveRequest) -> None:
        engine, owner = self._engine_of(request.plan), arrival.peer
        match request:
            case m.ListKept():
                self._reply(arrival, m.Kept(self._archive.kept(engine, owner)))
            case m.Forget():
                self._archive.store.delete(request.items, owner)
                self._reply(arrival, m.Done())
            case m.MakeIndex():
                self._archive.make(engine, request.name, request.metric, owner)
                self._reply(arrival, m.Done())
            case m.AskIndex():
                record = self._archive.find(engine, request.name, owner)
                self._reply(arrival, m.Kept(self._archive.rows_of(record), record.metric))
            case m.RemoveRows():
                self._archive.remove(self._archive.find(engine, request.name, owner), request.items)
                self._reply(arrival, m.Done())
            case m.AddRows():
                self._add_rows(arrival, request)
            case m.Search():
                self._search(arrival, request)

    def _reply(self, arrival: Arrival, reply: m.Reply, bulk: bytes = b"") -> None:
        self._listener.reply(arrival.routing_id, Kind.REPLY, m.pack(reply, bulk), sequence=arrival.frame.sequence)

    def fail(self, arrival: Arrival, error: GpumpcError) -> None:
        """Tell a client why nothing comes of its request."""
        self._listener.reply_error(arrival.routing_id, error, sequence=arrival.frame.sequence)

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
        return m.Status(self.party, plans, self._lock_step.is_connected, bool(self._desk and self._desk.is_connected))

    # what both servers do together

    def _submit(self, arrival: Arrival, plan: str, job: str, what: str, prepare: Callable[[], Work]) -> None:
        lost = PeerLost(
            f"server {self.party} is not connected to server {1 - self.party}",
            "the other server does not run, is starting, or their configurations differ",
            "start it, see both logs, then ask again: nothing was lost",
        )
        task = Task(arrival.peer, plan, job, f"{arrival.peer}: {what}", prepare, lambda error: self.fail(arrival, error))
        self._tasks.put(task)
        # Looked at after it is put: whenever the connection ends, this or the lock-step thread gives the task up.
        if not self._lock_step.is_connected:
            self._tasks.pop(job, 0.0)
            raise lost
        if self.party == 1:
            self._reply(arrival, m.Queued())

    def _put_weights(self, arrival: Arrival, request: m.PutWeights, bulk: memoryview) -> None:
        if arrival.peer not in self._owners:
            raise AccessDenied(f"{arrival.peer} may not share weights", "only owners may", "add its card to owner_cards")
        engine, sent = self._engine_of(request.plan), bytes(bulk)

        def prepare() -> Work:
            raw = engine.receive_weights(memoryview(sent))

            def work(channel: FramedChannel, first_batch: int) -> None:
                engine.install_weights(channel, request.pair_id, raw)
                self._weights_changed()
                log.info("weights of plan %s are shared", engine.plan.name)
                self._reply(arrival, m.Done())

            return work

        self._submit(arrival, request.plan, request.pair_id, "weights", prepare)

    def _run(self, arrival: Arrival, request: m.Run) -> None:
        def work(channel: FramedChannel, first_batch: int, engine: Engine, words: Words) -> None:
            for part, of, result in self._batches(channel, engine, words, first_batch):
                sealed = self._seal(arrival.peer, request.plan, request.job, part, result)
                self._reply(arrival, m.Part(request.job, part, of, len(result.words)), sealed)

        self._evaluate(arrival, request, f"run {request.upload}", work)

    def _keep(self, arrival: Arrival, request: m.Keep) -> None:
        self._archive.check_paired()
        if len(set(request.items)) != len(request.items):
            raise BadShape("an item is named twice", "each result is kept under a name of its own", "name each once")

        def work(channel: FramedChannel, first_batch: int, engine: Engine, words: Words) -> None:
            self._archive.reconcile(channel, self._archive.results(engine))
            start = 0
            for part, of, result in self._batches(channel, engine, words, first_batch):
                names = request.items[start : start + len(result.words)]
                self._archive.keep(channel, engine, first_batch + part, arrival.peer, names, result)
                start += len(names)
                self._reply(arrival, m.Stored(request.job, part, of))

        what = f"keep {request.upload} {','.join(request.items)}"
        self._evaluate(arrival, request, what, work, n_items=len(request.items))

    def _evaluate(
        self,
        arrival: Arrival,
        request: m.Run | m.Keep,
        what: str,
        work: Callable[[FramedChannel, int, Engine, Words], None],
        n_items: int | None = None,
    ) -> None:
        """Queue an evaluation of an upload, after everything that can be found out at once."""
        engine = self._engine_of(request.plan)
        engine.check_ready()
        upload = self._inbox.find(request.upload, arrival.peer, request.plan)
        if n_items not in (None, upload.n_items):
            raise BadShape(f"{n_items} names came for {upload.n_items} items", "", "name every item of the upload once")

        def prepare() -> Work:
            engine.check_ready()
            if self._desk and engine.program.cost.dealer_bytes:
                self._desk.check(engine.session_id, engine.next_batch)
            words = words_of(upload, self._inbox.read(request.upload), engine.program, self.party, self._backend)
            return lambda channel, first_batch: work(channel, first_batch, engine, words)

        self._submit(arrival, request.plan, request.job, f"{what} {upload.n_items}", prepare)

    def _batches(
        self, channel: FramedChannel, engine: Engine, words: Words, first_batch: int
    ) -> Iterator[tuple[int, int, Additive]]:
        """(part, of, result share) of each batch; the last one is filled with zero shares, whose results are dropped."""
        size = engine.program.input.shape[0]
        starts = range(0, len(words), size)
        for part, start in enumerate(starts):
            share = words[start : start + size]
            n_used = len(share)
            if n_used < size:
                share = self._backend.concat([share, self._backend.zeros((size - n_used, *share.shape[1:]))], 0)
            result = engine.run(channel, first_batch + part, share)
            yield part, len(starts), result.with_words(result.words[:n_used])

    def _add_rows(self, arrival: Arrival, request: m.AddRows) -> None:
        engine = self._engine_of(request.plan)
        record = self._archive.find(engine, request.name, arrival.peer)

        def prepare() -> Work:
            self._archive.check_kept(engine, request.items, arrival.peer)

            def work(channel: FramedChannel, first_batch: int) -> None:
                def progress(part: int, of: int) -> None:
                    self._reply(arrival, m.Stored(request.job, part, of))

                self._archive.add(channel, engine, record, request.items, progress)
                self._reply(arrival, m.Done())

            return work

        what = f"add {request.name} {','.join(request.items)}"
        self._submit(arrival, request.plan, request.job, what, prepare)

    def _search(self, arrival: Arrival, request: m.Search) -> None:
        engine = self._engine_of(request.plan)
        record = self._archive.find(engine, request.name, arrival.peer)
        self._archive.check_search(record, request.items, request.k)

        def prepare() -> Work:
            self._archive.check_kept(engine, request.items, arrival.peer)

            def work(channel: FramedChannel, first_batch: int) -> None:
                def found(part: int, of: int, keys: Additive) -> None:
                    sealed = self._seal(arrival.peer, request.plan, request.job, part, keys)
                    self._reply(arrival, m.Part(request.job, part, of, len(keys.words)), sealed)

                self._archive.search(channel, engine, record, request.items, request.k, found)

            return work

        what = f"search {request.name} {request.k} {','.join(request.items)}"
        self._submit(arrival, request.plan, request.job, what, prepare)

    def _seal(self, user: str, plan: str, job: str, part: int, result: Additive) -> bytes:
        packed = bytes(self._backend.pack(result.words, result.bits))
        return seal(self._cards[user], packed, m.result_aad(plan, job, part, self.party))
