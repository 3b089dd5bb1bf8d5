"""Indexes over stored features: created, changed and searched."""

import abc
import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TypeVar, cast

import numpy as np

from gpumpc import messages as m
from gpumpc.engine import index_programs
from gpumpc.engine.evaluation import Evaluation
from gpumpc.errors import BadFrame, InputError
from gpumpc.program.program import Program
from gpumpc.protocols.ranking.distances import Rows
from gpumpc.retrieval import index_store as ix
from gpumpc.retrieval.geometry import geometry_of
from gpumpc.retrieval.programs import ROWS
from gpumpc.server import store_agreement as agreement
from gpumpc.server.dealer_link import OnDemandCorrections
from gpumpc.server.requests.request import ImmediateRequest, JointRequest, named
from gpumpc.server.share_store import digest
from gpumpc.shares import Additive
from gpumpc.store import RowKey
from gpumpc.wire.multiplexer import SubChannel

QUERIES_PER_BATCH = 8

J_co = TypeVar("J_co", bound=m.IndexAdd | m.IndexSearch, covariant=True)
C_co = TypeVar("C_co", bound=m.IndexCreate | m.IndexRemove | m.IndexDelete, covariant=True)


class IndexInfo(ImmediateRequest[m.IndexInfo]):
    def check(self) -> None:
        """Raises CorruptStore, HandshakeMismatch, MissingFile."""
        self.share_store.check_paired()
        self._index = self.resources.indexes.find(self.engine, self.record.name, self.client.name)

    def answer(self) -> None:
        items = [key.item for key in self.resources.indexes.keys(self._index)]
        self.client.reply(m.ItemList(self._index.metric, self._index.classes), m.pack_items(items))


class _IndexChange(JointRequest[C_co]):
    """Changes the record or the rows of an index at both servers, or at neither."""

    def check(self) -> None:
        """Raises CorruptStore, HandshakeMismatch, and why it cannot be changed so."""
        self.share_store.check_paired()
        self._change()

    def prepare(self) -> str:
        self._change()
        return ""

    def run(self, channel: SubChannel, first_batch: int) -> None:
        agreement.change_both(self.share_store.store, channel, self.job_id, self._change())
        record: m.IndexCreate | m.IndexRemove | m.IndexDelete = self.record
        if isinstance(record, m.IndexCreate):
            self.reply_last(m.Done())
        else:
            self.reply_deleted(record)

    @abc.abstractmethod
    def _change(self) -> agreement.Change:
        """The change of the store. Raises MissingFile, InputError, PlanError."""


class IndexCreate(_IndexChange[m.IndexCreate]):
    def _description(self) -> str:
        record = self.record
        return f"create index {record.name} {record.metric} {named(record.classes)}"

    def _change(self) -> agreement.Change:
        record = self.resources.indexes.new(self.engine, self.record, self.client.name)
        return agreement.CreateIndex(record.kind, ix.encode_index(record))


class IndexRemove(_IndexChange[m.IndexRemove]):
    def _description(self) -> str:
        return f"remove from index {self.record.name} {named(self.record.items)}"

    def _change(self) -> agreement.Change:
        index = self.resources.indexes.find(self.engine, self.record.name, self.client.name)
        return agreement.RemoveRows(index.kind, self.client.name, self.record.items)


class IndexDelete(_IndexChange[m.IndexDelete]):
    """Also for an index that one server alone knows."""

    def _description(self) -> str:
        return f"delete index {self.record.name}"

    def _change(self) -> agreement.Change:
        self.resources.engine_of(self.record.plan)
        return agreement.DeleteIndex(ix.kind_of(self.client.name, self.record.name))


