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
    """Weight (kh, kw, Cin / groups, Cout), bias (Cout,)."""

    kernel: Pair
    out_channels: Size
    stride: Pair = (1, 1)
    padding: Padding = (0, 0, 0, 0)
    groups: Size = 1


class Linear(Layer, frozen=True):
    """Weight (in, out), bias (out,)."""

    out_features: Size


class ReLU(Layer, frozen=True):
    """max(x, 0)."""


class Clamp(Layer, frozen=True):
    """min(max(x, 0), high): ReLU6 has high = 6."""

    high: float


class MaxPool(Layer, frozen=True):
    """Maximum over a window; padding never wins."""

    window: Pair
    stride: Pair
    padding: Padding = (0, 0, 0, 0)


class AvgPool(Layer, frozen=True):
    """Mean over a window, no padding."""

    window: Pair
    stride: Pair


class Add(Layer, frozen=True):
    """Sum of two values of one shape."""


class Concat(Layer, frozen=True):
    """Joined along the channel axis."""


class Flatten(Layer, frozen=True):
    """(H, W, C) -> (H*W*C,), in this memory order."""


class Argmax(Layer, frozen=True):
    """Index of the largest entry of a vector, the lowest index on ties: shape ()."""


class TopK(Layer, frozen=True):
    """Indices (k,) of the k largest entries, largest first, the lowest index on ties."""

    k: Size


Product = Conv2d | Linear
Selection = Argmax | TopK
AnyLayer = Input | Product | ReLU | Clamp | MaxPool | AvgPool | Add | Concat | Flatten | Selection


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
                depth = shapes[layer.inputs[0]][2] // layer.groups
                weights[f"{layer.name}.weight"] = (*layer.kernel, depth, layer.out_channels)
                weights[f"{layer.name}.bias"] = (layer.out_channels,)
            elif isinstance(layer, Linear):
                weights[f"{layer.name}.weight"] = (shapes[layer.inputs[0]][0], layer.out_features)
                weights[f"{layer.name}.bias"] = (layer.out_features,)
        return weights


def window_count(size: int, window: int, stride: int, before: int, after: int) -> int:
    """How many windows fit along an axis."""
    return (size + before + after - window) // stride + 1


def _window_shape(shape: Shape, window: Pair, stride: Pair, padding: Padding) -> Pair:
    top, bottom, left, right = padding
    return (
        window_count(shape[0], window[0], stride[0], top, bottom),
        window_count(shape[1], window[1], stride[1], left, right),
    )


def output_shape(layer: AnyLayer, inputs: list[Shape]) -> Shape:
    """Shape of one item of a layer's value. Raises PlanError where its inputs' shapes misfit."""
    _check_inputs(layer, inputs)
    shape = _output_shape(layer, inputs)
    if any(size < 1 for size in shape):
        raise PlanError(
            f"layer '{layer.name}' has no output: its input {inputs[0]} is smaller than its window",
            "the network shrinks the image to nothing",
            "compile the model for a larger image",
        )
    return shape


def _check_inputs(layer: AnyLayer, inputs: list[Shape]) -> None:
    """Raises PlanError for inputs of the wrong number, rank or channels."""
    count = {"Input": 0, "Add": 2, "Concat": max(1, len(inputs))}.get(type(layer).__name__, 1)
    ranks = {Conv2d: 3, MaxPool: 3, AvgPool: 3, Flatten: 3, Linear: 1, Argmax: 1, TopK: 1}
    rank = ranks.get(type(layer))
    fits = len(inputs) == count and all(rank in (None, len(shape)) for shape in inputs)
    if isinstance(layer, Conv2d) and fits:
        fits = inputs[0][2] % layer.groups == 0 and layer.out_channels % layer.groups == 0
    if isinstance(layer, TopK) and fits:
        fits = layer.k <= inputs[0][0]
    if isinstance(layer, Concat) and fits:
        fits = len({shape[:-1] for shape in inputs}) == 1
    if not fits:
        raise PlanError(
            f"layer '{layer.name}' ({type(layer).__name__}) cannot take inputs of shapes {inputs}",
            "their number, rank or channel count is not what this kind of layer needs",
            "compile the model again, from a model that runs on the example",
        )


def _check_padding(layer: MaxPool) -> None:
    top, bottom, left, right = layer.padding
    if max(top, bottom) >= layer.window[0] or max(left, right) >= layer.window[1]:
        raise PlanError(
            f"max-pool '{layer.name}' pads {layer.padding} around windows of {layer.window}",
            "a window would lie in the padding alone and have no maximum",
            "pad by less than the window",
        )


def _output_shape(layer: AnyLayer, inputs: list[Shape]) -> Shape:
    match layer:
        case Input():
            return layer.shape
        case Conv2d():
            size = _window_shape(inputs[0], layer.kernel, layer.stride, layer.padding)
            return (*size, layer.out_channels)
        case MaxPool():
            _check_padding(layer)
            size = _window_shape(inputs[0], layer.window, layer.stride, layer.padding)
            return (*size, inputs[0][2])
        case AvgPool():
            size = _window_shape(inputs[0], layer.window, layer.stride, (0, 0, 0, 0))
            return (*size, inputs[0][2])
        case Linear():
            return (layer.out_features,)
        case Flatten():
            return (math.prod(inputs[0]),)
        case Concat():
            return (*inputs[0][:-1], sum(shape[-1] for shape in inputs))
        case Argmax():
            return ()
        case TopK():
            return (layer.k,)
        case Add():
            if inputs[0] != inputs[1]:
                raise PlanError(
                    f"layer '{layer.name}' adds {inputs[0]} to {inputs[1]}",
                    "the shapes differ, and nothing is broadcast",
                    "give both operands one shape",
                )
            return inputs[0]
        case _:
            return inputs[0]
