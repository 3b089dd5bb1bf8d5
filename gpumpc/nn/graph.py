"""The few layer records a network is made of, with shapes. Channels last, everywhere.

A graph is a tuple of records in evaluation order. A record names its inputs by the names of earlier records; its own
value has its own name. Weights stand beside the graph in a dict of float64 arrays: `NAME.weight`, `NAME.bias`.

Shapes are those of one item: (H, W, C) for images, (C,) for vectors; the batch axis comes first in every array.
"""

from __future__ import annotations

import math
from typing import Union

import msgspec

from gpumpc.errors import PlanError

Shape = tuple[int, ...]
Pair = tuple[int, int]
Padding = tuple[int, int, int, int]  # top, bottom, left, right


class Layer(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Common to all records: the value's name and the names of what it is computed from."""

    name: str
    inputs: tuple[str, ...]


class Input(Layer, frozen=True):
    """What the owner shares. Every real value must lie in [low, high]."""

    shape: Shape
    low: float
    high: float


class Conv2d(Layer, frozen=True):
    """Weight (kh, kw, Cin / groups, Cout), bias (Cout,)."""

    kernel: Pair
    out_channels: int
    stride: Pair = (1, 1)
    padding: Padding = (0, 0, 0, 0)
    groups: int = 1


class Linear(Layer, frozen=True):
    """Weight (in, out), bias (out,)."""

    out_features: int


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


AnyLayer = Union[Input, Conv2d, Linear, ReLU, Clamp, MaxPool, AvgPool, Add, Concat, Flatten, Argmax]


class Graph(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Records in evaluation order; the last one is the output."""

    layers: tuple[AnyLayer, ...]

    @property
    def input(self) -> Input:
        """The only input, always the first record."""
        first = self.layers[0]
        if not isinstance(first, Input):
            raise PlanError("the graph does not begin with an Input record", "", "compile the model again")
        return first

    @property
    def output(self) -> AnyLayer:
        """The record whose value is the result."""
        return self.layers[-1]

    def shapes(self) -> dict[str, Shape]:
        """Shape of every value, by name, for one item. Raises PlanError where records do not fit."""
        shapes: dict[str, Shape] = {}
        for layer in self.layers:
            if layer.name in shapes:
                raise PlanError(f"two layers are called '{layer.name}'", "", "give each a name of its own")
            missing = [name for name in layer.inputs if name not in shapes]
            if missing:
                raise PlanError(f"layer '{layer.name}' uses '{missing[0]}' before it is made")
            shapes[layer.name] = output_shape(layer, [shapes[name] for name in layer.inputs])
        return shapes


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
    """Shape of one item of a layer's value, given its inputs' shapes."""
    shape = _output_shape(layer, inputs)
    if any(size < 1 for size in shape):
        raise PlanError(
            f"layer '{layer.name}' has no output: its input {inputs[0]} is smaller than its window",
            "the network shrinks the image to nothing",
            "compile the model for a larger image",
        )
    return shape


def _output_shape(layer: AnyLayer, inputs: list[Shape]) -> Shape:
    match layer:
        case Input():
            return layer.shape
        case Conv2d():
            return (*_window_shape(inputs[0], layer.kernel, layer.stride, layer.padding), layer.out_channels)
        case MaxPool():
            return (*_window_shape(inputs[0], layer.window, layer.stride, layer.padding), inputs[0][2])
        case AvgPool():
            return (*_window_shape(inputs[0], layer.window, layer.stride, (0, 0, 0, 0)), inputs[0][2])
        case Linear():
            return (layer.out_features,)
        case Flatten():
            return (math.prod(inputs[0]),)
        case Concat():
            return (*inputs[0][:-1], sum(shape[-1] for shape in inputs))
        case Argmax():
            return ()
        case Add():
            if inputs[0] != inputs[1]:
                raise PlanError(f"layer '{layer.name}' adds {inputs[0]} to {inputs[1]}", "shapes differ")
            return inputs[0]
        case _:
            return inputs[0]
