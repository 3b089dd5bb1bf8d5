"""Every metric against a plain loop over its definition, or against scikit-learn."""

from collections import Counter

import numpy as np
import pytest

from gpumpc.errors import BadShape, BadValue
from gpumpc.retrieval.evaluation import metrics

rng = np.random.default_rng(3)
QUERIES, RANKS = 40, 30
RELEVANT = rng.random((QUERIES, RANKS)) < 0.3
RELEVANT[0] = False
TOTALS = RELEVANT.sum(axis=1) + rng.integers(0, 4, QUERIES)


def plain_average_precision(row, total, k):
    if total == 0:
        return 0.0
    hits, score = 0, 0.0
    for rank, hit in enumerate(row[:k], start=1):
        hits += hit
        if hit:
            score += hits / rank
    return score / min(k, total)


@pytest.mark.parametrize("k", [1, 5, 19, RANKS])
def test_metrics_match_plain_loops(k):
    want = [
        plain_average_precision(row, total, k) for row, total in zip(RELEVANT, TOTALS, strict=True)
    ]
    np.testing.assert_allclose(
        metrics.average_precision_at_k(RELEVANT, TOTALS, k), want, rtol=1e-12
    )
    assert metrics.mean_average_precision(RELEVANT, TOTALS, k) == pytest.approx(np.mean(want))
    np.testing.assert_allclose(
        metrics.precision_at_k(RELEVANT, k), [sum(row[:k]) / k for row in RELEVANT], rtol=1e-12
    )
    want = [
        sum(row[:k]) / total if total else 0.0 for row, total in zip(RELEVANT, TOTALS, strict=True)
    ]
    np.testing.assert_allclose(metrics.recall_at_k(RELEVANT, TOTALS, k), want, rtol=1e-12)


def test_full_average_precision_matches_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    for row in RELEVANT[1:]:
        want = sklearn.average_precision_score(row, -np.arange(RANKS))
        assert metrics.average_precision_at_k([row], [row.sum()], RANKS)[0] == pytest.approx(
            want, rel=1e-12
        )


def test_majority_vote_matches_scikit_learn_except_for_ties():
    rows = rng.integers(0, 4, (500, 5))
    for row, got in zip(rows, metrics.majority_vote(rows), strict=True):
        counts = Counter(row.tolist())
        best = max(counts.values())
        assert got == next(label for label in row if counts[label] == best)
    assert metrics.majority_vote([["b", "a", "a", "b"]])[0] == "b"
    neighbours = pytest.importorskip("sklearn.neighbors", reason="scikit-learn is not installed")
    points, labels, asked = rng.random((60, 2)), rng.integers(0, 2, 60), rng.random((50, 2))
    model = neighbours.KNeighborsClassifier(5, algorithm="brute").fit(points, labels)
    found = labels[model.kneighbors(asked, return_distance=False)]
    np.testing.assert_array_equal(metrics.majority_vote(found), model.predict(asked))


def test_relevance_overlap_and_accuracy_are_right():
    found = metrics.relevance(["a", "b"], [["a", "b"], ["a", "b"]])
    assert found.tolist() == [[True, False], [False, True]]
    overlap = metrics.overlap_at_k([[1, 2, 3], [4, 5, 6]], [[2, 1, 9], [7, 8, 9]], 2)
    assert overlap.tolist() == [1.0, 0.0]
    assert metrics.accuracy([1, 2, 3, 4], [1, 2, 3, 5]) == 0.75


def test_bootstrap_is_repeatable_and_has_the_normal_width():
    values = rng.random(400)
    first, second = metrics.bootstrap(values), metrics.bootstrap(values)
    assert first == second != metrics.bootstrap(values, seed=b"another")
    # Width of a normal interval for the mean of uniform values: 2 * 1.96 * sqrt(1 / 12 / 400).
    assert first.mean == pytest.approx(values.mean())
    assert first.high - first.low == pytest.approx(2 * 1.96 * np.sqrt(1 / 12 / 400), rel=0.15)
    constant = metrics.bootstrap(np.ones(9))
    assert constant == (1.0, 1.0, 1.0)


def test_bootstrap_resamples_sources_together():
    values = np.repeat([0.0, 1.0], 100)
    alone = metrics.bootstrap(values)
    together = metrics.bootstrap(values, np.repeat(["left eye", "right eye"], 100))
    assert (together.low, together.high) == (0.0, 1.0) and alone.high - alone.low < 0.2
    assert together.mean == alone.mean == 0.5


@pytest.mark.parametrize(
    "broken",
    [
        lambda: metrics.precision_at_k(RELEVANT, RANKS + 1),
        lambda: metrics.precision_at_k(RELEVANT, 0),
        lambda: metrics.precision_at_k(np.empty((0, 3)), 1),
        lambda: metrics.recall_at_k(RELEVANT, [1], 3),
        lambda: metrics.relevance([1, 2], [[1]]),
        lambda: metrics.overlap_at_k([[1]], [[1], [2]], 1),
        lambda: metrics.accuracy([1], [1, 2]),
        lambda: metrics.bootstrap([]),
        lambda: metrics.bootstrap([1.0], ["a", "b"]),
    ],
)
def test_shapes_that_do_not_fit_are_refused(broken):
    with pytest.raises(BadShape):
        broken()


def test_nan_values_and_bad_levels_are_refused():
    with pytest.raises(BadValue):
        metrics.bootstrap([0.5, float("nan")])
    with pytest.raises(BadValue):
        metrics.bootstrap([0.5], level=1.0)
