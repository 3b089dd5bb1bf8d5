"""Declared cost is measured cost for every step, and that of docs/protocols.md section 7."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from gpumpc.cost import Cost
from gpumpc.errors import BadFrame, CorrelationsMissing, CostMismatch, LeftoverCorrelations
from gpumpc.params import Params
from gpumpc.protocols.comparison import plan_comparison
from gpumpc.protocols.linear import Convolution, Elementwise, MatMul
from gpumpc.protocols.local import Add, Concat, Reshape
from gpumpc.protocols.pooling import SumPool
from gpumpc.protocols.relu import ReLU
from gpumpc.protocols.step import Shape, Step
from gpumpc.protocols.truncation import Lift, LiftBits
from tests.harness import as_program, run_program, run_step, run_steps, share
from tests.protocols import cases
from tests.protocols.checkers import check_cost

SIZES = [1, 63, 64, 65, 989]


def zeros(shape, bits):
    return share(np.zeros(shape, dtype=np.int64), bits)


SIMPLE = {
    "truncate": lambda n: cases.truncate(n, 40, 13),
    "lift": lambda n: cases.lift(n, 27, 40),
    "relu": lambda n: cases.relu(n, 27, 27),
    "relu-lifted": lambda n: cases.relu(n, 27, 40),
    "relu-44": lambda n: cases.relu(n, 28, 44),
    "relu-wide": lambda n: cases.relu(n, 44, 44),
    "clamp": lambda n: cases.clamp(n, 27, 40, 6 << 13),
    "clamp-narrow": lambda n: cases.clamp(n, 27, 1, 6 << 13),
    "clamp-odd": lambda n: cases.clamp(n, 28, 44, 12345),
    "max": lambda n: cases.pair_max(n, 27),
    "pool": lambda n: cases.max_pool((1, 3, 4, n), 27, (3, 3), (1, 2), (1, 1, 0, 1)),
    "argmax": lambda n: cases.argmax((n, 7), 40),
    "argmax-1": lambda n: cases.argmax((n, 1), 40),
    "sum pool": lambda n: SumPool("s", ("x",), "y", (1, 3, 3, n), (3, 2), (1, 1)),
    "reshape": lambda n: Reshape("f", ("x",), "y", (n, 2, 3, 1), (n, 6)),
}


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", SIMPLE)
def test_declared_cost_is_measured(name, n):
    step = SIMPLE[name](n)
    widths = (getattr(step, field, None) for field in ("bits", "ring_bits", "low"))
    got = run_step(step, zeros(step.shape, next(filter(None, widths), 40)))
    check_cost(got, step.cost)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("weights", ["private", "public"])
def test_declared_cost_is_measured_for_products(n, weights):
    k = 44
    params = Params(ring_bits=k, frac_bits=16, weights=weights)
    pointwise = Convolution((1, 1), (1, 1), (0, 0, 0, 0), 1)
    products: list[tuple[MatMul | Convolution, Shape, Shape, Shape]] = [
        (MatMul(), (n, 3), (2, n), (2, 3)),
        (pointwise, (1, 1, n, 2), (1, 3, 3, n), (1, 3, 3, 2)),
    ]
    for operator, weight, shape, out in products:
        steps = cases.product_steps(operator, shape, out, k, 32, weights)
        ones = (np.ones(weight, dtype=np.uint64), np.ones(weight[-1:], dtype=np.uint64))
        got = run_steps(steps, {"x": zeros(shape, k)}, {"layer": ones}, params)
        check_cost(got, sum((step.cost for step in steps), Cost()))


@pytest.mark.parametrize("n", SIZES)
def test_declared_cost_is_measured_for_beaver_and_joins(n):
    steps = cases.beaver_steps(Elementwise(), (n,), (n,), (n,), 40)
    steps += [Add("a", ("z", "z"), "s", (n,)), Concat("c", ("s", "z"), "t", (n,))]
    got = run_steps(steps, {"x": zeros((n,), 40), "y": zeros((n,), 40)})
    assert got.cost == Cost.both_ways(2, 2 * 5 * n, 5 * n)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(
    ("bits", "shared", "copies"), [(26, 0, 1), (7, 0, 1), (26, 14, 2), (9, 0, 2), (43, 0, 1)]
)
def test_declared_cost_is_measured_for_comparisons(bits, shared, copies, n):
    step = cases.compare(n, plan_comparison(bits, shared, copies))
    got = run_step(step, *[zeros((n,), bits)] * copies)
    assert got.cost == step.cost


# The table of section 7, in bytes an element: online each way, dealer, rounds. n is a multiple of
# 64.
TABLE = [
    ("relu", 40, 13, 6.0, 20.625, 4),
    ("relu", 44, 16, 6.125, 22.125, 4),
    ("clamp", 40, 13, 6.25, 28.5, 4),
    ("clamp", 44, 16, 7.375, 25.25, 5),
    ("pool then relu", 40, 13, 23.25, 72.75, 12),
    ("pool then relu", 44, 16, 23.75, 76.5, 12),
    ("lift", 40, 13, 0.125, 1.625, 1),
    ("lift", 44, 16, 0.125, 2.0, 1),
    ("truncate", 40, 13, 0.0, 0.0, 0),
]


@pytest.mark.parametrize(("kind", "k", "f", "online", "dealt", "rounds"), TABLE)
def test_costs_match_the_protocol_document(kind, k, f, online, dealt, rounds):
    n, bits = 6400, k - f
    pool = cases.max_pool((1, 2, 2, n), bits, (2, 2), (2, 2), (0, 0, 0, 0))
    pool = dataclasses.replace(pool, output="p")
    kinds: dict[str, list[Step]] = {
        "relu": [cases.relu(n, bits, k)],
        "clamp": [cases.clamp(n, bits, k, 6 << f)],
        "pool then relu": [pool, ReLU("relu", ("p",), "y", (1, 1, 1, n), bits, k)],
        "lift": [cases.lift(n, bits, k)],
        "truncate": [cases.truncate(n, k, f)],
    }
    steps = kinds[kind]
    got = run_steps(steps, {"x": zeros(steps[0].shape, k)}).cost
    assert (got.s0_bytes / n, got.s1_bytes / n) == (online, online)
    assert (got.dealer_bytes / n, got.rounds) == (dealt, rounds)


def test_comparison_costs_match_the_protocol_document():
    """Section 6: nine 3-bit digits as 3x3 open 18 bits and correct 85 or 89, tables included."""
    for bits, dealt in ((26, 85), (27, 89)):
        comparison = plan_comparison(bits)
        assert (comparison.opened_bits, comparison.dealt_bits, comparison.rounds) == (18, dealt, 2)


# what must not go unnoticed


@pytest.mark.parametrize("change", [{"rounds": 1}, {"s0_bytes": 8}, {"s1_bytes": -8}])
def test_a_tampered_cost_is_refused(monkeypatch, change):
    honest = cases.lift(19, 27, 40).cost
    changed = {name: getattr(honest, name) + by for name, by in change.items()}
    tampered = dataclasses.replace(honest, **changed)
    monkeypatch.setattr(Lift, "cost", property(lambda self: tampered))
    with pytest.raises(CostMismatch, match="was not released"):
        run_step(cases.lift(19, 27, 40), zeros((19,), 27))


def test_a_tampered_dealer_cost_is_refused_by_the_dealer(monkeypatch):
    honest = cases.lift(19, 27, 40).cost
    monkeypatch.setattr(Lift, "cost", property(lambda self: honest + Cost(dealer_bytes=1)))
    with pytest.raises(CostMismatch, match="its `deal` and its `cost` disagree"):
        run_step(cases.lift(19, 27, 40), zeros((19,), 27))


def test_left_over_corrections_are_refused():
    program = as_program([cases.lift(19, 27, 40)], {"x": zeros((19,), 27)}, Params(), {})
    with pytest.raises(LeftoverCorrelations, match="1 bytes"):
        run_program(program, [zeros((19,), 27)], extra_corrections=b"x")


def test_missing_corrections_are_refused(monkeypatch):
    """The dealer walks another program than the servers."""
    monkeypatch.setattr(LiftBits, "deal", lambda self, dealing: None)
    monkeypatch.setattr(Lift, "dealer_bytes", property(lambda self: 0))
    with pytest.raises(CorrelationsMissing):
        run_step(cases.lift(19, 27, 40), zeros((19,), 27))


def test_message_of_a_wrong_size_is_refused(monkeypatch):
    """The servers walk different programs."""
    honest = LiftBits.mask_top_bits

    def longer(self, session, shares):
        pending: Any = honest(self, session, shares)
        if session.party == 0:
            object.__setattr__(pending, "masked", pending.masked.repeat(2, axis=1))
        return pending

    monkeypatch.setattr(LiftBits, "mask_top_bits", longer)
    with pytest.raises(BadFrame, match="do not run the same program|were expected"):
        run_step(cases.lift(19, 27, 40), zeros((19,), 27))
