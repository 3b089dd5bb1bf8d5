"""Cosines: rows and queries are normalised on shares by a stated law, and searches are exact.

The oracle is float64; a search is compared with integers on the normalised vectors of the run.
"""

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gpumpc.errors import PlanError
from gpumpc.protocols.functions.staircase import Staircase
from gpumpc.protocols.linear import BeaverProduct
from gpumpc.protocols.ranking import distances
from gpumpc.protocols.step import Clear
from gpumpc.retrieval import normalise
from gpumpc.retrieval.evaluation.metrics import overlap_at_k
from gpumpc.retrieval.normalise import COARSE_FRAC, UNIT_FRAC, coarse_frac, coarse_values
from gpumpc.retrieval.programs import VALUE_BITS, Geometry, query_program, rows_program
from tests.harness import BACKEND, Outcome, opened_cells, run_program, unsigned
from tests.protocols.checkers import check_independent, check_uniform
from tests.protocols.mistakes import Mistake, Patch, check_caught, name_of, replaced
from tests.retrieval import indexes

Floats = npt.NDArray[np.float64]
LITE0 = Geometry(1280, "cosine", 20, 15)


def directions(x: npt.NDArray[Any]) -> Floats:
    lengths = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(np.where(lengths > 0, x / np.maximum(lengths, 1), 0.0))


def normalised(
    x: indexes.Ints, geometry: Geometry, seed: int = 1
) -> tuple[indexes.Ints, indexes.Ints, Outcome]:
    """The quantised rows, the normalised ones, and the run."""
    pair = indexes.feature_shares(x, geometry, seed=seed)
    program = rows_program(geometry, len(x), indexes.PARAMS)
    got = run_program(program, [pair], seed=seed)
    assert got.cost == program.cost
    return indexes.quantised(pair, geometry), indexes.compared(got, "v", pair, geometry), got


def bound(dim: int) -> float:
    """What `normalised` promises of |u - 2^UNIT_FRAC v / |v||."""
    root = math.sqrt(dim)
    b = 0.007 + root / 2**COARSE_FRAC
    relative = 1.02 * root / 2**COARSE_FRAC + 1.5 * b * b + b**3 / 2
    return float(root + 2**UNIT_FRAC * relative + 0.5)


def features(n: int, dim: int, seed: int, bits: int = 20) -> indexes.Ints:
    """As after a ReLU: half zeros, lengths spread over six octaves."""
    rng = np.random.default_rng(seed)
    raw = np.maximum(rng.normal(size=(n, dim)), 0) * np.exp2(-rng.uniform(0, 6, (n, 1)))
    largest = (1 << (bits - 2)) - (1 << bits - VALUE_BITS)
    return np.asarray(np.rint(raw / max(raw.max(), 1.0) * largest)).astype(np.int64)


# the staircase of 1 / |v|


@pytest.mark.parametrize("largest", [1, 2, 1 << 6, 1280 << 22, (1 << 22) << 22])
def test_coarse_factor_error_is_within_its_steps(largest):
    edges, values, frac = (
        normalise.thresholds(largest),
        coarse_values(largest),
        coarse_frac(largest),
    )
    assert edges[0] == 1 and values[0] == 0
    assert list(edges) == sorted(set(edges)) and edges[-1] <= largest
    assert len(values) == len(edges) + 1
    ends = np.array([*edges, *(edge - 1 for edge in edges[1:]), largest], dtype=np.float64)
    factors = np.array([*values[1:], *values[1:]], dtype=np.float64)
    error = np.abs(factors * np.sqrt(ends) / 2.0**frac - 1)
    assert error.max() < 0.0067
    # No thresholds are missing: from one to the next it is one, or 1/32 of an octave, at most.
    assert all(high <= low * 2 ** (1 / 32) + 1 for low, high in itertools.pairwise(edges))


# the law


@pytest.mark.parametrize(
    ("dim", "bits"),
    [(1, 20), (2, 5), (7, 20), (64, VALUE_BITS), (64, 40), (1280, 20), (4096, 20), (3, 4)],
)
def test_normalised_vector_has_length_one_within_the_bound(dim, bits):
    geometry, rng = Geometry(dim, "cosine", bits, 3), np.random.default_rng(dim)
    top, shift = 1 << (bits - 2), geometry.shift
    kinds = [rng.integers(-top, top - (1 << shift) + 1, (16, dim)), np.full((1, dim), -top)]
    kinds += [np.full((1, dim), top - (1 << shift)), np.zeros((1, dim), dtype=np.int64)]
    single = np.zeros((3, dim), dtype=np.int64)
    single[0, 0], single[1, -1], single[2, 0] = 1 << shift, -(1 << shift), -top
    x = np.concatenate([*kinds, single, (np.arange(8 * dim).reshape(8, dim) % 3 - 1) << shift])
    v, u, _ = normalised(x, geometry)
    assert np.linalg.norm(u - 2**UNIT_FRAC * directions(v), axis=1).max() <= bound(dim)
    assert (u[~v.any(axis=1)] == 0).all() and (~v.any(axis=1)).any()
    if dim <= 64 and bits >= VALUE_BITS:
        assert np.abs(np.linalg.norm(u / 2**UNIT_FRAC, axis=1) - 1)[v.any(axis=1)].max() < 1.5e-3


