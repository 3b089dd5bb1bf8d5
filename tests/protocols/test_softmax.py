"""Softmax on shares: near the real one, rows that add up to one, and its declared cost."""

import numpy as np
import pytest

from gpumpc.cost import Cost
from gpumpc.protocols.smooth import softmax as module
from tests import harness
from tests.harness import run_step, run_steps, share
from tests.protocols.cases import Ints

BITS, HIGH, FRAC = 27, 40, 13


def rows(n: int, length: int) -> Ints:
    """Random rows; one of equal entries, one with a single large entry, one far apart."""
    x = np.random.default_rng(length).integers(-(4 << FRAC), 4 << FRAC, (n, length))
    x[0] = 7
    x[1], x[1, -1] = 0, 100 << FRAC
    x[2, ::2] -= 2000 << FRAC
    return x


@pytest.mark.parametrize(("n", "length"), [(9, 1), (9, 2), (19, 10), (50, 64), (5, 197)])
def test_softmax_is_near_the_real_one(n, length):
    x = rows(n, length)
    steps = module.softmax("y", "x", x.shape, BITS, FRAC, HIGH)
    got = run_steps(steps, {"x": share(x, BITS, FRAC, seed=1)})
    e = np.exp((x - x.max(axis=1, keepdims=True)) / 2**FRAC)
    total = e.sum(axis=1, keepdims=True)
    exact = e / total
    error = np.abs(got.values / 2**FRAC - exact)
    # The sum errs by that of every term: relative to it, as a mean does.
    relative = 0.006 + 2.0**-module.EXP_ERROR_BITS * length / total
    bound = exact * relative + 2.0**-module.EXP_ERROR_BITS * (1 + 1 / total) + 2.0 ** (1 - FRAC)
    assert (error <= bound).all()
    assert (got.shares[0].bits, got.shares[0].frac) == (HIGH, FRAC)


def test_cost_of_ten_thousand_rows():
    """docs/protocols.md section 9c; measured cost is declared cost on a few rows."""
    steps = module.softmax("y", "x", (10_000, 64), BITS, FRAC, HIGH)
    cost = sum((step.cost for step in steps), Cost())
    assert (cost.rounds, round(cost.s0_bytes / 640_000, 1)) == (36, 28.6)
    assert round(cost.dealer_bytes / 640_000) == 127
    few = module.softmax("y", "x", (65, 4), BITS, FRAC, HIGH)
    got = run_steps(few, {"x": share(rows(65, 4), BITS, FRAC)})
    assert got.cost == sum((step.cost for step in few), Cost())


def test_local_steps_equal_their_definition():
    x, column = rows(5, 6), np.arange(5)[:, None]
    less = module.LessColumn("less", ("x", "c"), "y", x.shape)
    got = run_step(less, share(x, BITS), share(column, BITS, seed=1))
    assert np.array_equal(got.values, x - column)
    assert np.array_equal(harness.plain(less, x, column), x - column)
    total = module.RowSum("sum", ("x",), "y", x.shape)
    assert np.array_equal(run_step(total, share(x, BITS)).values, x.sum(axis=1))
    assert np.array_equal(harness.plain(total, x), x.sum(axis=1))
