"""Piecewise polynomials: exact in every small ring and at the edges of large ones; silent."""

from typing import Any

import numpy as np
import pytest

from gpumpc.errors import BitsMismatch, PlanError
from gpumpc.nn.functions import KINDS, fit, function
from gpumpc.protocols.functions import piecewise
from gpumpc.ring.numpy_backend import NumpyBackend
from tests import harness
from tests.harness import Cell, Outcome, every, opened_cells, run_step, share, unsigned
from tests.protocols import checkers, mistakes
from tests.protocols.cases import SIZES, Ints
from tests.protocols.mistakes import Cases, check_caught, draws, name_of, replaced

N = 1 << 14
BITS, HIGH = 10, 34
EDGES = (-256, -64, 0, 32, 320)
SEGMENTS = ((5, 0, 0), (-7, 3, 1), (900, -4, 2), (0, 0, 5), (11, -13, 0), (1, 1, 0))


def step_of(
    n: int,
    bits: int = BITS,
    edges: tuple[int, ...] = EDGES,
    segments: tuple[piecewise.Coefficients, ...] = SEGMENTS,
    high: int = HIGH,
) -> piecewise.Piecewise:
    return piecewise.Piecewise("g", ("x",), "y", (n,), bits, high, 9, edges, segments)


def by_search(
    x: Ints,
    edges: tuple[int, ...] = EDGES,
    segments: tuple[piecewise.Coefficients, ...] = SEGMENTS,
    high: int = HIGH,
) -> Ints:
    """Python's own integers, then the signed value modulo 2^high."""
    places = np.searchsorted(edges, x, side="right")
    values = [
        sum(c * int(v) ** i for i, c in enumerate(segments[p]))
        for v, p in zip(x, places, strict=True)
    ]
    half = 1 << (high - 1)
    return np.array([(v + half) % (2 * half) - half for v in values])


# exactness


@pytest.mark.parametrize("edges", [(0,), (-3, 1), (-8, -7, 5), (-15, 0, 15)])
def test_every_value_is_right_in_every_small_sharing(edges):
    segments = SEGMENTS[: len(edges) + 1]
    x, first = every(np.arange(-16, 16), np.arange(32))
    step = step_of(x.size, 5, edges, segments, 12)
    got = run_step(step, share(x, 5, first=unsigned(first)))
    assert np.array_equal(got.values, by_search(x, edges, segments, 12))


def test_every_value_is_right_under_every_small_mask():
    x, r = every(np.arange(-32, 32), np.arange(64))
    step = step_of(x.size, 6, (-9, 4), SEGMENTS[:3], 14)
    names = [(0, "g", "r"), (1, "g", "r")]
    got = run_step(step, share(x, 6), script={names[0]: unsigned(r), names[1]: unsigned(0 * r)})
    assert np.array_equal(got.values, by_search(x, (-9, 4), SEGMENTS[:3], 14))


@pytest.mark.parametrize("n", [1, 65, 989])
@pytest.mark.parametrize(("bits", "high"), [(BITS, HIGH), (40, 44), (40, 62), (62, 62), (20, 10)])
def test_random_values_and_all_edges_are_right(n, bits, high):
    step, rng = step_of(n, bits, high=high), np.random.default_rng(n)
    half = 1 << (bits - 1)
    x = rng.integers(-half, half, n)
    around = [-half, half - 1, *(edge + d for edge in EDGES for d in (-1, 0)), 0, -1]
    x[: len(around)] = around[:n]
    got = run_step(step, share(x, bits, seed=1))
    expected = by_search(x, high=high)
    assert np.array_equal(got.values, expected)
    assert np.array_equal(harness.plain(step, x), expected)
    assert (got.shares[0].bits, got.shares[0].frac) == (high, 9)


def test_wider_share_is_reduced_and_a_narrower_one_refused():
    x = np.array([0, 3, -300])
    assert np.array_equal(run_step(step_of(3), share(x, BITS + 9)).values, by_search(x))
    with pytest.raises(BitsMismatch):
        run_step(step_of(3), share(x, BITS - 1))


@pytest.mark.parametrize(
    ("edges", "segments"),
    [
        ((3, 3), SEGMENTS[:3]),
        ((4, 3), SEGMENTS[:3]),
        ((512,), SEGMENTS[:2]),
        ((-512,), SEGMENTS[:2]),
        ((1,), SEGMENTS[:3]),
        ((1,), ((1, 2), (1, 2, 3))),
    ],
)
def test_other_thresholds_and_segments_are_refused(edges, segments):
    with pytest.raises(PlanError, match="thresholds outside"):
        step_of(3, BITS, edges, segments)


