"""Smooth functions of one number, and what is made of them: softmax and norms."""

import numpy as np
from torch import fx

from gpumpc.nn import graph as g
from gpumpc.nn.from_torch.importer import Handler, Importer, Traced
from gpumpc.nn.from_torch.nodes import Arguments, item_axis, item_of, refuse
from gpumpc.nn.from_torch.operators.arithmetic import (
    batch_norm,
    by_constant,
    matrices,
    repeated,
    scaled,
)
from gpumpc.nn.from_torch.operators.arrangement import reshaped
from gpumpc.nn.from_torch.operators.pooling import over_axes
from gpumpc.nn.functions import fit
from gpumpc.nn.graph import Shape


def function(
    importer: Importer, node: fx.Node, value: Traced, kind: str, parameter: float = 0.0
) -> Traced:
    """A function of every entry."""
    found = fit(kind, parameter)
    name = importer.name_for(node, kind)
    form = kind, parameter, found.frac, found.out_frac, found.thresholds, found.segments
    return importer.emit(g.Function(name, (value.record,), *form), value.order)


def of(kind: str) -> Handler:
    """The handler of an operator without parameters."""

    def handler(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
        return function(importer, node, importer.value(node, a["self"]), kind)

    return handler


def gelu(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """The exact form, or the one by tanh."""
    kind = "gelu_tanh" if a.get("approximate") == "tanh" else "gelu"
    return function(importer, node, importer.value(node, a["self"]), kind)


def elu(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """alpha (e^x - 1) below zero."""
    if a["scale"] != 1 or a["input_scale"] != 1:
        refuse(node, "it scales its value or its argument", "use ELU, and scale it outside")
    value = importer.value(node, a["self"])
    return function(importer, node, value, "elu", float(a["alpha"]))


def softplus(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """log(1 + e^x)."""
    if a["beta"] != 1:
        refuse(node, f"its beta is {a['beta']}", "use beta 1")
    return function(importer, node, importer.value(node, a["self"]), "softplus")


def softmax(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """e^(x - max) over their sum."""
    axis = item_axis(node, a["self"], a["dim"])
    return _softmax(importer, node, importer.value(node, a["self"]), item_of(a["self"]), axis)


def _softmax(importer: Importer, node: fx.Node, value: Traced, item: Shape, axis: int) -> Traced:
    largest = over_axes(importer, node, value, item, [axis], "max")
    powers = function(importer, node, _minus(importer, node, value, largest, item), "exp")
    mean = over_axes(importer, node, powers, item, [axis], "avg")
    total = scaled(importer, node, mean, float(item[axis]))
    return _times(importer, node, powers, function(importer, node, total, "reciprocal"))


def attention(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """softmax(Q K^T / sqrt(d)) V."""
    if a["attn_mask"] is not None or a["is_causal"] or a["dropout_p"]:
        refuse(node, "it masks or drops entries", "use attention over all tokens")
    query, key, value = (importer.value(node, a[name]) for name in ("query", "key", "value"))
    queries, keys = item_of(a["query"]), item_of(a["key"])
    last = len(keys) - 1
    swapped = tuple({last: last - 1, last - 1: last}.get(axis, axis) for axis in key.order)
    found = matrices(importer, node, query, Traced(key.record, swapped))
    scale = a["scale"] if a.get("scale") is not None else queries[-1] ** -0.5
    scores = scaled(importer, node, found, float(scale))
    item = (*queries[:-1], keys[-2])
    weights = _softmax(importer, node, scores, item, len(item) - 1)
    return matrices(importer, node, weights, value)


def layer_norm(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """Over the last axes of an item."""
    item = item_of(a["input"])
    axes = list(range(len(item) - len(a["normalized_shape"]), len(item)))
    found = _normalised(importer, node, importer.value(node, a["input"]), item, axes, a["eps"])
    return _affine(importer, node, a, found, ())


def group_norm(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """Over the pixels and the channels of a group."""
    item, groups = item_of(a["input"]), int(a["num_groups"])
    split = (groups, item[0] // groups, *item[1:])
    value = reshaped(importer, node, importer.value(node, a["input"]), item, split)
    axes = list(range(1, len(split)))
    found = _normalised(importer, node, value, split, axes, a["eps"])
    whole = reshaped(importer, node, found, split, item)
    return _affine(importer, node, a, whole, (1,) * (len(item) - 1))


def instance_norm(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """Over the pixels of a channel; with running statistics it is a batch norm."""
    if not a["use_input_stats"]:
        return batch_norm(importer, node, a)
    item = item_of(a["input"])
    axes = list(range(1, len(item)))
    found = _normalised(importer, node, importer.value(node, a["input"]), item, axes, a["eps"])
    return _affine(importer, node, a, found, (1,) * (len(item) - 1))


def _normalised(
    importer: Importer, node: fx.Node, value: Traced, item: Shape, axes: list[int], eps: float
) -> Traced:
    """(x - mean) / sqrt(variance + eps)."""
    mean = over_axes(importer, node, value, item, axes, "avg")
    centred = _minus(importer, node, value, mean, item)
    squares = _times(importer, node, centred, centred)
    variance = over_axes(importer, node, squares, item, axes, "avg")
    shifted = scaled(importer, node, variance, 1.0, float(eps))
    return _times(importer, node, centred, function(importer, node, shifted, "rsqrt"))


def _affine(
    importer: Importer, node: fx.Node, a: Arguments, value: Traced, ones: tuple[int, ...]
) -> Traced:
    """The norm's own weight and bias, with so many axes behind them."""
    if a["weight"] is None and a["bias"] is None:
        return value
    weight = None if a["weight"] is None else importer.tensor(a["weight"], node)
    bias = np.zeros_like(weight) if a["bias"] is None else importer.tensor(a["bias"], node)
    weight = np.ones_like(bias) if weight is None else weight
    arrays = (array.reshape(*array.shape, *ones) for array in (weight, bias))
    return by_constant(importer, node, value, *arrays)


def _minus(importer: Importer, node: fx.Node, x: Traced, y: Traced, item: Shape) -> Traced:
    """x - y, y repeated along axes of size 1."""
    record = importer.permuted(node, y, x.order)
    before = tuple(importer.shapes[record][x.order.index(axis)] for axis in range(len(item)))
    wide = repeated(importer, node, Traced(record, x.order), before, item)
    negative = scaled(importer, node, wide, -1.0)
    name = importer.name_for(node, "add")
    return importer.emit(g.Add(name, (x.record, negative.record)), x.order)


def _times(importer: Importer, node: fx.Node, x: Traced, y: Traced) -> Traced:
    """x y, y repeated along axes of size 1."""
    record = importer.permuted(node, y, x.order)
    name = importer.name_for(node, "multiply")
    return importer.emit(g.Multiply(name, (x.record, record)), x.order)


HANDLERS: dict[str, Handler] = {
    **{kind: of(kind) for kind in ("sigmoid", "tanh", "silu", "mish", "hardswish")},
    "gelu": gelu,
    "elu": elu,
    "softplus": softplus,
    "softmax": softmax,
    "scaled_dot_product_attention": attention,
    "layer_norm": layer_norm,
    "group_norm": group_norm,
    "instance_norm": instance_norm,
}
