"""Indexes over stored features: created, changed and searched."""

import dataclasses
from collections.abc import Iterator
from typing import TypeVar, cast

import numpy as np

from gpumpc import messages as m
from gpumpc.engine import index_programs
from gpumpc.engine.evaluation import Evaluation
from gpumpc.errors import BadFrame, InputError
from gpumpc.protocols.ranking.distances import Rows
from gpumpc.retrieval import index_store as ix
from gpumpc.retrieval.geometry import geometry_of
from gpumpc.retrieval.programs import ROWS
from gpumpc.server.dealer_link import OnDemandCorrections
from gpumpc.server.requests.request import ImmediateRequest, JointRequest, named
from gpumpc.shares import Additive
from gpumpc.store import RowKey
from gpumpc.wire.multiplexer import SubChannel

QUERIES_PER_BATCH = 8

N_co = TypeVar("N_co", bound=m.IndexRemove | m.IndexInfo, covariant=True)
J_co = TypeVar("J_co", bound=m.IndexAdd | m.IndexSearch, covariant=True)


class IndexCreate(ImmediateRequest[m.IndexCreate]):
    def check(self) -> None:
        """Raises CorruptStore."""
        self.share_store.check_paired()

    def answer(self) -> None:
        """Create the index. Raises HandshakeMismatch, InputError, PlanError."""
        self.resources.indexes.create(self.engine, self.record, self.client.name)
        self.client.reply(m.Done())


class _ImmediateIndexRequest(ImmediateRequest[N_co]):
    def check(self) -> None:
        """Raises CorruptStore, HandshakeMismatch, MissingFile."""
        self.share_store.check_paired()
        self._index = self.resources.indexes.find(self.engine, self.record.name, self.client.name)


class IndexRemove(_ImmediateIndexRequest[m.IndexRemove]):
    def answer(self) -> None:
        self.resources.indexes.remove(self._index, self.record.items)
        self.client.reply(m.Done())


class IndexInfo(_ImmediateIndexRequest[m.IndexInfo]):
    def answer(self) -> None:
        items = self.resources.indexes.items(self._index)
        self.client.reply(m.ItemList(self._index.metric, self._index.classes), m.pack_items(items))


class _JointIndexRequest(JointRequest[J_co]):
    """Evaluates an index program on stored features."""

    def check(self) -> None:
        """Raises CorruptStore, HandshakeMismatch, MissingFile."""
        self.share_store.check_paired()
        self._index = self.resources.indexes.find(self.engine, self.record.name, self.client.name)
        self._geometry = geometry_of(self.engine.program, self._index.metric)
        self._row_kind = self.share_store.features(self.engine)

    def prepare(self) -> None:
        """Find the stored features. Raises MissingFile."""
        self._keys = self.share_store.keys(self._row_kind.kind, self.record.items, self.client.name)

    def _compare_rows(self, channel: SubChannel) -> None:
        """Raises HandshakeMismatch unless both servers read the same features."""
        store = self.share_store
        store.compare(channel, self._row_kind.kind, self._keys)
        store.reconcile(channel, self._index.kind)

    def _open_evaluation(self, channel: SubChannel, task: m.IndexTask) -> Evaluation:
        """The evaluation of an index program, its session open."""
        engine, link = self.engine, self.resources.dealer_link
        program = index_programs.program_of_task(engine.plan, engine.program, task)
        n_bytes = program.cost.dealer_bytes
        corrections = OnDemandCorrections(link, engine, task, n_bytes) if link else None
        party = dataclasses.replace(engine.party, corrections=corrections, executor=None)
        evaluation = Evaluation(party, engine.plan, program)
        evaluation.open_session(channel, index_programs.task_id(task))
        return evaluation

    def _operands(self, items: list[str], size: int) -> Iterator[tuple[list[str], Additive]]:
        """Features of `size` items at a time, the last batch filled with zero rows."""
        store, g = self.share_store, self._geometry
        name = self.client.name
        for names, words in store.batches(self._row_kind, self.engine, items, name, size):
            yield names, Additive(words, g.bits, g.frac, g.divisor)


