"""One handler an operator: it checks the arguments and appends a record that computes the same."""

import math
from collections.abc import Sequence

import numpy as np
from torch import fx

from gpumpc.nn import graph as g
from gpumpc.nn.from_torch.importer import Arguments, Handler, Importer, pair, refuse, shape_of
from gpumpc.nn.graph import Padding, Pair, Shape
from gpumpc.nn.passes import Affine, FloatArray, Pad, batch_norm_affine


def _conv2d(importer: Importer, node: fx.Node, a: Arguments) -> str:
    weight = importer.tensor(a["weight"], node)
    if pair(a["dilation"]) != (1, 1):
        refuse(node, f"dilation {pair(a['dilation'])}", "use dilation 1")
    kernel, stride = pair(weight.shape[2:]), pair(a["stride"])
    padding = _conv_padding(a["padding"], kernel, stride)
    name = importer.name_for(node, "conv2d", a["weight"])
    importer.weights[f"{name}.weight"] = np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
    importer.weights[f"{name}.bias"] = _vector(importer, node, a["bias"], np.zeros(len(weight)))
    source = importer.record(node, a["input"])
    form = kernel, len(weight), stride, padding, int(a["groups"])
    return importer.emit(g.Conv2d(name, (source,), *form))


def _vector(importer: Importer, node: fx.Node, operand: object, absent: FloatArray) -> FloatArray:
    """An optional parameter, or `absent` in its place."""
    return absent if operand is None else importer.tensor(operand, node)


