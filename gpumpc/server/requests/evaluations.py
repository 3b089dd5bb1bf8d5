"""A plan is evaluated on items: `run` sends the results to the client, `extract` stores them."""

import abc
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from gpumpc import messages as m
from gpumpc.server.requests.request import JointRequest, check_items, named
from gpumpc.server.share_store import digest, row_bytes_of
from gpumpc.shares import Additive
from gpumpc.store import RowKey
from gpumpc.wire.multiplexer import SubChannel

E_co = TypeVar("E_co", bound=m.Run | m.Extract, covariant=True)


class BatchResult(NamedTuple):
    """One server's share of a batch's result, one row an item; `part` counts in the request."""

    part: int
    of: int
    items: Sequence[str]
    batch_index: int
    share: Additive


class _EvaluationRequest(JointRequest[E_co]):
    """Evaluates items batch by batch; what becomes of each result is up to the subclass."""

    def _description(self) -> str:
        verb = type(self.record).__name__.lower()
        return f"{verb} {self.record.source} {named(self.record.items)}"

    def check(self) -> None:
        """Raises CorruptStore, BadShape, HandshakeMismatch, ShareError, PlanError, MissingFile."""
        store, source = self.share_store, self.record.source
        store.check_paired()
        check_items(self.record.items)
        engine = self.engine
        engine.check_ready()
        other = self.resources.engine_of(source) if source else None
        self._row_kind = store.source_of(engine, other)
        self._find_keys()

    def prepare(self) -> str:
        """Find the rows again, and see that corrections can come.

        No row is deleted until the request has ended: that is a request of both servers too.

        Raises ShareError, CorrelationsMissing, MissingFile, and AccessDenied beyond the budget.
        """
        engine, dealer_link = self.engine, self.resources.dealer_link
        engine.check_ready()
        if dealer_link and engine.program.cost.dealer_bytes:
            dealer_link.check(engine.session_id, engine.next_batch)
        self._done = self._find_done()
        self.check_budget("images", len(self.record.items) - len(self._done))
        return digest([*self._find_keys(), *self._done])

    def run(self, channel: SubChannel, first_batch: int) -> None:
        """Evaluate the items that need it."""
        store, size = self.share_store, self.engine.program.input.shape[0]
        done = {key.item for key in self._done}
        items = [item for item in self.record.items if item not in done]
        self.spend("images", len(items))
        of = -(-len(items) // size)
        batches = store.batches(self._row_kind, self.engine, items, self.client.name, size)
        results = self.engine.run_all(channel, first_batch, (words for _, words in batches))
        for part, (batch_index, share) in enumerate(results):
            names = items[part * size : (part + 1) * size]
            share = share.with_words(share.words[: len(names)])
            self._finish_batch(channel, BatchResult(part, of, names, batch_index, share))
        self._finish()

    def _find_keys(self) -> list[RowKey]:
        store, items = self.share_store, self.record.items
        return store.keys(self._row_kind.kind, items, self.client.name)

    def _find_done(self) -> list[RowKey]:
        """Rows that need no evaluation any more."""
        return []

    @abc.abstractmethod
    def _finish_batch(self, channel: SubChannel, batch: BatchResult) -> None: ...

    def _finish(self) -> None: ...


class Run(_EvaluationRequest[m.Run]):
    def _finish_batch(self, channel: SubChannel, batch: BatchResult) -> None:
        self.send_part(batch.part, batch.of, batch.share)


class Extract(_EvaluationRequest[m.Extract]):
    def _find_done(self) -> list[RowKey]:
        store, kind = self.share_store, self.share_store.features(self.engine).kind
        return store.present(kind, self.record.items, self.client.name)

    def prepare(self) -> str:
        """Also raises ConfigError where the results have no room."""
        state, done = super().prepare(), {key.item for key in self._done}
        features = self.share_store.features(self.engine)
        items = [item for item in self.record.items if item not in done]
        size, n_bytes = self.engine.program.input.shape[0], row_bytes_of(features.value)
        self.share_store.check_room(features.kind, items, self.client.name, n_bytes, size)
        return state

    def _finish_batch(self, channel: SubChannel, batch: BatchResult) -> None:
        self.share_store.store_features(
            channel, self.engine, batch.batch_index, self.client.name, batch.items, batch.share
        )
        self.client.reply(m.Progress(self.job_id, batch.part, batch.of))

    def _finish(self) -> None:
        self.reply_last(m.Done())