@pytest.mark.parametrize("kind", KINDS)
def test_fit_of_each_function_is_within_its_error_everywhere(kind):
    """At every argument up to 100,000, at others up to the last threshold, and outside."""
    found = fit(kind, 0.7)
    first, last = found.thresholds[0], found.thresholds[-1]
    dense = np.arange(first - 9, min(last + 9, first + 100_000))
    x = np.unique([*dense, *np.linspace(first, last, 10_000).astype(int), 4 * first, 4 * last])
    step = step_of(x.size, 40, found.thresholds, found.segments, 62)
    values = harness.plain(step, x) / 2.0**found.out_frac
    exact = function(kind, x / 2.0**found.frac, 0.7)
    gap = np.abs(values - exact)
    bound = KINDS[kind].error * (np.abs(exact) if KINDS[kind].relative else 1.0)
    assert (gap <= bound).all() and found.error <= KINDS[kind].error


# cost


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_declared_cost_is_measured(n, count):
    step = step_of(n, BITS, EDGES[:count], SEGMENTS[: count + 1])
    got = run_step(step, share(np.zeros(n, dtype=np.int64), BITS))
    checkers.check_cost(got, step.cost)


def test_comparisons_share_the_bits_below_all_thresholds():
    coarse, fine = (step_of(64, 20, (-size, size), SEGMENTS[:3]) for size in (1 << 10, 1023))
    assert coarse.comparison.shared_low == 10 and fine.comparison.shared_low == 0
    assert coarse.cost.s0_bytes < fine.cost.s0_bytes


# transcripts


def run_on(x: Ints, seed: int = 6) -> Outcome:
    return run_step(step_of(x.size), share(x, BITS, seed=seed), seed=seed)


@pytest.mark.parametrize("value", [-512, -65, 0, 511])
def test_every_opened_byte_lane_is_uniform(value):
    checkers.check_opened(run_on(np.full(N, value)))


def test_two_inputs_give_transcripts_of_one_distribution():
    first, second = run_on(np.full(N, -512), seed=7), run_on(np.full(N, 511), seed=8)
    for party in (0, 1):
        checkers.check_same_law(opened_cells(first, party), opened_cells(second, party))


@pytest.mark.parametrize("party", [0, 1])
def test_view_of_a_server_is_independent_of_the_secret(party):
    x = np.random.default_rng(9).integers(-512, 512, N)
    pair = share(x, BITS, seed=10)
    got = run_step(step_of(N), pair, seed=11)
    secret = [Cell("x", BITS, N, unsigned(x)), Cell("peer", BITS, N, pair[1 - party].words)]
    checkers.check_view(got, party, N, secret)


# checkers, and mistakes that they must catch


def values_are_right() -> None:
    x = np.random.default_rng(12).integers(-512, 512, 989)
    assert np.array_equal(run_on(x).values, by_search(x))


def openings_are_noise() -> None:
    checkers.check_independent(opened_cells(run_on(np.full(N, 3))))


def view_of_server_0() -> None:
    x = np.random.default_rng(9).integers(-512, 512, N)
    pair = share(x, BITS, seed=10)
    got = run_step(step_of(N), pair, seed=11)
    lanes = [harness.BACKEND.bit((x >= edge).astype(np.uint64), 0)[None] for edge in EDGES]
    checkers.check_view(got, 0, N, [Cell("a step", 0, N, lane) for lane in lanes])


def wrap_forgotten(honest: Any) -> Any:
    """The polynomial of a wrapped argument is taken at the argument itself."""
    return lambda backend, coefficients, base: honest(
        backend, coefficients, backend.reduce(base, BITS)
    )


def third_edge_one_less(honest: Any) -> Any:
    edge = EDGES[2] + (1 << (BITS - 1))
    return lambda self, w, value, bits: honest(self, w, value - (value == -edge), bits)


off_by_one = replaced("edge_off_by_one", NumpyBackend, "add_constant", third_edge_one_less)
MISTAKES: Cases = [
    (draws("t_used_for_two_bits", "t'", mistakes.first_row_for_all), openings_are_noise),
    (draws("t_known_to_server_0", "t'", parties=(1,)), view_of_server_0),
    (draws("r_is_zero", "r"), openings_are_noise),
    (off_by_one, values_are_right),
    (replaced("wrap_forgotten", piecewise, "_at", wrap_forgotten), values_are_right),
]


@pytest.mark.parametrize("checker", [values_are_right, openings_are_noise, view_of_server_0])
def test_correct_function_passes_every_checker(checker):
    checker()


@pytest.mark.parametrize(("mistake", "checker"), MISTAKES, ids=name_of)
def test_a_planted_bug_is_caught(mistake, checker):
    check_caught(mistake, checker)
