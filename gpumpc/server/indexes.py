"""A server's indexes over kept results: rows taken in, queries answered.

Lock-step parts run at both servers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from gpumpc import messages as m
from gpumpc.engine import index_programs
from gpumpc.engine.engine import Engine
from gpumpc.engine.evaluation import Evaluation, TakenCorrections
from gpumpc.errors import BadFrame, InputError, MissingFile
from gpumpc.offline.seeds import SeedTree
from gpumpc.program.plan import plan_hash
from gpumpc.protocols.ranking.distances import Rows
from gpumpc.retrieval import index_store as ix
from gpumpc.retrieval.geometry import geometry_of
from gpumpc.retrieval.programs import ROWS, Geometry, Metric
from gpumpc.ring.backend import Words
from gpumpc.server.dealer_link import DealerLink
from gpumpc.server.share_store import ShareStore
from gpumpc.shares import Additive
from gpumpc.wire.channel import Channel

QUERIES_PER_BATCH = 8

Found = Callable[[int, int, Additive], None]  # part, of, key shares
Progress = Callable[[int, int], None]


class _OnDemand:
    """Server 1's corrections of a side program: asked of the dealer when a batch needs them."""

    def __init__(
        self,
        dealer_link: DealerLink,
        engine: Engine,
        task: m.IndexTask,
        evaluation: Evaluation | None = None,
    ) -> None:
        self.dealer_link, self.engine, self.task, self.evaluation = (
            dealer_link,
            engine,
            task,
            evaluation,
        )

    def take(self, session_id: bytes, batch_index: int, timeout_s: float) -> TakenCorrections:
        """See `DealerLink.take_on_demand`."""
        if self.evaluation is None:
            raise InputError(
                "a side program was run before it was bound", hint="this is a bug: please report it"
            )
        binding = self.evaluation.binding
        nonce_0, nonce_1 = (nonce.hex() for nonce in binding.nonces)
        plan = plan_hash(self.engine.plan).hex()
        want = m.WantBatch(
            plan,
            binding.weight_sharing_id,
            nonce_0,
            nonce_1,
            session_id.hex(),
            batch_index,
            self.task,
        )
        return self.dealer_link.take_on_demand(
            want, self.evaluation.program.cost.dealer_bytes, timeout_s
        )

    def discard_before(self, session_id: bytes, batch_index: int) -> None:
        """Forget batches that can never be used."""
        self.dealer_link.discard_before(session_id, batch_index)


