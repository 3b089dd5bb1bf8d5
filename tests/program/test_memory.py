"""Compiling takes memory by the layer: no identity matrix, no second copy of all weights."""

import tracemalloc

import numpy as np

from gpumpc import compile
from gpumpc.nn import graph as g


def test_a_wide_layer_needs_no_square_matrix() -> None:
    """25,088 rows as in VGG-16: their identity matrix alone has 4.7 GiB."""
    layers = (
        g.Input("x", (), (28, 28, 32), -1.0, 1.0),
        g.Flatten("flat", ("x",)),
        g.Linear("fc", ("flat",), 256),
        g.ReLU("relu", ("fc",)),
        g.Linear("last", ("relu",), 4),
    )
    rng = np.random.default_rng(4)
    arrays = {
        name: rng.uniform(-1e-3, 1e-3, shape).astype(np.float32)
        for name, shape in g.Graph(layers).weight_shapes().items()
    }
    n_bytes = sum(array.nbytes for array in arrays.values())
    tracemalloc.start()
    try:
        compile((g.Graph(layers), arrays))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The integers of one layer, twice the float32 bytes, and blocks of 32 MiB.
    assert peak < 2 * n_bytes + 8 * 2**25
