"""What many searches open is the law of a random order, whatever the database holds.

Planted bugs at the end, each with the checker that must fail on it. Seeds are fixed. The checks of
laws fail an honest search with probability below 10^-6 over the choice of masks: `check_law` shares
that out among its statistics, and `checkers` says the same of its own.
"""

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bench import topk_failures as bench
from bench.topk_failures import (
    BITS,
    check_law,
    databases,
    exact,
    search,
    transcripts,
)
from gpumpc.errors import CorrelationError, SelectionFailed
from gpumpc.offline.deal_batch import Dealing
from gpumpc.offline.seeds import SeedTree
from gpumpc.protocols.ranking.topk import OpenedSign, Pass, TopK
from gpumpc.ring import selection
from gpumpc.ring.numpy_backend import NumpyBackend
from tests.harness import BACKEND, Cell, Outcome
from tests.protocols.checkers import check_independent, check_uniform
from tests.protocols.mistakes import (
    Checker,
    Mistake,
    Patch,
    change_draws,
    check_caught,
    first_row_for_all,
    names_not_remembered,
    one_shuffle_for_two_queries,
    zero_corrections,
    zeroed,
)

Ints = npt.NDArray[np.int64]


# transcripts: two databases, many queries


def two_databases(n_queries: int, n: int, k: int) -> None:
    distances = np.random.default_rng(10).integers(0, 1 << (BITS - 2), n)
    rows = 100
    first = transcripts(np.tile(distances, (rows, 1)), n_queries, k, seed=11)
    second = transcripts(np.zeros((rows, n), dtype=np.int64), n_queries, k, seed=12)
    differing, n_statistics, _ = check_law(first, second)
    assert n_statistics > 100 and not differing, (
        f"the law depends on the database: {', '.join(differing[:8])}"
    )


def two_databases_have_one_law() -> None:
    two_databases(2000, 64, 5)


def test_two_databases_open_one_distribution_for_k_1():
    """Ten thousand queries are asked by `python -m bench.topk_failures --queries 10000 --n 64
    --law`.
    """
    two_databases(4000, 64, 1)


def test_two_databases_open_one_distribution_over_passes():
    two_databases(2000, 200, 5)


def test_distribution_check_detects_a_loaded_coin():
    """What it would say of a coin that falls right 6 times in 10."""
    rng = np.random.default_rng(13)
    coins = [(rng.random(10_000) < p).astype(int) for p in (0.5, 0.6)]
    fair, loaded = (bench.p_value(coin, (rng.random(10_000) < 0.5).astype(int)) for coin in coins)
    assert fair > 1e-6 > bench.FALSE_ALARMS / 5000 > loaded


def lucky_search(distances: Ints, k: int, seed: int) -> Outcome:
    """The first batch number that does not fail, of twenty."""
    for batch_index in range(1, 20):
        with contextlib.suppress(SelectionFailed):
            return search(distances, k, seed, batch_index)
    return search(distances, k, seed, 20)


def opened_noise(outcome: Outcome) -> list[Cell]:
    """Openings but for comparison bits: pivots and survivors under masks, and the factors of the
    trees.
    """
    last = {o.step: i for i, o in enumerate(outcome.openings[0]) if not o.bits}
    kept = [o for i, o in enumerate(outcome.openings[0]) if i not in last.values()]
    return [Cell(f"{o.step} round {o.round}", o.bits, o.n, o.values) for o in kept]


@pytest.mark.parametrize("kind", ["all equal", "random"])
def test_other_openings_are_uniform_noise(kind):
    rows, n = 2048, 64
    distances = np.zeros((rows, n), dtype=np.int64)
    if kind == "random":
        distances += np.random.default_rng(14).integers(0, 1 << (BITS - 2), n)
    cells = opened_noise(lucky_search(distances, 5, seed=14))
    assert {cell.bits for cell in cells} == {0, BITS, BITS + 6}
    check_uniform(cells)
    for size in {cell.n for cell in cells}:
        check_independent([cell for cell in cells if cell.n == size])


# checkers, and mistakes that they must catch


def search_is_exact() -> None:
    rng = np.random.default_rng(15)
    for number, (_, distances) in zip(range(5), databases((20, 200), rng), strict=False):
        assert np.array_equal(search(distances, 5, seed=number).values, exact(distances, 5))


