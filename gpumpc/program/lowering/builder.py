"""A program under construction: its steps, its values, and what every kind of layer needs."""

import dataclasses
import math
from collections.abc import Sequence

from gpumpc.nn import graph as g
from gpumpc.params import Params
from gpumpc.program.program import Value, WeightSpec
from gpumpc.protocols import local
from gpumpc.protocols.step import Step
from gpumpc.protocols.truncation import Lift, Truncate

# What a value is called as a batch of items of so many axes.
_FOLDED = {1: "rows", 2: "matrices", 3: "images"}


class Builder:
    """Steps and values so far, each with the bits that it has.

    Attributes:
        shapes: of every layer's value by name, batch first.
        needed: bits that the readers of a layer's value need of it, by name.
    """

    def __init__(self, graph: g.Graph, params: Params, batch_size: int) -> None:
        self.graph, self.params = graph, params
        self.shapes = {name: (batch_size, *shape) for name, shape in graph.shapes().items()}
        self.needed: dict[str, int] = {}
        self.steps: list[Step] = []
        self.values: dict[str, Value] = {}
        self.lifted: dict[str, str] = {}
        self.weights: dict[str, WeightSpec] = {}

    def add(self, step: Step, value: Value) -> None:
        """Append a step that makes this value."""
        self.steps.append(step)
        self.values[step.output] = value

    def at_bits(self, name: str, bits: int) -> str:
        """Name of the value with at least `bits` bits: itself, or its lift."""
        value = self.values[name]
        if value.bits >= bits:
            return name
        if name not in self.lifted:
            self.lifted[name] = f"{name}/lift"
            self.lift(name, self.lifted[name], bits)
        return self.lifted[name]

    def lift(self, name: str, target: str, bits: int) -> None:
        """A value in a larger ring."""
        value = self.values[name]
        step = Lift(target, (name,), target, value.shape, value.bits, bits)
        self.add(step, dataclasses.replace(value, bits=bits))

    def folded(self, name: str, axes: int) -> str:
        """Name of the value as a batch of items of so many axes: itself, or a reshaped one."""
        value = self.values[name]
        if len(value.shape) == axes + 1:
            return name
        target = f"{name}/{_FOLDED[axes]}"
        if target not in self.values:
            shape = (-1, *value.shape[len(value.shape) - axes :])
            self.reshape(target, name, shape)
        return target

    def reshape(self, target: str, name: str, shape: Sequence[int]) -> None:
        """A value under another shape; a first size of -1 is what the others leave."""
        value = self.values[name]
        out = tuple(shape)
        if out[0] < 0:
            out = (math.prod(value.shape) // math.prod(out[1:]), *out[1:])
        step = local.Reshape(target, (name,), target, value.shape, out)
        self.add(step, dataclasses.replace(value, shape=out))

    def truncate(self, name: str, target: str, shift: int, bits: int | None = None) -> None:
        """A value, or its low `bits`, divided by 2^shift: in as many bits less."""
        value = self.values[name]
        bits = min(bits or value.bits, value.bits)
        step = Truncate(target, (name,), target, value.shape, bits, shift)
        left = dataclasses.replace(value, bits=bits - shift, frac=value.frac - shift)
        self.add(step, left)