class IndexAdd(_JointIndexRequest[m.IndexAdd]):
    def _description(self) -> str:
        return f"add {self.record.name} {named(self.record.items)}"

    def check(self) -> None:
        """Also raises BadFrame unless each item of an index with classes has a label."""
        super().check()
        items, bulk = self.record.items, bytes(self.bulk)
        expected = ix.WORD_BYTES * len(items) if self._index.n_labels else 0
        if len(bulk) != expected:
            raise BadFrame(
                f"{len(items)} rows came with {len(bulk)} bytes of labels, and {expected} are "
                "their size",
                "an index with classes takes a label with each row, and any other takes none",
                "give `labels` for it, or leave them out",
            )
        self._labels = dict(zip(items, np.frombuffer(bulk, dtype="<u8"), strict=False))

    def run(self, channel: SubChannel, first_batch: int) -> None:
        """Add a batch of rows at a time; items that are in the index already stay as they are."""
        self._compare_rows(channel)
        present = {*self.resources.indexes.items(self._index)}
        fresh = [item for item in self.record.items if item not in present]
        evaluation = self._open_evaluation(channel, m.RowsTask(self._index.metric))
        of = -(-len(fresh) // ix.ROWS_PER_BATCH)
        for part, (names, operand) in enumerate(self._operands(fresh, ix.ROWS_PER_BATCH)):
            reserved = evaluation.begin(evaluation.next_batch)
            # The last step of this program makes rows.
            rows = cast(Rows, evaluation.carry_out(channel, reserved, operand))
            keys = ix.row_keys(names, reserved.session_id, reserved.batch_index)
            self._store_rows(channel, keys, rows)
            self.client.reply(m.Progress(self.job_id, part, of))
        self.client.reply(m.Done())

    def _store_rows(self, channel: SubChannel, keys: list[RowKey], rows: Rows) -> None:
        store, index = self.share_store, self._index
        labels = None
        if index.n_labels:
            labels = np.array([self._labels[key.item] for key in keys], dtype=np.uint64)
        packed = ix.pack_rows(self.engine.backend, self._geometry, rows, len(keys), labels)
        store.store.put(index.kind, keys, index.owner, packed)
        store.confirm(channel, index.kind, keys)


class IndexSearch(_JointIndexRequest[m.IndexSearch]):
    """Positions in keys are those of `IndexInfo`."""

    def _description(self) -> str:
        record = self.record
        return f"search {record.name} {record.k} {record.vote} {named(record.items)}"

    def check(self) -> None:
        """Also raises InputError for no query, too many neighbours, or a vote without labels."""
        super().check()
        record, index = self.record, self._index
        if record.vote and not index.n_labels:
            what = f"index '{index.name}' has no classes"
            raise InputError(what, "its rows have no labels", "make one with classes")
        n_rows = len(self.resources.indexes.items(index))
        if not record.items or not 1 <= record.k <= n_rows:
            raise InputError(
                f"{len(record.items)} questions for {record.k} neighbours each to index "
                f"'{index.name}' of {n_rows} rows",
                "there must be a question, and no more neighbours than rows",
                f"ask for 1 to {n_rows}, or add rows with `gpumpc index add`",
            )

    def run(self, channel: SubChannel, first_batch: int) -> None:
        """Send the keys of the k best rows of each item, or the label that they vote for."""
        self._compare_rows(channel)
        record, index = self.record, self._index
        loaded = self.resources.indexes.load(self.engine, index, self._geometry)
        size = min(QUERIES_PER_BATCH, len(record.items))
        segments = index_programs.segments_of(loaded.versions)
        n_labels = index.n_labels if record.vote else 0
        task = m.QueryTask(index.metric, size, record.k, segments, n_labels)
        evaluation = self._open_evaluation(channel, task)
        evaluation.weights = {ROWS: loaded.operand}
        labels = [loaded.labels] if record.vote and loaded.labels is not None else []
        of = -(-len(record.items) // size)
        for part, (names, operand) in enumerate(self._operands(record.items, size)):
            best, _ = evaluation.run(channel, evaluation.next_batch, operand, *labels)
            self.send_part(part, of, best.with_words(best.words[: len(names)]))