def search_is_exact_or_refused() -> None:
    """Under a plan that fails often: one query a run, and those that do not fail must be right."""
    distances = np.random.default_rng(16).integers(0, 99, (1, 24))
    passes, refused = TopK.passes, 0
    TopK.passes = (Pass(24, 6, 2, 6),)  # type: ignore[assignment]  # stands in for the planner
    try:
        for batch_index in range(60):
            try:
                assert np.array_equal(
                    search(distances, 4, seed=16, batch_index=batch_index).values,
                    exact(distances, 4),
                )
            except SelectionFailed as error:
                assert "ask again" in str(error)
                refused += 1
    finally:
        TopK.passes = passes  # type: ignore[method-assign]  # as it was
    assert 0 < refused < 60


def an_all_equal_transcript_varies() -> None:
    opened = transcripts(np.zeros((100, 64), dtype=np.int64), 100, 5, seed=17)
    for name, bits in opened.items():
        assert len({tuple(row) for row in bits.tolist()}) > 90, (
            f"{name} opens the same bits again and again"
        )


def queries_are_unrelated() -> None:
    """The same distances in every row: the bits of one row say nothing of the next one's."""
    opened = transcripts(
        np.tile(np.random.default_rng(18).integers(0, 1 << 20, 64), (200, 1)), 200, 5, seed=18
    )
    for name, bits in opened.items():
        if name.endswith("sample"):
            alike = (bits[1:] == bits[:-1]).mean()
            # Half of 276 bits a row; 0.6 is 8 standard deviations off, were only 24 of each row
            # independent.
            assert alike < 0.6, f"{name}: two queries were compared in the same order"


def pivots_and_survivors_are_noise() -> None:
    """Themselves, neighbours subtracted, and one pass's from the next's; of equal distances: masks
    alone vary.
    """
    outcome = lucky_search(np.zeros((2056, 200), dtype=np.int64), 1, seed=19)
    bits = 8 * (
        (BITS + 8) // 8
    )  # whole bytes: a lane of single bits would be too short for the test
    sums = [o.values for o in outcome.openings[0] if o.bits and o.step.startswith("best/")]
    pivots = [words for words in sums if words.shape[1] == 1]
    assert len(pivots) >= 2
    apart = [words[1:] - words[:-1] for words in sums] + [pivots[0] - pivots[1]]
    columns = [words[:2047, i] for words in (*sums, *apart) for i in range(min(4, words.shape[1]))]
    check_independent(
        [Cell(f"opened {i}", bits, 2047, BACKEND.reduce(c, bits)) for i, c in enumerate(columns)]
    )


CHECKERS: list[Checker] = [
    search_is_exact,
    search_is_exact_or_refused,
    an_all_equal_transcript_varies,
    queries_are_unrelated,
    two_databases_have_one_law,
    pivots_and_survivors_are_noise,
]


@pytest.mark.parametrize("checker", CHECKERS, ids=lambda checker: checker.__name__)
def test_correct_search_passes_every_checker(checker):
    checker()


def pivot_opened_without_r_star(patch: Patch) -> None:
    change_draws(patch, "R*", zeroed)


def one_r_star_for_all_queries(patch: Patch) -> None:
    change_draws(patch, "R*", first_row_for_all)


def survivors_opened_without_a_mask(patch: Patch) -> None:
    change_draws(patch, "r'", zeroed)


def r_star_of_the_first_pass_again(patch: Patch) -> None:
    """Two pivots under one mask: their difference is open."""
    honest = SeedTree.key
    patch.setattr(
        SeedTree,
        "key",
        lambda self, step, name: honest(self, "best/pass0" if name == "R*" else step, name),
    )


def and_names_not_remembered(patch: Patch) -> None:
    """The same with the guard of the seed tree gone."""
    r_star_of_the_first_pass_again(patch)
    names_not_remembered(patch)


def sample_taken_before_the_shuffle(patch: Patch) -> None:
    """The first positions stay where they are: what is sampled is known by id."""
    honest = selection.permutations

    def permutations(cipher: Any, key: bytes, rows: int, n: int) -> Any:
        index = honest(cipher, key, rows, n)
        fixed = np.broadcast_to(np.arange(min(24, n)), (rows, min(24, n)))
        rest = np.stack([row[row >= 24] for row in index]) if n > 24 else index[:, :0]
        return np.concatenate((fixed, rest), axis=1)

    patch.setattr(selection, "permutations", permutations)


def no_shuffle_at_all(patch: Patch) -> None:
    patch.setattr(
        selection, "permutations", lambda c, key, rows, n: np.tile(np.arange(n), (rows, 1))
    )


