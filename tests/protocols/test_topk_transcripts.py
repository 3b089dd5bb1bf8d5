"""What many searches open is the law of a random order, whatever the database holds.

Planted bugs at the end, each with the checker that must fail on it. Seeds are fixed. The checks of
laws fail an honest search with probability below 10^-6 over the choice of masks: `check_law` shares
that out among its statistics, and `checkers` says the same of its own.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bench import topk_failures as bench
from bench.topk_failures import BITS, check_law, databases, exact, search, transcripts
from gpumpc.errors import CorrelationError, SelectionFailed
from gpumpc.offline.deal_batch import Dealing
from gpumpc.offline.seeds import SeedTree
from gpumpc.protocols.ranking.opened_sign import OpenedSign
from gpumpc.protocols.ranking.topk import Pass, TopK
from gpumpc.ring import selection
from gpumpc.ring.numpy_backend import NumpyBackend
from tests.harness import BACKEND, Cell, Outcome
from tests.protocols import mistakes
from tests.protocols.checkers import check_independent, check_uniform
from tests.protocols.mistakes import Cases, Patch, check_caught, draws, name_of, replaced

Ints = npt.NDArray[np.int64]


# transcripts: two databases, many queries


def two_databases(n_queries: int, n: int, k: int) -> None:
    distances = np.random.default_rng(10).integers(0, 1 << (BITS - 2), n)
    rows = 100
    first = transcripts(np.tile(distances, (rows, 1)), n_queries, k, seed=11)
    second = transcripts(np.zeros((rows, n), dtype=np.int64), n_queries, k, seed=12)
    differing, n_statistics, _ = check_law(first, second)
    assert n_statistics > 100
    assert not differing, f"the law depends on the database: {', '.join(differing[:8])}"


def two_databases_have_one_law() -> None:
    two_databases(2000, 64, 5)


def test_two_databases_open_one_distribution_for_k_1():
    """`python -m bench.topk_failures --queries 10000 --n 64 --law` asks ten thousand queries."""
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
    """Openings but for comparison bits: masked pivots and survivors, and factors of the trees."""
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
                got = search(distances, 4, seed=16, batch_index=batch_index).values
                assert np.array_equal(got, exact(distances, 4))
            except SelectionFailed as error:
                assert "ask again" in str(error)
                refused += 1
    finally:
        TopK.passes = passes  # type: ignore[method-assign]  # as it was
    assert 0 < refused < 60


def an_all_equal_transcript_varies() -> None:
    opened = transcripts(np.zeros((100, 64), dtype=np.int64), 100, 5, seed=17)
    for name, bits in opened.items():
        assert len({tuple(row) for row in bits.tolist()}) > 90, f"{name} opens the same bits"


def queries_are_unrelated() -> None:
    """The same distances in every row: the bits of one row say nothing of the next one's."""
    row = np.random.default_rng(18).integers(0, 1 << 20, 64)
    opened = transcripts(np.tile(row, (200, 1)), 200, 5, seed=18)
    for name, bits in opened.items():
        if name.endswith("sample"):
            alike = (bits[1:] == bits[:-1]).mean()
            # Half of 276 bits a row; 0.6 is 8 standard deviations off at 24 independent ones.
            assert alike < 0.6, f"{name}: two queries were compared in the same order"


