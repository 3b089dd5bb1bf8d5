"""The few layer records a network is made of, with shapes. Channels last, everywhere.

A graph is a tuple of records in evaluation order. A record names its inputs by the names of earlier
records; its own value has its own name. The weights are a dict of float64 arrays:
`NAME.weight`, `NAME.bias`.

Shapes are those of one item: (H, W, C) for images, (C,) for vectors; the batch axis comes first in
every array.
"""

import math
from typing import Annotated

import msgspec

from gpumpc.errors import PlanError

Size = Annotated[int, msgspec.Meta(ge=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Shape = tuple[Size, ...]
Pair = tuple[Size, Size]
Padding = tuple[Count, Count, Count, Count]  # top, bottom, left, right


class Layer(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Common to all records: the value's name and the names of its inputs."""

    name: str
    inputs: tuple[str, ...]


class Input(Layer, frozen=True):
    """The owner's input. Every real value must lie in [low, high].

    It is shared modulo 2^k at scale 2^f or, where these fields say so, modulo 2^bits at scale
    2^frac * divisor, as another plan's results are stored.
    """

    shape: Shape
    low: float
    high: float
    bits: Annotated[int, msgspec.Meta(ge=2, le=62)] | None = None
    frac: Annotated[int, msgspec.Meta(ge=0, le=61)] | None = None
    divisor: Size = 1


class Conv2d(Layer, frozen=True):
    """On the last three axes (H, W, C). Weight (kh, kw, Cin / groups, Cout), bias (Cout,)."""

    kernel: Pair
    out_channels: Size
    stride: Pair = (1, 1)
    padding: Padding = (0, 0, 0, 0)
    groups: Size = 1


class Linear(Layer, frozen=True):
    """On the last axis. Weight (in, out), bias (out,)."""

    out_features: Size


class ReLU(Layer, frozen=True):
    """max(x, 0)."""


class Clamp(Layer, frozen=True):
    """min(max(x, 0), high): ReLU6 has high = 6."""

    high: float


class Function(Layer, frozen=True):
    """A function of one number, as a piecewise polynomial with integer coefficients.

    Attributes:
        kind, parameter: the real function, see `gpumpc.nn.functions`.
        frac: fraction bits of the argument.
        out_frac: fraction bits of the polynomials' values.
        thresholds: where segments begin, at scale 2^frac; the first begins at minus infinity.
        segments: coefficients of 1, x, x^2, .. of each, x at scale 2^frac, all of one degree.
    """

    kind: str
    parameter: float
    frac: Count
    out_frac: Count
    thresholds: tuple[int, ...]
    segments: Annotated[tuple[tuple[int, ...], ...], msgspec.Meta(min_length=1)]


class MaxPool(Layer, frozen=True):
    """Maximum over a window of (.., H, W, C); padding never wins."""

    window: Pair
    stride: Pair
    padding: Padding = (0, 0, 0, 0)


class AvgPool(Layer, frozen=True):
    """Mean over a window of (.., H, W, C), no padding."""

    window: Pair
    stride: Pair


class Add(Layer, frozen=True):
    """Sum of two values of one shape."""


class Concat(Layer, frozen=True):
    """Joined along the channel axis."""


class Flatten(Layer, frozen=True):
    """(H, W, C) -> (H*W*C,), in this memory order."""


class Reshape(Layer, frozen=True):
    """The same entries in the same order, under another shape."""

    shape: Shape


class Permute(Layer, frozen=True):
    """Axes in another order: axis j of the result is axis `axes[j]` of the input."""

    axes: tuple[Count, ...]


class Take(Layer, frozen=True):
    """Entries along one axis, by number; -1 stands for an entry of zeros.

    Slices, crops, borders, repeats, flips and nearest-neighbour upsampling are all of this kind.
    """

    axis: Count
    indices: Annotated[tuple[Annotated[int, msgspec.Meta(ge=-1)], ...], msgspec.Meta(min_length=1)]


class Mix(Layer, frozen=True):
    """Public weighted sums along one axis: entry i is sum_t weights[i][t] x[taps[i][t]].

    Bilinear upsampling, and averages over windows of several sizes.
    """

    axis: Count
    taps: Annotated[tuple[tuple[Count, ...], ...], msgspec.Meta(min_length=1)]
    weights: tuple[tuple[float, ...], ...]


class Scale(Layer, frozen=True):
    """factor x + offset, two public numbers."""

    factor: float
    offset: float = 0.0


class Multiply(Layer, frozen=True):
    """Product, entry by entry, of two values; the second may be repeated along axes of size 1."""


class Argmax(Layer, frozen=True):
    """Index of the largest entry of a vector, the lowest index on ties: shape ()."""


class TopK(Layer, frozen=True):
    """Indices (k,) of the k largest entries, largest first, the lowest index on ties."""

    k: Size


class MatMul(Layer, frozen=True):
    """(.., M, K) times (.., K, N), both shared, matrix by matrix."""


Product = Conv2d | Linear
Selection = Argmax | TopK
# They move entries, and change none.
Arrangement = Flatten | Reshape | Permute | Take
Joint = Add | Concat | Multiply | MatMul
Pool = MaxPool | AvgPool
AnyLayer = (
    Input | Product | ReLU | Clamp | Function | Pool | Joint | Arrangement | Mix | Scale | Selection
)


class Graph(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Records in evaluation order; the last one is the output."""

    layers: Annotated[tuple[AnyLayer, ...], msgspec.Meta(min_length=1)]

    @property
    def input(self) -> Input:
        """The only input, always the first record."""
        first = self.layers[0]
        if not isinstance(first, Input):
            what = "the graph does not begin with an Input record"
            raise PlanError(what, hint="compile the model again")
        return first

    @property
    def output(self) -> AnyLayer:
        """The record whose value is the result."""
        return self.layers[-1]

    def shapes(self) -> dict[str, Shape]:
        """Shape of every value, by name, for one item. Raises PlanError where they do not fit."""
        shapes: dict[str, Shape] = {}
        for layer in self.layers:
            if layer.name in shapes:
                hint = "give each a name of its own"
                raise PlanError(f"two layers are called '{layer.name}'", hint=hint)
            if "/" in layer.name:
                why = "names with a slash belong to the program's own values"
                raise PlanError(f"a layer is called '{layer.name}'", why, "rename the layer")
            missing = [name for name in layer.inputs if name not in shapes]
            if missing:
                raise PlanError(
                    f"layer '{layer.name}' uses '{missing[0]}' before it is made",
                    "the records are not in evaluation order",
                    "compile the model again",
                )
            shapes[layer.name] = output_shape(layer, [shapes[name] for name in layer.inputs])
        return shapes

    def weight_shapes(self) -> dict[str, Shape]:
        """Shape of every weight array the records name, by name. Raises PlanError as `shapes`."""
        shapes, weights = self.shapes(), dict[str, Shape]()
        for layer in self.layers:
            if isinstance(layer, Conv2d):
                depth = shapes[layer.inputs[0]][-1] // layer.groups
                weights[f"{layer.name}.weight"] = (*layer.kernel, depth, layer.out_channels)
                weights[f"{layer.name}.bias"] = (layer.out_channels,)
            elif isinstance(layer, Linear):
                weights[f"{layer.name}.weight"] = (shapes[layer.inputs[0]][-1], layer.out_features)
                weights[f"{layer.name}.bias"] = (layer.out_features,)
        return weights


def window_count(size: int, window: int, stride: int, before: int, after: int) -> int:
    """How many windows fit along an axis."""
    return (size + before + after - window) // stride + 1


def _window_shape(shape: Shape, window: Pair, stride: Pair, padding: Padding) -> Shape:
    """Leading axes, and rows and columns of windows, of (.., H, W, C)."""
    top, bottom, left, right = padding
    return (
        *shape[:-3],
        window_count(shape[-3], window[0], stride[0], top, bottom),
        window_count(shape[-2], window[1], stride[1], left, right),
    )


def output_shape(layer: AnyLayer, inputs: list[Shape]) -> Shape:
    """Shape of one item of a layer's value. Raises PlanError where its inputs' shapes misfit."""
    if not _takes(layer, inputs):
        raise PlanError(
            f"layer '{layer.name}' ({type(layer).__name__}) cannot take inputs of shapes {inputs}",
            "their number, rank or sizes are not what this kind of layer needs",
            "compile the model again, from a model that runs on the example",
        )
    shape = _output_shape(layer, inputs)
    if any(size < 1 for size in shape):
        raise PlanError(
            f"layer '{layer.name}' has no output: its input {inputs[0]} is smaller than its window",
            "the network shrinks the image to nothing",
            "compile the model for a larger image",
        )
    return shape


def _takes(layer: AnyLayer, inputs: list[Shape]) -> bool:
    """Whether the inputs have the number, ranks and sizes that this kind of layer needs."""
    count = {Input: 0, Add: 2, Multiply: 2, MatMul: 2, Concat: max(1, len(inputs))}.get(
        type(layer), 1
    )
    if len(inputs) != count:
        return False
    if isinstance(layer, Input):
        return True
    [x, *others] = inputs
    match layer:
        case Conv2d():
            return len(x) >= 3 and x[-1] % layer.groups == layer.out_channels % layer.groups == 0
        case MaxPool() | AvgPool():
            return len(x) >= 3
        case Flatten() | Linear():
            return len(x) >= 1
        case Argmax() | TopK():
            return len(x) == 1 and getattr(layer, "k", 1) <= x[0]
        case Concat():
            return len({shape[:-1] for shape in inputs}) == 1
        case Add():
            return True  # a sum has an error of its own
        case Multiply():
            [y] = others
            return len(x) == len(y) and all(b in (1, a) for a, b in zip(x, y, strict=True))
        case MatMul():
            [y] = others
            return len(x) == len(y) >= 2 and x[:-2] == y[:-2] and x[-1] == y[-2]
        case Reshape():
            return math.prod(layer.shape) == math.prod(x)
        case Permute():
            return sorted(layer.axes) == list(range(len(x)))
        case Take():
            return layer.axis < len(x) and max(layer.indices) < x[layer.axis]
        case Mix():
            return layer.axis < len(x) and _mixes(layer, x[layer.axis])
        case _:
            return True


def _mixes(layer: Mix, size: int) -> bool:
    """Whether every sum has as many weights as taps, and its taps lie on an axis of this size."""
    if len(layer.taps) != len(layer.weights):
        return False
    rows = zip(layer.taps, layer.weights, strict=True)
    return all(len(taps) == len(w) > 0 and max(taps) < size for taps, w in rows)


def _check_padding(layer: MaxPool) -> None:
    top, bottom, left, right = layer.padding
    if max(top, bottom) >= layer.window[0] or max(left, right) >= layer.window[1]:
        raise PlanError(
            f"max-pool '{layer.name}' pads {layer.padding} around windows of {layer.window}",
            "a window would lie in the padding alone and have no maximum",
            "pad by less than the window",
        )


def _output_shape(layer: AnyLayer, inputs: list[Shape]) -> Shape:
    if isinstance(layer, Input):
        return layer.shape
    x = inputs[0]
    match layer:
        case Conv2d():
            size = _window_shape(x, layer.kernel, layer.stride, layer.padding)
            return (*size, layer.out_channels)
        case MaxPool():
            _check_padding(layer)
            return (*_window_shape(x, layer.window, layer.stride, layer.padding), x[-1])
        case AvgPool():
            return (*_window_shape(x, layer.window, layer.stride, (0, 0, 0, 0)), x[-1])
        case Linear():
            return (*x[:-1], layer.out_features)
        case Flatten():
            return (math.prod(x),)
        case Reshape():
            return layer.shape
        case Permute():
            return tuple(x[axis] for axis in layer.axes)
        case Take():
            return (*x[: layer.axis], len(layer.indices), *x[layer.axis + 1 :])
        case Mix():
            return (*x[: layer.axis], len(layer.taps), *x[layer.axis + 1 :])
        case Concat():
            return (*x[:-1], sum(shape[-1] for shape in inputs))
        case MatMul():
            return (*x[:-1], inputs[1][-1])
        case Argmax():
            return ()
        case TopK():
            return (layer.k,)
        case Add():
            if x != inputs[1]:
                raise PlanError(
                    f"layer '{layer.name}' adds {x} to {inputs[1]}",
                    "the shapes differ, and nothing is broadcast",
                    "give both operands one shape",
                )
            return x
        case _:
            return x