def ties_broken_by_shuffled_position(patch: Patch) -> None:
    """No id in the keys: the left one of two equal ones counts as the larger."""
    patch.setattr(NumpyBackend, "counting", lambda self, n: np.zeros(n, dtype=np.uint64))


def beta_not_corrected(patch: Patch) -> None:
    zero_corrections(patch, BITS)


def tables_on_r_alone(patch: Patch) -> None:
    """The dealer forgets R* where the servers subtract w."""
    honest: Any = Dealing.sum_words
    patch.setattr(
        Dealing,
        "sum_words",
        lambda self, name, *a: honest(self, name, *a) * np.uint64(name != "R*"),
    )


def too_many_survivors_cut_off(patch: Patch) -> None:
    _survivors_that_never_fail(patch, "many")


def too_few_survivors_filled_up(patch: Patch) -> None:
    _survivors_that_never_fail(patch, "few")


def _survivors_that_never_fail(patch: Patch, which: str) -> None:
    honest = selection.survivors

    def survivors(below: Any, pivots: Any, least: int, cap: int, mix: bytes) -> Any:
        kept = below.copy()
        np.put_along_axis(kept, pivots, True, axis=1)
        counts = kept.sum(axis=1)
        bad = counts.max() > cap if which == "many" else counts.min() < least
        if not bad:
            return honest(below, pivots, least, cap, mix)
        return np.argsort(~kept, axis=1, kind="stable")[:, :cap]

    patch.setattr(selection, "survivors", survivors)


def survivors_without_the_pivot(patch: Patch) -> None:
    """The pivot may be the k-th smallest itself."""
    honest = selection.survivors

    def survivors(below: Any, pivots: Any, least: int, cap: int, mix: bytes) -> Any:
        kept = honest(below, pivots, least, cap, mix)
        return None if kept is None else np.argsort(~below, axis=1, kind="stable")[:, :cap]

    patch.setattr(selection, "survivors", survivors)


def less_or_equal_the_wrong_way(patch: Patch) -> None:
    honest = OpenedSign.run
    patch.setattr(OpenedSign, "run", lambda self, session, z: ~honest(self, session, z))


MISTAKES: list[tuple[Mistake, Checker, type[BaseException]]] = [
    (pivot_opened_without_r_star, pivots_and_survivors_are_noise, AssertionError),
    (one_r_star_for_all_queries, pivots_and_survivors_are_noise, AssertionError),
    (survivors_opened_without_a_mask, pivots_and_survivors_are_noise, AssertionError),
    (r_star_of_the_first_pass_again, pivots_and_survivors_are_noise, CorrelationError),
    (and_names_not_remembered, pivots_and_survivors_are_noise, AssertionError),
    (sample_taken_before_the_shuffle, two_databases_have_one_law, AssertionError),
    (sample_taken_before_the_shuffle, an_all_equal_transcript_varies, AssertionError),
    (no_shuffle_at_all, an_all_equal_transcript_varies, AssertionError),
    (one_shuffle_for_two_queries, queries_are_unrelated, AssertionError),
    (ties_broken_by_shuffled_position, an_all_equal_transcript_varies, AssertionError),
    (ties_broken_by_shuffled_position, two_databases_have_one_law, AssertionError),
    (ties_broken_by_shuffled_position, search_is_exact, AssertionError),
    (beta_not_corrected, search_is_exact_or_refused, AssertionError),
    (tables_on_r_alone, search_is_exact_or_refused, AssertionError),
    (too_many_survivors_cut_off, search_is_exact_or_refused, AssertionError),
    (too_few_survivors_filled_up, search_is_exact_or_refused, AssertionError),
    (survivors_without_the_pivot, search_is_exact_or_refused, AssertionError),
    (less_or_equal_the_wrong_way, search_is_exact_or_refused, AssertionError),
]


@pytest.mark.parametrize(("mistake", "checker", "error"), MISTAKES, ids=lambda f: f.__name__)
def test_a_planted_bug_is_caught(mistake, checker, error):
    check_caught(mistake, checker, error)


def test_failed_search_releases_no_result(monkeypatch):
    """Both servers stop with the same error, and there is no result at either."""
    monkeypatch.setattr(selection, "survivors", lambda *a: None)
    with pytest.raises(SelectionFailed, match="less than once in 10000"):
        search(np.zeros((1, 64), dtype=np.int64), 5, seed=20)
