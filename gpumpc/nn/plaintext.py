"""A network in the clear, in float64, to compare private results with; batch first."""

import math
from collections.abc import Iterable, Mapping
from typing import Literal, TypeVar, overload

import numpy as np
import numpy.typing as npt

from gpumpc.arguments import real_array
from gpumpc.errors import BadShape, BadValue, OutOfRange
from gpumpc.nn import graph as g
from gpumpc.nn.functions import function
from gpumpc.nn.graph import AnyLayer, Conv2d, Graph, Input, Linear, Padding, Pair, window_count

FloatArray = npt.NDArray[np.float64]
Arrays = Mapping[str, npt.NDArray[np.floating]]
Entry = TypeVar("Entry", bound=np.generic)


def check_input(record: Input, x: npt.ArrayLike) -> FloatArray:
    """A batch the plan admits, as float64 (B, *record.shape).

    Raises:
        BadShape: not a batch of items of the record's shape.
        BadValue: NaN, infinity or not a number.
        OutOfRange: a value outside [record.low, record.high].
    """
    values = real_array(x)
    if values.shape[1:] != record.shape or values.ndim == 0:
        raise BadShape(
            f"the input has shape {values.shape}",
            f"the plan takes (batch, {', '.join(map(str, record.shape))}), channels last",
            "bring each item to that shape, or compile the model for this one",
        )
    if not np.isfinite(values).all():
        why, hint = "only finite numbers can be shared", "clean the data before sharing it"
        raise BadValue("the input contains NaN or infinity", why, hint)
    if values.size and not record.low <= values.min() <= values.max() <= record.high:
        raise OutOfRange(
            f"the input spans [{values.min():.6g}, {values.max():.6g}]",
            f"the plan declares values in [{record.low:.6g}, {record.high:.6g}]",
            "apply the plan's preprocessing first, or compile the model for a wider range",
        )
    return values


@overload
def evaluate_float(
    graph: Graph, weights: Arrays, x: npt.ArrayLike, trace: Literal[False] = False
) -> FloatArray: ...


@overload
def evaluate_float(
    graph: Graph, weights: Arrays, x: npt.ArrayLike, trace: Literal[True]
) -> dict[str, FloatArray]: ...


def evaluate_float(
    graph: Graph, weights: Arrays, x: npt.ArrayLike, trace: bool = False
) -> FloatArray | dict[str, FloatArray]:
    """The network's output in float64, (B, *output shape); an argmax is a float index.

    Args:
        x: a batch (B, *graph.input.shape), inside the input's declared range.
        trace: return every value by name, the input's included: all are kept in memory.

    Raises BadShape, BadValue, OutOfRange as `check_input`.
    """
    values = {graph.input.name: check_input(graph.input, x)}
    last_use = {name: layer.name for layer in graph.layers for name in layer.inputs}
    for layer in graph.layers[1:]:
        values[layer.name] = _evaluate(layer, [values[name] for name in layer.inputs], weights)
        if not trace:
            for name in set(layer.inputs):
                if last_use[name] == layer.name:
                    del values[name]
    return values if trace else values[graph.output.name]


def _evaluate(layer: AnyLayer, inputs: list[FloatArray], weights: Arrays) -> FloatArray:
    """One record's value; `inputs` are its operands' values."""
    x = inputs[0]
    match layer:
        case Conv2d() | Linear():
            parts = (weights[f"{layer.name}.{part}"].astype(float) for part in ("weight", "bias"))
            return _linear(layer, x, *parts)
        case g.ReLU():
            return np.maximum(x, 0.0)
        case g.Clamp():
            return np.clip(x, 0.0, layer.high)
        case g.Function():
            return function(layer.kind, x, layer.parameter)
        case g.Scale():
            return layer.factor * x + layer.offset
        case g.MaxPool() | g.AvgPool():
            return _pool(layer, x)
        case g.Add():
            return np.add(*inputs)
        case g.Multiply():
            return np.multiply(*inputs)
        case g.MatMul():
            return np.matmul(*inputs)
        case g.Concat():
            return np.concatenate(inputs, axis=-1)
        case g.Flatten() | g.Reshape() | g.Permute() | g.Take():
            return arranged(layer, x)
        case g.Mix():
            return _mixed(layer, x)
        case g.Argmax():
            return np.asarray(x.argmax(axis=-1), dtype=np.float64)
        case g.TopK():
            return np.asarray((-x).argsort(axis=-1, kind="stable")[:, : layer.k], dtype=np.float64)
        case Input():
            return x