class _JointIndexRequest(JointRequest[J_co]):
    """Evaluates an index program on stored features."""

    def check(self) -> None:
        """Raises CorruptStore, HandshakeMismatch, MissingFile."""
        self.share_store.check_paired()
        self._index = self.resources.indexes.find(self.engine, self.record.name, self.client.name)
        self._geometry = geometry_of(self.engine.program, self._index.metric)
        self._row_kind = self.share_store.features(self.engine)

    def prepare(self) -> str:
        """Find the stored features and the rows of the index, which no other request changes until
        this one has ended. Raises MissingFile.
        """
        self._index = self.resources.indexes.find(self.engine, self.record.name, self.client.name)
        keys = self.share_store.keys(self._row_kind.kind, self.record.items, self.client.name)
        self._rows = self.resources.indexes.keys(self._index)
        return digest([*keys, *self._rows])

    def _program(self, task: m.IndexTask) -> Program:
        engine = self.engine
        return index_programs.program_of_task(engine.plan, engine.program, task)

    @contextlib.contextmanager
    def _open_evaluation(
        self, channel: SubChannel, task: m.IndexTask, program: Program
    ) -> Iterator[Evaluation]:
        """The evaluation of an index program in a session of its own, which ends with this."""
        engine, link = self.engine, self.resources.dealer_link
        n_bytes = program.cost.dealer_bytes
        corrections = OnDemandCorrections(link, engine, task, n_bytes) if link else None
        party = dataclasses.replace(engine.party, corrections=corrections, executor=None)
        evaluation = Evaluation(party, engine.plan, program)
        evaluation.open_session(channel, index_programs.task_id(task))
        try:
            yield evaluation
        finally:
            evaluation.end_session()

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

    def prepare(self) -> str:
        """Also raises ConfigError where the rows have no room."""
        state, present = super().prepare(), {key.item for key in self._rows}
        fresh = [item for item in self.record.items if item not in present]
        n_bytes, owner = ix.row_bytes(self._geometry, self._index.n_labels), self.client.name
        kind = self._index.kind
        self.share_store.check_room(kind, fresh, owner, n_bytes, ix.ROWS_PER_BATCH)
        return state

    def run(self, channel: SubChannel, first_batch: int) -> None:
        """Add a batch of rows at a time; items that are in the index already stay as they are."""
        present = {key.item for key in self._rows}
        fresh = [item for item in self.record.items if item not in present]
        task = m.RowsTask(self._index.metric)
        of = -(-len(fresh) // ix.ROWS_PER_BATCH)
        with self._open_evaluation(channel, task, self._program(task)) as evaluation:
            for part, (names, operand) in enumerate(self._operands(fresh, ix.ROWS_PER_BATCH)):
                reserved = evaluation.begin(evaluation.next_batch)
                # The last step of this program makes rows.
                rows = cast(Rows, evaluation.carry_out(channel, reserved, operand))
                keys = ix.row_keys(names, reserved.session_id, reserved.batch_index)
                self._store_rows(channel, keys, rows)
                self.client.reply(m.Progress(self.job_id, part, of))
        self.reply_last(m.Done())

    def _store_rows(self, channel: SubChannel, keys: list[RowKey], rows: Rows) -> None:
        store, index = self.share_store, self._index
        labels = None
        if index.n_labels:
            labels = np.array([self._labels[key.item] for key in keys], dtype=np.uint64)
        packed = ix.pack_rows(self.engine.backend, self._geometry, rows, len(keys), labels)
        store.store.put(index.kind, keys, index.owner, packed)
        store.confirm(channel, index.kind, keys)


class IndexSearch(_JointIndexRequest[m.IndexSearch]):
    """Searches the rows that the index has when the request's turn comes, and names them."""

    def _description(self) -> str:
        record = self.record
        of = f"{record.k} {record.vote} {record.known_rows}"
        return f"search {record.name} {of} {named(record.items)}"

    def check(self) -> None:
        """Also raises InputError for no query, too many neighbours, or a vote without labels."""
        super().check()
        record, index = self.record, self._index
        if record.vote and not index.n_labels:
            what = f"index '{index.name}' has no classes"
            raise InputError(what, "its rows have no labels", "make one with classes")
        self._check_k(len(self.resources.indexes.keys(index)))

    def prepare(self) -> str:
        """Choose how many queries a batch has, so that the dealer deals no more than the limit.

        Also raises AccessDenied beyond the budget, and InputError, as the index may have fewer rows
        than when the request came, and where one query is above the limit.
        """
        state = super().prepare()
        self.check_budget("queries", len(self.record.items))
        self._check_k(len(self._rows))
        size, most_bytes = min(QUERIES_PER_BATCH, len(self.record.items)), self.resources.task_bytes
        self._choose_task(size)
        while (n_bytes := self._chosen.cost.dealer_bytes) > most_bytes:
            if size == 1:
                plan, program = self.engine.plan, self.engine.program
                index_programs.refuse_costly(plan, program, self._task, n_bytes, most_bytes)
            size //= 2
            self._choose_task(size)
        return f"{state} {size}"

    def _choose_task(self, size: int) -> None:
        index, record = self._index, self.record
        versions = [ix.RowVersion.parse(key.version) for key in self._rows]
        n_labels = index.n_labels if record.vote else 0
        segments = index_programs.segments_of(versions)
        self._task = m.QueryTask(index.metric, size, record.k, segments, n_labels)
        self._chosen = self._program(self._task)

    def _check_k(self, n_rows: int) -> None:
        record, index = self.record, self._index
        if not n_rows:
            what = f"index '{index.name}' is empty"
            raise InputError(what, "nothing was added", "use `gpumpc index add`")
        if not record.items or not 1 <= record.k <= n_rows:
            raise InputError(
                f"{len(record.items)} questions for {record.k} neighbours each to index "
                f"'{index.name}' of {n_rows} rows",
                "there must be a question, and no more neighbours than rows",
                f"ask for 1 to {n_rows}, or add rows with `gpumpc index add`",
            )

    def run(self, channel: SubChannel, first_batch: int) -> None:
        """Send the keys of the k best rows of each item, or the label that they vote for."""
        record, index = self.record, self._index
        self.spend("queries", len(record.items))
        if not record.vote:
            self._send_rows()
        loaded = self.resources.indexes.load(self.engine, index, self._geometry, self._rows)
        size = self._task.n_queries
        with self._open_evaluation(channel, self._task, self._chosen) as evaluation:
            evaluation.weights = {ROWS: loaded.operand}
            labels = [loaded.labels] if record.vote and loaded.labels is not None else []
            of = -(-len(record.items) // size)
            for part, (names, operand) in enumerate(self._operands(record.items, size)):
                best, _ = evaluation.run(channel, evaluation.next_batch, operand, *labels)
                self.send_part(part, of, best.with_words(best.words[: len(names)]))

    def _send_rows(self) -> None:
        items = [key.item for key in self._rows]
        rows = m.items_digest(items)
        bulk = b"" if rows == self.record.known_rows else m.pack_items(items)
        self.client.reply(m.IndexRows(self.job_id, len(items), rows), bulk)
