"""Both programs of an index find the ids and scores of plain quantised arithmetic."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from gpumpc.errors import PlanError
from gpumpc.retrieval.programs import ROWS, VALUE_BITS, Geometry, query_program, rows_program
from gpumpc.ring.fixed_point import signed
from gpumpc.shares import Additive
from tests.harness import BACKEND, plain, run_program, share, unsigned
from tests.retrieval import indexes

GEOMETRIES = {
    "as a plan gives": Geometry(24, "l2", 21, 13),
    "averaged": Geometry(7, "l2", 24, 13, divisor=49),
    "narrow, not cut": Geometry(5, "l2", 9, 4),
    "just as wide": Geometry(5, "l2", VALUE_BITS, 6),
    "one number": Geometry(1, "l2", 27, 13),
}


def random_features(n: int, geometry: Geometry, seed: int) -> indexes.Ints:
    top = 1 << (geometry.bits - 2)
    return np.random.default_rng(seed).integers(
        -top, top - (1 << geometry.shift) + 1, (n, geometry.dim)
    )


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_rows_of_two_sessions_are_searched_as_one_matrix(make, name, metric):
    geometry = dataclasses.replace(GEOMETRIES[name], metric=metric)
    one = make(geometry)
    one.add(random_features(indexes.BATCH, geometry, 1), b"the first sessio")
    one.add(random_features(20, geometry, 2), b"the second sessi", batch_index=1)
    one.add(random_features(3, geometry, 3), b"the second sessi", batch_index=7)
    found, scores = one.search(random_features(4, geometry, 4), 5)
    assert found == indexes.best(scores, 5)


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_the_lowest_position_wins_among_duplicates(make, metric):
    """The query itself thirty times over two batches; multiples of 2^shift round exactly."""
    geometry = Geometry(6, metric, 21, 13)
    same = np.tile(np.random.default_rng(5).integers(-7, 8, (1, 6)) << geometry.shift, (15, 1))
    far = np.full((5, 6), 100 << geometry.shift) * (1 if metric == "l2" else 0)
    one = make(geometry)
    one.add(np.concatenate((far, same)), b"the first sessio")
    one.add(same, b"the second sessi")
    found, scores = one.search(same[:2], 7)
    assert found == indexes.best(scores, 7)
    if metric == "l2":
        assert [position for _, position in found[0]] == list(range(5, 12)) and found[0][0][0] == 0


def test_equal_rows_are_found_in_order_of_position(make):
    geometry = Geometry(3, "l2", 21, 13)
    one = make(geometry)
    one.add(np.zeros((indexes.BATCH, 3), dtype=np.int64), b"the first sessio")
    one.add(np.zeros((indexes.BATCH, 3), dtype=np.int64), b"the second sessi")
    found, _ = one.search(np.zeros((2, 3), dtype=np.int64), 5)
    assert found == [[(0, i) for i in range(5)]] * 2


def test_one_row_and_every_row_are_found(make):
    geometry = Geometry(4, "l2", 21, 13)
    one = make(geometry)
    one.add(random_features(1, geometry, 6), b"the first sessio")
    found, scores = one.search(random_features(3, geometry, 7), 1)
    assert found == indexes.best(scores, 1)
    one.add(random_features(4, geometry, 8), b"the second sessi")
    found, scores = one.search(random_features(3, geometry, 9), 5)
    assert found == indexes.best(scores, 5)


def test_removed_rows_leave_the_others_unchanged(make):
    geometry = Geometry(4, "ip", 21, 13)
    one = make(geometry)
    one.add(random_features(10, geometry, 10), b"the first sessio")
    one.add(random_features(10, geometry, 11), b"the second sessi")
    one.remove(["row0003", "row0012"])
    found, scores = one.search(random_features(2, geometry, 12), 4)
    assert scores.shape == (2, 18) and found == indexes.best(scores, 4)


def test_two_searches_of_one_index_open_different_words(make):
    """The rows' mask is fixed; the query's, and every other, is the batch's own."""
    geometry = Geometry(8, "l2", 21, 13)
    one = make(geometry)
    one.add(random_features(indexes.BATCH, geometry, 13), b"the first sessio")
    program = query_program(geometry, 2, indexes.BATCH, 3, indexes.PARAMS)
    pair = indexes.feature_shares(random_features(2, geometry, 14), geometry, seed=1)
    options: dict[str, Any] = {"seed": indexes.SEED, "static": one.static()}
    runs = [run_program(program, [pair], batch_index=number, **options) for number in (1, 2)]
    both = zip(runs[0].openings[0], runs[1].openings[0], strict=True)
    wide = [(a, b) for a, b in both if a.bits and a.n >= 4]
    assert len(wide) >= 2 and not any(np.array_equal(a.values, b.values) for a, b in wide)


def test_row_opened_twice_has_two_masks(make):
    geometry = Geometry(8, "l2", 21, 13)
    one, features = make(geometry), random_features(4, geometry, 15)
    runs = [one.add(features, session) for session in (b"the first sessio", b"other session id")]
    first, second = (run.shares[0].masked.opened[:4] for run in runs)
    assert not (first == second).any()


