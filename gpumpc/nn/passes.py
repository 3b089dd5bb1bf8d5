"""Rewrites of a freshly imported network, each exact in real arithmetic: NumPy only.

An importer may emit two records that no plan contains: `Affine` (a batch norm) and `Pad`. The
passes fold both into neighbouring layers, drop unused records, and move max-pool before the
activation, which is the same function and compares a quarter as many values.
"""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from gpumpc.errors import UnsupportedOperator
from gpumpc.nn.graph import AnyLayer, Clamp, Conv2d, Graph, Layer, Linear, MaxPool, Padding, ReLU

FloatArray = npt.NDArray[np.float64]
Weights = dict[str, FloatArray]
Record = TypeVar("Record", bound=Layer)


class Affine(Layer, frozen=True):
    """`scale x + shift` per channel, arrays (C,); `image`: its value is (H, W, C)."""

    image: bool


class Pad(Layer, frozen=True):
    """A border of zeros around an image."""

    padding: Padding


RawLayer = AnyLayer | Affine | Pad


def batch_norm_affine(
    gamma: FloatArray, beta: FloatArray, mean: FloatArray, var: FloatArray, eps: float
) -> tuple[FloatArray, FloatArray]:
    """Scale and shift (C,) of a batch norm: `(x - mean) / sqrt(var + eps) * gamma + beta`."""
    scale = gamma / np.sqrt(var + eps)
    return scale, beta - mean * scale


def simplify(layers: Iterable[RawLayer], weights: Weights) -> tuple[Graph, Weights]:
    """All passes in order: a graph of plan records only, and the arrays it names.

    Args:
        layers: in evaluation order, `Affine` and `Pad` among them; the last one is the output.
        weights: their arrays; not changed.

    Raises UnsupportedOperator where a batch norm or padding has no neighbour to be folded into.
    """
    used = drop_unused(list(layers))
    affine, folded = fold_affine(used, weights)
    final = pool_before_activation(fold_padding(affine))
    graph = Graph(tuple(final))
    return graph, {name: folded[name] for name in graph.weight_shapes()}


def drop_unused(layers: Sequence[RawLayer]) -> list[RawLayer]:
    """Without the records that the last one does not depend on; the input stays."""
    needed = {layers[0].name, layers[-1].name}
    kept = []
    for layer in reversed(layers):
        if layer.name in needed:
            kept.append(layer)
            needed.update(layer.inputs)
    return kept[::-1]


def fold_affine(
    layers: Sequence[RawLayer], weights: Weights
) -> tuple[list[AnyLayer | Pad], Weights]:
    """Every `Affine` into the layer with weights before it, else a 1x1 depthwise convolution.

    Raises UnsupportedOperator where it acts on a vector that no linear layer alone produced.
    """
    out: list[AnyLayer | Pad] = []
    arrays = dict(weights)
    renamed: dict[str, str] = {}
    for index, raw in enumerate(layers):
        layer = _renamed(raw, renamed)
        if not isinstance(layer, Affine):
            out.append(layer)
            continue
        scale, shift = arrays[f"{layer.name}.scale"], arrays[f"{layer.name}.shift"]
        before = next(item for item in out if item.name == layer.inputs[0])
        readers = [*out, *(_renamed(later, renamed) for later in layers[index:])]
        if isinstance(before, Conv2d | Linear) and _consumers(before.name, readers) == 1:
            # (x W + b) s + t = x (W s) + (b s + t): a weight's last axis is the output channel.
            arrays[f"{before.name}.weight"] = arrays[f"{before.name}.weight"] * scale
            arrays[f"{before.name}.bias"] = arrays[f"{before.name}.bias"] * scale + shift
            renamed[layer.name] = before.name
        else:
            out.append(_depthwise(layer, scale, shift, arrays))
    return out, arrays


