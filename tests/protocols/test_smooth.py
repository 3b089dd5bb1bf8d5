"""Smooth functions: exact against integers for every mask of small rings, near the real function at
all integers, silent. Seeds are fixed; for the rate of false alarms see `checkers`.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from gpumpc.errors import BitsMismatch, PlanError
from gpumpc.protocols.smooth import local_polynomials as module
from gpumpc.protocols.smooth.approximate import approximate
from gpumpc.protocols.smooth.cells import Coefficient, Pieces, Tail
from gpumpc.protocols.smooth.decimals import FUNCTIONS
from gpumpc.ring.numpy_backend import NumpyBackend
from tests import harness
from tests.harness import Cell, Outcome, every, opened_cells, run_step, share, unsigned
from tests.protocols import checkers
from tests.protocols.cases import SIZES, Ints
from tests.protocols.mistakes import Cases, check_caught, draws, name_of, replaced, zeroed

N = 1 << 14
BITS, HIGH, FRAC = 27, 40, 13
COEFFICIENTS = (Coefficient(4, True, 3), Coefficient(3, False, 1), Coefficient(2, True, 0))
# Of the small ring: window from -5, four cells of eight, tails of every kind.
TAILS = (None, Tail(2, 3 << 2), Tail(2, 5, is_identity=True), Tail(4, 0, is_identity=True))
RATES = dict.fromkeys(FUNCTIONS, 10) | {"elu": 9}


def small(tail: Tail | None = None, low: int = -5, ring_bits: int = 12) -> Pieces:
    """Any table at all; no truncation, so that every integer is known."""
    table = tuple(np.random.default_rng(5).integers(0, 1 << 9, 16).tolist())
    return Pieces(low, 3, 2, 1, 2, COEFFICIENTS, table, ring_bits, 0, 0, -7, tail)


def smooth(pieces: Pieces, n: int, bits: int = BITS, high: int = HIGH) -> module.Smooth:
    return module.Smooth("smooth", ("x",), "y", (n,), bits, high, pieces)


def by_integers(pieces: Pieces, bits: int, x: int, r: int) -> int:
    """docs/protocols.md section 9d, one integer at a time; no truncation."""
    width, cells = pieces.width_bits, 1 << pieces.cell_bits
    y = (x + r - pieces.low) % (1 << bits)
    cell = ((y >> width) - (r >> width)) % (1 << (bits - width))
    cell -= (cell >> (bits - width - 1)) << (bits - width)
    down = width - pieces.rho_bits
    rho = ((1 << width) - 1 - 2 * (r % (1 << width)) + (1 << down >> 1)) >> down
    half = 1 << (pieces.rho_bits - 1)
    square = ((rho * rho + half) >> pieces.rho_bits) - half
    value = pieces.below
    if 0 <= cell < cells:
        place = (cell << pieces.place_bits) + (y % (1 << width) >> pieces.dropped)
        word = pieces.table[place]
        for coefficient, phi in zip(pieces.coefficients, (1, rho, square), strict=True):
            packed = word % (1 << coefficient.bits)
            value += (coefficient.value(packed) * phi) << coefficient.shift
            word >>= coefficient.bits
    tail = pieces.tail
    if tail and cell >= tail.cell:
        value += tail.constant + (x if tail.is_identity else 0)
    return value


# exactness


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("bits", [8, 10])
def test_every_value_under_every_mask_is_exact(bits, tail):
    pieces = small(tail)
    edge = 1 << (bits - 1)
    x, r = every(
        np.arange(pieces.low - edge + 32, pieces.low + edge - 8, 1 + 2 * (bits == 10)),
        np.arange(1 << bits),
    )
    step = smooth(pieces, x.size, bits, 16)
    script = {(0, "smooth", "r"): unsigned(r), (1, "smooth", "r"): unsigned(0 * r)}
    got = run_step(step, share(x, bits, seed=3), script=script)
    right = np.array(
        [by_integers(pieces, bits, *pair) for pair in zip(x.tolist(), r.tolist(), strict=True)]
    )
    # The argument is lifted without a sign: the plan has it selected from zero on.
    usable = (x >= 0) | (tail is None or not tail.is_identity)
    assert np.array_equal(got.values[usable], right[usable])
    assert got.shares[0].bits == 16


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bits", [40, 62])
def test_wide_rings_are_exact_at_both_edges(n, bits):
    pieces = small(Tail(2, 12))
    edge = 1 << (bits - 1)
    x = np.random.default_rng(n).integers(-60, 60, n)
    around = [pieces.low - edge + 32, pieces.low + edge - 9, -5, 26, 27, 0]
    x[: len(around)] = around[:n]
    r = np.random.default_rng(n + 1).integers(0, 1 << bits, n)
    script = {(0, "smooth", "r"): unsigned(r), (1, "smooth", "r"): unsigned(0 * r)}
    got = run_step(smooth(pieces, n, bits, bits), share(x, bits, seed=1), script=script)
    right = [by_integers(pieces, bits, *pair) for pair in zip(x.tolist(), r.tolist(), strict=True)]
    assert np.array_equal(got.values, right)


def test_plain_is_the_middle_of_a_cell():
    x = np.arange(-200, 200)
    for tail in TAILS:
        pieces = small(tail)
        right = [by_integers(pieces, 20, int(value), 4) for value in x]
        assert np.array_equal(harness.plain(smooth(pieces, x.size, 20), x), right)


# functions


def exact(name: str, x: Any) -> Any:
    match name:
        case "sigmoid":
            return 1 / (1 + np.exp(-x))
        case "tanh":
            return np.tanh(x)
        case "silu":
            return x / (1 + np.exp(-x))
        case "gelu":
            return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
        case "gelu_tanh":
            return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
        case "softplus":
            return np.logaddexp(0, x)
        case "elu":
            return np.where(x > 0, x, np.expm1(x))
    return np.exp(x)


@pytest.mark.parametrize(("name", "error_bits"), RATES.items())
def test_functions_are_near_at_every_integer(name, error_bits):
    """Every integer of a window and around it, under masks of its own; the rest is a limit."""
    pieces = approximate(name, FRAC, error_bits)
    edge = (1 << pieces.window_bits - 1) + 2000
    x = np.arange(-edge, 1 if name == "exp" else edge)
    x = np.concatenate([x, [-(1 << 22), 0 if name == "exp" else 1 << 22]])
    got = run_step(smooth(pieces, x.size), share(x, BITS, FRAC, seed=2))
    error = np.abs(got.values / 2**FRAC - exact(name, x / 2**FRAC))
    assert error.max() <= 2.0**-error_bits + 2.0**-FRAC
    assert (got.shares[0].bits, got.shares[0].frac) == (HIGH, FRAC)


def test_unknown_functions_and_errors_are_refused():
    with pytest.raises(PlanError, match="no smooth function 'sine'"):
        approximate("sine", FRAC, 10)
    with pytest.raises(PlanError, match="no table of 64 cells"):
        approximate("silu", FRAC, 16)


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(PlanError, match="do not fit together"):
        dataclasses.replace(small(), table=(1,))
    with pytest.raises(PlanError, match="its window has 5"):
        smooth(small(), 3, 6)
    with pytest.raises(BitsMismatch):
        run_step(smooth(small(), 1), share([0], BITS - 1))


# cost


@pytest.mark.parametrize(
    ("name", "sent", "dealt"),
    [("sigmoid", 8.25, 70), ("gelu", 8.625, 84.4), ("silu", 8.625, 103.6)],
)
def test_cost_of_a_function(name, sent, dealt):
    step = smooth(approximate(name, FRAC, 10), 6400)
    got = run_step(step, share(np.zeros(6400, dtype=np.int64), BITS, FRAC))
    checkers.check_cost(got, step.cost)
    assert step.cost.rounds == 5
    assert step.cost.s0_bytes / 6400 == sent
    assert abs(step.cost.dealer_bytes / 6400 - dealt) < 0.1


# transcripts


def run_on(x: Ints, seed: int = 6, name: str = "gelu") -> Outcome:
    step = smooth(approximate(name, FRAC, 8), x.size)
    return run_step(step, share(x, BITS, FRAC, seed=seed), seed=seed)


@pytest.mark.parametrize("value", [0, -(1 << 20), 1 << 20, 4096])
def test_every_opened_byte_lane_is_uniform(value):
    checkers.check_opened(run_on(np.full(N, value)))


def test_two_inputs_give_transcripts_of_one_distribution():
    first, second = run_on(np.full(N, -(1 << 20)), seed=7), run_on(np.full(N, 5000), seed=8)
    for party in (0, 1):
        checkers.check_same_law(opened_cells(first, party), opened_cells(second, party))


def view_of(party: int) -> None:
    x = np.random.default_rng(9).integers(-(1 << 16), 1 << 16, N)
    pair = share(x, BITS, FRAC, seed=10)
    step = smooth(approximate("gelu", FRAC, 8), N)
    got = run_step(step, pair, seed=11)
    secret = [Cell("x", BITS, N, unsigned(x)), Cell("share", BITS, N, pair[1 - party].words)]
    checkers.check_view(got, party, N, secret)


@pytest.mark.parametrize("party", [0, 1])
def test_view_of_a_server_is_independent_of_the_secret(party):
    view_of(party)


# mistakes


def values_are_right() -> None:
    x = np.random.default_rng(12).integers(-(1 << 17), 1 << 17, 4096)
    error = np.abs(run_on(x).values / 2**FRAC - exact("gelu", x / 2**FRAC))
    assert error.max() <= 2.0**-8 + 2.0**-FRAC


def openings_are_noise() -> None:
    checkers.check_independent(opened_cells(run_on(np.full(N, 300))))


def view_0() -> None:
    view_of(0)


def first_for_all(lanes: Any) -> Any:
    return zeroed(lanes) + lanes[:1]


def without_top(planes: Any) -> Any:
    return planes[:-1], zeroed(planes[-1])


def bit_is_lost(original: Any) -> Any:
    def look_up(*arguments: Any) -> Any:
        return original(*arguments[:-1], arguments[-1] - 1)

    return look_up


MISTAKES: Cases = [
    (draws("one_mask_for_all_bits", "t'", first_for_all), openings_are_noise),
    (draws("one_mask_for_both_tops", "a", first_for_all), openings_are_noise),
    (draws("choices_known_to_server_0", "t'", parties=(1,)), view_0),
    (replaced("top_of_r_forgotten", module, "split_top", lambda _: without_top), values_are_right),
    (replaced("last_cell_lost", NumpyBackend, "look_up_chosen", bit_is_lost), values_are_right),
]


@pytest.mark.parametrize("checker", [values_are_right, openings_are_noise, view_0], ids=name_of)
def test_correct_step_passes_every_checker(checker):
    checker()


@pytest.mark.parametrize(("mistake", "checker"), MISTAKES, ids=name_of)
def test_a_planted_bug_is_caught(mistake, checker):
    check_caught(mistake, checker)