def test_the_plain_program_agrees_where_nothing_is_rounded():
    """`Program.plain` on multiples of 2^shift, for both metrics."""
    for metric in ("l2", "ip"):
        geometry = Geometry(6, metric, 21, 13)
        rng = np.random.default_rng(16)
        rows, queries = rng.integers(-99, 99, (50, 6)), rng.integers(-99, 99, (3, 6))
        w, norms = geometry.weight_factor * rows.T, (rows**2).sum(axis=1) * (metric == "l2")
        program = query_program(geometry, 3, 50, 4, indexes.PARAMS)
        values: dict[str, Any] = {"q": queries << geometry.shift}
        for step in program.steps:
            weights = {ROWS: (unsigned(w), unsigned(norms))}
            values[step.output] = plain(
                step, *(values[name] for name in step.inputs), weights=weights
            )
        keys = values[program.output]
        assert [[(int(k >> 6), int(k & 63)) for k in row] for row in keys] == indexes.best(
            indexes.scores_of(queries, rows, metric), 4
        )


# ranges


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("bits", [5, VALUE_BITS, 21, 40])
@pytest.mark.parametrize("dim", [1, 2, 3, 4, 63, 64, 1280, 4095, 4096])
def test_scores_fit_score_bits(metric, bits, dim):
    """|score| < 2^(score_bits-2), at the extremes of what features may be once cut down."""
    geometry = Geometry(dim, metric, bits, 3)
    top = 1 << (geometry.value_bits - 2)
    ends = [np.full((1, dim), v) for v in (-top, top)]
    worst = max(abs(int(indexes.scores_of(q, v, metric)[0, 0])) for q in ends for v in ends)
    assert worst < 1 << (geometry.score_bits - 2)
    # And not wasteful: two bits less would not do for l2.
    assert metric == "ip" or worst >= 1 << (geometry.score_bits - 4)


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize(("dim", "bits"), [(1, 21), (3, 21), (64, 21), (64, VALUE_BITS), (2, 40)])
def test_extreme_vectors_are_searched_exactly(make, metric, dim, bits):
    geometry = Geometry(dim, metric, bits, 3)
    low, high = -(1 << (bits - 2)), (1 << (bits - 2)) - (1 << geometry.shift)
    kinds = np.array([low, low + 1, 0, -1, high - 1, high])
    rows = np.concatenate(
        (np.repeat(kinds[:, None], dim, axis=1), np.random.default_rng(17).choice(kinds, (20, dim)))
    )
    one = make(geometry)
    one.add(rows, b"the first sessio")
    found, scores = one.search(rows[:6], 9)
    assert found == indexes.best(scores, 9)


def test_value_beyond_the_range_makes_a_wrong_row():
    """2^(bits-2) - 1 may round up to more than the lift holds: some shares give a wrong row."""
    geometry = Geometry(1, "l2", 21, 13)
    beyond, program = (1 << 19) - 1, rows_program(geometry, 2, indexes.PARAMS)
    half = 1 << (geometry.value_bits - 2)
    # S0's share such that, truncated and shifted by half, it is 2^(value_bits-1) or 0 exactly.
    first = np.array([[(half << geometry.shift) - (1 << geometry.shift) + 1], [0]], dtype=np.uint64)
    for x, right in ((beyond, False), (beyond + 1 - (1 << geometry.shift), True)):
        pair = indexes.feature_shares(np.full((2, 1), x), geometry, seed=1, first=first)
        expected = indexes.quantised(pair, geometry)
        kept = run_program(program, [pair], seed=indexes.SEED).shares
        whole = kept[0].masked.opened + kept[0].masked.mask + kept[1].masked.mask
        got = signed(BACKEND.reduce(whole, geometry.score_bits), geometry.score_bits)
        assert bool((got == expected).all()) is right


# refusals


@pytest.mark.parametrize(("k", "n_rows"), [(0, 5), (6, 5), (-1, 5), (1, 0)])
def test_more_neighbours_than_rows_are_refused(k, n_rows):
    with pytest.raises(PlanError, match=f"ask for 1 to {n_rows}"):
        query_program(Geometry(4, "l2", 21, 13), 1, n_rows, k, indexes.PARAMS)


def test_keys_that_do_not_fit_are_refused():
    wide = Geometry(1 << 20, "l2", 21, 13)
    assert wide.score_bits == 2 * (VALUE_BITS - 1) + 21 + 2
    rows = 1 << (62 - wide.score_bits)
    query_program(wide, 1, rows, 1, indexes.PARAMS)
    with pytest.raises(PlanError, match="do not fit 62 bits"):
        query_program(wide, 1, rows + 1, 1, indexes.PARAMS)


def test_number_of_rows_changes_the_program_digest():
    digests = {
        query_program(Geometry(4, "l2", 21, 13), 1, n, 1, indexes.PARAMS).digest
        for n in (5, 6, 300)
    }
    digests |= {query_program(Geometry(4, "ip", 21, 13), 1, 5, 1, indexes.PARAMS).digest}
    digests |= {query_program(Geometry(4, "l2", 21, 13), 1, 5, 2, indexes.PARAMS).digest}
    assert len(digests) == 5


@pytest.mark.parametrize(("n_rows", "bits"), [(1, 1), (2, 1), (3, 2), (64, 6), (65, 7)])
def test_id_bits_hold_every_position(n_rows, bits):
    assert Geometry(4, "l2", 21, 13).id_bits(n_rows) == bits


def test_score_scale_is_the_square_of_the_feature_scale():
    geometry = Geometry(4, "l2", 21, 13, divisor=3)
    assert geometry.score_scale == (2.0 ** (13 - geometry.shift) * 3) ** 2
    assert isinstance(share(np.zeros(1), 8)[0], Additive)
