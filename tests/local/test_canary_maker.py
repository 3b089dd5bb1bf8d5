"""Making canaries: their bounds hold on shares, and their classes are clear."""

import numpy as np
import pytest

from gpumpc import Calibrated, Plan, compile
from gpumpc.errors import BadShape, BadValue
from gpumpc.local.canary_maker import make_canaries
from gpumpc.nn.graph import AnyLayer, Argmax, TopK
from tests.local.small_plan import PARAMS, ULP, compiled_plan, law, numbers
from tests.plans import secure


def head_of(plan: Plan, policy: str) -> Plan:
    return plan.head(numbers(3, 4, seed=5), np.zeros(4), list("abcd"), policy)  # type: ignore[arg-type]  # a parameter


def test_bounds_hold_on_shares_and_are_not_wide() -> None:
    plan = compiled_plan()
    made = make_canaries(plan, 16)
    assert made.inputs.shape == (16, 4, 4, 1) and len({*made.inputs.ravel()}) > 250
    assert -1 <= made.inputs.min() < -0.9 and 0.9 < made.inputs.max() <= 1
    assert (made.results == plan.evaluate(made.inputs, fixed_point=True)).all()
    for _ in range(20):
        assert (np.abs(secure(plan, made.inputs) - made.results) <= made.bounds).all()
    # No wider than the law, which no rounding exceeds, and a few measured scatters.
    assert (made.bounds < 2 * law(plan)).all() and (made.bounds > ULP).all()


@pytest.mark.parametrize("last", [Argmax("label", ("fc",)), TopK("top", ("fc",), 3)])
def test_classes_of_canaries_are_the_same_on_shares(last: AnyLayer) -> None:
    plan = compiled_plan(last)
    made = make_canaries(plan, 8)
    assert not made.bounds.any()
    for _ in range(10):
        assert (secure(plan, made.inputs) == made.results).all()


@pytest.mark.parametrize("policy", ["label", "logits"])
def test_canaries_of_a_head_have_its_answers(policy: str) -> None:
    plan = compiled_plan()
    head = head_of(plan, policy)
    made = make_canaries(plan, 8, head)
    expected = head.evaluate(plan.evaluate(made.inputs, fixed_point=True), fixed_point=True)
    assert (made.results == expected).all() and made.plan_id != made.result_plan_id
    found = secure(head, secure(plan, made.inputs))
    assert (np.abs(found - made.results) <= made.bounds).all()


def test_inputs_that_are_given_are_taken() -> None:
    x = numbers(5, 4, 4, 1)
    assert (make_canaries(compiled_plan(), 4, inputs=x).inputs == x[:4]).all()
    with pytest.raises(BadValue, match="too few"):
        make_canaries(compiled_plan(), 6, inputs=x)
    with pytest.raises(BadShape):
        make_canaries(compiled_plan(), 1, inputs=x[:, :3])


def test_answers_too_close_to_call_are_refused() -> None:
    """All scores of a black image are equal."""
    graph_weights = {key: 0 * array for key, array in compiled_plan().weights.items()}
    plan = compile((compiled_plan(Argmax("a", ("fc",))).record.graph, graph_weights), params=PARAMS)
    with pytest.raises(BadValue, match="only 0 of 8 inputs"):
        make_canaries(plan, 2)


def test_inputs_beyond_the_calibration_are_refused() -> None:
    """Samples near zero make the ring so narrow that other inputs wrap, and roundings decide."""
    plain = compiled_plan()
    weights = {key: array * (not key.endswith("bias")) for key, array in plain.weights.items()}
    bounds = Calibrated(1e-3 * numbers(8, 4, 4, 1), guard_bits=0)
    plan = compile((plain.record.graph, weights), params=PARAMS, bounds=bounds)
    with pytest.raises(BadValue, match="scatter"):
        make_canaries(plan, 8)
