"""Small protocols, dealer included, in three threads: `python -m bench.suite protocols`."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from gpumpc.local.compile import Plan
from gpumpc.local.shared_tensor import SharedTensor
from gpumpc.local.simulation import LocalSession
from gpumpc.nn.graph import AnyLayer, Clamp, Conv2d, Graph, Input, Linear, MaxPool, ReLU
from gpumpc.params import Params
from gpumpc.program.plan import make_plan

PARAMS = Params(ring_bits=44, frac_bits=16)
BATCH = 4
MAP = (32, 32, 16)
# A layer and the shape of its input.
LAYERS: dict[str, tuple[AnyLayer, tuple[int, ...]]] = {
    "relu": (ReLU("y", ("x",)), MAP),
    "relu6": (Clamp("y", ("x",), 6.0), MAP),
    "maxpool": (MaxPool("y", ("x",), (2, 2), (2, 2)), MAP),
    "conv": (Conv2d("y", ("x",), (3, 3), 16, padding=(1, 1, 1, 1)), MAP),
    "linear": (Linear("y", ("x",), 256), (256,)),
}


@pytest.fixture(params=LAYERS)
def session(request: pytest.FixtureRequest) -> Iterator[LocalSession]:
    """Dealer and both servers with one layer."""
    layer, shape = LAYERS[request.param]
    graph = Graph((Input("x", (), shape, -8.0, 8.0), layer))
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(0.0, 0.1, size) for name, size in graph.weight_shapes().items()}
    with Plan(*make_plan(str(request.param), graph, weights, PARAMS)).simulate(BATCH) as made:
        yield made


def shared_input(session: LocalSession) -> SharedTensor:
    """Any input of the session's plan."""
    shape = (BATCH, *session.plan.graph.input.shape)
    return session.share(np.random.default_rng(1).uniform(-8, 8, shape))


def test_total(benchmark: BenchmarkFixture, session: LocalSession) -> None:
    """From empty pools."""
    x = shared_input(session)
    session.run(x)
    pedantic: Any = benchmark.pedantic
    pedantic(lambda: session.run(x), rounds=5, iterations=1)


def test_online(benchmark: BenchmarkFixture, session: LocalSession) -> None:
    """With the corrections lying ready."""
    x = shared_input(session)
    session.run(x)
    pedantic: Any = benchmark.pedantic
    pedantic(lambda: session.run(x), setup=lambda: session.deal_ahead(1), rounds=5, iterations=1)