class Indexes:
    """One server's indexes.

    Args:
        share_store: the rows they are made of, and where theirs lie.
        dealer_link: server 1's way to the dealer; None at server 0.
    """

    def __init__(self, share_store: ShareStore, dealer_link: DealerLink | None) -> None:
        self._share_store, self._store, self._dealer_link = (
            share_store,
            share_store.store,
            dealer_link,
        )
        self._loaded: tuple[tuple[object, ...], ix.LoadedIndex] | None = None

    def make(
        self, engine: Engine, name: str, metric: Metric, owner: str, classes: tuple[str, ...] = ()
    ) -> None:
        """A new index.

        Raises InputError if its name is taken by a different one, PlanError if results are no
        vectors.
        """
        geometry = geometry_of(engine.program, metric)
        if len(classes) == 1 or len({*classes}) != len(classes):
            raise InputError(
                f"an index of {len(classes)} classes",
                "one is alone, or named twice",
                "name at least two",
            )
        plan = plan_hash(engine.plan).hex()
        record = ix.IndexRecord(name, plan, geometry.dim, metric, owner, len(classes), classes)
        if self._store.note(record.kind, ix.encode_index(record)) != ix.encode_index(record):
            raise InputError(
                f"there is an index '{name}' already",
                "it has another metric, plan or classes",
                "choose another name",
            )

    def find(self, engine: Engine, name: str, owner: str) -> ix.IndexRecord:
        """An owner's index over this plan's results. Raises MissingFile."""
        plan = plan_hash(engine.plan).hex()
        found = self._store.noted(f"index/{owner}/{name}")
        record = ix.decode_index(found) if found else None
        if record is None or record.plan != plan:
            raise MissingFile(
                f"there is no index '{name}' over this plan",
                hint="make it with `gpumpc index create`",
            )
        return record

    def rows_of(self, record: ix.IndexRecord) -> list[str]:
        """Items of an index, in order of position."""
        return self._share_store.ready(record.kind, record.owner)

    def remove(self, record: ix.IndexRecord, items: Sequence[str]) -> None:
        """Take items out of an index."""
        found = self._store.find(record.kind, items, record.owner)
        self._store.delete_rows(record.kind, [row.key for row in found.values()])

    def check_search(
        self, record: ix.IndexRecord, items: Sequence[str], k: int, vote: bool
    ) -> None:
        """Raises InputError for an empty index or question, more neighbours than rows, or a vote
        without labels.
        """
        if vote and not record.n_labels:
            raise InputError(
                f"index '{record.name}' has no classes",
                "its rows have no labels",
                "make one with classes",
            )
        n_rows = len(self.rows_of(record))
        if not items or not 1 <= k <= n_rows:
            raise InputError(
                f"{len(items)} questions for {k} neighbours each to index '{record.name}' of "
                f"{n_rows} rows",
                "there must be a question, and no more neighbours than rows",
                f"ask for 1 to {n_rows}, or add rows with `gpumpc index add`",
            )

    @staticmethod
    def labels_of(
        record: ix.IndexRecord, items: Sequence[str], bulk: bytes
    ) -> dict[str, np.uint64]:
        """This server's share of each item's label.

        Raises BadFrame unless there is one each, for an index with classes.
        """
        expected = ix.WORD_BYTES * len(items) if record.n_labels else 0
        if len(bulk) != expected:
            raise BadFrame(
                f"{len(items)} rows came with {len(bulk)} bytes of labels, and {expected} are "
                "their size",
                "an index with classes takes a label with each row, and any other takes none",
                "give `labels` for it, or leave them out",
            )
        return dict(zip(items, np.frombuffer(bulk, dtype="<u8"), strict=False))

    def add(
        self,
        channel: Channel,
        engine: Engine,
        record: ix.IndexRecord,
        items: Sequence[str],
        labels: Mapping[str, np.uint64],
        progress: Progress,
    ) -> None:
        """Take kept results into an index, a batch of rows at a time, with this server's shares of
        their labels.
        """
        self._share_store.reconcile(channel, record.kind)
        present = set(self.rows_of(record))
        fresh = [item for item in items if item not in present]
        geometry = geometry_of(engine.program, record.metric)
        runner = self._side(channel, engine, m.RowsTask(record.metric))
        of = -(-len(fresh) // ix.ROWS_PER_BATCH)
        for part, (words, names) in enumerate(
            self._features(engine, fresh, record.owner, ix.ROWS_PER_BATCH)
        ):
            batch_index = runner.next_batch
            rows: Rows = runner.evaluate(channel, batch_index, {}, _operand(geometry, words))
            keys = ix.row_keys(names, runner.session_id, batch_index)
            numbers = (
                np.array([labels[name] for name in names], dtype=np.uint64)
                if record.n_labels
                else None
            )
            packed = ix.pack_rows(engine.backend, geometry, rows, len(names), numbers)
            self._store.put(record.kind, keys, record.owner, packed)
            self._share_store.confirm(channel, record.kind, keys)
            progress(part + 1, of)

    def search(
        self,
        channel: Channel,
        engine: Engine,
        record: ix.IndexRecord,
        items: Sequence[str],
        k: int,
        vote: bool,
        found: Found,
    ) -> None:
        """The k best rows of each item, as key shares by batch; or shares of the label that they
        vote for.

        Positions in keys are those of `rows_of`.
        """
        self._share_store.reconcile(channel, record.kind)
        geometry = geometry_of(engine.program, record.metric)
        loaded = self._load(engine, record, geometry)
        size = min(QUERIES_PER_BATCH, len(items))
        task = m.QueryTask(
            record.metric,
            size,
            k,
            index_programs.segments_of(loaded.versions),
            record.n_labels if vote else 0,
        )
        runner = self._side(channel, engine, task)
        of = -(-len(items) // size)
        for part, (words, names) in enumerate(self._features(engine, items, record.owner, size)):
            inputs = [_operand(geometry, words)]
            if vote and loaded.labels is not None:
                inputs.append(loaded.labels)
            keys, batch_index = runner.evaluate_again(
                channel, runner.next_batch, {ROWS: loaded.operand}, *inputs
            )
            keys = runner.rerandomised(keys, batch_index)
            found(part, of, keys.with_words(keys.words[: len(names)]))

    def _features(
        self, engine: Engine, items: Sequence[str], owner: str, size: int
    ) -> Iterator[tuple[Words, list[str]]]:
        """Result shares of items, `size` at a time, the last batch filled with zero rows."""
        row_kind = self._share_store.results(engine)
        for start in range(0, len(items), size):
            names = list(items[start : start + size])
            yield (
                filled(engine, self._share_store.words(row_kind, engine, names, owner), size),
                names,
            )

    def _load(self, engine: Engine, record: ix.IndexRecord, geometry: Geometry) -> ix.LoadedIndex:
        version = (record, tuple(row.key for row in self._store.rows(record.kind, "ready")))
        if self._loaded is None or self._loaded[0] != version:
            if not version[1]:
                raise InputError(
                    f"index '{record.name}' is empty", "nothing was added", "use `gpumpc index add`"
                )

            def tree(session_id: bytes, batch_index: int) -> SeedTree:
                return SeedTree(engine.root.expose(), session_id, batch_index)

            cipher = engine.plan.params.cipher
            loaded = ix.load_index(
                self._store, record, geometry, engine.party, engine.backend, cipher, tree
            )
            self._loaded = (version, loaded)
        return self._loaded[1]

    def _side(self, channel: Channel, engine: Engine, task: m.IndexTask) -> Evaluation:
        """A program beside the plan's, its session open."""
        program = index_programs.program_of_task(engine.plan, engine.program, task)
        source = _OnDemand(self._dealer_link, engine, task) if self._dealer_link else None
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
        runner.open_session(channel, index_programs.task_id(task))
        return runner


def filled(engine: Engine, words: Words, size: int) -> Words:
    """A batch of `size` items: what is missing is filled with zero shares, whose results are
    dropped.
    """
    missing = size - len(words)
    if not missing:
        return words
    return engine.backend.concat([words, engine.backend.zeros((missing, *words.shape[1:]))], 0)


def _operand(geometry: Geometry, words: Words) -> Additive:
    return Additive(words, geometry.bits, geometry.frac, geometry.divisor)
