"""Averages leave values at other scales; joins and layers with weights take that into account."""

import numpy as np
import pytest

from gpumpc import Params, compile
from gpumpc.nn import graph as g
from gpumpc.program.compiler import program_of
from gpumpc.protocols.local import Scale
from gpumpc.protocols.truncation import Truncate
from tests.plans import MODES, evaluate

F = 13
ULP = 2.0**-F
SOURCE = g.Input("x", (), (6, 6, 2), -1.0, 1.0)
# Scales 2^f, 2^(f+2), 2^f * 9 and 2^(f+2) * 9 of (2, 2, 2) values.
PLAIN = g.MaxPool("plain", ("x",), (3, 3), (3, 3))
BY_4 = g.AvgPool("by4", ("x",), (2, 2), (4, 4))
BY_9 = g.AvgPool("by9", ("x",), (3, 3), (3, 3))
TWICE = g.AvgPool("half", ("x",), (2, 2), (1, 1)), g.AvgPool("by36", ("half",), (3, 3), (2, 2))
JOINTS = [
    ((PLAIN, BY_4), "by4"),
    ((BY_4, BY_9), "by9"),
    ((PLAIN, *TWICE), "by36"),
]


def inputs() -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.round(rng.uniform(-1, 1, (5, 6, 6, 2)) / ULP) * ULP


@pytest.mark.parametrize("kind", [g.Add, g.Concat])
@pytest.mark.parametrize(("pools", "second"), JOINTS)
def test_values_of_two_scales_are_joined(
    pools: tuple[g.AnyLayer, ...], second: str, kind: type[g.Add | g.Concat]
) -> None:
    layers = (SOURCE, *pools, kind("both", (pools[0].name, second)), g.ReLU("relu", ("both",)))
    plan = compile((g.Graph(layers), {}), params=Params(ring_bits=40, frac_bits=F))
    clear, fixed, on_shares = (evaluate(plan, inputs(), mode) for mode in MODES)
    # One truncation at most: half a unit in the clear, one on shares.
    assert np.abs(fixed - clear).max() <= ULP / 2
    assert np.abs(on_shares - clear).max() < ULP


def test_a_join_multiplies_divisors_in_and_cuts_bits() -> None:
    layers = (SOURCE, BY_4, BY_9, g.Add("sum", ("by4", "by9")))
    plan = compile((g.Graph(layers), {}), params=Params(ring_bits=40, frac_bits=F))
    steps = {step.output: step for step in program_of(plan.record, 1).steps}
    assert isinstance(steps["by4/by2"], Truncate)
    scale = steps["by4/by2/times9"]
    assert isinstance(scale, Scale) and scale.factor == scale.divisor == 9


@pytest.mark.parametrize("selection", [g.Argmax("best", ("flat",)), g.TopK("best", ("flat",), 3)])
def test_selections_follow_a_join(selection: g.Argmax | g.TopK) -> None:
    pools = SOURCE, BY_4, BY_9, g.Concat("both", ("by4", "by9")), g.Flatten("flat", ("both",))
    plan = compile((g.Graph((*pools, selection)), {}), params=Params(ring_bits=40, frac_bits=F))
    clear, on_shares = (evaluate(plan, inputs(), mode) for mode in ("float", "secure"))
    assert np.array_equal(clear, on_shares)


def test_weights_after_an_average_lose_no_precision() -> None:
    """Their scale is 2^13 / 49 otherwise, less than eight bits of fraction."""
    layers = (
        g.Input("x", (), (7, 7, 64), -1.0, 1.0),
        g.AvgPool("mean", ("x",), (7, 7), (7, 7)),
        g.Flatten("flat", ("mean",)),
        g.Linear("fc", ("flat",), 8),
    )
    rng = np.random.default_rng(5)
    arrays = {"fc.weight": rng.normal(0, 0.1, (64, 8)), "fc.bias": np.zeros(8)}
    plan = compile((g.Graph(layers), arrays), params=Params(ring_bits=48, frac_bits=F))
    x = np.repeat(rng.uniform(-1, 1, (4, 1, 1, 64)), 7, axis=1).repeat(7, axis=2)
    difference = np.abs(plan.evaluate(x, fixed_point=True) - plan.evaluate(x)).max()
    # 64 weights, each half a unit off, times values up to one, and the inputs' own rounding.
    assert difference < 64 * ULP / 2 * 0.5
