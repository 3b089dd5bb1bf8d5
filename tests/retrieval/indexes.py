"""An index as two servers and the dealer keep it, and what it must find: for tests of its programs.

The oracle quantises as the servers do, given the shares (truncation's rounding is a function of
them), and is otherwise integer arithmetic that shares nothing with the programs. Index rows come in
by batches of several sessions, through real stores, and the dealer draws their masks again from
seeds: the way a server uses these programs.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpumpc.errors import SelectionFailed
from gpumpc.offline.seeds import SeedTree
from gpumpc.params import Params
from gpumpc.program.program import Program
from gpumpc.protocols.ranking.distances import Rows
from gpumpc.retrieval import index_store as index
from gpumpc.retrieval.programs import ROWS, Geometry, Metric, query_program, rows_program
from gpumpc.ring.fixed_point import mask, signed
from gpumpc.store import Store
from tests.harness import BACKEND, Outcome, Pair, Static, Words, roots, run_program, share, unsigned
from tests.protocols.checkers import check_cost

Ints = npt.NDArray[np.int64]
PARAMS = Params()
SEED = 5
BATCH = index.ROWS_PER_BATCH


def feature_shares(x: Ints, geometry: Geometry, seed: int, first: Any = None) -> Pair:
    pair = share(x, geometry.bits, geometry.frac, seed=seed, first=first)
    one, other = (dataclasses.replace(part, divisor=geometry.divisor) for part in pair)
    return one, other


def label_shares(labels: Ints, seed: int) -> tuple[Words, Words]:
    """Shares modulo 2^64, as a labelled index keeps them."""
    first = np.random.default_rng(seed).integers(0, 1 << 64, labels.shape, dtype=np.uint64)
    return first, unsigned(labels) - first


def quantised(pair: tuple[Any, Any], geometry: Geometry) -> Ints:
    """What the servers' truncation gives these shares, as integers."""
    if not geometry.shift:
        return signed(BACKEND.reduce(pair[0].words + pair[1].words, geometry.bits), geometry.bits)
    modulus, shift = mask(geometry.bits), np.uint64(geometry.shift)
    first = (pair[0].words + np.uint64((1 << geometry.shift) - 1)) & modulus
    short = (first >> shift) + ((pair[1].words & modulus) >> shift)
    return signed(BACKEND.reduce(short, geometry.value_bits), geometry.value_bits)


def opened_value(got: Outcome, step: str, shape: tuple[int, ...], bits: int) -> Ints:
    """What stands behind E = X - A: both servers' masks taken off again."""
    [opening] = [o.values for o in got.openings[0] if o.step == step]
    masks = [got.drawn[party][party, step, "A"][1] for party in (0, 1)]
    return signed(BACKEND.reduce(opening + masks[0] + masks[1], bits), bits).reshape(shape)


def compared(got: Outcome, name: str, pair: Pair, geometry: Geometry) -> Ints:
    """The scored vectors: quantised as the shares say, or as the servers normalised them."""
    if geometry.metric == "cosine":
        return opened_value(got, f"{name}/opened", pair[0].words.shape, geometry.score_bits)
    return quantised(pair, geometry)


def scores_of(queries: Ints, rows: Ints, metric: Metric) -> Any:
    """Python's integers: no ring at all."""
    q, v = queries.astype(object), rows.astype(object)
    if metric != "l2":
        return -(q @ v.T)
    return ((q[:, None] - v[None]) ** 2).sum(axis=2)


def best(scores: Any, k: int) -> list[list[tuple[int, int]]]:
    """(score, position) of the k best of each query, the lowest position first of equals."""
    return [sorted((int(s), i) for i, s in enumerate(row))[:k] for row in scores]


def run_until_lucky(
    program: Program, inputs: list[Pair], static: Static, batch_index: int
) -> Outcome:
    """A run, its selection repeated under the next batch's masks while it fails."""
    while True:
        try:
            got = run_program(program, inputs, seed=SEED, batch_index=batch_index, static=static)
        except SelectionFailed:
            batch_index += 1
        else:
            check_cost(got, program.cost)
            return got


# an index, as two servers and the dealer keep it


