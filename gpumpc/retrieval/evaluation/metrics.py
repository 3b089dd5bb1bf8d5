"""Metrics of rankings and classifications, in the clear, on the user's side.

Rankings are (Q, R) arrays of gallery ids or labels, best first; `relevant` is a boolean (Q, R)
array of the same order: whether the item found at that rank has the query's label.
"""

import hashlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gpumpc.errors import BadShape, BadValue
from gpumpc.ring.prg import expand

Floats = npt.NDArray[np.float64]
N_RESAMPLES = 2000


class Interval(NamedTuple):
    """A mean with its bootstrap interval."""

    mean: float
    low: float
    high: float


def relevance(query_labels: npt.ArrayLike, found_labels: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """(Q,) labels of queries and (Q, R) labels found, best first, to (Q, R) booleans.

    Raises BadShape.
    """
    asked, found = np.asarray(query_labels), np.asarray(found_labels)
    if asked.ndim != 1 or found.ndim != 2 or len(asked) != len(found):
        raise BadShape(
            f"labels of shapes {asked.shape} and {found.shape}",
            "one label a query and one row of found labels a query are needed",
            "pass (Q,) and (Q, R)",
        )
    return np.asarray(found == asked[:, None])


def precision_at_k(relevant: npt.ArrayLike, k: int) -> Floats:
    """Relevant items among the first k, over k; (Q,). Raises BadShape for fewer than k ranks."""
    return np.asarray(_ranked(relevant, k)[:, :k].mean(axis=1))


def recall_at_k(relevant: npt.ArrayLike, n_relevant: npt.ArrayLike, k: int) -> Floats:
    """Relevant items among the first k, over all `n_relevant` (Q,); (Q,), 0 where none is."""
    hits = _ranked(relevant, k)[:, :k].sum(axis=1)
    totals = _totals(n_relevant, len(hits))
    return np.asarray(hits / np.maximum(totals, 1))


def average_precision_at_k(relevant: npt.ArrayLike, n_relevant: npt.ArrayLike, k: int) -> Floats:
    """`AP@k = sum of P@i over relevant ranks i <= k / min(k, n_relevant)`; (Q,), 0 for none."""
    hits = _ranked(relevant, k)[:, :k]
    totals = _totals(n_relevant, len(hits))
    precisions = np.cumsum(hits, axis=1) / np.arange(1, k + 1)
    return np.asarray((precisions * hits).sum(axis=1) / np.maximum(np.minimum(totals, k), 1))


def mean_average_precision(
    relevant: npt.ArrayLike, n_relevant: npt.ArrayLike, k: int | None = None
) -> float:
    """The mean of AP@k over the queries; without k, over all ranks given."""
    depth = np.asarray(relevant).shape[-1] if k is None else k
    return float(average_precision_at_k(relevant, n_relevant, depth).mean())


def overlap_at_k(first: npt.ArrayLike, second: npt.ArrayLike, k: int) -> Floats:
    """Share of ids common to the first k ranks of two rankings (Q, R), in any order; (Q,).

    Raises BadShape.
    """
    one, other = _ranking(first, k), _ranking(second, k)
    if len(one) != len(other):
        raise BadShape(
            f"rankings of {len(one)} and {len(other)} queries", hint="rank the same queries"
        )
    rows = zip(one[:, :k].tolist(), other[:, :k].tolist(), strict=True)
    return np.array([len(set(a) & set(b)) / k for a, b in rows])


def majority_vote(neighbour_labels: npt.ArrayLike) -> npt.NDArray[np.generic]:
    """The commonest label of each row of (Q, k), nearest first; on ties the nearest one's."""
    rows = _ranking(neighbour_labels, 1)
    counts = (rows[:, :, None] == rows[:, None, :]).sum(axis=2)
    # argmax takes the first of equals, and the first belongs to the nearest.
    return np.asarray(rows[np.arange(len(rows)), counts.argmax(axis=1)])


def accuracy(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Share of the predictions that are right. Raises BadShape."""
    right, guess = np.asarray(labels), np.asarray(predicted)
    if right.shape != guess.shape or right.size == 0:
        raise BadShape(
            f"labels {right.shape} and predictions {guess.shape}", hint="pass as many of both"
        )
    return float((right == guess).mean())


def bootstrap(
    values: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    *,
    level: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: bytes = b"gpumpc bootstrap",
) -> Interval:
    """The mean of one value a query, with its percentile bootstrap interval; the same on every run.

    Args:
        values: (Q,) figures, such as P@5 of each query, or 0 and 1 for wrong and right.
        groups: (Q,) names of sources. Images of one source are not independent samples, so whole
            groups are drawn.
        level: probability of the interval.
        seed: names the cipher stream that draws the samples.

    Raises:
        BadShape: no values, or groups that do not match them.
        BadValue: a value that is NaN or infinite, or a level outside (0, 1).
    """
    figures = np.asarray(values, dtype=np.float64)
    names = np.arange(figures.size) if groups is None else np.asarray(groups)
    _check_sample(figures, names, level)
    _, member = np.unique(names, return_inverse=True)
    sums, sizes = np.bincount(member, figures), np.bincount(member)
    drawn = _indices(seed, n_resamples, len(sums))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(figures.mean()), float(low), float(high))


def _check_sample(figures: Floats, names: npt.NDArray[np.generic], level: float) -> None:
    if figures.ndim != 1 or figures.size == 0 or names.shape != figures.shape:
        raise BadShape(
            f"{figures.shape} values in {names.shape} groups", hint="pass one of each a query"
        )
    if not np.isfinite(figures).all() or not 0 < level < 1:
        why = "it holds NaN or infinity, or the level is outside (0, 1)"
        raise BadValue("the sample or the level cannot be used", why, "clean it")


def _indices(seed: bytes, n_rows: int, n_cols: int) -> npt.NDArray[np.int64]:
    """Indices (n_rows, n_cols) below n_cols: 64 random bits modulo n_cols, bias below 2^-40."""
    key = hashlib.sha256(seed).digest()
    words = expand("chacha20", key, 8 * n_rows * n_cols).view("<u8")
    return np.asarray((words % np.uint64(n_cols)).astype(np.int64).reshape(n_rows, n_cols))


def _ranked(relevant: npt.ArrayLike, k: int) -> Floats:
    return np.asarray(_ranking(relevant, k), dtype=np.float64)


def _ranking(rows: npt.ArrayLike, k: int) -> npt.NDArray[np.generic]:
    table = np.asarray(rows)
    if table.ndim != 2 or table.shape[0] == 0 or not 1 <= k <= table.shape[1]:
        raise BadShape(
            f"a ranking of shape {table.shape} has no first {k} ranks",
            "one row a query with at least k ranks is needed",
            "ask for fewer, or search deeper",
        )
    return table


def _totals(n_relevant: npt.ArrayLike, n_queries: int) -> npt.NDArray[np.int64]:
    totals = np.asarray(n_relevant, dtype=np.int64)
    if totals.shape != (n_queries,):
        raise BadShape(
            f"{totals.shape} totals for {n_queries} queries", hint="pass one number a query"
        )
    return totals
