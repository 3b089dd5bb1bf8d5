"""Rewrites of a freshly imported network, each exact in real arithmetic: NumPy only.

An importer may emit a record that no plan contains: `Affine` (a batch norm, or a constant). The
passes fold it into the layer before it, fold borders of zeros into convolutions and permutations
into linear layers, drop unused records, and move max-pool before the activation, which is the same
function and compares a quarter as many values.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from gpumpc.nn.graph import (
    AnyLayer,
    Clamp,
    Conv2d,
    Graph,
    Layer,
    Linear,
    MaxPool,
    Padding,
    Permute,
    ReLU,
    Reshape,
    Shape,
    Take,
    output_shape,
)

FloatArray = npt.NDArray[np.floating]
Weights = dict[str, FloatArray]
Record = TypeVar("Record", bound=Layer)


class Affine(Layer, frozen=True):
    """`scale x + shift` along the last axis, arrays (C,)."""


RawLayer = AnyLayer | Affine


def raw_shape(layer: RawLayer, inputs: list[Shape]) -> Shape:
    """Shape of one item of a record's value, as `output_shape`."""
    return inputs[0] if isinstance(layer, Affine) else output_shape(layer, inputs)


def batch_norm_affine(
    gamma: FloatArray, beta: FloatArray, mean: FloatArray, var: FloatArray, eps: float
) -> tuple[FloatArray, FloatArray]:
    """Scale and shift (C,) of a batch norm: `(x - mean) / sqrt(var + eps) * gamma + beta`."""
    scale = gamma / np.sqrt(var + eps)
    return scale, beta - mean * scale


def simplify(layers: Iterable[RawLayer], weights: Weights) -> tuple[Graph, Weights]:
    """All passes in order: a graph of plan records only, and the arrays it names.

    Args:
        layers: in evaluation order, `Affine` among them; the last one is the output.
        weights: their arrays; not changed.
    """
    raw: list[RawLayer] = list(layers)
    plain, folded = fold_affine(drop_unused(raw), weights)
    plain, folded = fold_permutations(drop_unused(fold_borders(plain)), folded)
    graph = Graph(tuple(pool_before_activation(drop_unused(plain))))
    return graph, {name: folded[name] for name in graph.weight_shapes()}


def drop_unused(layers: Sequence[Record]) -> list[Record]:
    """Without the records that the last one does not depend on; the input stays."""
    needed = {layers[0].name, layers[-1].name}
    kept: list[Record] = []
    for layer in reversed(layers):
        if layer.name in needed:
            kept.append(layer)
            needed.update(layer.inputs)
    return kept[::-1]


def fold_affine(layers: Sequence[RawLayer], weights: Weights) -> tuple[list[AnyLayer], Weights]:
    """Every `Affine` into the layer with weights before it, else a 1x1 depthwise convolution."""
    out: list[AnyLayer] = []
    arrays = dict(weights)
    renamed: dict[str, str] = {}
    shapes: dict[str, Shape] = {}
    for index, raw in enumerate(layers):
        layer = _renamed(raw, renamed)
        shape = raw_shape(layer, [shapes[name] for name in layer.inputs])
        if isinstance(layer, Affine):
            scale, shift = arrays[f"{layer.name}.scale"], arrays[f"{layer.name}.shift"]
            before = next(item for item in out if item.name == layer.inputs[0])
            readers = [*out, *(_renamed(later, renamed) for later in layers[index:])]
            if isinstance(before, Conv2d | Linear) and _consumers(before.name, readers) == 1:
                # (x W + b) s + t = x (W s) + (b s + t): a weight's last axis is the output channel.
                arrays[f"{before.name}.weight"] = arrays[f"{before.name}.weight"] * scale
                arrays[f"{before.name}.bias"] = arrays[f"{before.name}.bias"] * scale + shift
                renamed[layer.name] = before.name
            else:
                arrays[f"{layer.name}.weight"] = scale.reshape(1, 1, 1, -1)
                arrays[f"{layer.name}.bias"] = shift
                out += _depthwise(layer, shape)
                renamed[layer.name] = out[-1].name
        else:
            out.append(layer)
        shapes[layer.name] = shapes[renamed.get(layer.name, layer.name)] = shape
    return out, arrays


def _depthwise(layer: Affine, shape: Shape) -> list[AnyLayer]:
    """The affine map as a layer of its own, on an image of any size."""
    name, form = layer.name, ((1, 1), shape[-1], (1, 1), (0, 0, 0, 0), shape[-1])
    if len(shape) >= 3:
        return [Conv2d(name, layer.inputs, *form)]
    before, after = f"{name}.image", f"{name}.affine"
    # The layer keeps the name of its weights; the value that readers know is reshaped last.
    image = (1, math.prod(shape[:-1]), shape[-1])
    return [
        Reshape(before, layer.inputs, image),
        Conv2d(name, (before,), *form),
        Reshape(after, (name,), shape),
    ]


def fold_borders(layers: Sequence[AnyLayer]) -> list[AnyLayer]:
    """Borders of zeros into the convolutions that read them."""
    values: dict[str, AnyLayer] = {}
    out: list[AnyLayer] = []
    shapes: dict[str, Shape] = {}
    for layer in layers:
        kept = layer
        while isinstance(kept, Conv2d):
            source = values[kept.inputs[0]]
            border = _border(source, shapes) if isinstance(source, Take) else None
            if border is None:
                break
            padding = _plus(border, kept.padding)
            kept = msgspec.structs.replace(kept, inputs=source.inputs, padding=padding)
        values[layer.name] = kept
        shapes[layer.name] = output_shape(kept, [shapes[name] for name in kept.inputs])
        out.append(kept)
    return out


def _border(layer: Take, shapes: dict[str, Shape]) -> Padding | None:
    """Rows or columns of zeros around an image, if that is all that a layer adds."""
    shape = shapes[layer.inputs[0]]
    axis = layer.axis - (len(shape) - 3)
    size = shape[layer.axis]
    before = next((i for i, index in enumerate(layer.indices) if index >= 0), 0)
    after = len(layer.indices) - size - before
    whole = (-1,) * before + tuple(range(size)) + (-1,) * max(after, 0)
    if layer.indices != whole or axis not in (0, 1):
        return None
    return (before, after, 0, 0) if axis == 0 else (0, 0, before, after)


def _plus(a: Padding, b: Padding) -> Padding:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]


def fold_permutations(
    layers: Sequence[AnyLayer], weights: Weights
) -> tuple[list[AnyLayer], Weights]:
    """Linear layers behind a flattened permutation read the value as it lies, by permuted rows."""
    values = {layer.name: layer for layer in layers}
    shapes: dict[str, Shape] = {}
    arrays, out = dict(weights), list[AnyLayer]()
    for layer in layers:
        shapes[layer.name] = output_shape(layer, [shapes[name] for name in layer.inputs])
        flat = values[layer.inputs[0]] if isinstance(layer, Linear) else None
        turned = values[flat.inputs[0]] if isinstance(flat, Reshape) else None
        if flat and isinstance(turned, Permute) and len(shapes[flat.name]) == 1:
            direct = f"{layer.name}.flat"
            out.append(Reshape(direct, turned.inputs, shapes[flat.name]))
            rows = np.arange(shapes[flat.name][0]).reshape(shapes[turned.name])
            rows = rows.transpose(np.argsort(turned.axes)).reshape(-1)
            arrays[f"{layer.name}.weight"] = arrays[f"{layer.name}.weight"][rows]
            layer = _over(layer, direct)
        out.append(layer)
    return out, arrays


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
