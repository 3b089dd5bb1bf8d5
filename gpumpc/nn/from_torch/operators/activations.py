"""Functions of one entry, and the larger or smaller of two: all exact, by ReLU and clamp."""

import math

import numpy as np
from torch import fx

from gpumpc.nn import graph as g
from gpumpc.nn.from_torch.importer import Importer, Traced
from gpumpc.nn.from_torch.nodes import Arguments, refuse
from gpumpc.nn.from_torch.operators.arithmetic import by_constant, same_shape, scaled


def relu(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """max(x, 0)."""
    return _relu(importer, node, importer.value(node, a["self"]))


def _relu(importer: Importer, node: fx.Node, value: Traced) -> Traced:
    name = importer.name_for(node, "relu")
    return importer.emit(g.ReLU(name, (value.record,)), value.order)


def relu6(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """min(max(x, 0), 6)."""
    return clamped(importer, node, importer.value(node, a["self"]), 0.0, 6.0)


def clamp(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """clamp, clamp_min, clamp_max and hardtanh, with constant bounds."""
    bounds = []
    for key, absent in (("min", -math.inf), ("max", math.inf)):
        bound = a.get(key, a.get(f"{key}_val"))
        if not (bound is None or isinstance(bound, int | float)):
            refuse(node, f"its bound {bound} is no constant number", "clamp to two numbers")
        bounds.append(absent if bound is None else float(bound))
    return clamped(importer, node, importer.value(node, a["self"]), *bounds)


def clamped(importer: Importer, node: fx.Node, value: Traced, low: float, high: float) -> Traced:
    """min(max(value, low), high); either may be infinite."""
    if not low < high:
        refuse(node, f"it clamps to [{low}, {high}]", "give it a lower bound below the upper one")
    if high == math.inf:
        if low == -math.inf:
            return value
        above = _relu(importer, node, scaled(importer, node, value, 1.0, -low))
        return scaled(importer, node, above, 1.0, low)
    if low == -math.inf:
        below = _relu(importer, node, scaled(importer, node, value, -1.0, high))
        return scaled(importer, node, below, -1.0, high)
    moved = scaled(importer, node, value, 1.0, -low)
    name = importer.name_for(node, "clamp")
    inside = importer.emit(g.Clamp(name, (moved.record,), high - low), value.order)
    return scaled(importer, node, inside, 1.0, low)


def leaky_relu(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """s x + (1 - s) max(x, 0)."""
    value, slope = importer.value(node, a["self"]), float(a["negative_slope"])
    above = scaled(importer, node, _relu(importer, node, value), 1 - slope)
    return _plus(importer, node, above, scaled(importer, node, value, slope))


def prelu(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """max(x, 0) + s (x - max(x, 0)), with one slope s, or one a channel."""
    value, slope = importer.value(node, a["self"]), importer.tensor(a["weight"], node)
    above = _relu(importer, node, value)
    below = _plus(importer, node, value, scaled(importer, node, above, -1.0))
    column = slope.reshape(-1, *(1 for _ in value.order[1:]))
    sloped = by_constant(importer, node, below, column, np.zeros_like(column))
    record = importer.permuted(node, above, sloped.order)
    return _plus(importer, node, Traced(record, sloped.order), sloped)


def absolute(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """2 max(x, 0) - x."""
    value = importer.value(node, a["self"])
    above = scaled(importer, node, _relu(importer, node, value), 2.0)
    return _plus(importer, node, above, scaled(importer, node, value, -1.0))


def hardsigmoid(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """clamp(x + 3, 0, 6) / 6."""
    inside = _six(importer, node, importer.value(node, a["self"]))
    return scaled(importer, node, inside, 1 / 6)


def _six(importer: Importer, node: fx.Node, value: Traced) -> Traced:
    return clamped(importer, node, scaled(importer, node, value, 1.0, 3.0), 0.0, 6.0)


def maximum(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """y + max(x - y, 0)."""
    return _larger(importer, node, a, 1.0)


def minimum(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """y - max(y - x, 0)."""
    return _larger(importer, node, a, -1.0)


def _larger(importer: Importer, node: fx.Node, a: Arguments, sign: float) -> Traced:
    x, y = same_shape(importer, node, a["self"], a["other"])
    sides = (scaled(importer, node, x, sign), scaled(importer, node, y, -sign))
    above = _relu(importer, node, _plus(importer, node, *sides))
    return _plus(importer, node, y, scaled(importer, node, above, sign))


def _plus(importer: Importer, node: fx.Node, x: Traced, y: Traced) -> Traced:
    name = importer.name_for(node, "add")
    return importer.emit(g.Add(name, (x.record, y.record)), x.order)


def identity(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """Operators that change no value of a network in evaluation mode."""
    if a.get("train") or a.get("training"):
        refuse(node, "it is in training mode", "pass training=self.training")
    dtype = a.get("dtype")
    if dtype is not None and not dtype.is_floating_point:
        refuse(node, f"it turns numbers into {dtype}", "keep floating point numbers")
    return importer.value(node, node.args[0])
