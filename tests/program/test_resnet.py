"""ResNet-18 by name: values that neither grow nor vanish, and three modes that agree."""

import numpy as np
import numpy.typing as npt
import pytest

from gpumpc.local.compile import Plan
from gpumpc.local.named_networks import compile_named, sample_inputs
from gpumpc.nn.graph import ReLU
from gpumpc.nn.plaintext import evaluate_float
from tests.plans import secure

SIZE = 32
ULP = 2.0**-13


@pytest.fixture(scope="module")
def compiled() -> Plan:
    return compile_named("resnet18", size=SIZE)


@pytest.fixture(scope="module")
def x() -> npt.NDArray[np.float64]:
    return sample_inputs((2, SIZE, SIZE, 3))


def with_rounded_weights(compiled: Plan, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """In float64 with the weights as the plan rounds them: only the error of the steps is left."""
    weights = {
        n: np.rint(w / ULP) * ULP if n.endswith(".weight") else w
        for n, w in compiled.weights.items()
    }
    return evaluate_float(compiled.record.graph, weights, x)


def test_resnet18_has_the_published_size(compiled: Plan) -> None:
    graph = compiled.record.graph
    assert graph.shapes()[graph.output.name] == (512,)
    assert sum(w.size for n, w in compiled.weights.items() if n.endswith(".weight")) == 11_166_912
    assert sum(isinstance(layer, ReLU) for layer in graph.layers) == 17


def test_layer_values_neither_grow_nor_vanish() -> None:
    graph, weights = (named := compile_named("resnet18")).record.graph, named.weights
    trace = evaluate_float(graph, weights, sample_inputs((2, *graph.input.shape)), trace=True)
    spreads = {name: float(value.std()) for name, value in trace.items()}
    assert all(0.4 < spread < 2.0 for spread in spreads.values()), spreads
    assert max(float(np.abs(value).max()) for value in trace.values()) < 16


def test_named_weights_are_repeatable(compiled: Plan) -> None:
    other = compile_named("resnet18", size=SIZE)
    for name, array in compiled.weights.items():
        assert np.array_equal(other.weights[name], array)


def test_float_fixed_and_secure_modes_agree(compiled: Plan, x: npt.NDArray[np.float64]) -> None:
    exact, rounded = compiled.evaluate(x), with_rounded_weights(compiled, x)
    fixed, on_shares = compiled.evaluate(x, fixed_point=True), secure(compiled, x, 2)
    # 20 truncations in a row, each by half an ulp in the clear and by one on shares, of which a
    # layer passes on about one.
    assert np.abs(fixed - rounded).max() < 10 * ULP
    assert np.abs(on_shares - rounded).max() < 20 * ULP
    # Weights of 2^-13 / 2 off, up to 4608 a sum: far more than the steps, and still little compared
    # with values up to 3.
    assert np.abs(on_shares - exact).max() < 0.03
