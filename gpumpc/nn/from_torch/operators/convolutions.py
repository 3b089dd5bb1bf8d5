"""Convolutions in one, two and three dimensions, dilated, transposed: all as `Conv2d` records."""

import dataclasses
from typing import Any

import numpy as np
from torch import fx

from gpumpc.nn import graph as g
from gpumpc.nn.from_torch.importer import Importer, Traced, channels_last
from gpumpc.nn.from_torch.nodes import Arguments, both, item_of, many, refuse
from gpumpc.nn.from_torch.operators.arithmetic import affine
from gpumpc.nn.graph import Padding, Pair
from gpumpc.nn.passes import FloatArray


@dataclasses.dataclass(frozen=True, eq=False)
class _Form:
    """A two-dimensional convolution: weight (Cout, Cin / groups, kh, kw), and how it moves."""

    weight: FloatArray
    bias: FloatArray
    stride: Pair
    padding: Padding
    dilation: Pair
    groups: int

    @property
    def kernel(self) -> Pair:
        """Height and width."""
        return self.weight.shape[2], self.weight.shape[3]


def conv1d(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """As a convolution of an image of one row."""
    weight = importer.tensor(a["weight"], node)[:, :, None]
    dilation = 1, many(a["dilation"], 1)[0]
    _, _, left, right = _padding(a["padding"], 1, weight.shape[2:], dilation)
    stride = 1, many(a["stride"], 1)[0]
    form = _Form(
        weight, _bias(importer, node, a), stride, (0, 0, left, right), dilation, a["groups"]
    )
    channels, length = item_of(a["input"])
    record = importer.ordered(node, a["input"], channels_last(2))
    image = importer.reshaped(node, record, (1, length, channels))
    made = _convolution(importer, node, a, image, (1, length), form)
    out = item_of(node)
    return Traced(importer.reshaped(node, made, (out[1], out[0])), channels_last(2))


def conv2d(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """The plan's own record; a dilated one by its phases."""
    weight, dilation = importer.tensor(a["weight"], node), both(a["dilation"])
    padding = _padding(a["padding"], 2, weight.shape[2:], dilation)
    stride = both(a["stride"])
    form = _Form(weight, _bias(importer, node, a), stride, padding, dilation, a["groups"])
    record = importer.ordered(node, a["input"], channels_last(3))
    made = _convolution(importer, node, a, record, both(item_of(a["input"])[1:]), form)
    return Traced(made, channels_last(3))


def conv3d(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """One plane convolution for all taps in depth at once, whose results are shifted and added."""
    weight, groups = importer.tensor(a["weight"], node), int(a["groups"])
    step, dilation = many(a["stride"], 3), many(a["dilation"], 3)
    taps, before = weight.shape[2], 0
    if isinstance(a["padding"], str):
        if a["padding"] == "same":
            before = dilation[0] * (taps - 1) // 2
        plane = _padding(a["padding"], 2, weight.shape[3:], dilation[1:])
    else:
        before, *rest = many(a["padding"], 3)
        plane = rest[0], rest[0], rest[1], rest[1]
    # (Cout, Cin / groups, kd, kh, kw) -> one output channel for each group, channel and tap
    out, depth = len(weight), weight.shape[1]
    wide = weight.reshape(groups, out // groups, depth, taps, *weight.shape[3:])
    wide = wide.transpose(0, 3, 1, 2, 4, 5).reshape(-1, depth, *weight.shape[3:])
    form = _Form(wide, np.zeros(len(wide)), both(step[1:]), plane, both(dilation[1:]), groups)
    record = importer.ordered(node, a["input"], channels_last(4))
    size = item_of(a["input"])[1:]
    made = _convolution(importer, node, a, record, both(size[1:]), form)
    return _sum_of_taps(importer, node, a, made, (size[0], step[0], dilation[0], before), taps)


def _sum_of_taps(
    importer: Importer,
    node: fx.Node,
    a: Arguments,
    made: str,
    axis: tuple[int, int, int, int],
    taps: int,
) -> Traced:
    """Depth after depth: tap t of output d is plane d * stride + t * dilation - before."""
    size, stride, dilation, before = axis
    out, planes, *_ = item_of(node)
    groups = int(a["groups"])
    total = ""
    for tap in range(taps):
        channels = [
            (group * taps + tap) * (out // groups) + i
            for group in range(groups)
            for i in range(out // groups)
        ]
        at = [d * stride + tap * dilation - before for d in range(planes)]
        shifted = [d if 0 <= d < size else -1 for d in at]
        name = importer.name_for(node, "tap")
        importer.emit(g.Take(name, (made,), 3, tuple(channels)), ())
        moved = importer.name_for(node, "tap")
        importer.emit(g.Take(moved, (name,), 0, tuple(shifted)), ())
        if total:
            joined = importer.name_for(node, "sum")
            importer.emit(g.Add(joined, (total, moved)), ())
            moved = joined
        total = moved
    bias = _bias(importer, node, a)
    return affine(importer, node, Traced(total, channels_last(4)), np.ones(len(bias)), bias)


def conv_transpose2d(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """A convolution, by the turned kernel, of the image with zeros between its pixels."""
    weight, groups = importer.tensor(a["weight"], node), int(a["groups"])
    stride, dilation = both(a["stride"]), both(a["dilation"])
    channels, *size = item_of(a["input"])
    # (Cin, Cout / groups, kh, kw) -> (Cout, Cin / groups, kh, kw), turned by half a circle
    turned = weight.reshape(groups, channels // groups, *weight.shape[1:])[..., ::-1, ::-1]
    turned = turned.transpose(0, 2, 1, 3, 4).reshape(-1, channels // groups, *weight.shape[2:])
    name = importer.ordered(node, a["input"], channels_last(3))
    border = []
    for axis, (step, count) in enumerate(zip(stride, size, strict=True)):
        spaced = [i // step if i % step == 0 else -1 for i in range((count - 1) * step + 1)]
        cut, more = both(a["padding"])[axis], both(a["output_padding"])[axis]
        before = dilation[axis] * (weight.shape[2 + axis] - 1) - cut
        after = before + more
        if before < 0 or after < 0:
            spaced = spaced[max(0, -before) : len(spaced) - max(0, -after)]
        border += [max(0, before), max(0, after)]
        target = importer.name_for(node, "spaced")
        name = importer.emit(g.Take(target, (name,), axis, tuple(spaced)), ()).record
        size[axis] = len(spaced)
    padding = border[0], border[1], border[2], border[3]
    form = _Form(turned, _bias(importer, node, a), (1, 1), padding, dilation, groups)
    made = _convolution(importer, node, a, name, (size[0], size[1]), form)
    return Traced(made, channels_last(3))


def _bias(importer: Importer, node: fx.Node, a: Arguments) -> FloatArray:
    if a["bias"] is not None:
        return importer.tensor(a["bias"], node)
    return np.zeros(item_of(node)[0])


def _padding(
    padding: Any, axes: int, kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> Padding:
    """Top, bottom, left and right; one axis counts as left and right."""
    if padding == "same":
        # As torch: stride is 1, and an odd row or column goes behind.
        spans = [d * (k - 1) for k, d in zip(kernel[-axes:], dilation[-axes:], strict=True)]
        sides = [(span // 2, span - span // 2) for span in spans]
    elif isinstance(padding, str):  # "valid"
        sides = [(0, 0)] * axes
    else:
        sides = [(size, size) for size in many(padding, axes)]
    (left, right), (top, bottom) = sides[-1], sides[0] if axes == 2 else (0, 0)
    return top, bottom, left, right


def _convolution(
    importer: Importer, node: fx.Node, a: Arguments, source: str, size: Pair, form: _Form
) -> str:
    """The record of a two-dimensional convolution of (.., H, W, C)."""
    if form.dilation == (1, 1):
        return _dense(importer, node, a, source, form)
    if form.stride != (1, 1):
        return _dense(importer, node, a, source, _with_holes(form))
    return _by_phases(importer, node, a, source, size, form)


def _dense(importer: Importer, node: fx.Node, a: Arguments, source: str, form: _Form) -> str:
    name = importer.name_for(node, "conv", a["weight"])
    importer.weights[f"{name}.weight"] = np.ascontiguousarray(form.weight.transpose(2, 3, 1, 0))
    importer.weights[f"{name}.bias"] = form.bias
    shape = form.kernel, len(form.weight), form.stride, form.padding, int(form.groups)
    return importer.emit(g.Conv2d(name, (source,), *shape), ()).record


def _with_holes(form: _Form) -> _Form:
    """A dilated kernel as a larger one with zeros in it."""
    (kh, kw), (dh, dw) = form.kernel, form.dilation
    shape = (*form.weight.shape[:2], dh * (kh - 1) + 1, dw * (kw - 1) + 1)
    weight = np.zeros(shape)
    weight[:, :, ::dh, ::dw] = form.weight
    return dataclasses.replace(form, weight=weight, dilation=(1, 1))


def _by_phases(
    importer: Importer, node: fx.Node, a: Arguments, source: str, size: Pair, form: _Form
) -> str:
    """Rows of one remainder modulo the dilation are an image of their own: no product by zero."""
    if len(item_of(a["input"])) > 3:
        refuse(node, "it is dilated over planes of a volume", "use dilation 1 in a volume")
    out: list[int] = []
    counts: list[int] = []
    name = source
    for axis, (length, step) in enumerate(zip(size, form.dilation, strict=True)):
        before, after = form.padding[2 * axis : 2 * axis + 2]
        whole = length + before + after
        out.append(whole - step * (form.kernel[axis] - 1))
        counts.append(-(-whole // step))
        rows = [i * step + phase - before for phase in range(step) for i in range(counts[-1])]
        taken = tuple(row if 0 <= row < length else -1 for row in rows)
        target = importer.name_for(node, "phases")
        name = importer.emit(g.Take(target, (name,), axis, taken), ()).record
    channels = item_of(a["input"])[0]
    (dh, dw), (nh, nw) = form.dilation, counts
    name = importer.reshaped(node, name, (dh, nh, dw, nw, channels))
    swap = (0, 2, 1, 3, 4)
    name = importer.emit(g.Permute(importer.name_for(node, "permute"), (name,), swap), ()).record
    inner = dataclasses.replace(form, padding=(0, 0, 0, 0), dilation=(1, 1))
    name = _dense(importer, node, a, name, inner)
    mh, mw = nh - form.kernel[0] + 1, nw - form.kernel[1] + 1
    name = importer.emit(g.Permute(importer.name_for(node, "permute"), (name,), swap), ()).record
    name = importer.reshaped(node, name, (dh * mh, dw * mw, len(form.weight)))
    for axis, (step, count) in enumerate(((dh, mh), (dw, mw))):
        rows = [i % step * count + i // step for i in range(out[axis])]
        target = importer.name_for(node, "phases")
        name = importer.emit(g.Take(target, (name,), axis, tuple(rows)), ()).record
    return name
