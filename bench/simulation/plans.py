"""The network, its head and the user of a simulated cluster."""

import tempfile
from pathlib import Path

import numpy as np

from gpumpc.deploy.keys import Identity, keygen, load_identity
from gpumpc.local.compile import Plan, compile
from gpumpc.nn.graph import Conv2d, Flatten, Graph, Input, Linear, ReLU
from gpumpc.params import Params


def small_plan() -> Plan:
    """A network of 16 inputs and 3 outputs."""
    layers = (
        Input("x", (), (4, 4, 1), -1.0, 1.0),
        Conv2d("conv", ("x",), (3, 3), 2, padding=(1, 1, 1, 1)),
        ReLU("relu", ("conv",)),
        Flatten("flat", ("relu",)),
        Linear("fc", ("flat",), 3),
    )
    graph, rng = Graph(layers), np.random.default_rng(1)
    weights = {name: 0.3 * rng.normal(size=s) for name, s in graph.weight_shapes().items()}
    return compile((graph, weights), name="small", params=Params(ring_bits=32, frac_bits=8))


def small_head(plan: Plan) -> Plan:
    """A classifier on this network's features, of two classes, that shows its logits."""
    weight, params = np.full((3, 2), 8.0), Params(ring_bits=48, frac_bits=8)
    return plan.head(weight, np.zeros(2), ("x", "y"), "logits", params)


def a_user() -> Identity:
    """Keys of a user."""
    with tempfile.TemporaryDirectory() as folder:
        keygen(Path(folder) / "user", "user", "user")
        return load_identity(Path(folder) / "user")
