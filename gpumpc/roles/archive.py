"""What a server keeps and finds again: results at rest, indexes over them, searches. Lock-step parts run at both servers.

Every row is put down as pending, named by the session and batch it came from; the servers then compare what they hold and
confirm what both have. So a crash between the two leaves nothing that only one server could use.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from gpumpc.errors import CorruptStore, InputError, MissingFile, SelectionFailed
from gpumpc.nn.plan import plan_hash
from gpumpc.offline.seeds import SeedTree
from gpumpc.protocols.distances import Rows
from gpumpc.retrieval import index as ix
from gpumpc.retrieval.programs import ROWS, Geometry, Metric
from gpumpc.ring.backend import Words, packed_bytes
from gpumpc.roles import messages as m
from gpumpc.roles import side
from gpumpc.roles.desk import DealerDesk
from gpumpc.roles.engine import Engine
from gpumpc.roles.evaluation import Evaluation, TakenCorrections
from gpumpc.session import StaticWeight
from gpumpc.shares import Additive
from gpumpc.store import RowKey, Store
from gpumpc.wire.channel import FramedChannel
from gpumpc.wire.handshake import exchange_hello

QUERIES_PER_BATCH = 8
_TRIES = 8

log = logging.getLogger("gpumpc")

Found = Callable[[int, int, Additive], None]  # part, of, key shares
Progress = Callable[[int, int], None]


class _OnDemand:
    """Server 1's corrections of a side program: asked of the dealer when a batch needs them."""

    def __init__(self, desk: DealerDesk, engine: Engine, task: m.SideTask, evaluation: Evaluation | None = None) -> None:
        self.desk, self.engine, self.task, self.evaluation = desk, engine, task, evaluation

    def take(self, session_id: bytes, batch: int, timeout_s: float) -> TakenCorrections:
        """See `DealerDesk.take_aside`."""
        if self.evaluation is None:
            raise InputError("a side program was run before it was bound", "", "this is a bug: please report it")
        opened = self.evaluation.opened
        nonce_0, nonce_1 = (nonce.hex() for nonce in opened.nonces)
        plan = plan_hash(self.engine.plan).hex()
        want = m.Want(plan, opened.pair_id, nonce_0, nonce_1, session_id.hex(), batch, self.task)
        return self.desk.take_aside(want, self.evaluation.program.cost.dealer_bytes, timeout_s)

    def discard_before(self, session_id: bytes, batch: int) -> None:
        """Forget batches that can never be used."""
        self.desk.discard_before(session_id, batch)


