"""A sort by growths: exact, as cheap as declared, and all that it opens of five keys."""

import numpy as np
import pytest

from bench.topk_failures import BITS, databases, exact, search, steps
from gpumpc.cost import Cost
from gpumpc.errors import SelectionFailed
from gpumpc.offline.deal_batch import Dealing
from gpumpc.protocols.ranking.growth import Growth, Sort, plan_sort
from gpumpc.protocols.ranking.topk import FAILURE, TopK
from gpumpc.ring import gaps
from tests.harness import BACKEND, Cell
from tests.protocols import mistakes
from tests.protocols.checkers import check_cost, check_independent
from tests.protocols.mistakes import check_caught, draws, name_of, replaced
from tests.protocols.test_topk import FIVE, all_orders, check_every_order
from tests.protocols.test_topk_transcripts import two_databases


def use(monkeypatch, base: int, *growths: Growth) -> None:
    """Sort by these growths, without passes."""
    monkeypatch.setattr(TopK, "passes", ())
    monkeypatch.setattr(TopK, "sort", Sort(base, growths))


@pytest.mark.parametrize(("n", "k"), [(700, 700), (700, 350), (1500, 200)])
def test_many_smallest_keys_come_in_order(n, k):
    rng = np.random.default_rng(n)
    assert steps((3, n), k)[1].sort.growths  # type: ignore[union-attr]  # the second is a TopK
    for number, (_, distances) in zip(range(5), databases((3, n), rng), strict=False):
        assert np.array_equal(search(distances, k, seed=number).values, exact(distances, k))


@pytest.mark.parametrize("rows", [1, 5])
def test_declared_cost_of_growths_is_measured(rows):
    outcome = search(np.zeros((rows, 700), dtype=np.int64), 400, seed=6)
    check_cost(outcome, sum((step.cost for step in steps((rows, 700), 400)), Cost()))


def test_range_of_distances_holds_through_growths():
    ends = np.array([-(1 << (BITS - 2)), (1 << (BITS - 2)) - 1])
    distances = np.random.default_rng(3).choice(ends, (2, 700))
    assert np.array_equal(search(distances, 700, seed=3).values, exact(distances, 700))


@pytest.mark.parametrize(("n", "k"), [(10_000, 1000), (10_000, 10_000), (100_000, 10_000)])
def test_a_long_selection_costs_no_square_of_its_rows(n, k):
    """Of 40-bit keys, below 350 bytes of corrections and 140 bytes each way a row."""
    cost = TopK("best", ("x",), "y", (1, n), 40, k).cost
    assert cost.dealer_bytes < 350 * n and cost.s0_bytes < 140 * n and cost.rounds < 300


def test_short_rows_are_sorted_by_all_pairs():
    assert plan_sort(1, FAILURE) == Sort(1) and plan_sort(200, FAILURE) == Sort(200)


@pytest.mark.parametrize(
    ("base", "growths"), [(2, [Growth(2, 5, 3)]), (1, [Growth(1, 3, 1), Growth(3, 5, 1)])]
)
def test_every_order_at_five_is_opened_equally_often(monkeypatch, base, growths):
    use(monkeypatch, base, *growths)
    check_every_order(k=4)


def test_failure_of_a_growth_depends_on_the_order_alone(monkeypatch):
    use(monkeypatch, 2, Growth(2, 5, 1))
    pi, _ = all_orders(5)
    failed = []
    for database in ("random", "all equal"):
        count = 0
        for i in range(0, len(pi), 121):  # 120 rows, each composed permutation's share alike
            script = {(0, "shuffled", "pi"): pi[i : i + 1], (1, "shuffled", "sigma"): pi[:1]}
            try:
                search(np.array([FIVE[database]]), 5, seed=9, script=script)
            except SelectionFailed:
                count += 1
        failed.append(count)
    # Three keys in three gaps: 3 of 10 ways have all in one, and then three pairs.
    assert failed == [36, 36]


def two_databases_have_one_law_over_growths() -> None:
    with pytest.MonkeyPatch.context() as patch:
        use(patch, 8, Growth(8, 40, 300))
        two_databases(1000, 40, 40)


def growths_are_exact_or_refused() -> None:
    """Under a plan that fails often: one query a run, and those that do not fail must be right."""
    distances, refused = np.random.default_rng(16).integers(0, 99, (1, 24)), 0
    with pytest.MonkeyPatch.context() as patch:
        use(patch, 6, Growth(6, 24, 24))
        for batch_index in range(30):
            try:
                got = search(distances, 24, seed=16, batch_index=batch_index).values
                assert np.array_equal(got, exact(distances, 24))
            except SelectionFailed as error:
                assert "ask again" in str(error)
                refused += 1
    assert 0 < refused < 30


def late_pairs_are_noise() -> None:
    """Their masked differences, of equal distances, and what two levels have in common."""
    rows, bits = 2047, 8 * ((BITS + 4) // 8)
    with pytest.MonkeyPatch.context() as patch:
        use(patch, 4, Growth(4, 12, 28))
        outcome = search(np.zeros((rows, 12), dtype=np.int64), 12, seed=19)
    sums = [o.values for o in outcome.openings[0] if o.bits and "growth" in o.step]
    assert len(sums) == 4
    apart = [words[1:] - words[:-1] for words in sums] + [sums[0][:-1] - sums[1][:-1]]
    apart += [words[:, 1:] - words[:, :1] for words in sums]
    columns = [words[: rows - 1, i] for words in (*sums, *apart) for i in range(2)]
    reduced = [BACKEND.reduce(column, bits) for column in columns]
    check_independent([Cell(f"opened {i}", bits, rows - 1, c) for i, c in enumerate(reduced)])


CHECKERS = [growths_are_exact_or_refused, late_pairs_are_noise]
CHECKERS += [two_databases_have_one_law_over_growths]


@pytest.mark.parametrize("checker", CHECKERS, ids=name_of)
def test_correct_growth_passes_every_checker(checker):
    checker()


def cut_off(honest):
    """Pairs beyond the number that was dealt are forgotten."""

    def pairs_in_gaps(at, cap):
        left, right = honest(at, at.size**2)
        return left[:, :cap], right[:, :cap]

    return pairs_in_gaps


def without_rho(honest):
    """The dealer forgets rho."""
    return lambda self, name, *a: honest(self, name, *a) * np.uint64(name != "rho")


MISTAKES: mistakes.Cases = [
    (draws("late_pairs_opened_without_a_mask", "rho"), late_pairs_are_noise),
    (draws("one_rho_for_all", "rho", mistakes.first_row_for_all), late_pairs_are_noise),
    (replaced("pairs_cut_off", gaps, "pairs_in_gaps", cut_off), growths_are_exact_or_refused),
    (replaced("dealt_on_zero", Dealing, "sum_words", without_rho), growths_are_exact_or_refused),
]


@pytest.mark.parametrize(("mistake", "checker"), MISTAKES, ids=name_of)
def test_a_planted_bug_of_a_growth_is_caught(mistake, checker):
    check_caught(mistake, checker)
