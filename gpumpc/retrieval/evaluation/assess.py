"""How well features tell labels apart: an exact search in the clear, and its figures."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from gpumpc.errors import BadShape, BadValue
from gpumpc.retrieval.evaluation import metrics

Metric = Literal["cosine", "l2"]
Floats = npt.NDArray[np.float64]
LEVEL = 0.95
# Distances at a time; a row of them is ranked as a whole.
_PIECE = 1 << 22


class Labelled(NamedTuple):
    """Features (N, d) with N labels and N names of sources; no sources where they are not known."""

    features: Floats
    labels: Sequence[str]
    sources: Sequence[str] = ()


class Figure(NamedTuple):
    """One mean over the queries.

    Attributes:
        key, name: for programs, for people.
        definition: of the values whose mean it is.
        low, high: its bootstrap interval; None where all queries come from one source.
    """

    key: str
    name: str
    definition: str
    mean: float
    low: float | None
    high: float | None


def assess(
    gallery: Labelled,
    queries: Labelled | None = None,
    *,
    metric: Metric = "cosine",
    ks: Sequence[int] = (1, 5, 10),
    vote: int = 5,
) -> list[Figure]:
    """Search the gallery for every query, and measure how good the results are.

    Args:
        gallery: the items to search.
        queries: the items to search for; None: each item of the gallery, in all the others
            (leave-one-out).
        metric: of the ranking; of equals, the first of the gallery comes first.
        ks: depths of P@k, recall@k and AP@k.
        vote: number of neighbours that vote.

    Raises:
        BadShape: a depth beyond the gallery, or features of different lengths.
        BadValue: a vector of zeros under cosine, or values too large to be compared.
    """
    asked = gallery if queries is None else queries
    n_ranks = len(gallery.features) - (queries is None)
    _check(gallery, asked, (*ks, vote), n_ranks)
    names = np.array(gallery.labels)
    labels = np.array(asked.labels)
    kinds, counts = np.unique(names, return_counts=True)
    n_relevant = (labels[:, None] == kinds) @ counts - (queries is None)
    columns: dict[tuple[str, str, str], list[Floats]] = {}
    start = 0
    for order in _rankings(gallery.features, asked.features, metric, itself=queries is None):
        rows = slice(start, start + len(order))
        found = names[order]
        relevant, totals = metrics.relevance(labels[rows], found), n_relevant[rows]
        for title, values in _per_query(relevant, totals, ks).items():
            columns.setdefault(title, []).append(values)
        hits = metrics.majority_vote(found[:, :vote]) == labels[rows]
        columns.setdefault(_vote_title(vote), []).append(hits.astype(np.float64))
        start += len(order)
    whole = ((title, np.concatenate(parts)) for title, parts in columns.items())
    return [_figure(title, values, asked.sources) for title, values in whole]


def _check(gallery: Labelled, asked: Labelled, depths: Sequence[int], n_ranks: int) -> None:
    if gallery.features.shape[1:] != asked.features.shape[1:]:
        here, there = gallery.features.shape[1], asked.features.shape[1]
        raise BadShape(
            f"{here} features an item in the gallery, {there} in the queries",
            "they come from two networks or two layers",
            "extract both with one plan",
        )
    if not len(asked.features) or not 1 <= min(depths) <= max(depths) <= n_ranks:
        raise BadShape(
            f"the first {max(depths)} (least: {min(depths)}) of {n_ranks} items were asked for",
            "a depth is at least 1 and at most the size of the gallery, in leave-one-out one less",
            "ask for fewer, or give a larger gallery",
        )


def _per_query(
    relevant: npt.NDArray[np.bool_], totals: npt.NDArray[np.int64], ks: Sequence[int]
) -> dict[tuple[str, str, str], Floats]:
    """(Q,) values of each figure, by key, name and definition."""
    figures: dict[tuple[str, str, str], Floats] = {}
    for k in ks:
        title = f"precision_at_{k}", f"P@{k}", f"relevant among the first {k}, over {k}"
        figures[title] = metrics.precision_at_k(relevant, k)
    for k in ks:
        definition = f"relevant among the first {k}, over all relevant of the gallery"
        title = f"recall_at_{k}", f"recall@{k}", definition
        figures[title] = metrics.recall_at_k(relevant, totals, k)
    for k in ks:
        definition = f"sum of P@i over relevant i up to {k}, over min({k}, relevant)"
        figures[f"map_at_{k}", f"mAP@{k}", definition] = metrics.average_precision_at_k(
            relevant, totals, k
        )
    whole = "map", "mAP", "sum of P@i over relevant i, over relevant"
    return {**figures, whole: metrics.average_precision_at_k(relevant, totals, relevant.shape[1])}


def _vote_title(vote: int) -> tuple[str, str, str]:
    definition = f"the commonest label of the {vote} nearest is right; of equals, the nearest's"
    return f"knn_accuracy_{vote}", f"{vote}-NN accuracy", definition


def _figure(title: tuple[str, str, str], values: Floats, sources: Sequence[str]) -> Figure:
    if sources and len(set(sources)) < 2:
        return Figure(*title, float(values.mean()), None, None)
    return Figure(*title, *metrics.bootstrap(values, sources or None, level=LEVEL))


def _rankings(
    gallery: Floats, queries: Floats, metric: Metric, *, itself: bool
) -> Iterator[npt.NDArray[np.int64]]:
    """Pieces (Q', R) of gallery indices, best first, without the query `itself` in its gallery."""
    if metric == "cosine":
        gallery, queries = _directions(gallery, "gallery"), _directions(queries, "queries")
    rows = max(1, _PIECE // len(gallery))
    for start in range(0, len(queries), rows):
        distances = _distances(gallery, queries[start : start + rows])
        if itself:
            own = np.arange(len(distances))
            distances[own, start + own] = np.inf
        # Stable: of equals, the first of the gallery comes first.
        order = np.argsort(distances, axis=1, kind="stable")
        yield order[:, :-1] if itself else order


def _distances(gallery: Floats, queries: Floats) -> Floats:
    """`|q - g|^2 - |q|^2`, which ranks like the distance; on directions, like 1 - cosine."""
    with np.errstate(over="ignore", invalid="ignore"):
        distances = np.asarray((gallery * gallery).sum(axis=1) - 2.0 * (queries @ gallery.T))
    if not np.isfinite(distances).all():
        why = "their squares leave float64"
        raise BadValue("the features are too large to be compared", why, "scale them down")
    return distances


def _directions(values: Floats, what: str) -> Floats:
    """Rows of length 1; scaled first, so that no square leaves float64."""
    largest = np.abs(values).max(axis=1, keepdims=True)
    if not largest.all():
        item = int(np.flatnonzero(largest[:, 0] == 0)[0])
        why = f"item {item} of the {what} is all zeros and has no direction"
        raise BadValue("the cosine is not defined", why, "use the metric l2, or leave it out")
    scaled = values / largest
    return np.asarray(scaled / np.linalg.norm(scaled, axis=1, keepdims=True))