def test_cosine_error_of_features_is_below_1e_4():
    v, u, _ = normalised(features(128, 1280, seed=2), LITE0)
    assert np.ptp(np.log2(np.linalg.norm(v, axis=1))) > 5
    # An entry of a shorter one is a few units, and its rounding tells.
    lengthy = np.linalg.norm(v, axis=1) > 1024
    for chosen, largest in ((lengthy, 5e-4), (~lengthy, 5e-3)):
        unit = directions(v[chosen])
        error = u[chosen] @ u[chosen].T / 4.0**UNIT_FRAC - unit @ unit.T
        assert chosen.sum() > 20 and np.abs(error).max() < largest
        assert np.sqrt((error**2).mean()) < 1e-4


def test_five_nearest_rows_match_float64():
    """`plain` of the program; real features of Lite0 gave 0.997 in the clear, 0.999 on shares."""
    x = features(400, 1280, seed=3)
    program = rows_program(LITE0, len(x), indexes.PARAMS)
    words: Any = unsigned(x)
    u = np.asarray(program.plain(Clear(BACKEND, {}), words)).view(np.int64)
    exact, found = (side[:100] @ side[100:].T for side in (directions(x), u))
    first, second = (np.argsort(-scores, axis=1, kind="stable") for scores in (exact, found))
    assert overlap_at_k(first, second, 5).mean() > 0.97


def test_vector_length_does_not_change_the_direction():
    x = features(8, 64, seed=4) >> 8 << 8
    geometry = Geometry(64, "cosine", 20, 15)
    both = [normalised(np.concatenate((x >> halvings, x)), geometry)[:2] for halvings in (0, 1)]
    for _, u in both:
        unit = directions(u)
        assert (unit[:8] * unit[8:]).sum(axis=1).min() > 0.999


# searches


def test_search_ranks_rows_by_cosine(make):
    geometry = Geometry(24, "cosine", 20, 15)
    one = make(geometry)
    one.add(features(indexes.BATCH, 24, seed=5), b"the first sessio")
    one.add(features(20, 24, seed=6), b"the second sessi", batch_index=3)
    queries = features(4, 24, seed=7)
    found, scores = one.search(queries, 5)
    assert found == indexes.best(scores, 5)
    # A user divides by the scale and gets cosines.
    rows = np.concatenate((features(indexes.BATCH, 24, seed=5), features(20, 24, seed=6)))
    exact = directions(queries) @ directions(rows).T
    for q, row in enumerate(found):
        for score, position in row:
            assert abs(-score / geometry.score_scale - exact[q, position]) < 0.02


def test_zero_vector_scores_zero_against_all_rows(make):
    geometry = Geometry(6, "cosine", 20, 15)
    one = make(geometry)
    rows = np.zeros((5, 6), dtype=np.int64)
    rows[3], rows[4] = np.arange(6) << 14, np.arange(6, 0, -1) << 10
    one.add(rows, b"the first sessio")
    found, _ = one.search(
        np.concatenate((np.zeros((1, 6), dtype=np.int64), rows[3:4], -rows[3:4])), 3
    )
    assert found[0] == [(0, 0), (0, 1), (0, 2)]
    assert found[1][0][1] == 3 and -found[1][0][0] / geometry.score_scale > 0.999
    assert [position for _, position in found[2]] == [0, 1, 2]


@pytest.mark.parametrize("dim", [1, 64, 1280, 1 << 22])
def test_scores_fit_score_bits(dim):
    """|u|^2 < 2^(score_bits-2) for the longest u of the law; two bits less would not do."""
    longest = ((1 << UNIT_FRAC) + math.sqrt(dim) + 2) ** 2
    assert longest < 1 << (Geometry(dim, "cosine", 20, 15).score_bits - 2)
    assert longest >= 1 << (Geometry(dim, "cosine", 20, 15).score_bits - 4)