def _depthwise(layer: Affine, scale: FloatArray, shift: FloatArray, arrays: Weights) -> Conv2d:
    """The affine map as a layer of its own."""
    if not layer.image:
        raise UnsupportedOperator(
            f"operator batch_norm at '{layer.name}' is not supported here",
            "it cannot be folded: it acts on a vector that no linear layer alone has made",
            "put it directly after a Linear layer, or after the convolution before the flatten",
        )
    arrays[f"{layer.name}.weight"] = scale.reshape(1, 1, 1, -1)
    arrays[f"{layer.name}.bias"] = shift
    return Conv2d(layer.name, layer.inputs, (1, 1), scale.size, groups=scale.size)


def fold_padding(layers: Sequence[AnyLayer | Pad]) -> list[AnyLayer]:
    """Every `Pad` into the convolutions that read it.

    Raises UnsupportedOperator where anything else reads a padded value, or it is the output.
    """
    pads: dict[str, Pad] = {}
    out: list[AnyLayer] = []
    for layer in layers:
        source = pads.get(layer.inputs[0]) if layer.inputs else None
        if isinstance(layer, Pad):
            outer = source.padding if source else (0, 0, 0, 0)
            start = source.inputs if source else layer.inputs
            pads[layer.name] = Pad(layer.name, start, _plus(outer, layer.padding))
        elif isinstance(layer, Conv2d) and source:
            padding = _plus(source.padding, layer.padding)
            out.append(msgspec.structs.replace(layer, inputs=source.inputs, padding=padding))
        else:
            _check_unpadded(layer, pads)
            out.append(layer)
    if layers[-1].name in pads:
        _refuse_pad(layers[-1].name, "the model's output")
    return out


def _check_unpadded(layer: AnyLayer, pads: dict[str, Pad]) -> None:
    for name in layer.inputs:
        if name in pads:
            _refuse_pad(name, f"layer '{layer.name}' ({type(layer).__name__})")


def _refuse_pad(name: str, reader: str) -> None:
    raise UnsupportedOperator(
        f"operator pad at '{name}' is not supported here",
        f"padding is folded into the convolution that reads it, but {reader} does",
        "pad inside the convolution or the pooling layer",
    )


def _plus(a: Padding, b: Padding) -> Padding:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]


def pool_before_activation(layers: Sequence[AnyLayer]) -> list[AnyLayer]:
    """`pool(act(x)) -> act(pool(x))` wherever only that max-pool reads the activation.

    Both activations are monotone and every window holds a real element, so the two are equal, ties
    included.
    """
    out = list(layers)
    while (pair := _next_pair(out)) is not None:
        act, pool = pair
        out = [_swapped(layer, act, pool) for layer in out if layer is not act]
        place = next(i for i, layer in enumerate(out) if layer.name == pool.name) + 1
        out.insert(place, _over(act, pool.name))
    return out


def _next_pair(layers: Sequence[AnyLayer]) -> tuple[ReLU | Clamp, MaxPool] | None:
    values = {layer.name: layer for layer in layers}
    for pool in (layer for layer in layers if isinstance(layer, MaxPool)):
        before = values[pool.inputs[0]]
        if isinstance(before, ReLU | Clamp) and _consumers(before.name, layers) == 1:
            return before, pool
    return None


def _swapped(layer: AnyLayer, act: ReLU | Clamp, pool: MaxPool) -> AnyLayer:
    """The pool reads what the activation read; readers of the pool read the activation."""
    if layer is pool:
        return _over(pool, act.inputs[0])
    return _renamed(layer, {pool.name: act.name})


def _over(layer: Record, name: str) -> Record:
    return msgspec.structs.replace(layer, inputs=(name,))


def _renamed(layer: Record, names: dict[str, str]) -> Record:
    """The record with its inputs renamed."""
    inputs = tuple(names.get(name, name) for name in layer.inputs)
    return layer if inputs == layer.inputs else msgspec.structs.replace(layer, inputs=inputs)


def _consumers(name: str, layers: Sequence[RawLayer]) -> int:
    """How many inputs read a value; being the output counts as one more."""
    return sum(layer.inputs.count(name) for layer in layers) + (layers[-1].name == name)
