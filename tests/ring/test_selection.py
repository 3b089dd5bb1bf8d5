"""Public bookkeeping of a selection, against brute force and against chance itself."""

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import binom, chi2

from gpumpc.protocols.ranking.topk import FAILURE, plan_passes
from gpumpc.ring import selection

KEY = bytes(range(32))
COIN = bytes(32)


def key(i: int) -> bytes:
    return i.to_bytes(32, "little")


# permutations


@pytest.mark.parametrize("cipher", ["aes128ctr", "chacha20"])
def test_every_row_is_a_permutation_fixed_by_the_key(cipher):
    index = selection.permutations(cipher, KEY, 20, 50)
    assert np.array_equal(np.sort(index, axis=1), np.tile(np.arange(50), (20, 1)))
    assert np.array_equal(index, selection.permutations(cipher, KEY, 20, 50))
    assert not (index == selection.permutations(cipher, COIN, 20, 50)).all(axis=1).any()
    assert len({tuple(row) for row in index.tolist()}) == 20


def test_permutations_of_five_are_uniform():
    """A chi-square over the 120 of them; an honest stream fails with probability 10^-6."""
    counts = Counter(map(tuple, selection.permutations("aes128ctr", KEY, 120_000, 5).tolist()))
    assert len(counts) == 120
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < chi2.isf(1e-6, 119)


def test_compose_applies_the_first_then_the_second():
    first, second = (selection.permutations("chacha20", key(i), 7, 30) for i in (1, 2))
    x = np.random.default_rng(3).integers(0, 99, (7, 30))
    twice = np.take_along_axis(np.take_along_axis(x, first, axis=1), second, axis=1)
    assert np.array_equal(np.take_along_axis(x, selection.compose(first, second), axis=1), twice)


# pairs and orders


@pytest.mark.parametrize("m", [0, 1, 2, 5, 48])
def test_pairs_are_all_pairs_in_order(m):
    left, right = selection.pairs(m)
    found = zip(left.tolist(), right.tolist(), strict=True)
    assert list(found) == list(itertools.combinations(range(m), 2))


def test_repeat_rows_repeats_a_row():
    assert selection.repeat_rows(np.array([4, 2]), 3).tolist() == [[4, 2]] * 3


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
def test_order_of_pairs_recovers_every_small_order(m):
    rows = np.array(list(itertools.permutations(range(m))))
    left, right = selection.pairs(m)
    less = rows[:, left] < rows[:, right]
    assert np.array_equal(selection.order_of_pairs(less, m), np.argsort(rows, axis=1))


def test_order_of_pairs_recovers_large_orders():
    rows = np.random.default_rng(4).random((30, 96))
    left, right = selection.pairs(96)
    order = selection.order_of_pairs(rows[:, left] < rows[:, right], 96)
    assert np.array_equal(order, np.argsort(rows, axis=1))


# survivors


def below_and_pivots(ranks: list[int], n: int, seed: int = 5):
    """Rows of n random distinct keys, the pivot of each the one of the given rank (from 1)."""
    rng = np.random.default_rng(seed)
    x = np.argsort(rng.random((len(ranks), n)), axis=1)
    pivots = np.stack([np.flatnonzero(row == rank - 1) for row, rank in zip(x, ranks, strict=True)])
    return x, x < np.take_along_axis(x, pivots, axis=1), pivots


def test_survivors_include_the_smallest():
    x, below, pivots = below_and_pivots([3, 4, 8], 20)
    kept = selection.survivors(below, pivots, 3, 8, COIN)
    assert kept is not None and kept.shape == (3, 8) and kept.dtype == np.int64
    for row, chosen, rank in zip(x, kept, [3, 4, 8], strict=True):
        assert len(set(chosen.tolist())) == 8
        assert set(range(rank)) <= set(row[chosen].tolist())


@pytest.mark.parametrize(
    ("rank", "fits"), [(2, False), (3, True), (5, True), (8, True), (9, False)]
)
def test_selection_succeeds_for_ranks_from_least_to_cap(rank, fits):
    """Just the pivot's rank, itself included; one row that does not fit spoils all."""
    for ranks in ([rank], [5, rank], [rank, 5, 5]):
        _, below, pivots = below_and_pivots(ranks, 20)
        assert (selection.survivors(below, pivots, 3, 8, COIN) is not None) is fits


def test_pivot_survives_even_if_not_below_itself():
    _, below, pivots = below_and_pivots([4], 20)
    also = below.copy()
    np.put_along_axis(also, pivots, True, axis=1)
    one, other = (selection.survivors(bits, pivots, 4, 6, COIN) for bits in (below, also))
    assert one is not None and other is not None and np.array_equal(one, other)


def test_survivors_do_not_change_their_argument():
    _, below, pivots = below_and_pivots([4], 20)
    before = below.copy()
    selection.survivors(below, pivots, 4, 6, COIN)
    assert np.array_equal(below, before)


def test_survivors_are_shuffled_by_the_key_for_each_row():
    """The pivot's place is uniform, by a chi-square that fails honestly with 10^-6."""
    rows, n, cap = 20_000, 12, 6
    below, pivots = np.tile(np.arange(n) < 3, (rows, 1)), np.full((rows, 1), 3)
    kept = selection.survivors(below, pivots, 2, cap, KEY)
    assert kept is not None
    counts = np.bincount(np.argmax(kept == 3, axis=1), minlength=cap)
    assert ((counts - rows / cap) ** 2 / (rows / cap)).sum() < chi2.isf(1e-6, cap - 1)
    other = selection.survivors(below, pivots, 2, cap, COIN)
    assert other is not None and not np.array_equal(kept, other)


