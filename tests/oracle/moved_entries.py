"""Layers that move entries or add them up with public integers, for the oracle."""

import numpy as np
import numpy.typing as npt

from gpumpc.nn import graph as g

Ints = npt.NDArray[np.int64]


def moved(layer: g.Arrangement, x: Ints) -> Ints:
    """Entries in other places, the batch apart."""
    match layer:
        case g.Flatten():
            return x.reshape(len(x), -1)
        case g.Reshape():
            return x.reshape(len(x), *layer.shape)
        case g.Permute():
            return np.moveaxis(x, [axis + 1 for axis in layer.axes], range(1, x.ndim))
        case g.Take():
            lines = np.moveaxis(x, layer.axis + 1, 0)
            taken = [lines[i] if i >= 0 else np.zeros_like(lines[0]) for i in layer.indices]
            return np.moveaxis(np.stack(taken), 0, layer.axis + 1)


def mixed(layer: g.Mix, x: Ints) -> Ints:
    """Weighted sums along an axis; the weights are integers."""
    lines = np.moveaxis(x, layer.axis + 1, 0)
    sums = [
        np.add.reduce([int(w) * lines[t] for t, w in zip(taps, weights, strict=True)])
        for taps, weights in zip(layer.taps, layer.weights, strict=True)
    ]
    return np.moveaxis(np.stack(sums), 0, layer.axis + 1)
