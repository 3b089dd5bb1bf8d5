"""Linear layers, norms, sums and products: of two traced values, or with a constant."""

import math
from typing import Any

import numpy as np
from torch import fx

from gpumpc.nn import graph as g
from gpumpc.nn.from_torch.importer import Importer, Traced, channels_last
from gpumpc.nn.from_torch.nodes import Arguments, item_of, refuse, shape_of
from gpumpc.nn.graph import Shape
from gpumpc.nn.passes import Affine, FloatArray, batch_norm_affine


def linear(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """x W^T + b over the last axis."""
    weight = importer.tensor(a["weight"], node)
    bias = np.zeros(len(weight)) if a["bias"] is None else importer.tensor(a["bias"], node)
    return _rows_times(importer, node, a["input"], weight.T, bias)


def matmul(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """A traced value times a matrix of parameters, or times another traced value."""
    right = a.get("other", a.get("mat2"))
    if importer.is_traced(right) and importer.is_traced(a["self"]):
        return matrices(importer, node, *(importer.value(node, x) for x in (a["self"], right)))
    if not importer.is_traced(a["self"]):
        refuse(node, "its left operand is a parameter", "multiply from the right")
    weight = importer.tensor(right, node)
    if weight.ndim != 2:
        refuse(node, f"its parameter has {weight.ndim} axes", "use a matrix")
    return _rows_times(importer, node, a["self"], weight, np.zeros(weight.shape[1]))


def matrices(importer: Importer, node: fx.Node, x: Traced, y: Traced) -> Traced:
    """Products of the last two axes of two traced values; the axes before count matrices."""
    order = tuple(range(len(x.order)))
    if len(x.order) != len(y.order) or len(order) < 2:
        refuse(node, "its operands differ in rank", "give both the same axes before the matrices")
    names = importer.permuted(node, x, order), importer.permuted(node, y, order)
    if importer.shapes[names[0]][:-2] != importer.shapes[names[1]][:-2]:
        refuse(node, "it repeats one operand's matrices", "give both as many matrices")
    return importer.emit(g.MatMul(importer.name_for(node, "matmul"), names), order)


def _rows_times(
    importer: Importer, node: fx.Node, operand: Any, weight: FloatArray, bias: FloatArray
) -> Traced:
    value = importer.value(node, operand)
    last = len(value.order) - 1
    order = value.order if value.order[-1] == last else tuple(range(last + 1))
    record = importer.permuted(node, value, order)
    source = node.args[1] if len(node.args) > 1 else None
    name = importer.name_for(node, "linear", source)
    importer.weights[f"{name}.weight"] = np.ascontiguousarray(weight)
    importer.weights[f"{name}.bias"] = bias
    return importer.emit(g.Linear(name, (record,), weight.shape[1]), order)


def batch_norm(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """With running statistics; an instance norm with running statistics is the same."""
    batch = a.get("training", a.get("use_input_stats", False))
    if batch or a["running_mean"] is None or a["running_var"] is None:
        why = "it normalises with statistics of what it is given"
        refuse(node, why, "keep running statistics, and use evaluation mode")
    mean, var = importer.tensor(a["running_mean"], node), importer.tensor(a["running_var"], node)
    gamma = np.ones_like(mean) if a["weight"] is None else importer.tensor(a["weight"], node)
    beta = np.zeros_like(mean) if a["bias"] is None else importer.tensor(a["bias"], node)
    order = channels_last(len(item_of(a["input"])))
    record = importer.ordered(node, a["input"], order)
    scale, shift = batch_norm_affine(gamma, beta, mean, var, float(a["eps"]))
    return affine(importer, node, Traced(record, order), scale, shift)


def add(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """x + alpha y."""
    return _sum(importer, node, a["self"], a["other"], (1.0, float(a.get("alpha", 1))))


def subtract(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """x - alpha y."""
    return _sum(importer, node, a["self"], a["other"], (1.0, -float(a.get("alpha", 1))))


def subtract_from(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """rsub: other - alpha self."""
    return _sum(importer, node, a["self"], a["other"], (-float(a.get("alpha", 1)), 1.0))


def _sum(importer: Importer, node: fx.Node, x: Any, y: Any, signs: tuple[float, float]) -> Traced:
    """signs[0] x + signs[1] y."""
    if importer.is_traced(x) and importer.is_traced(y):
        left, right = (
            scaled(importer, node, value, sign)
            for value, sign in zip(same_shape(importer, node, x, y), signs, strict=True)
        )
        name = importer.name_for(node, "add")
        return importer.emit(g.Add(name, (left.record, right.record)), left.order)
    if not importer.is_traced(x):
        x, y, signs = y, x, signs[::-1]
    value = importer.value(node, x)
    if isinstance(y, int | float):
        return scaled(importer, node, value, signs[0], signs[1] * y)
    constant = importer.tensor(y, node)
    value = scaled(importer, node, value, signs[0])
    return by_constant(importer, node, value, np.ones_like(constant), signs[1] * constant)


def multiply(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """x y."""
    x, y = a["self"], a["other"]
    if importer.is_traced(x) and importer.is_traced(y):
        return product(importer, node, x, y)
    if not importer.is_traced(x):
        x, y = y, x
    value = importer.value(node, x)
    if isinstance(y, int | float):
        return scaled(importer, node, value, float(y))
    constant = importer.tensor(y, node)
    return by_constant(importer, node, value, constant, np.zeros_like(constant))


def divide(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """By a constant."""
    x, y = a["self"], a["other"]
    if importer.is_traced(y) or a.get("rounding_mode"):
        refuse(node, "it divides by a value of the network", "divide by a constant")
    value = importer.value(node, x)
    if isinstance(y, int | float):
        return scaled(importer, node, value, 1 / y)
    constant = importer.tensor(y, node)
    return by_constant(importer, node, value, 1 / constant, np.zeros_like(constant))


def negate(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """-x."""
    return scaled(importer, node, importer.value(node, a["self"]), -1.0)


def power(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """x^2."""
    if a["exponent"] != 2:
        refuse(node, f"it raises to the power {a['exponent']}", "use the power 2, or a product")
    return product(importer, node, a["self"], a["self"])


def square(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """x^2."""
    return product(importer, node, a["self"], a["self"])


def product(importer: Importer, node: fx.Node, x: Any, y: Any) -> Traced:
    """Of two traced values; the smaller one is opened before it is repeated."""
    left, right = importer.value(node, x), importer.value(node, y)
    if math.prod(item_of(x)) < math.prod(item_of(y)):
        left, right, x, y = right, left, y, x
    shapes = item_of(x), item_of(y)
    fits = len(shapes[0]) == len(shapes[1]) and shapes[0] == item_of(node)
    if not fits:
        why = f"its operands of shapes {shape_of(x)} and {shape_of(y)} are both repeated"
        refuse(node, why, "give one operand the result's shape")
    record = importer.permuted(node, right, left.order)
    name = importer.name_for(node, "multiply")
    return importer.emit(g.Multiply(name, (left.record, record)), left.order)


def scaled(
    importer: Importer, node: fx.Node, value: Traced, factor: float, offset: float = 0.0
) -> Traced:
    """factor value + offset, two public numbers."""
    if not (math.isfinite(factor) and math.isfinite(offset)):
        refuse(node, f"its constant {factor} or {offset} is not finite", "use finite constants")
    if (factor, offset) == (1.0, 0.0):
        return value
    name = importer.name_for(node, "scale")
    return importer.emit(g.Scale(name, (value.record,), factor, offset), value.order)


def repeated(
    importer: Importer, node: fx.Node, value: Traced, before: Shape, after: Shape
) -> Traced:
    """Entries repeated along axes of size 1."""
    record = value.record
    for place, axis in enumerate(value.order):
        if before[axis] != after[axis]:
            name = importer.name_for(node, "repeat")
            layer = g.Take(name, (record,), place, (0,) * after[axis])
            record = importer.emit(layer, value.order).record
    return Traced(record, value.order)


def same_shape(importer: Importer, node: fx.Node, x: Any, y: Any) -> tuple[Traced, Traced]:
    """Two traced values in one order of axes; entries are repeated where torch does so."""
    values, shape = [], item_of(node)
    order = importer.value(node, x).order
    for operand in (x, y):
        item = item_of(operand)
        if len(item) != len(shape):
            why = f"its operands differ in rank: {shape_of(x)} and {shape_of(y)}"
            refuse(node, why, "give both operands the same number of axes")
        value = Traced(importer.ordered(node, operand, order), order)
        values.append(repeated(importer, node, value, item, shape))
    return values[0], values[1]


def affine(
    importer: Importer, node: fx.Node, value: Traced, scale: FloatArray, shift: FloatArray
) -> Traced:
    """scale value + shift, arrays along the record's last axis."""
    name = importer.name_for(node, "affine")
    importer.weights[f"{name}.scale"], importer.weights[f"{name}.shift"] = scale, shift
    return importer.emit(Affine(name, (value.record,)), value.order)


def by_constant(
    importer: Importer, node: fx.Node, value: Traced, scale: FloatArray, shift: FloatArray
) -> Traced:
    """scale value + shift, arrays that torch repeats along the value's axes."""
    shape = importer.shapes[value.record]
    item = tuple(shape[value.order.index(axis)] for axis in range(len(value.order)))
    arrays = [
        array.reshape((1,) * (len(item) + 1 - array.ndim) + array.shape) for array in (scale, shift)
    ]
    if any(array.shape[0] != 1 for array in arrays):
        refuse(node, "its constant differs between the items of a batch", "use one for all items")
    scale, shift = (array[0] for array in arrays)
    varies = [axis for axis, size in enumerate(scale.shape) if size > 1]
    if any(scale.shape[axis] != item[axis] for axis in varies):
        refuse(node, "its constant has more entries than the value", "repeat the value first")
    if len(varies) <= 1:
        last = varies[0] if varies else value.order[-1]
        order = (*(axis for axis in value.order if axis != last), last)
        record = importer.permuted(node, value, order)
        vectors = (np.broadcast_to(array.reshape(-1), (item[last],)) for array in (scale, shift))
        return affine(importer, node, Traced(record, order), *map(np.ascontiguousarray, vectors))
    order = tuple(range(len(item)))
    record = importer.reshaped(node, importer.permuted(node, value, order), (math.prod(item),))
    name = importer.name_for(node, "affine")
    for part, array in (("scale", scale), ("shift", shift)):
        importer.weights[f"{name}.{part}"] = np.broadcast_to(array, item).reshape(-1)
    importer.emit(Affine(name, (record,)), ())
    return Traced(importer.reshaped(node, name, item), order)