# caps


def chances(n: int, sample: int, rank: int) -> list[Fraction]:
    """P[R = r] for r = 0 .. n: R the rank among all of the `rank`-th smallest of a sample."""
    whole = math.comb(n, sample)
    ways = [math.comb(r - 1, rank - 1) * math.comb(n - r, sample - rank) for r in range(1, n + 1)]
    inside = [Fraction(count, whole) for count in (0, *ways)]
    assert sum(inside) == 1
    return inside


@pytest.mark.parametrize(("n", "sample", "rank"), [(5, 2, 1), (8, 4, 2), (10, 5, 5), (9, 3, 3)])
def test_rank_distribution_matches_all_samples(n, sample, rank):
    samples = itertools.combinations(range(n), sample)
    ranks = Counter(sorted(chosen)[rank - 1] + 1 for chosen in samples)
    found = [Fraction(ranks[r], math.comb(n, sample)) for r in range(n + 1)]
    assert found == chances(n, sample, rank)


@pytest.mark.parametrize("failure", [0.3, 0.05, 1e-4])
@pytest.mark.parametrize(("n", "sample"), [(10, 4), (48, 16), (64, 24), (200, 32), (500, 96)])
def test_the_cap_is_the_smallest_that_holds(n, sample, failure):
    for rank in range(1, sample // 2):
        law = chances(n, sample, rank)
        for least in (1, rank, rank + 1, 5, n):
            few = sum(law[:least])
            cap = selection.smallest_cap(n, sample, rank, least, failure)
            if few > Fraction(failure) / 2:
                assert cap is None
                continue
            assert cap is not None and cap >= rank
            assert few + sum(law[cap + 1 :]) <= Fraction(failure) * Fraction(1 + 1e-6)
            assert few + sum(law[cap:]) > Fraction(failure) * Fraction(1 - 1e-6)


def test_no_cap_exists_for_too_large_least():
    """`least` far above every rank the pivot may have."""
    assert selection.smallest_cap(64, 16, 1, 50, 1e-4) is None
    assert selection.smallest_cap(64, 16, 1, 64, 1e-4) is None
    assert selection.smallest_cap(1_000_000, 96, 1, 900_000, 1e-4) is None


def test_smallest_cap_is_precise_for_large_n():
    """Against exact fractions where these are still quick, and sane at a million."""
    n, sample, rank = 4000, 64, 4
    law = chances(n, sample, rank)
    cap = selection.smallest_cap(n, sample, rank, 5, 1e-4)
    assert cap is not None
    assert sum(law[:5]) + sum(law[cap + 1 :]) <= Fraction(1e-4) < sum(law[:5]) + sum(law[cap:])
    huge = selection.smallest_cap(1_000_000, 96, 2, 5, 1e-4)
    # P[R > c] is near (1 + u) e^-u with u = 96 c / 10^6: 1e-4 at u = 11.75, less in a sample
    # without return.
    assert huge is not None and 105_000 < huge < 123_000


@pytest.mark.parametrize(
    ("n", "sample", "rank", "least"), [(200, 48, 5, 5), (64, 24, 1, 1), (500, 32, 6, 10)]
)
def test_cap_fails_no_more_often_than_stated(n, sample, rank, least):
    """20,000 samples at a failure of 1 %: at most the 1 - 10^-6 quantile of the binomial law."""
    failure, rows = 0.01, 20_000
    cap = selection.smallest_cap(n, sample, rank, least, failure)
    assert cap is not None
    x = np.argsort(np.random.default_rng(6).random((rows, n)), axis=1)
    found = np.sort(x[:, :sample], axis=1)[:, rank - 1] + 1
    assert ((found < least) | (found > cap)).sum() <= binom.isf(1e-6, rows, failure)


@pytest.mark.parametrize(("n", "k"), [(500, 10), (1000, 5), (1000, 1)])
def test_later_passes_fail_no_more_often_than_the_first(monkeypatch, n, k):
    """At a failure of 1 %, with the real survivors: a sample of them must be a uniform one."""
    failure, rows = 0.01, 20_000
    monkeypatch.setattr("gpumpc.protocols.ranking.topk.FAILURE", failure)
    plan_passes.cache_clear()
    passes = plan_passes(n, k)
    plan_passes.cache_clear()
    assert len(passes) >= 2
    x = np.argsort(np.random.default_rng(7).random((rows, n)), axis=1)
    for number, p in enumerate(passes):
        pivots = np.argsort(x[:, : p.sample], axis=1)[:, p.rank - 1 : p.rank]
        below = x < np.take_along_axis(x, pivots, axis=1)
        counts = below.sum(axis=1) + 1
        held = (counts >= k) & (counts <= p.cap)
        assert (~held).sum() <= binom.isf(1e-6, len(x), failure), f"pass {number}"
        kept = selection.survivors(below[held], pivots[held], k, p.cap, key(number))
        assert kept is not None
        x = np.take_along_axis(x[held], kept, axis=1)
        assert (np.sort(x, axis=1)[:, :k] == np.arange(k)).all()


def test_planted_unshuffled_survivors_are_caught(monkeypatch):
    """Planted: the old sample's survivors come first, and are the next sample's too."""
    honest = selection.permutations
    monkeypatch.setattr(selection, "permutations", lambda *a: np.sort(honest(*a), axis=1))
    with pytest.raises(AssertionError, match="pass 1"):
        test_later_passes_fail_no_more_often_than_the_first(monkeypatch, 500, 10)


def test_stated_failure_is_1e_4():
    assert FAILURE == 1e-4