class Index:
    """Rows of features, taken in batch by batch, each batch in a session of its own."""

    def __init__(self, folder: Path, geometry: Geometry, n_labels: int = 0) -> None:
        self.geometry, self.n_labels = geometry, n_labels
        self.record = index.IndexRecord(
            "gallery", "a plan", geometry.dim, geometry.metric, "owner", n_labels
        )
        self.labels: dict[str, int] = {}
        self.stores = [Store(folder / str(party), party) for party in (0, 1)]
        self.rows: dict[str, Ints] = {}

    def add(
        self,
        features: Ints,
        session_id: bytes,
        batch_index: int = 1,
        first: Any = None,
        labels: Ints | None = None,
    ) -> Outcome:
        """Names follow the order of adding; zero rows, which are not kept, fill the batch."""
        padded = np.zeros((BATCH, self.geometry.dim), dtype=np.int64)
        padded[: len(features)] = features
        pair = feature_shares(padded, self.geometry, seed=batch_index, first=first)
        program = rows_program(self.geometry, BATCH, PARAMS)
        got = run_program(
            program, [pair], seed=SEED, batch_index=batch_index, session_id=session_id
        )
        assert got.cost == program.cost
        names = [f"row{len(self.rows) + i:04}" for i in range(len(features))]
        keys = index.row_keys(names, session_id, batch_index)
        halves = (None, None) if labels is None else label_shares(labels, seed=batch_index)
        for store, rows, half in zip(self.stores, got.shares, halves, strict=True):
            assert isinstance(rows, Rows)
            packed = index.pack_rows(BACKEND, self.geometry, rows, len(names), half)
            store.put(self.record.kind, keys, "owner", packed)
            store.confirm(self.record.kind, keys)
        self.labels |= dict(zip(names, [] if labels is None else labels.tolist(), strict=False))
        self.rows |= dict(zip(names, compared(got, "v", pair, self.geometry), strict=False))
        return got

    def remove(self, names: list[str]) -> None:
        for store in self.stores:
            rows = store.rows(self.record.kind)
            store.delete_rows(self.record.kind, [row.key for row in rows if row.key.item in names])
        self.rows = {name: row for name, row in self.rows.items() if name not in names}

    @property
    def matrix(self) -> Ints:
        """Rows as they are compared, in order of position."""
        return np.stack([self.rows[name] for name in sorted(self.rows)])

    def tree(self, party: int) -> Any:
        return lambda session_id, batch_index: SeedTree(roots(SEED)[party], session_id, batch_index)

    def load(self) -> list[index.LoadedIndex]:
        """The index as each server finds it in its store."""
        cipher, geometry = PARAMS.cipher, self.geometry
        loaded = [
            index.load_index(store, self.record, geometry, party, BACKEND, cipher, self.tree(party))
            for party, store in enumerate(self.stores)
        ]
        assert loaded[0].keys == loaded[1].keys
        return loaded

    def static(self) -> Static:
        """Both servers' operands from their stores; the dealer's mask from seeds and versions."""
        cipher, geometry, loaded = PARAMS.cipher, self.geometry, self.load()
        versions = loaded[0].versions
        trees = [self.tree(party) for party in (0, 1)]
        drawn = [index.draw_masks(BACKEND, cipher, geometry, versions, tree) for tree in trees]
        dealt = {ROWS: index.weight_mask(BACKEND, geometry, drawn[0] + drawn[1])}
        return ({ROWS: loaded[0].operand}, {ROWS: loaded[1].operand}), dealt

    def classify(self, queries: Ints, k: int, batch_index: int = 200) -> tuple[Outcome, Any]:
        """The run of a vote, and the scores that the oracle finds of all rows."""
        program = query_program(
            self.geometry, len(queries), len(self.rows), k, PARAMS, self.n_labels
        )
        pair = feature_shares(queries, self.geometry, seed=batch_index)
        first, second = (loaded.labels for loaded in self.load())
        assert first is not None and second is not None
        inputs = [pair, (first, second)]
        got = run_until_lucky(program, inputs, self.static(), batch_index)
        return got, self._scores(got, pair)

    def search(
        self, queries: Ints, k: int, batch_index: int = 100
    ) -> tuple[list[list[tuple[int, int]]], Any]:
        """(score, position) found, and the scores that the oracle finds of all rows."""
        program = query_program(self.geometry, len(queries), len(self.rows), k, PARAMS)
        pair = feature_shares(queries, self.geometry, seed=batch_index)
        got = run_until_lucky(program, [pair], self.static(), batch_index)
        places = self.geometry.id_bits(len(self.rows))
        found = [[divmod(int(key), 1 << places) for key in row] for row in got.values]
        return found, self._scores(got, pair)

    def _scores(self, got: Outcome, pair: Pair) -> Any:
        queries = compared(got, "q", pair, self.geometry)
        return scores_of(queries, self.matrix, self.geometry.metric)

    def close(self) -> None:
        for store in self.stores:
            store.close()
