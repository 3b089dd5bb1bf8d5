"""Fraction bits are planned, layer by layer, for a declared error of the output."""

import numpy as np
import pytest

from gpumpc import Calibrated, Params, Plan, compile
from gpumpc.errors import BadValue, PlanError
from gpumpc.nn import graph as g
from tests.plans import secure

GRAPH = g.Graph(
    (
        g.Input("x", (), (8, 8, 2), -1.0, 1.0),
        g.Conv2d("first", ("x",), (3, 3), 8),
        g.ReLU("relu1", ("first",)),
        g.Conv2d("second", ("relu1",), (3, 3), 8),
        g.ReLU("relu2", ("second",)),
        g.AvgPool("mean", ("relu2",), (4, 4), (4, 4)),
        g.Flatten("flat", ("mean",)),
        g.Linear("fc", ("flat",), 6),
    )
)


def arrays(size: float) -> dict[str, np.ndarray]:
    """Weights of a first layer of this size; a last layer takes it out again."""
    rng = np.random.default_rng(7)
    made = {name: rng.normal(0, 0.3, shape) for name, shape in GRAPH.weight_shapes().items()}
    return made | {
        "first.weight": made["first.weight"] * size,
        "first.bias": made["first.bias"] * size,
        "second.weight": made["second.weight"] / size,
    }


def samples() -> np.ndarray:
    return np.random.default_rng(8).uniform(-1, 1, (8, 8, 8, 2))


def relative_error(plan: Plan, values: np.ndarray) -> float:
    exact = plan.evaluate(samples())
    return float(np.abs(values - exact).max() / exact.std(axis=0).mean())


@pytest.mark.parametrize("error", [0.02, 0.0005])
def test_a_declared_error_is_reached_on_shares(error: float) -> None:
    plan = compile((GRAPH, arrays(2.0**-9)), error=error, bounds=Calibrated(samples()))
    assert plan.error is not None and plan.error <= error
    assert relative_error(plan, secure(plan, samples())) <= error
    plain = compile((GRAPH, arrays(2.0**-9)), bounds=Calibrated(samples()))
    assert relative_error(plain, plain.evaluate(samples(), fixed_point=True)) > 10 * error
    assert plain.error is None


def test_small_weights_get_more_fraction_bits() -> None:
    plan = compile((GRAPH, arrays(2.0**-6)), error=0.01, bounds=Calibrated(samples()))
    first, second = (plan.record.widths[name].weight_frac for name in ("first", "second"))
    assert first == second + 12


def test_certified_bounds_measure_on_made_up_images() -> None:
    plan = compile((GRAPH, arrays(1.0)), error=0.01)
    assert plan.error is not None and plan.error <= 0.01
    assert plan.record.bounds == "certified" and plan.record.params.weights == "private"


def test_a_policy_is_measured_on_its_logits() -> None:
    public = Params(weights="public")
    for policy in ("label", "top5"):
        plan = compile((GRAPH, arrays(1.0)), error=0.01, policy=policy, params=public)
        assert plan.error is not None and 0 < plan.error <= 0.01
        assert plan.record.params.weights == "public"


def test_an_error_out_of_reach_says_what_can_be_reached() -> None:
    with pytest.raises(PlanError, match=r"1e-12 cannot be reached; .* can.*ask for error="):
        compile((GRAPH, arrays(1.0)), error=1e-12)
    with pytest.raises(BadValue, match="give a part"):
        compile((GRAPH, arrays(1.0)), error=1.5)


def test_an_output_that_never_changes_has_no_spread() -> None:
    still = np.zeros((3, 8, 8, 2))
    with pytest.raises(BadValue, match="give other samples"):
        compile((GRAPH, arrays(1.0)), error=0.01, bounds=Calibrated(still))