def test_too_long_vectors_are_refused():
    for program in (rows_program, lambda *a: query_program(a[0], 1, 5, 1, indexes.PARAMS)):
        with pytest.raises(PlanError, match="cannot be normalised"):
            program(Geometry((1 << 22) + 1, "cosine", 20, 15), 2, indexes.PARAMS)


# cost and transcripts


def test_normalising_a_row_costs_less_than_22_kb():
    """At d = 1280: 18.4 kB each way and 20.1 kB dealt a row; an image costs 5.9 MB and 17 MB."""
    for n in (1, 8, indexes.BATCH):
        cost = rows_program(LITE0, n, indexes.PARAMS).cost
        assert cost.rounds == 14
        assert cost.s0_bytes == cost.s1_bytes < 19_000 * n and cost.dealer_bytes < 21_500 * n
    assert LITE0.score_bits == 29 and Geometry(1280, "ip", 20, 15).score_bits == 37


@pytest.mark.parametrize("kind", ["zero", "longest", "shortest"])
def test_every_opened_byte_lane_is_uniform(kind):
    geometry = Geometry(512, "cosine", 20, 15)
    value = {"zero": 0, "longest": -(1 << 18), "shortest": 0}[kind]
    x = np.full((32, 512), value, dtype=np.int64)
    x[:, 0] += (kind == "shortest") << geometry.shift
    _, _, got = normalised(x, geometry, seed=9)
    for party in (0, 1):
        cells = [cell for cell in opened_cells(got, party) if cell.n >= 1 << 14]
        assert len({cell.label for cell in cells}) >= 7
        check_uniform(cells)
        for n in {cell.n for cell in cells}:
            check_independent([cell for cell in cells if cell.n == n])


# planted


def law_holds() -> None:
    for geometry in (Geometry(16, "cosine", 20, 15), Geometry(16, "cosine", VALUE_BITS, 3)):
        v, u, _ = normalised(features(64, 16, seed=10, bits=geometry.bits), geometry)
        assert np.linalg.norm(u - 2**UNIT_FRAC * directions(v), axis=1).max() <= bound(16)
        # Roundings average out; Newton leaves 1.5 e^2 of the coarse factor's e, a
        # hundred-thousandth or two.
        assert abs(np.linalg.norm(u, axis=1)[v.any(axis=1)].mean() / 2**UNIT_FRAC - 1) < 1e-4


def no_newton_step(_: object) -> Any:
    """The factor is one: the coarse vector goes on."""
    constant = 2 << 2 * COARSE_FRAC
    return lambda self, s, x: s.public(x.with_words(x.words * np.uint64(0)), constant)


def values_off_by_one_step(honest: Any) -> Any:
    return lambda largest: (0, *honest(largest)[:-1])


def thresholds_an_octave_apart(patch: Patch) -> None:
    patch.setattr(normalise, "PER_OCTAVE", 1)
    normalise.thresholds.cache_clear()
    normalise.coarse_values.cache_clear()


def row_scaled_by_its_neighbour(honest: Any) -> Any:
    def run(self: Staircase, session: Any, s: Any) -> Any:
        got = honest(self, session, s)
        return got.with_words(np.roll(got.words, 1))

    return run


def without_its_correction(honest: Any) -> Any:
    def run(self: BeaverProduct, session: Any, x: Any, y: Any) -> Any:
        got = honest(self, session, x, y)
        return got.with_words(got.words + np.uint64(self.name.endswith("w/product") << 30))

    return run


MISTAKES: list[Mistake] = [
    replaced("no_newton_step", distances.ConstantLess, "run", no_newton_step),
    replaced("values_off_by_one_step", normalise, "coarse_values", values_off_by_one_step),
    thresholds_an_octave_apart,
    replaced("row_scaled_by_its_neighbour", Staircase, "run", row_scaled_by_its_neighbour),
    replaced("product_without_correction", BeaverProduct, "run", without_its_correction),
]


def test_correct_normalisation_keeps_its_bound() -> None:
    law_holds()


@pytest.mark.parametrize("mistake", MISTAKES, ids=name_of)
def test_a_planted_bug_is_caught(mistake: Mistake) -> None:
    check_caught(mistake, law_holds)
    normalise.thresholds.cache_clear()
    normalise.coarse_values.cache_clear()


def test_score_is_the_negative_cosine_at_scale() -> None:
    assert LITE0.score_scale == 4.0**UNIT_FRAC and LITE0.weight_factor == -1
    [[score]] = indexes.scores_of(
        np.array([[1 << UNIT_FRAC]]), np.array([[1 << UNIT_FRAC]]), "cosine"
    )
    assert score / LITE0.score_scale == -1.0
    assert normalise.largest_square(1280, VALUE_BITS) == 1280 * (1 << 11) ** 2 and indexes.SEED == 5