def arranged(layer: g.Arrangement, x: npt.NDArray[Entry]) -> npt.NDArray[Entry]:
    """The entries of a batch where the layer puts them."""
    match layer:
        case g.Flatten():
            return x.reshape(len(x), -1)
        case g.Reshape():
            return x.reshape(len(x), *layer.shape)
        case g.Permute():
            return x.transpose(0, *(axis + 1 for axis in layer.axes))
        case g.Take():
            indices, axis = np.asarray(layer.indices), layer.axis + 1
            zeros = np.zeros_like(x, shape=(*x.shape[:axis], 1, *x.shape[axis + 1 :]))
            return np.concatenate([x, zeros], axis).take(indices, axis)


def _mixed(layer: g.Mix, x: FloatArray) -> FloatArray:
    matrix = np.zeros((len(layer.taps), x.shape[layer.axis + 1]))
    for row, taps, weights in zip(matrix, layer.taps, layer.weights, strict=True):
        np.add.at(row, list(taps), weights)
    return np.moveaxis(np.moveaxis(x, layer.axis + 1, -1) @ matrix.T, -1, layer.axis + 1)


def _pool(layer: g.MaxPool | g.AvgPool, x: FloatArray) -> FloatArray:
    images = x.reshape(-1, *x.shape[-3:])
    if isinstance(layer, g.MaxPool):
        padded = _padded(images, layer.padding, -np.inf)
        pooled = _total(_windows(padded, layer.window, layer.stride), np.maximum)
    else:
        sums = _total(_windows(images, layer.window, layer.stride), np.add)
        pooled = sums / math.prod(layer.window)
    return pooled.reshape(*x.shape[:-3], *pooled.shape[1:])


def _linear(
    layer: Conv2d | Linear, x: FloatArray, weight: FloatArray, bias: FloatArray
) -> FloatArray:
    if isinstance(layer, Linear):
        return np.add(x @ weight, bias)
    images = x.reshape(-1, *x.shape[-3:])
    result = np.add(_conv(layer, _padded(images, layer.padding, 0.0), weight), bias)
    return result.reshape(*x.shape[:-3], *result.shape[1:])


def _total(parts: Iterable[FloatArray], combine: np.ufunc) -> FloatArray:
    """All arrays combined, left to right, in one buffer."""
    rest = iter(parts)
    total = next(rest).copy()
    for part in rest:
        combine(total, part, out=total)
    return total


def _padded(x: FloatArray, padding: Padding, value: float) -> FloatArray:
    """(B, H, W, C) with a border of `value`."""
    if padding == (0, 0, 0, 0):
        return x
    top, bottom, left, right = padding
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=value)


def _windows(x: FloatArray, window: Pair, stride: Pair) -> list[FloatArray]:
    """The view (B, Ho, Wo, C) that each tap of the window reads, row by row."""
    rows = window_count(x.shape[1], window[0], stride[0], 0, 0)
    cols = window_count(x.shape[2], window[1], stride[1], 0, 0)
    tall, wide = (rows - 1) * stride[0] + 1, (cols - 1) * stride[1] + 1
    return [
        x[:, i : i + tall : stride[0], j : j + wide : stride[1]]
        for i in range(window[0])
        for j in range(window[1])
    ]


def _conv(layer: Conv2d, x: FloatArray, weight: FloatArray) -> FloatArray:
    """Padded (B, H, W, Cin) by (kh, kw, Cin/groups, Cout) to (B, Ho, Wo, Cout), without bias."""
    if layer.groups == 1:
        return _dense(layer, x, weight)
    if weight.shape[2] == 1:
        return _depthwise(layer, x, weight)
    depth, width = weight.shape[2], layer.out_channels // layer.groups
    parts = [
        _dense(layer, x[..., g * depth : (g + 1) * depth], weight[..., g * width : (g + 1) * width])
        for g in range(layer.groups)
    ]
    return np.concatenate(parts, axis=-1)


def _dense(layer: Conv2d, x: FloatArray, weight: FloatArray) -> FloatArray:
    """One matrix product a tap: nothing is unrolled, and BLAS does the work."""
    views = _windows(x, layer.kernel, layer.stride)
    taps = weight.reshape(-1, *weight.shape[2:])
    pairs = zip(views, taps, strict=True)
    products = (view.reshape(-1, view.shape[-1]) @ tap for view, tap in pairs)
    return _total(products, np.add).reshape(*views[0].shape[:3], -1)


def _depthwise(layer: Conv2d, x: FloatArray, weight: FloatArray) -> FloatArray:
    """Each output channel reads one input channel: shifted products, added up."""
    multiplier = layer.out_channels // layer.groups
    wide = np.repeat(x, multiplier, axis=-1) if multiplier > 1 else x
    views = _windows(wide, layer.kernel, layer.stride)
    taps = weight.reshape(-1, layer.out_channels)
    return _total((view * tap for view, tap in zip(views, taps, strict=True)), np.add)
