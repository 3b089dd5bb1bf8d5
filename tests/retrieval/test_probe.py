"""The head: at the minimum of its objective, where scikit-learn's is too; repeatable."""

import numpy as np
import pytest

from gpumpc.errors import BadShape, BadValue
from gpumpc.retrieval.evaluation import probe
from gpumpc.retrieval.evaluation.probe import train_head

CASES = [(60, 5, 3, 1.0), (150, 400, 6, 1.0), (200, 20, 4, 1e-3)]
CASES += [(300, 10, 2, 100.0), (90, 30, 3, 1e-6)]


def clusters(n, d, n_classes, seed=7, spread=3.0):
    rng = np.random.default_rng(seed)
    index = np.arange(n) % n_classes
    points = rng.normal(size=(n_classes, d))[index] + rng.normal(size=(n, d)) * spread
    # Features of very different sizes and far from 0, as those of a network are.
    points = points * np.geomspace(1e-2, 1e2, d) + rng.normal(size=d) * 10
    return points, np.array([f"class {i}" for i in index])


def standardised_loss(x, labels, head, l2):
    """The objective, written out again from the head that is returned."""
    weight = head.weight * x.std(axis=0)[:, None]
    logits = x @ head.weight + head.bias
    logits -= logits.max(axis=1, keepdims=True)
    chosen = [head.classes.index(name) for name in labels]
    log_chance = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -log_chance[np.arange(len(x)), chosen].sum() + l2 / 2 * (weight**2).sum()


@pytest.mark.parametrize(("n", "d", "n_classes", "l2"), CASES)
def test_head_is_a_minimum_of_its_loss(n, d, n_classes, l2):
    x, labels = clusters(n, d, n_classes)
    head = train_head(x, labels, l2=l2)
    least = standardised_loss(x, labels, head, l2)
    rng = np.random.default_rng(1)
    for size in (1e-3, 1e-1):
        for _ in range(10):
            away = rng.normal(size=head.weight.shape) / x.std(axis=0)[:, None] * size
            # Around the mean of the features, so that the step is one of the standardised problem.
            moved = head._replace(
                weight=head.weight + away,
                bias=head.bias - x.mean(axis=0) @ away + size * rng.normal(),
            )
            assert standardised_loss(x, labels, moved, l2) >= least


@pytest.mark.parametrize(("n", "d", "n_classes", "l2"), [case for case in CASES if case[2] > 2])
def test_head_matches_scikit_learn(n, d, n_classes, l2):
    linear_model = pytest.importorskip(
        "sklearn.linear_model", reason="scikit-learn is not installed"
    )
    x, labels = clusters(n, d, n_classes)
    head = train_head(x, labels, l2=l2)
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    theirs = linear_model.LogisticRegression(C=1 / l2, tol=1e-10, max_iter=100_000).fit(
        scaled, labels
    )
    folded = theirs.coef_.T / x.std(axis=0)[:, None]
    other = probe.Head(tuple(theirs.classes_), folded, theirs.intercept_ - x.mean(axis=0) @ folded)
    ours, want = standardised_loss(x, labels, head, l2), standardised_loss(x, labels, other, l2)
    assert ours == pytest.approx(want, rel=1e-6, abs=1e-6)
    np.testing.assert_allclose(head.weight, folded, rtol=1e-3, atol=1e-4 * np.abs(folded).max())
    fresh, _ = clusters(2000, d, n_classes, seed=8)
    predicted = theirs.predict((fresh - x.mean(axis=0)) / x.std(axis=0))
    assert (head.predict(fresh) == predicted).mean() > 0.999


def test_head_separates_clusters():
    x, labels = clusters(120, 12, 4, spread=0.3)
    head = train_head(x[:80], labels[:80])
    assert (head.predict(x[80:]) == labels[80:]).mean() == 1.0
    assert head.classes == ("class 0", "class 1", "class 2", "class 3")
    assert head.weight.shape == (12, 4) and head.bias.shape == (4,)
    np.testing.assert_allclose(head.logits(x), x @ head.weight + head.bias)


def test_head_is_repeatable_and_independent_of_units():
    x, labels = clusters(60, 30, 3)
    first, second = train_head(x, labels), train_head(x, labels)
    np.testing.assert_array_equal(first.weight, second.weight)
    other = train_head(x * 1000 - 5, labels)
    np.testing.assert_allclose(other.logits(x * 1000 - 5), first.logits(x), rtol=1e-6, atol=1e-6)


def test_constant_feature_has_weight_zero():
    x, labels = clusters(60, 5, 3)
    constants = [np.full((60, 1), value) for value in (0.0, 0.1, 1e9 / 3)]
    wide = np.concatenate([x, *constants], axis=1)
    head = train_head(wide, labels)
    np.testing.assert_array_equal(head.weight[5:], 0.0)
    np.testing.assert_allclose(head.weight[:5], train_head(x, labels).weight, rtol=1e-6, atol=1e-9)


def test_separable_classes_have_a_finite_head():
    """Separable classes: without the penalty there would be no minimum."""
    x = np.array([[0.0], [1.0], [2.0], [10.0]])
    head = train_head(x, ["low", "low", "low", "high"])
    assert head.classes == ("high", "low")
    assert head.predict(x).tolist() == ["low", "low", "low", "high"]
    np.testing.assert_allclose(head.weight.sum(axis=1), 0, atol=1e-12)
    assert abs(head.bias.sum()) < 1e-12


X, LABELS = clusters(12, 3, 3)
BROKEN = X.copy()
BROKEN[2, 1] = np.nan


@pytest.mark.parametrize(
    ("x", "labels", "l2", "error"),
    [
        (X, LABELS[1:], 1.0, BadShape),
        (X[0], LABELS, 1.0, BadShape),
        (X[:0], LABELS[:0], 1.0, BadShape),
        (X, LABELS[:, None], 1.0, BadShape),
        (BROKEN, LABELS, 1.0, BadValue),
        (X, ["one"] * 12, 1.0, BadValue),
        (X, LABELS, 0.0, BadValue),
        (X, LABELS, float("nan"), BadValue),
        ([["a"] * 3] * 12, LABELS, 1.0, BadValue),
    ],
)
def test_invalid_training_data_is_refused(x, labels, l2, error):
    with pytest.raises(error):
        train_head(x, labels, l2=l2)


def test_unreached_minimum_is_an_error(monkeypatch):
    monkeypatch.setattr(probe, "NEWTON_STEPS", 2)
    with pytest.raises(BadValue, match="2 steps were not enough"):
        train_head(X, LABELS)