class Archive:
    """One server's results and indexes.

    Args:
        store: where the rows are.
        desk: server 1's way to the dealer; None at server 0.
    """

    def __init__(self, store: Store, desk: DealerDesk | None) -> None:
        self.store, self._desk = store, desk
        self.trouble = "the servers have not met"
        self._loaded: tuple[tuple[object, ...], ix.LoadedIndex] | None = None

    # pairing

    def meet(self, channel: FramedChannel) -> None:
        """Bind the two stores to each other at their first meeting; later, see whether they belong together."""
        own = self.store.pair_id
        fresh = secrets.token_hex(16)
        theirs = exchange_hello(channel, equal={}, told={"store": own, "fresh": fresh})
        other = theirs.get("store", "")
        if not own and not other:
            both = sorted((fresh, theirs.get("fresh", "")))
            self.store.pair(hashlib.sha256("".join(both).encode()).hexdigest()[:32])
        self.trouble = ""
        if own != other:
            self.trouble = f"here store pair {own[:8] or 'none'}, there {other[:8] or 'none'}"
            log.warning("the two servers' stores do not belong together: %s", self.trouble)

    def check_paired(self) -> None:
        """Raises CorruptStore where the two stores do not belong together."""
        if self.trouble:
            raise CorruptStore(
                "the two servers' stores do not belong together",
                f"{self.trouble}; a state folder was lost, restored or exchanged",
                "start both servers with the state folders they had, or remove the folder `store` of both and share again",
            )

    # results

    @staticmethod
    def results(engine: Engine) -> str:
        """The kind of a plan's results."""
        return f"result/{plan_hash(engine.plan).hex()}"

    def keep(
        self, channel: FramedChannel, engine: Engine, batch: int, owner: str, items: Sequence[str], result: Additive
    ) -> None:
        """Keep a batch's result shares under its items, at both servers or at none."""
        keys = ix.row_keys(items, engine.session_id, batch)
        rows = _packed(engine, result, len(items))
        self.store.put(self.results(engine), keys, owner, rows)
        self._confirm(channel, self.results(engine), keys)

    def _confirm(self, channel: FramedChannel, kind: str, keys: Sequence[RowKey]) -> None:
        """Both servers have put these down: from now on they may be used. Raises HandshakeMismatch if they differ."""
        digest = hashlib.sha256("\n".join(f"{key.item} {key.version}" for key in keys).encode()).hexdigest()
        exchange_hello(channel, equal={"rows": f"{kind} {digest}"}, told={})
        self.store.confirm(kind, keys)

    def reconcile(self, channel: FramedChannel, kind: str) -> None:
        """After a crash: what one server alone holds is deleted, what both hold is ready at both."""
        own = sorted(row.key for row in self.store.rows(kind))
        digest = hashlib.sha256("\n".join(f"{key.item} {key.version}" for key in own).encode()).hexdigest()
        theirs = exchange_hello(channel, equal={}, told={"digest": digest})
        common = set(own)
        if theirs.get("digest") != digest:
            common &= {RowKey(*line.split(" ", 1)) for line in _exchange_lines(channel, own)}
            self.store.forget(kind, [key for key in own if key not in common])
        self.store.confirm(kind, [row.key for row in self.store.rows(kind, "pending") if row.key in common])

    def kept(self, engine: Engine, owner: str) -> list[str]:
        """Items of an owner that have results."""
        return [row.key.item for row in self.store.rows(self.results(engine), "ready", owner)]

    def _features(self, engine: Engine, items: Sequence[str], owner: str, size: int) -> Iterator[tuple[Words, list[str]]]:
        """Result shares of items, `size` at a time, the last batch filled with zero rows."""
        value, backend = engine.program.result, engine.backend
        _, data = self.store.read(self.results(engine), items, owner)
        for start in range(0, len(items), size):
            chunk = data[start : start + size]
            words = [backend.unpack(memoryview(row), (1, *value.shape[1:]), value.bits) for row in chunk]
            missing = size - len(chunk)
            if missing:
                words.append(backend.zeros((missing, *value.shape[1:])))
            yield backend.concat(words, 0), list(items[start : start + size])

    # indexes

    def make(self, engine: Engine, name: str, metric: Metric, owner: str) -> None:
        """A new index. Raises InputError if its name is taken by a different one, PlanError if results are no vectors."""
        geometry = side.geometry_of(engine.program, metric)
        record = ix.IndexRecord(name, plan_hash(engine.plan).hex(), geometry.dim, metric, owner)
        if self.store.note(record.kind, ix.encode_index(record)) != ix.encode_index(record):
            raise InputError(f"there is an index '{name}' already", "it has another metric or plan", "choose another name")

    def find(self, engine: Engine, name: str, owner: str) -> ix.IndexRecord:
        """An owner's index over this plan's results. Raises MissingFile."""
        plan = plan_hash(engine.plan).hex()
        found = self.store.noted(f"index/{owner}/{name}")
        record = ix.decode_index(found) if found else None
        if record is None or record.plan != plan:
            raise MissingFile(f"there is no index '{name}' over this plan", "", "make it with `gpumpc index create`")
        return record

    def remove(self, record: ix.IndexRecord, items: Sequence[str]) -> None:
        """Take items out of an index."""
        wanted = set(items)
        self.store.forget(record.kind, [row.key for row in self.store.rows(record.kind) if row.key.item in wanted])

    def check_kept(self, engine: Engine, items: Sequence[str], owner: str) -> None:
        """Raises MissingFile naming the first item without a result."""
        self.store.read(self.results(engine), items, owner)

    def check_search(self, record: ix.IndexRecord, items: Sequence[str], k: int) -> None:
        """Raises InputError for an empty index or question, or more neighbours than there are rows."""
        n_rows = len(self.rows_of(record))
        if not items or not 1 <= k <= n_rows:
            raise InputError(
                f"{len(items)} questions for {k} neighbours each to index '{record.name}' of {n_rows} rows",
                "there must be a question, and no more neighbours than rows",
                f"ask for 1 to {n_rows}, or add rows with `gpumpc index add`",
            )

    def rows_of(self, record: ix.IndexRecord) -> list[str]:
        """Items of an index, in order of position."""
        return [row.key.item for row in self.store.rows(record.kind, "ready")]

    def add(
        self, channel: FramedChannel, engine: Engine, record: ix.IndexRecord, items: Sequence[str], progress: Progress
    ) -> None:
        """Take kept results into an index, a batch of rows at a time."""
        self.reconcile(channel, record.kind)
        present = set(self.rows_of(record))
        fresh = [item for item in items if item not in present]
        geometry = side.geometry_of(engine.program, record.metric)
        runner = self._side(channel, engine, m.RowsTask(record.metric))
        batches = list(self._features(engine, fresh, record.owner, ix.ROWS_PER_BATCH)) if fresh else []
        for part, (words, names) in enumerate(batches):
            batch = runner.next_batch
            rows: Rows = runner.evaluate(channel, batch, {}, _operand(geometry, words))
            keys = ix.row_keys(names, runner.session_id, batch)
            self.store.put(record.kind, keys, record.owner, ix.pack_rows(engine.backend, geometry, rows, len(names)))
            self._confirm(channel, record.kind, keys)
            progress(part + 1, len(batches))

    def search(
        self,
        channel: FramedChannel,
        engine: Engine,
        record: ix.IndexRecord,
        items: Sequence[str],
        k: int,
        found: Found,
    ) -> None:
        """The k best rows of each item, as key shares by batch; positions are those of `rows_of`."""
        self.reconcile(channel, record.kind)
        geometry = side.geometry_of(engine.program, record.metric)
        loaded = self._load(engine, record, geometry)
        size = min(QUERIES_PER_BATCH, len(items))
        task = m.QueryTask(record.metric, size, k, side.segments_of(loaded.versions))
        runner = self._side(channel, engine, task)
        of = -(-len(items) // size)
        for part, (words, names) in enumerate(self._features(engine, items, record.owner, size)):
            keys, batch = self._answer(channel, runner, {ROWS: loaded.operand}, _operand(geometry, words))
            keys = runner.rerandomised(keys, batch)
            found(part, of, keys.with_words(keys.words[: len(names)]))

    @staticmethod
    def _answer(
        channel: FramedChannel, runner: Evaluation, weights: dict[str, StaticWeight], query: Additive
    ) -> tuple[Additive, int]:
        """One batch of queries and its number; an unlucky sample, which both servers see at once, is drawn again."""
        attempt = 0
        while True:
            attempt += 1
            batch = runner.next_batch
            try:
                return runner.evaluate(channel, batch, weights, query), batch
            except SelectionFailed:
                if attempt == _TRIES:
                    raise
                log.info("a search is repeated under a new shuffle")

    def _load(self, engine: Engine, record: ix.IndexRecord, geometry: Geometry) -> ix.LoadedIndex:
        version = (record, tuple(row.key for row in self.store.rows(record.kind, "ready")))
        if self._loaded is None or self._loaded[0] != version:
            if not version[1]:
                raise InputError(f"index '{record.name}' is empty", "nothing was added", "use `gpumpc index add`")

            def tree(session_id: bytes, batch: int) -> SeedTree:
                return SeedTree(engine.root.reveal(), session_id, batch)

            cipher = engine.plan.params.cipher
            loaded = ix.LoadedIndex(self.store, record, geometry, engine.party, engine.backend, cipher, tree)
            self._loaded = (version, loaded)
        return self._loaded[1]

    def _side(self, channel: FramedChannel, engine: Engine, task: m.SideTask) -> Evaluation:
        """A program beside the plan's, its session open."""
        program = side.program_of_task(engine.plan, engine.program, task)
        source = _OnDemand(self._desk, engine, task) if self._desk else None
        runner = Evaluation(
            engine.party,
            engine.plan,
            program,
            engine.root,
            engine.pair_secret,
            engine.ledger,
            engine.backend,
            source,
            engine.wait_s,
        )
        if source:
            source.evaluation = runner
        runner.open_session(channel, side.binding(task))
        return runner


def _operand(geometry: Geometry, words: Words) -> Additive:
    return Additive(words, geometry.bits, geometry.frac, geometry.divisor)


def _packed(engine: Engine, result: Additive, n_items: int) -> npt.NDArray[np.uint8]:
    """Result shares as rows (n_items, row_bytes)."""
    backend, bits = engine.backend, result.bits
    n = int(np.prod(result.words.shape[1:]))
    rows = np.empty((n_items, packed_bytes(n, bits)), dtype=np.uint8)
    for i in range(n_items):
        rows[i] = np.frombuffer(backend.pack(result.words[i], bits), dtype=np.uint8)
    return rows


def _exchange_lines(channel: FramedChannel, own: Sequence[RowKey]) -> list[str]:
    """The peer's row names; ours go to it. In portions, so that a record stays small."""
    portion = 4000
    lines = [f"{key.item} {key.version}" for key in own]
    mine = [lines[i : i + portion] for i in range(0, len(lines), portion)]
    told = exchange_hello(channel, equal={}, told={"portions": str(len(mine))})
    try:
        n_theirs = int(told["portions"])
    except (KeyError, ValueError):
        raise CorruptStore("the other server's list of rows is malformed", "", "see its log") from None
    theirs: list[str] = []
    for i in range(max(len(mine), n_theirs)):
        part = "\n".join(mine[i]) if i < len(mine) else ""
        got = exchange_hello(channel, equal={}, told={"rows": part}).get("rows", "")
        theirs += got.splitlines()
    return theirs
