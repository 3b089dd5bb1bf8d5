"""What is measured, once for all engines: layers, shapes, inputs by seed, and the answer in
float64.

Read by every peer's own Python: this file needs NumPy alone. Arrays are as torch has them: (B, C,
H, W), kernels (out, in, h, w), linear weights (out, in).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Kind = Literal["relu", "multiply", "matmul", "conv", "pool", "flatten", "linear", "mean"]


@dataclass(frozen=True)
class Layer:
    """One layer; its arrays are called `<index>.weight` and `<index>.bias`."""

    kind: Kind
    weight: tuple[int, ...] = ()
    padding: int = 0
    has_bias: bool = False


@dataclass(frozen=True)
class Workload:
    """A name, the input's shape and range, and layers."""

    name: str
    shape: tuple[int, ...]
    high: float
    layers: tuple[Layer, ...]

    @property
    def is_network(self) -> bool:
        """Whether its weights are those of a model of `models/`."""
        return len(self.layers) > 1

    @property
    def items(self) -> int:
        """What a rate counts: images of a network, else elements of the input."""
        return self.shape[0] if self.is_network else int(np.prod(self.shape))


def _conv(out: int, source: int, size: int, padding: int, has_bias: bool = True) -> Layer:
    return Layer("conv", (out, source, size, size), padding, has_bias)


def _vgg() -> tuple[Layer, ...]:
    layers: list[Layer] = []
    before = 3
    for width in (32, 64, 128):
        layers += [_conv(width, before, 3, 1), Layer("relu")]
        layers += [_conv(width, width, 3, 1), Layer("relu"), Layer("pool")]
        before = width
    return (*layers, Layer("mean"))


_LENET = (
    *(_conv(16, 1, 5, 0), Layer("relu"), Layer("pool")),
    *(_conv(32, 16, 5, 0), Layer("relu"), Layer("pool"), Layer("flatten")),
    *(Layer("linear", (128, 512), has_bias=True), Layer("relu")),
)
_IMAGE = (16, 64, 32, 32)
WORKLOADS: Mapping[str, Workload] = {
    work.name: work
    for work in (
        Workload("relu", (1_000_000,), 8.0, (Layer("relu"),)),
        Workload("lenet", (32, 1, 28, 28), 1.0, _LENET),
        Workload("vgg", (8, 3, 64, 64), 1.0, _vgg()),
        Workload("maxpool", _IMAGE, 8.0, (Layer("pool"),)),
        Workload("conv", _IMAGE, 1.0, (_conv(64, 64, 3, 1, has_bias=False),)),
        Workload("matmul", (1024, 1024), 1.0, (Layer("matmul", (1024, 1024)),)),
        Workload("mul", (1_000_000,), 8.0, (Layer("multiply", (1_000_000,)),)),
    )
}


def draw(work: Workload, seed: int) -> dict[str, Array]:
    """Input `x` and the arrays of single layers, float64, by seed; models give a network's."""
    rng = np.random.default_rng(seed)
    arrays = {"x": rng.uniform(-work.high, work.high, work.shape)}
    for i, layer in enumerate(() if work.is_network else work.layers):
        if layer.kind == "multiply":
            arrays[f"{i}.weight"] = rng.uniform(-work.high, work.high, layer.weight)
        elif layer.weight:
            fan_in = int(np.prod(layer.weight[1:]))
            arrays[f"{i}.weight"] = rng.normal(0.0, fan_in**-0.5, layer.weight)
    return arrays


def names(work: Workload) -> list[str]:
    """The arrays of a case, in the order in which all engines take them."""
    found = ["x"]
    for i, layer in enumerate(work.layers):
        found += [f"{i}.weight"] * bool(layer.weight) + [f"{i}.bias"] * layer.has_bias
    return found


def save(work: Workload, arrays: Mapping[str, Array], path: Path) -> None:
    """Write a case. Raises ValueError if an array is missing or of another shape."""
    shapes = {"x": work.shape}
    for i, layer in enumerate(work.layers):
        shapes |= {f"{i}.weight": layer.weight} if layer.weight else {}
        shapes |= {f"{i}.bias": layer.weight[:1]} if layer.has_bias else {}
    found = {name: array.shape for name, array in arrays.items()}
    if found != shapes:
        raise ValueError(f"the arrays of {work.name} are {found}, and {shapes} are wanted")
    doubles: Any = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    np.savez(path, **doubles)


def load(path: Path) -> dict[str, Array]:
    """The arrays of a case."""
    with np.load(path) as file:
        return dict(file)


def evaluate(work: Workload, arrays: Mapping[str, Array]) -> Array:
    """The workload in float64."""
    x = np.asarray(arrays["x"], dtype=np.float64)
    for i, layer in enumerate(work.layers):
        x = _apply(layer, x, arrays.get(f"{i}.weight"), arrays.get(f"{i}.bias"))
    return x


def _apply(layer: Layer, x: Array, weight: Array | None, bias: Array | None) -> Array:
    if layer.kind == "relu":
        return np.maximum(x, 0)
    if layer.kind == "pool":
        b, c, h, w = x.shape
        even = x[:, :, : h // 2 * 2, : w // 2 * 2]
        return np.asarray(even.reshape(b, c, h // 2, 2, w // 2, 2).max(axis=(3, 5)))
    if layer.kind == "flatten":
        return x.reshape(len(x), -1)
    if layer.kind == "mean":
        return np.asarray(x.mean(axis=(2, 3)))
    if weight is None:
        raise ValueError(f"a {layer.kind} layer has no weight")
    added = 0.0 if bias is None else bias
    if layer.kind == "multiply":
        return np.asarray(x * weight)
    if layer.kind == "matmul":
        return np.asarray(x @ weight)
    if layer.kind == "linear":
        return np.asarray(x @ weight.T + added)
    edge = (layer.padding, layer.padding)
    padded = np.pad(x, ((0, 0), (0, 0), edge, edge))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], (2, 3))
    # windows (B, C, H, W, h, w) with kernels (out, C, h, w)
    product: Array = np.tensordot(windows, weight, ((1, 4, 5), (1, 2, 3))) + added
    return product.transpose(0, 3, 1, 2)
