"""A small network, and how far its result may be from the one in fixed point."""

import numpy as np
import numpy.typing as npt

import gpumpc
from gpumpc.local.compile import Plan
from gpumpc.nn.graph import AnyLayer, Conv2d, Flatten, Graph, Input, Linear, ReLU
from gpumpc.params import Params

PARAMS = Params(ring_bits=40, frac_bits=10)
ULP = 2.0**-PARAMS.frac_bits

LAYERS = (
    Input("x", (), (4, 4, 1), -1.0, 1.0),
    Conv2d("conv", ("x",), (3, 3), 2, padding=(1, 1, 1, 1)),
    ReLU("relu", ("conv",)),
    Flatten("flat", ("relu",)),
    Linear("fc", ("flat",), 3),
)


def compiled_plan(*more: AnyLayer, params: Params = PARAMS) -> Plan:
    graph = Graph((*LAYERS, *more))
    rng = np.random.default_rng(3)
    weights = {name: 0.3 * rng.normal(size=shape) for name, shape in graph.weight_shapes().items()}
    return gpumpc.compile((graph, weights), name="tiny", params=params)


def numbers(*shape: int, seed: int = 1) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(-1, 1, shape)


def law(compiled: Plan) -> npt.NDArray[np.float64]:
    weights = np.abs(compiled.weights["fc.weight"]).astype(np.float64)
    return np.asarray((1 + weights.sum(axis=0)) * ULP, dtype=np.float64)


def is_close(compiled: Plan, x: npt.NDArray[np.float64], result: npt.NDArray[np.float64]) -> bool:
    """Whether a result on shares is that in fixed point, but for the rounding of truncations."""
    expected = compiled.evaluate(x, fixed_point=True)
    return bool((np.abs(result - expected) <= law(compiled) + 1e-12).all())
