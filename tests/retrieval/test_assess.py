"""The figures of `assess` against plain loops over their definitions."""

from collections import Counter

import numpy as np
import pytest

from gpumpc.errors import BadShape, BadValue
from gpumpc.retrieval.evaluation import assess as module
from gpumpc.retrieval.evaluation.assess import Labelled, assess

rng = np.random.default_rng(4)
N, D, CLASSES = 60, 6, 4
INDEX = rng.integers(0, CLASSES, N)
POINTS = rng.normal(size=(CLASSES, D))[INDEX] + rng.normal(size=(N, D))
LABELS = [f"class {i}" for i in INDEX]
SOURCES = [f"source {i % 7}" for i in range(N)]
GALLERY, QUERIES = (
    Labelled(POINTS[part], LABELS[part], SOURCES[part]) for part in (slice(0, 40), slice(40, N))
)


def plain_order(gallery, query, metric):
    if metric == "l2":
        scores = [float(((item - query) ** 2).sum()) for item in gallery]
    else:
        norm = np.linalg.norm
        scores = [-float(item @ query / norm(item) / norm(query)) for item in gallery]
    return sorted(range(len(gallery)), key=lambda i: (scores[i], i))


def plain_figures(gallery, queries, metric, k, vote, leave_one_out):
    rows = []
    for number, (query, label) in enumerate(zip(queries.features, queries.labels, strict=True)):
        order = plain_order(gallery.features, query, metric)
        order = [i for i in order if not (leave_one_out and i == number)]
        hits = [gallery.labels[i] == label for i in order]
        precisions = [sum(hits[: i + 1]) / (i + 1) for i in range(len(hits))]
        total = sum(hits)
        counts = Counter(gallery.labels[i] for i in order[:vote])
        winner = next(
            gallery.labels[i] for i in order if counts[gallery.labels[i]] == max(counts.values())
        )
        row = {f"precision_at_{k}": sum(hits[:k]) / k}
        row[f"recall_at_{k}"] = sum(hits[:k]) / total if total else 0.0
        at_hits = [p if hit else 0.0 for p, hit in zip(precisions, hits, strict=True)]
        row[f"map_at_{k}"] = sum(at_hits[:k]) / max(min(k, total), 1)
        row["map"] = sum(at_hits) / max(total, 1)
        row[f"knn_accuracy_{vote}"] = float(winner == label)
        rows.append(row)
    return {key: np.mean([row[key] for row in rows]) for key in rows[0]}


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("k", [1, 3, 20])
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_figures_match_plain_loops(metric, k, leave_one_out, monkeypatch):
    monkeypatch.setattr(module, "_PIECE", 7 * 40)  # several pieces of queries, the last one smaller
    queries = GALLERY if leave_one_out else QUERIES
    got = assess(GALLERY, None if leave_one_out else QUERIES, metric=metric, ks=(k,), vote=4)
    want = plain_figures(GALLERY, queries, metric, k, 4, leave_one_out)
    assert {figure.key: figure.mean for figure in got} == pytest.approx(want)
    for figure in got:
        assert figure.low is not None and figure.high is not None
        assert figure.low <= figure.mean <= figure.high and figure.definition and figure.name


def test_intervals_resample_by_source():
    figures = assess(GALLERY._replace(sources=()), ks=(1,), vote=1)
    [narrow] = [figure for figure in figures if figure.key == "precision_at_1"]
    halves = ["left" if i % 2 else "right" for i in range(40)]
    grouped = assess(GALLERY._replace(sources=halves), ks=(1,), vote=1)[0]
    assert grouped.mean == narrow.mean and (grouped.low, grouped.high) != (narrow.low, narrow.high)
    alone = assess(GALLERY._replace(sources=["one"] * 40), ks=(1,), vote=1)[0]
    assert (alone.mean, alone.low, alone.high) == (narrow.mean, None, None)


def test_ties_keep_the_lowest_index():
    gallery = Labelled(np.ones((4, 2)), ["a", "b", "a", "b"])
    queries = Labelled(np.ones((2, 2)), ["a", "b"])
    figures = {f.key: f.mean for f in assess(gallery, queries, ks=(1, 3), vote=2)}
    assert figures["precision_at_1"] == 0.5  # "a" for both
    assert figures["precision_at_3"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert figures["knn_accuracy_2"] == 0.5
    # Enough equals, among others, for a sort that is not stable to mix them.
    points = np.where(np.arange(400) % 3 == 0, 2.0, 1.0)[:, None]
    many = Labelled(points, [f"item {i}" for i in range(400)])
    asked = Labelled(np.array([[1.0]]), ["item 1"])
    assert assess(many, asked, metric="l2", ks=(1,), vote=1)[0].mean == 1.0
    order = next(module._rankings(points, np.array([[1.0]]), "l2", itself=False))[0]
    np.testing.assert_array_equal(order, np.argsort(points[:, 0], kind="stable"))


def test_a_query_never_finds_itself():
    figures = assess(Labelled(np.eye(3), ["a", "b", "c"]), ks=(1, 2), vote=1)
    assert {figure.mean for figure in figures} == {0.0}


def test_tiny_and_huge_features_do_not_overflow():
    small, large = (Labelled(POINTS[:9] * 10.0**e, LABELS[:9]) for e in (-160, 200))
    plain = assess(Labelled(POINTS[:9], LABELS[:9]), ks=(1, 5), vote=3)
    assert assess(small, ks=(1, 5), vote=3) == assess(large, ks=(1, 5), vote=3) == plain
    with pytest.raises(BadValue, match="too large"):
        assess(large, metric="l2", ks=(1,))


@pytest.mark.parametrize(
    ("gallery", "queries", "depths", "error"),
    [
        (GALLERY, QUERIES, {"ks": (41,)}, BadShape),
        (GALLERY, None, {"ks": (40,)}, BadShape),
        (GALLERY, None, {"vote": 40}, BadShape),
        (GALLERY, None, {"ks": (0,)}, BadShape),
        (GALLERY, Labelled(POINTS[:, 1:], LABELS), {}, BadShape),
        (GALLERY, Labelled(POINTS[:0], []), {}, BadShape),
        (Labelled(np.zeros((20, 3)), ["a"] * 20), None, {}, BadValue),
    ],
)
def test_invalid_galleries_and_queries_are_refused(gallery, queries, depths, error):
    with pytest.raises(error):
        assess(gallery, queries, **depths)