def pivots_and_survivors_are_noise() -> None:
    """Themselves and their differences, of equal distances: masks alone vary."""
    outcome = lucky_search(np.zeros((2056, 200), dtype=np.int64), 1, seed=19)
    # Whole bytes: a lane of single bits would be too short for the test.
    bits = 8 * ((BITS + 8) // 8)
    sums = [o.values for o in outcome.openings[0] if o.bits and o.step.startswith("best/")]
    pivots = [words for words in sums if words.shape[1] == 1]
    assert len(pivots) >= 2
    apart = [words[1:] - words[:-1] for words in sums] + [pivots[0] - pivots[1]]
    columns = [words[:2047, i] for words in (*sums, *apart) for i in range(min(4, words.shape[1]))]
    reduced = [BACKEND.reduce(column, bits) for column in columns]
    check_independent([Cell(f"opened {i}", bits, 2047, c) for i, c in enumerate(reduced)])


CHECKERS = [search_is_exact, search_is_exact_or_refused, an_all_equal_transcript_varies]
CHECKERS += [queries_are_unrelated, two_databases_have_one_law, pivots_and_survivors_are_noise]


@pytest.mark.parametrize("checker", CHECKERS, ids=name_of)
def test_correct_search_passes_every_checker(checker):
    checker()


def sample_taken_before_the_shuffle(patch: Patch) -> None:
    """The first positions stay where they are: what is sampled is known by id."""
    honest = selection.permutations

    def permutations(cipher: Any, key: bytes, rows: int, n: int) -> Any:
        index = honest(cipher, key, rows, n)
        fixed = np.broadcast_to(np.arange(min(24, n)), (rows, min(24, n)))
        rest = np.stack([row[row >= 24] for row in index]) if n > 24 else index[:, :0]
        return np.concatenate((fixed, rest), axis=1)

    patch.setattr(selection, "permutations", permutations)


def survivors_that_never_fail(
    name: str, is_bad: Callable[[Any, int, int], bool]
) -> mistakes.Mistake:
    """Whatever is bad is cut off or filled up."""

    def change(honest: Any) -> Any:
        def survivors(below: Any, pivots: Any, least: int, cap: int, mix: bytes) -> Any:
            kept = below.copy()
            np.put_along_axis(kept, pivots, True, axis=1)
            if not is_bad(kept.sum(axis=1), least, cap):
                return honest(below, pivots, least, cap, mix)
            return np.argsort(~kept, axis=1, kind="stable")[:, :cap]

        return survivors

    return replaced(name, selection, "survivors", change)


def without_the_pivot(honest: Any) -> Any:
    """The pivot may be the k-th smallest itself."""

    def survivors(below: Any, pivots: Any, least: int, cap: int, mix: bytes) -> Any:
        kept = honest(below, pivots, least, cap, mix)
        return None if kept is None else np.argsort(~below, axis=1, kind="stable")[:, :cap]

    return survivors


def r_star_of_the_first_pass(honest: Any) -> Any:
    """Two pivots under one mask: their difference is open."""
    return lambda self, step, name: honest(self, "best/pass0" if name == "R*" else step, name)


def without_r_star(honest: Any) -> Any:
    """The dealer forgets R* where the servers subtract w."""
    return lambda self, name, *a: honest(self, name, *a) * np.uint64(name != "R*")


def without_ids(_: object) -> Any:
    """The left one of two equal keys counts as the larger."""
    return lambda self, n: np.zeros(n, dtype=np.uint64)


def in_order(_: object) -> Any:
    return lambda cipher, key, rows, n: np.tile(np.arange(n), (rows, 1))


def complement(honest: Any) -> Any:
    return lambda self, session, z: ~honest(self, session, z)


r_star_twice = replaced("r_star_twice", SeedTree, "key", r_star_of_the_first_pass)


def r_star_twice_and_names_not_remembered(patch: Patch) -> None:
    """The same with the guard of the seed tree gone."""
    r_star_twice(patch)
    mistakes.names_not_remembered(patch)


too_many_cut_off = survivors_that_never_fail(
    "too_many_survivors_cut_off", lambda counts, least, cap: counts.max() > cap
)
too_few_filled_up = survivors_that_never_fail(
    "too_few_survivors_filled_up", lambda counts, least, cap: counts.min() < least
)
ties_by_position = replaced("ties_by_position", NumpyBackend, "counting", without_ids)
no_shuffle_at_all = replaced("no_shuffle_at_all", selection, "permutations", in_order)
r_alone = replaced("tables_on_r_alone", Dealing, "sum_words", without_r_star)
no_pivot = replaced("survivors_without_the_pivot", selection, "survivors", without_the_pivot)
wrong_sign = replaced("less_or_equal_the_wrong_way", OpenedSign, "run", complement)
MISTAKES: Cases = [
    (draws("pivot_opened_without_r_star", "R*"), pivots_and_survivors_are_noise),
    (draws("one_r_star_for_all", "R*", mistakes.first_row_for_all), pivots_and_survivors_are_noise),
    (draws("survivors_without_a_mask", "r'"), pivots_and_survivors_are_noise),
    (r_star_twice_and_names_not_remembered, pivots_and_survivors_are_noise),
    (sample_taken_before_the_shuffle, two_databases_have_one_law),
    (sample_taken_before_the_shuffle, an_all_equal_transcript_varies),
    (no_shuffle_at_all, an_all_equal_transcript_varies),
    (mistakes.one_shuffle, queries_are_unrelated),
    (ties_by_position, an_all_equal_transcript_varies),
    (ties_by_position, two_databases_have_one_law),
    (ties_by_position, search_is_exact),
    (mistakes.beta_not_corrected(BITS), search_is_exact_or_refused),
    (r_alone, search_is_exact_or_refused),
    (too_many_cut_off, search_is_exact_or_refused),
    (too_few_filled_up, search_is_exact_or_refused),
    (no_pivot, search_is_exact_or_refused),
    (wrong_sign, search_is_exact_or_refused),
]


@pytest.mark.parametrize(("mistake", "checker"), MISTAKES, ids=name_of)
def test_a_planted_bug_is_caught(mistake, checker):
    check_caught(mistake, checker)


def test_a_mask_used_for_two_passes_is_refused():
    check_caught(r_star_twice, pivots_and_survivors_are_noise, CorrelationError)


def test_failed_search_releases_no_result(monkeypatch):
    """Both servers stop with the same error, and there is no result at either."""
    monkeypatch.setattr(selection, "survivors", lambda *a: None)
    with pytest.raises(SelectionFailed, match="less than once in 10000"):
        search(np.zeros((1, 64), dtype=np.int64), 5, seed=20)
