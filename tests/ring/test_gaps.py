"""A sort's public bookkeeping, against brute force and against chance itself."""

import itertools
from math import comb

import numpy as np
import pytest
from scipy.stats import binom

from gpumpc.ring import gaps


def searched(x: np.ndarray, s: int) -> tuple[np.ndarray, gaps.Places]:
    """Rows of distinct numbers, the first s sorted, and the others' places after the search."""
    sample = np.argsort(x[:, :s], axis=1)
    places = gaps.Places(sample, x.shape[1] - s)
    for _ in range(s.bit_length()):
        pivots = np.take_along_axis(x, places.pivots(), axis=1)
        places.narrow(x[:, s:] < pivots)
    return sample, places


@pytest.mark.parametrize("s", [1, 2, 3, 4, 7, 8, 9, 64])
def test_search_finds_how_many_of_the_sample_are_below(s):
    x = np.argsort(np.random.default_rng(s).random((9, s + 50)), axis=1)
    _, places = searched(x, s)
    assert np.array_equal(places.gaps, (x[:, s:, None] > x[:, None, :s]).sum(axis=2))
    assert places.others.tolist() == [list(range(s, s + 50))] * 9


@pytest.mark.parametrize("s", [1, 3, 8, 20])
def test_merged_order_is_the_order(s):
    x = np.argsort(np.random.default_rng(s).random((9, s + 40)), axis=1)
    sample, places = searched(x, s)
    pairs = gaps.pairs_in_gaps(places.gaps, 40 * 39 // 2)
    assert pairs is not None
    left, right = (np.take_along_axis(x, side + s, axis=1) for side in pairs)
    order = gaps.merged_order(sample, places.gaps, pairs, left < right)
    assert np.array_equal(order, np.argsort(x, axis=1))


def test_pairs_are_those_of_one_gap_and_no_others():
    at = np.random.default_rng(1).integers(0, 6, (5, 20))
    wanted = [
        {(i, j) for i, j in itertools.combinations(range(20), 2) if row[i] == row[j]} for row in at
    ]
    most = max(map(len, wanted))
    found = gaps.pairs_in_gaps(at, most)
    assert found is not None and found[0].shape == (5, most)
    for row, pairs in zip(wanted, np.stack(found, axis=2).tolist(), strict=True):
        kept = [tuple(pair) for pair in pairs[: len(row)]]
        assert len(kept) == len(row) and {tuple(sorted(pair)) for pair in kept} == row
        assert all(pair == [0, 0] for pair in pairs[len(row) :])
    assert gaps.pairs_in_gaps(at, most - 1) is None


def test_no_pair_shares_a_gap_where_each_has_its_own():
    found = gaps.pairs_in_gaps(np.array([[2, 0, 1]]), 2)
    assert found is not None and not np.any(found)


@pytest.mark.parametrize(("n", "s"), [(9, 3), (12, 4), (14, 6)])
@pytest.mark.parametrize("failure", [0.5, 0.1, 1e-4])
def test_pairs_bound_holds_over_all_orders(n, s, failure):
    """Every choice of the sample's ranks is as likely as any other."""
    bound, above = gaps.most_pairs(n, s, failure), 0
    for ranks in itertools.combinations(range(n), s):
        edges = [-1, *ranks, n]
        sizes = [high - low - 1 for low, high in itertools.pairwise(edges)]
        above += sum(size * (size - 1) // 2 for size in sizes) > bound
    assert above <= failure * comb(n, s)


@pytest.mark.parametrize(("n", "s"), [(400, 100), (800, 100), (2000, 125)])
def test_pairs_bound_holds_at_large_sizes_and_is_near(n, s):
    """5,000 orders at a failure of 1 %: at most the 1 - 10^-6 quantile of the binomial law."""
    failure, rows = 0.01, 5000
    x = np.random.default_rng(2).random((rows, n))
    ranks = np.sort(np.argsort(np.argsort(x, axis=1), axis=1)[:, :s], axis=1)
    edges = (np.full((rows, 1), -1), ranks, np.full((rows, 1), n))
    sizes = np.diff(np.concatenate(edges, axis=1), axis=1) - 1
    pairs = (sizes * (sizes - 1) // 2).sum(axis=1)
    bound = gaps.most_pairs(n, s, failure)
    assert (pairs > bound).sum() <= binom.isf(1e-6, rows, failure)
    assert bound < 2 * np.quantile(pairs, 1 - failure)
