"""Stands for the evaluation of index programs: rows of zeros, and each query's own position."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

from bench.simulation.world import World
from gpumpc.retrieval import index_store as ix
from gpumpc.ring.values import Words
from gpumpc.server.index_catalog import IndexCatalog
from gpumpc.server.requests import indexes
from gpumpc.shares import Additive
from gpumpc.wire.handshake import exchange_hello
from gpumpc.wire.multiplexer import SubChannel


class IndexEvaluation:
    """What `IndexAdd` and `IndexSearch` use of an evaluation."""

    def __init__(self, world: World, request: Any, channel: SubChannel) -> None:
        own = world.random.bytes(16).hex()
        theirs = exchange_hello(channel, equal={}, informative={"nonce": own})
        self.session_id = bytes.fromhex(max(own, theirs["nonce"]))
        self.next_batch, self.weights = 0, dict[str, object]()
        self._request, self._n_asked = request, 0

    def begin(self, batch_index: int) -> types.SimpleNamespace:
        """As `Evaluation.begin`."""
        self.next_batch = batch_index + 1
        return types.SimpleNamespace(session_id=self.session_id, batch_index=batch_index)

    def carry_out(self, channel: SubChannel, reserved: object, operand: object) -> None:
        """As `Evaluation.carry_out`, without a result."""
        exchange_hello(channel, equal={"rows": self.session_id.hex()})

    def run(self, channel: SubChannel, batch_index: int, operand: Additive) -> tuple[Additive, int]:
        """As `Evaluation.run`: the best row of each query is its own, else the first."""
        request, n = self._request, len(operand.words)
        exchange_hello(channel, equal={"search": str(batch_index)})
        items = request.record.items[self._n_asked : self._n_asked + n]
        self._n_asked, self.next_batch = self._n_asked + n, batch_index + 1
        rows = [key.item for key in request._rows]
        best = [rows.index(item) if item in rows else 0 for item in items]
        keys = np.zeros((n, 1), dtype=np.uint64)
        if request.resources.party == 0:
            keys[: len(best), 0] = best
        geometry = request._geometry
        bits = geometry.score_bits + geometry.id_bits(len(rows))
        words: Words = request.engine.backend.upload(keys)
        return Additive(words, bits), batch_index


def replacements(world: World) -> dict[Any, dict[str, object]]:
    """What stands in place of which of the product's names."""

    @contextlib.contextmanager
    def open_evaluation(
        request: Any, channel: SubChannel, task: object, program: object
    ) -> Iterator[IndexEvaluation]:
        yield IndexEvaluation(world, request, channel)

    def choose_task(request: Any, size: int) -> None:
        cost = types.SimpleNamespace(dealer_bytes=0)
        request._task = types.SimpleNamespace(n_queries=size)
        request._chosen = types.SimpleNamespace(cost=cost)

    def pack_rows(backend: object, geometry: Any, rows: object, n: int, labels: object) -> object:
        return np.zeros((n, ix.row_bytes(geometry)), dtype=np.uint8)

    def load(catalog: object, *_: object) -> types.SimpleNamespace:
        return types.SimpleNamespace(operand=None, labels=None)

    joint: Any = indexes._JointIndexRequest
    return {
        joint: {"_open_evaluation": open_evaluation, "_program": lambda request, task: None},
        indexes.IndexSearch: {"_choose_task": choose_task},
        ix: {"pack_rows": pack_rows},
        IndexCatalog: {"load": load},
    }
