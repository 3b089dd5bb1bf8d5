"""Maxima, averages and sums over windows and over whole axes; the largest class."""

import math
from typing import Any

from torch import fx

from gpumpc.nn import graph as g
from gpumpc.nn.from_torch.importer import Importer, Traced, channels_last
from gpumpc.nn.from_torch.nodes import Arguments, item_axis, item_of, many, refuse
from gpumpc.nn.from_torch.operators.arithmetic import scaled
from gpumpc.nn.from_torch.operators.arrangement import resampled, reshaped, taken
from gpumpc.nn.graph import Pair, Shape


def max_pool(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """In one, two or three dimensions; the last windows may reach over the edge."""
    operand: Any = node.args[0]
    size, out = item_of(operand)[1:], item_of(node)[1:]
    axes = len(size)
    window, padding, dilation = (
        many(a[key], axes) for key in ("kernel_size", "padding", "dilation")
    )
    stride = many(a["stride"], axes) if a["stride"] else window
    value = importer.value(node, operand)
    form = []
    for axis in range(axes):
        step, wide, before = stride[axis], window[axis], padding[axis]
        if dilation[axis] == 1:
            after = (out[axis] - 1) * step + wide - size[axis] - before
            form.append((wide, step, before, max(0, after)))
            continue
        # A window with gaps, as one of its entries side by side; what is outside repeats an entry.
        rows = []
        for i in range(out[axis]):
            reached = [i * step + t * dilation[axis] - before for t in range(wide)]
            inside = [row for row in reached if 0 <= row < size[axis]]
            rows += [row if row in inside else inside[0] for row in reached]
        value = taken(importer, node, value, axis + 1, rows)
        form.append((wide, wide, 0, 0))
    return windows(importer, node, value, form, "max")


def avg_pool(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """In one, two or three dimensions."""
    operand: Any = node.args[0]
    size, out = item_of(operand)[1:], item_of(node)[1:]
    axes = len(size)
    window, padding = many(a["kernel_size"], axes), many(a["padding"], axes)
    stride = many(a["stride"], axes) if a["stride"] else window
    value = importer.value(node, operand)
    inside = all(
        (o - 1) * s + w <= n + 2 * p
        for o, s, w, n, p in zip(out, stride, window, size, padding, strict=True)
    )
    divisor = a.get("divisor_override")
    if not inside or (any(padding) and not a["count_include_pad"]):
        if divisor:
            refuse(node, "it divides windows at the edge by a number of its own", "use padding 0")
        return resampled(importer, node, a)
    for axis, border in enumerate(padding):
        if border:
            rows = [-1] * border + list(range(size[axis])) + [-1] * border
            value = taken(importer, node, value, axis + 1, rows)
    form = [(w, s, 0, 0) for w, s in zip(window, stride, strict=True)]
    pooled = windows(importer, node, value, form, "avg")
    factor = math.prod(window) / divisor if divisor else 1.0
    return scaled(importer, node, pooled, factor)


def windows(
    importer: Importer,
    node: fx.Node,
    value: Traced,
    form: list[tuple[int, int, int, int]],
    kind: str,
) -> Traced:
    """Pooling of all axes behind the channels, by (window, stride, before, after) of each."""
    axes = len(form)
    order = channels_last(axes + 1)
    record = importer.permuted(node, value, order)
    if axes == 1:
        form = [(1, 1, 0, 0), *form]
        record = importer.reshaped(node, record, (1, *importer.shapes[record]))
    if len(form) == 2:
        record = _pooled(importer, node, record, form, kind)
    else:
        # First the planes of a volume, then along its depth: (D, H, W, C) as rows of D, (H W).
        record = _pooled(importer, node, record, form[1:], kind)
        d, h, w, c = importer.shapes[record]
        flat = importer.reshaped(node, record, (d, h * w, c))
        flat = _pooled(importer, node, flat, [form[0], (1, 1, 0, 0)], kind)
        record = importer.reshaped(node, flat, (importer.shapes[flat][0], h, w, c))
    if axes == 1:
        record = importer.reshaped(node, record, importer.shapes[record][1:])
    return Traced(record, order)


def _pooled(
    importer: Importer, node: fx.Node, record: str, form: list[tuple[int, int, int, int]], kind: str
) -> str:
    """(.., H, W, C) pooled over rows and columns."""
    (tall, down, top, bottom), (wide, right_step, left, right) = form
    window, stride = (tall, wide), (down, right_step)
    if window == stride == (1, 1):
        return record
    name = importer.name_for(node, f"{kind}_pool")
    if kind == "avg":
        return importer.emit(g.AvgPool(name, (record,), window, stride), ()).record
    padding = top, bottom, left, right
    return importer.emit(g.MaxPool(name, (record,), window, stride, padding), ()).record


def adaptive_max_pool(importer: Importer, node: fx.Node, a: Arguments) -> tuple[Traced, ...]:
    """Windows of several sizes, each filled up with entries of its own."""
    size, out = item_of(a["self"])[1:], node.meta["val"][0].shape[2:]
    value, form = importer.value(node, a["self"]), []
    for axis, (n, count) in enumerate(zip(size, map(int, out), strict=True)):
        spans = [(i * n // count, -(-(i + 1) * n // count)) for i in range(count)]
        wide = max(stop - start for start, stop in spans)
        rows = [min(start + t, stop - 1) for start, stop in spans for t in range(wide)]
        value = taken(importer, node, value, axis + 1, rows)
        form.append((wide, wide, 0, 0))
    return (windows(importer, node, value, form, "max"),)


def adaptive_avg_pool(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """Averages over as many windows as asked for."""
    size, out = item_of(a["self"])[1:], item_of(node)[1:]
    if any(n % count for n, count in zip(size, out, strict=True)):
        return resampled(importer, node, a)
    form = [(n // count, n // count, 0, 0) for n, count in zip(size, out, strict=True)]
    return windows(importer, node, importer.value(node, a["self"]), form, "avg")


def mean(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """Averages over whole axes."""
    return _over_axes(importer, node, a, "avg")


def total(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """sum: the mean times how many there are."""
    found = _over_axes(importer, node, a, "avg")
    return scaled(importer, node, found, math.prod(item_of(a["self"])) / math.prod(item_of(node)))


def amax(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """Maxima over whole axes."""
    return _over_axes(importer, node, a, "max")


def amin(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """-max(-x)."""
    negated = scaled(importer, node, importer.value(node, a["self"]), -1.0)
    found = _over_axes(importer, node, a, "max", negated)
    return scaled(importer, node, found, -1.0)


def max_dim(importer: Importer, node: fx.Node, a: Arguments) -> tuple[Traced, ...]:
    """The values alone; who reads the indices is refused."""
    return (_over_axes(importer, node, {**a, "dim": [a["dim"]]}, "max"),)


def _over_axes(
    importer: Importer, node: fx.Node, a: Arguments, kind: str, value: Traced | None = None
) -> Traced:
    dims = a.get("dim")
    if dims is None or dims == []:
        refuse(node, "it reduces the batch too", "name the axes, without the first")
    dims = [dims] if isinstance(dims, int) else dims
    gone = sorted(item_axis(node, a["self"], dim) for dim in dims)
    item, value = item_of(a["self"]), value or importer.value(node, a["self"])
    found = over_axes(importer, node, value, item, gone, kind)
    if a.get("keepdim"):
        return found
    left = tuple(size for axis, size in enumerate(item) if axis not in gone)
    if not left:
        refuse(node, "it reduces an item to one number", "keep one axis: keepdim=True")
    kept = tuple(1 if axis in gone else size for axis, size in enumerate(item))
    return reshaped(importer, node, found, kept, left)


def over_axes(
    importer: Importer, node: fx.Node, value: Traced, item: Shape, gone: list[int], kind: str
) -> Traced:
    """Pooling over whole axes of torch's item, which are left with size 1.

    They are put first, as the rows of an image of one column; those of an image stay.
    """
    whole = len(item) == 3 and gone == [1, 2]
    kept = [axis for axis in value.order if axis not in gone]
    order = channels_last(3) if whole else (*gone, *kept)
    record = importer.permuted(node, value, order)
    rows = math.prod(item[axis] for axis in gone)
    size: Pair = (item[1], item[2]) if whole else (rows, 1)
    shape = (*size, math.prod(item) // rows)
    if importer.shapes[record] != shape:
        record = importer.reshaped(node, record, shape)
    form = [(size[0], size[0], 0, 0), (size[1], size[1], 0, 0)]
    record = _pooled(importer, node, record, form, kind)
    left = tuple(1 if axis in gone else item[axis] for axis in order)
    if importer.shapes[record] != left:
        record = importer.reshaped(node, record, left)
    return Traced(record, order)


def argmax(importer: Importer, node: fx.Node, a: Arguments) -> Traced:
    """The index of the largest class."""
    item, dim = item_of(a["self"]), a["dim"]
    if len(item) != 1 or dim is None or int(dim) % 2 != 1 or a["keepdim"]:
        why = "it is not taken over the classes of (batch, classes)"
        refuse(node, why, "use argmax(-1) on a linear layer")
    record = importer.value(node, a["self"]).record
    return importer.emit(g.Argmax(importer.name_for(node, "argmax"), (record,)), ())