def _conv_padding(padding: str | int | Sequence[int], kernel: Pair, stride: Pair) -> Padding:
    if padding == "same":
        # As torch: stride is 1, and an even kernel gets the odd row or column behind.
        (top, left), (high, wide) = [((k - 1) // 2 for k in kernel), (k - 1 for k in kernel)]
        return top, high - top, left, wide - left
    if isinstance(padding, str):  # "valid"
        return 0, 0, 0, 0
    vertical, horizontal = pair(padding)
    return vertical, vertical, horizontal, horizontal


def _linear(importer: Importer, node: fx.Node, a: Arguments) -> str:
    weight = importer.tensor(a["weight"], node)
    if len(shape_of(a["input"])) != 2:
        refuse(node, "its input is not a batch of vectors", "flatten the image first")
    source = importer.record(node, a["input"])
    name = importer.name_for(node, "linear", a["weight"])
    rows = channels_last(weight, importer.image_of.get(source))
    importer.weights[f"{name}.weight"] = np.ascontiguousarray(rows.T)
    importer.weights[f"{name}.bias"] = _vector(importer, node, a["bias"], np.zeros(len(weight)))
    return importer.emit(g.Linear(name, (source,), len(weight)))


def channels_last(values: FloatArray, image: Shape | None) -> FloatArray:
    """The last axis from the flattened order of an `image` (C, H, W) to that of (H, W, C)."""
    if image is None:
        return values
    split = values.reshape(-1, *image)
    return split.transpose(0, 2, 3, 1).reshape(values.shape)


def _batch_norm(importer: Importer, node: fx.Node, a: Arguments) -> str:
    if a.get("training") or a["running_mean"] is None or a["running_var"] is None:
        refuse(node, "it normalises with the batch's own statistics", "keep running statistics")
    mean, var = importer.tensor(a["running_mean"], node), importer.tensor(a["running_var"], node)
    gamma = _vector(importer, node, a["weight"], np.ones_like(mean))
    beta = _vector(importer, node, a["bias"], np.zeros_like(mean))
    source = importer.record(node, a["input"])
    image = importer.image_of.get(source)
    name = importer.name_for(node, "batch_norm")
    scale, shift = batch_norm_affine(gamma, beta, mean, var, float(a["eps"]))
    importer.weights[f"{name}.scale"] = channels_last(scale, image)
    importer.weights[f"{name}.shift"] = channels_last(shift, image)
    return importer.emit(Affine(name, (source,), len(shape_of(node)) == 4), image)


def _activation(
    importer: Importer, node: fx.Node, operand: object, operator: str, high: float | None
) -> str:
    source = importer.record(node, operand)
    name, image = importer.name_for(node, operator), importer.image_of.get(source)
    layer = g.ReLU(name, (source,)) if high is None else g.Clamp(name, (source,), high)
    return importer.emit(layer, image)


def _relu(importer: Importer, node: fx.Node, a: Arguments) -> str:
    return _activation(importer, node, a["self"], "relu", None)


def _relu6(importer: Importer, node: fx.Node, a: Arguments) -> str:
    return _activation(importer, node, a["self"], "relu6", 6.0)


def _clamp(importer: Importer, node: fx.Node, a: Arguments) -> str:
    """hardtanh, clamp, clamp_min: the lower bound is 0, the upper a positive constant or none."""
    low = a["min_val"] if "min_val" in a else a["min"]
    high = a["max_val"] if "max_val" in a else a.get("max")
    constant = isinstance(high, int | float) and 0 < high < math.inf
    if not isinstance(low, int | float) or low != 0 or not (high is None or constant):
        hint = "use a lower bound of 0 and a positive upper bound, or relu"
        refuse(node, f"it clamps to [{low}, {high}]", hint)
    return _activation(importer, node, a["self"], "clamp", None if high is None else float(high))


def _max_pool2d(importer: Importer, node: fx.Node, a: Arguments) -> str:
    window, stride = _window(node, a)
    if pair(a["dilation"]) != (1, 1):
        refuse(node, f"dilation {pair(a['dilation'])}", "use dilation 1")
    vertical, horizontal = pair(a["padding"])
    padding = vertical, vertical, horizontal, horizontal
    source, name = importer.record(node, a["self"]), importer.name_for(node, "max_pool2d")
    return importer.emit(g.MaxPool(name, (source,), window, stride, padding))


def _avg_pool2d(importer: Importer, node: fx.Node, a: Arguments) -> str:
    window, stride = _window(node, a)
    if pair(a["padding"]) != (0, 0):
        refuse(node, f"padding {pair(a['padding'])} in an average", "use padding 0")
    if a["divisor_override"] not in (None, window[0] * window[1]):
        refuse(node, f"divisor_override {a['divisor_override']}", "divide by the window's size")
    source, name = importer.record(node, a["self"]), importer.name_for(node, "avg_pool2d")
    return importer.emit(g.AvgPool(name, (source,), window, stride))


def _window(node: fx.Node, a: Arguments) -> tuple[Pair, Pair]:
    """Window and stride of a pooling node, refused where ceil_mode changes its output."""
    window = pair(a["kernel_size"])
    stride = pair(a["stride"]) if a["stride"] else window
    sizes, border = shape_of(a["self"])[2:], pair(a["padding"])
    axes = zip(sizes, border, window, stride, strict=True)
    if a["ceil_mode"] and any((size + 2 * p - w) % step for size, p, w, step in axes):
        why = f"ceil_mode adds windows that reach outside an input of {sizes}"
        refuse(node, why, "use ceil_mode=False")
    return window, stride


def _adaptive_avg_pool2d(importer: Importer, node: fx.Node, a: Arguments) -> str:
    sizes, parts = shape_of(a["self"])[2:], shape_of(node)[2:]
    if any(size % part for size, part in zip(sizes, parts, strict=True)):
        why = f"{sizes} does not divide into {parts} equal windows"
        refuse(node, why, "use an output size that divides it")
    window = (sizes[0] // parts[0], sizes[1] // parts[1])
    source, name = importer.record(node, a["self"]), importer.name_for(node, "avg_pool2d")
    return importer.emit(g.AvgPool(name, (source,), window, window))


def _mean(importer: Importer, node: fx.Node, a: Arguments) -> str:
    shape = shape_of(a["self"])
    axes = {int(axis) % len(shape) for axis in (a.get("dim") or [])}
    if len(shape) != 4 or axes != {2, 3}:
        why = f"it averages axes {sorted(axes)} of {shape}"
        refuse(node, why, "average over H and W of an image")
    source, name = importer.record(node, a["self"]), importer.name_for(node, "mean")
    pooled = importer.emit(g.AvgPool(name, (source,), shape[2:], shape[2:]))
    if a["keepdim"]:
        return pooled
    return importer.emit(g.Flatten(importer.unique(f"{name}.flatten"), (pooled,)))


def _add(importer: Importer, node: fx.Node, a: Arguments) -> str:
    if a.get("alpha", 1) != 1 or not isinstance(a["other"], fx.Node):
        hint = "fold the constant into a layer before it"
        refuse(node, "it adds a constant or scales an operand", hint)
    names = importer.record(node, a["self"]), importer.record(node, a["other"])
    images = [importer.image_of.get(name) for name in names]
    if shape_of(a["self"]) != shape_of(a["other"]) or images[0] != images[1]:
        why = "its operands differ in shape, or were flattened from different shapes"
        refuse(node, why, "add before flattening")
    return importer.emit(g.Add(importer.name_for(node, "add"), names), images[0])


def _cat(importer: Importer, node: fx.Node, a: Arguments) -> str:
    names = tuple(importer.record(node, item) for item in a["tensors"])
    rank = len(shape_of(node))
    if int(a["dim"]) % rank != 1 or any(name in importer.image_of for name in names):
        why = "it joins another axis than channels, or flattened images"
        refuse(node, why, "join along axis 1, before flattening")
    return importer.emit(g.Concat(importer.name_for(node, "cat"), names))


def _flatten(importer: Importer, node: fx.Node, a: Arguments) -> str:
    before, after = shape_of(a["self"]), shape_of(node)
    source = importer.record(node, a["self"])
    if before == after:
        return source
    if len(before) != 4 or after != (before[0], math.prod(before[1:])):
        refuse(node, f"it reshapes {before} to {after}", "reshape only to (batch, everything else)")
    # A 1x1 image lies in the same order either way.
    image = before[1:] if before[2:] != (1, 1) else None
    return importer.emit(g.Flatten(importer.name_for(node, "flatten"), (source,)), image)


def _pad(importer: Importer, node: fx.Node, a: Arguments) -> str:
    border = [int(size) for size in a["pad"]] + [0] * 4
    zeros = a.get("mode", "constant") == "constant" and a["value"] in (None, 0)
    if not zeros or any(border[4:]) or min(border) < 0:
        refuse(node, "it is not a border of zeros around H and W", "pad with zeros")
    left, right, top, bottom = border[:4]
    source, name = importer.record(node, a["self"]), importer.name_for(node, "pad")
    return importer.emit(Pad(name, (source,), (top, bottom, left, right)))


def _identity(importer: Importer, node: fx.Node, a: Arguments) -> str:
    if a.get("train"):
        refuse(node, "it is in training mode", "pass training=self.training")
    return importer.record(node, node.args[0])


def _argmax(importer: Importer, node: fx.Node, a: Arguments) -> str:
    shape, source = shape_of(a["self"]), importer.record(node, a["self"])
    last = len(shape) == 2 and a["dim"] is not None and int(a["dim"]) % 2 == 1
    if not last or a["keepdim"] or source in importer.image_of:
        why = "it is not taken over the classes of (batch, classes)"
        refuse(node, why, "use argmax(-1) on a linear layer")
    return importer.emit(g.Argmax(importer.name_for(node, "argmax"), (source,)))


HANDLERS: dict[str, Handler] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "relu": _relu,
    "relu6": _relu6,
    "hardtanh": _clamp,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "mean": _mean,
    "add": _add,
    "cat": _cat,
    "flatten": _flatten,
    "view": _flatten,
    "reshape": _flatten,
    "pad": _pad,
    "constant_pad_nd": _pad,
    "dropout": _identity,
    "feature_dropout": _identity,
    "contiguous": _identity,
    "alias": _identity,
    "detach": _identity,
    "argmax": _argmax,
}
