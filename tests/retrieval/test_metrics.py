"""Every metric against a plain loop over its definition, or against scikit-learn."""

from collections import Counter

import numpy as np
import pytest

from gpumpc.errors import BadShape, BadValue
from gpumpc.retrieval.evaluation.metrics import (
    accuracy,
    average_precision_at_k,
    bootstrap,
    majority_vote,
    mean_average_precision,
    overlap_at_k,
    precision_at_k,
    recall_at_k,
    relevance,
)

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
    np.testing.assert_allclose(average_precision_at_k(RELEVANT, TOTALS, k), want, rtol=1e-12)
    assert mean_average_precision(RELEVANT, TOTALS, k) == pytest.approx(np.mean(want))
    np.testing.assert_allclose(
        precision_at_k(RELEVANT, k), [sum(row[:k]) / k for row in RELEVANT], rtol=1e-12
    )
    want = [
        sum(row[:k]) / total if total else 0.0 for row, total in zip(RELEVANT, TOTALS, strict=True)
    ]
    np.testing.assert_allclose(recall_at_k(RELEVANT, TOTALS, k), want, rtol=1e-12)


def test_full_average_precision_matches_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    for row in RELEVANT[1:]:
        want = metrics.average_precision_score(row, -np.arange(RANKS))
        assert average_precision_at_k([row], [row.sum()], RANKS)[0] == pytest.approx(
            want, rel=1e-12
        )


def test_majority_vote_matches_scikit_learn_except_for_ties():
    rows = rng.integers(0, 4, (500, 5))
    for row, got in zip(rows, majority_vote(rows), strict=True):
        counts = Counter(row.tolist())
        best = max(counts.values())
        assert got == next(label for label in row if counts[label] == best)
    assert majority_vote([["b", "a", "a", "b"]])[0] == "b"
    neighbours = pytest.importorskip("sklearn.neighbors", reason="scikit-learn is not installed")
    points, labels, asked = rng.random((60, 2)), rng.integers(0, 2, 60), rng.random((50, 2))
    model = neighbours.KNeighborsClassifier(5, algorithm="brute").fit(points, labels)
    found = labels[model.kneighbors(asked, return_distance=False)]
    np.testing.assert_array_equal(majority_vote(found), model.predict(asked))


def test_relevance_overlap_and_accuracy_are_right():
    assert relevance(["a", "b"], [["a", "b"], ["a", "b"]]).tolist() == [
        [True, False],
        [False, True],
    ]
    assert overlap_at_k([[1, 2, 3], [4, 5, 6]], [[2, 1, 9], [7, 8, 9]], 2).tolist() == [1.0, 0.0]
    assert accuracy([1, 2, 3, 4], [1, 2, 3, 5]) == 0.75


def test_bootstrap_is_repeatable_and_has_the_normal_width():
    values = rng.random(400)
    first, second = bootstrap(values), bootstrap(values)
    assert first == second != bootstrap(values, seed=b"another")
    # Width of a normal interval for the mean of uniform values: 2 * 1.96 * sqrt(1 / 12 / 400).
    assert first.mean == pytest.approx(values.mean())
    assert first.high - first.low == pytest.approx(2 * 1.96 * np.sqrt(1 / 12 / 400), rel=0.15)
    constant = bootstrap(np.ones(9))
    assert constant == (1.0, 1.0, 1.0)


def test_bootstrap_resamples_sources_together():
    values = np.repeat([0.0, 1.0], 100)
    alone, together = (
        bootstrap(values),
        bootstrap(values, np.repeat(["left eye", "right eye"], 100)),
    )
    assert (together.low, together.high) == (0.0, 1.0) and alone.high - alone.low < 0.2
    assert together.mean == alone.mean == 0.5


@pytest.mark.parametrize(
    "broken",
    [
        lambda: precision_at_k(RELEVANT, RANKS + 1),
        lambda: precision_at_k(RELEVANT, 0),
        lambda: precision_at_k(np.empty((0, 3)), 1),
        lambda: recall_at_k(RELEVANT, [1], 3),
        lambda: relevance([1, 2], [[1]]),
        lambda: overlap_at_k([[1]], [[1], [2]], 1),
        lambda: accuracy([1], [1, 2]),
        lambda: bootstrap([]),
        lambda: bootstrap([1.0], ["a", "b"]),
    ],
)
def test_shapes_that_do_not_fit_are_refused(broken):
    with pytest.raises(BadShape):
        broken()


def test_nan_values_and_bad_levels_are_refused():
    with pytest.raises(BadValue):
        bootstrap([0.5, float("nan")])
    with pytest.raises(BadValue):
        bootstrap([0.5], level=1.0)
