"""Operators that move entries: shapes, orders of axes, parts, borders, joints, upsampling."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from gpumpc.nn import graph as g
from gpumpc.nn.from_torch.importer import Importer, Traced
from gpumpc.nn.from_torch.nodes import Arguments, item_axis, item_of, refuse, shape_of
from gpumpc.nn.from_torch.operators.arithmetic import by_constant
from gpumpc.nn.graph import Shape


def reshape(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """view, reshape, flatten, unflatten, squeeze, unsqueeze: whatever keeps the batch apart."""
    operand: Any = node.args[0]
    before, after = shape_of(operand), shape_of(node)
    if before[0] != after[0]:
        refuse(node, f"it reshapes {before} to {after}", "keep the batch as an axis of its own")
    value = importer.value(node, node.args[0])
    return reshaped(importer, node, value, before[1:], after[1:])


def reshaped(
    importer: Importer, node: fx.Node, value: Traced, before: Shape, after: Shape
) -> Traced:
    """A value of torch's item shape `before` as one of `after`; axes are moved only if they must.

    Torch's axes fall into groups that become groups of the new axes. A group whose axes lie in
    torch's order in the record stays where it is.
    """
    groups = _groups(before, after)
    group_of = {axis: i for i, (axes, _) in enumerate(groups) for axis in axes}
    ones = [axis for axis in value.order if axis not in group_of]
    real = [axis for axis in value.order if axis in group_of]
    place = {i: min(real.index(axis) for axis in axes) for i, (axes, _) in enumerate(groups)}
    wanted = sorted(real, key=lambda axis: (place[group_of[axis]], axis))
    record = value.record
    if wanted != real:
        record = importer.permuted(node, value, (*ones, *wanted))
    new = [axis for i in sorted(place, key=place.__getitem__) for axis in groups[i][1]]
    order = (*(axis for axis in range(len(after)) if axis not in new), *new)
    old_shape = tuple(
        before[axis] for axis in ((*ones, *wanted) if wanted != real else value.order)
    )
    shape = tuple(after[axis] for axis in order)
    if shape != old_shape:
        record = importer.reshaped(node, record, shape)
    return Traced(record, order)


def _groups(before: Shape, after: Shape) -> list[tuple[list[int], list[int]]]:
    """Runs of axes of equal products, old and new; axes of size 1 are left out."""
    old = [axis for axis, size in enumerate(before) if size != 1]
    new = [axis for axis, size in enumerate(after) if size != 1]
    groups = []
    while old or new:
        left, right = [old.pop(0)], [new.pop(0)]
        while (a := math.prod(before[i] for i in left)) != (
            b := math.prod(after[i] for i in right)
        ):
            if a < b:
                left.append(old.pop(0))
            else:
                right.append(new.pop(0))
        groups.append((left, right))
    return groups


def permute(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """permute, transpose, t, movedim: the record stays as it is, only its order is another."""
    operand: Any = node.args[0]
    rank = len(shape_of(operand))
    axes = list(range(rank))
    if "dims" in a:
        axes = [int(axis) % rank for axis in a["dims"]]
    elif "dim0" in a:
        i, j = int(a["dim0"]) % rank, int(a["dim1"]) % rank
        axes[i], axes[j] = axes[j], axes[i]
    else:
        axes = axes[::-1]
    value = importer.with_batch_anywhere(node, operand)
    batch = axes.index(value.batch)
    # Torch's axes without the batch, before and after.
    before, after = (
        [axis for axis in every if axis != value.batch] for every in (range(rank), axes)
    )
    order = tuple(after.index(before[axis]) for axis in value.order)
    return Traced(value.record, order, batch)


def taken(
    importer: Importer, node: fx.Node, value: Traced, axis: int, indices: Sequence[int]
) -> Traced:
    """Entries along torch's axis of an item, by number; -1 stands for zeros."""
    name = importer.name_for(node, "take")
    layer = g.Take(name, (value.record,), value.order.index(axis), tuple(map(int, indices)))
    return importer.emit(layer, value.order)


def slice_(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """A range of one axis."""
    value, size = importer.value(node, a["self"]), shape_of(a["self"])[int(a["dim"])]
    if shape_of(node) == shape_of(a["self"]):
        return value
    axis = item_axis(node, a["self"], a["dim"])
    return taken(importer, node, value, axis, range(size)[a["start"] : a["end"] : a["step"] or 1])


def narrow(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """Some entries of one axis."""
    axis, start = item_axis(node, a["self"], a["dim"]), int(a["start"])
    value = importer.value(node, a["self"])
    return taken(importer, node, value, axis, range(start, start + int(a["length"])))


def select(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """One entry of an axis, which goes away."""
    value, axis, item = _along(importer, node, a)
    return _one_of(importer, node, value, item, axis, int(a["index"]) % item[axis])


def _along(importer: Importer, node: fx.Node, a: Arguments) -> tuple[Traced, int, Shape]:
    """The operand, an axis of its items, and their shape, with the batch at any axis."""
    operand = a["self"]
    value, shape = importer.with_batch_anywhere(node, operand), shape_of(operand)
    dim = int(a["dim"]) % len(shape)
    if dim == value.batch:
        refuse(node, "it works along the batch", "let each item be computed alone")
    item = (*shape[: value.batch], *shape[value.batch + 1 :])
    return value, dim - (dim > value.batch), item


def _one_of(
    importer: Importer, node: fx.Node, value: Traced, item: Shape, axis: int, index: int
) -> Traced:
    one = taken(importer, node, value, axis, [index])
    before, after = (*item[:axis], 1, *item[axis + 1 :]), (*item[:axis], *item[axis + 1 :])
    found = reshaped(importer, node, one, before, after)
    return Traced(found.record, found.order, value.batch - (axis < value.batch))


def split(importer: Importer, node: fx.Node, a: Arguments) -> tuple[Traced, ...]:
    """split, split_with_sizes, chunk, tensor_split: parts along an axis."""
    axis, value = item_axis(node, a["self"], a["dim"]), importer.value(node, a["self"])
    parts, start = [], 0
    for part in node.meta["val"]:
        stop = start + int(part.shape[axis + 1])
        parts.append(taken(importer, node, value, axis, range(start, stop)))
        start = stop
    return tuple(parts)


def unbind(importer: Importer, node: fx.Node, a: Arguments) -> tuple[Traced, ...]:
    """Every entry of an axis, which goes away."""
    value, axis, item = _along(importer, node, a)
    return tuple(_one_of(importer, node, value, item, axis, i) for i in range(item[axis]))


def flip(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """Axes the other way round."""
    value = importer.value(node, a["self"])
    for dim in a["dims"]:
        axis = item_axis(node, a["self"], dim)
        value = taken(importer, node, value, axis, range(item_of(node)[axis])[::-1])
    return value


def expand(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """Repeated along axes of size 1."""
    operand: Any = node.args[0]
    value, before, after = importer.value(node, operand), shape_of(operand), shape_of(node)
    if len(before) != len(after) or before[0] != after[0]:
        refuse(node, f"it repeats {before} to {after}", "keep the number of axes and the batch")
    for axis, (old, new) in enumerate(zip(before[1:], after[1:], strict=True)):
        if old != new:
            value = taken(importer, node, value, axis, list(range(old)) * (new // old))
    return value


def cat(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """Joined along any axis of an item; a constant part is added to zeros."""
    tensors = a["tensors"]
    first = next(tensor for tensor in tensors if importer.is_traced(tensor))
    axis = item_axis(node, first, a["dim"])
    kept = importer.value(node, first).order
    order = kept if kept[-1] == axis else (*(i for i in kept if i != axis), axis)
    names = []
    for tensor in tensors:
        value = (
            importer.value(node, tensor)
            if importer.is_traced(tensor)
            else _constant_part(importer, node, first, tensor, axis)
        )
        names.append(importer.permuted(node, value, order))
    return importer.emit(g.Concat(importer.name_for(node, "cat"), tuple(names)), order)


def _constant_part(
    importer: Importer, node: fx.Node, beside: fx.Node, tensor: fx.Node, axis: int
) -> Traced:
    """A parameter, the same for all items, as a value: added to zeros of the traced operand."""
    constant = importer.tensor(tensor, node)
    if len(constant) > 1 and not (constant == constant[:1]).all():
        refuse(node, "it joins a constant that differs between the items", "use one for all")
    constant = constant[:1]
    zeros = taken(
        importer, node, importer.value(node, beside), axis, [-1] * constant.shape[axis + 1]
    )
    return by_constant(importer, node, zeros, np.ones_like(constant), constant)


def stack(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """Joined along a new axis."""
    axis = item_axis(node, node, a["dim"])
    item = item_of(a["tensors"][0])
    wide = (*item[:axis], 1, *item[axis:])
    last = (*(i for i in range(len(wide)) if i != axis), axis)
    names = []
    for tensor in a["tensors"]:
        value = reshaped(importer, node, importer.value(node, tensor), item, wide)
        names.append(importer.permuted(node, value, last))
    return importer.emit(g.Concat(importer.name_for(node, "stack"), tuple(names)), last)


def pad(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """Zeros, or the image's own entries: constant, reflect, replicate, circular."""
    mode = a.get("mode", "constant") or "constant"
    if mode == "constant" and a.get("value") not in (None, 0):
        refuse(node, f"it pads with {a['value']}", "pad with zeros")
    operand: Any = node.args[0]
    value, item = importer.value(node, operand), item_of(operand)
    borders = [int(size) for size in a["pad" if "pad" in a else "padding"]]
    for i in range(0, len(borders), 2):
        before, after = borders[i : i + 2]
        axis = len(item) - 1 - i // 2
        if axis < 0:
            refuse(node, "it pads the batch", "pad the axes of an item")
        if (before, after) != (0, 0):
            places = range(-before, item[axis] + after)
            indices = [_bordered(place, item[axis], mode) for place in places]
            value = taken(importer, node, value, axis, indices)
    return value


def reflection(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """A border of the image's own entries, mirrored."""
    return pad(importer, node, {**a, "mode": "reflect"})


def replication(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """A border that repeats the edge."""
    return pad(importer, node, {**a, "mode": "replicate"})


def _bordered(place: int, size: int, mode: str) -> int:
    if 0 <= place < size:
        return place
    match mode:
        case "reflect":
            return -place if place < 0 else 2 * (size - 1) - place
        case "replicate":
            return min(max(place, 0), size - 1)
        case "circular":
            return place % size
        case _:
            return -1


def pixel_shuffle(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """Channels become pixels."""
    r = int(a["upscale_factor"])
    (c, h, w), value = item_of(a["self"]), importer.value(node, a["self"])
    small = c // (r * r)
    split = reshaped(importer, node, value, (c, h, w), (small, r, r, h, w))
    # torch's axes (c, i, j, h, w) in the order (c, h, i, w, j)
    moved = Traced(split.record, tuple((0, 2, 4, 1, 3)[axis] for axis in split.order))
    return reshaped(importer, node, moved, (small, h, r, w, r), (small, h * r, w * r))


def pixel_unshuffle(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """Pixels become channels."""
    r = int(a["downscale_factor"])
    (c, h, w), value = item_of(a["self"]), importer.value(node, a["self"])
    split = reshaped(importer, node, value, (c, h, w), (c, h // r, r, w // r, r))
    moved = Traced(split.record, tuple((0, 3, 1, 4, 2)[axis] for axis in split.order))
    return reshaped(importer, node, moved, (c, r, r, h // r, w // r), item_of(node))


def channel_shuffle(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """Channels of all groups in turn."""
    channels = item_of(a["self"])[0]
    width = channels // int(a["groups"])
    indices = [i % int(a["groups"]) * width + i // int(a["groups"]) for i in range(channels)]
    return taken(importer, node, importer.value(node, a["self"]), 0, indices)


def resampled(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """Nearest and bilinear upsampling, and averages over windows of any sizes, axis by axis.

    The weights are read off torch's own operator: it is asked about one line of unit images.
    """
    operand: Any = node.args[0]
    value = importer.value(node, operand)
    before = item_of(operand)[1:]
    for axis, old in enumerate(before):
        matrix = _line(node, a, before, axis)
        rows = [[int(i) for i in np.flatnonzero(row)] for row in matrix]
        if matrix.shape == (old, old) and np.array_equal(matrix, np.eye(old)):
            continue
        if all(len(row) == 1 and matrix[i, row[0]] == 1 for i, row in enumerate(rows)):
            value = taken(importer, node, value, axis + 1, [row[0] for row in rows])
            continue
        weights = tuple(tuple(float(matrix[i, t]) for t in row) for i, row in enumerate(rows))
        name, place = importer.name_for(node, "mix"), value.order.index(axis + 1)
        taps = tuple(map(tuple, rows))
        value = importer.emit(g.Mix(name, (value.record,), place, taps, weights), value.order)
    return value


def _line(node: fx.Node, a: Arguments, size: Shape, axis: int) -> np.ndarray[Any, Any]:
    """The (new, old) matrix of a separable operator along one axis, the others held constant."""
    units = torch.eye(size[axis], dtype=torch.float64)
    shape = [size[axis] if i == axis else 1 for i in range(len(size))]
    images = torch.stack([unit.reshape(shape).expand(size) for unit in units])[:, None]
    operator: Any = node.target
    names = [argument.name for argument in operator._schema.arguments]
    out = operator(*(images if i == 0 else a[name] for i, name in enumerate(names)))
    middle = [slice(None) if i == axis else out.shape[2 + i] // 2 for i in range(len(size))]
    found = out[(slice(None), 0, *middle)].T.numpy()
    # Weights are single-precision numbers in some operators; sums of them are one all the same.
    return np.asarray(np.where(np.abs(found) < 1e-9, 0.0, found))
