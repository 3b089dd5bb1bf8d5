"""A program: the list of steps that the dealer and both servers walk.

Nothing here depends on weights or data: it is the same at every party.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeVar

import msgspec

from gpumpc.cost import Cost
from gpumpc.errors import BadShape, FracMismatch
from gpumpc.params import Params
from gpumpc.protocols.ranking.argmax import Argmax
from gpumpc.protocols.ranking.positions import Positions
from gpumpc.protocols.ranking.topk import TopK
from gpumpc.protocols.step import Clear, Shape, Step
from gpumpc.ring.backend import Words
from gpumpc.session import PartyRandomness, Session
from gpumpc.shares import Additive


class Width(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How wide a layer computes.

    Attributes:
        ring_bits: of a product; of a comparing layer, the least bits of its input.
        weight_frac: fraction bits of a product's weights.
    """

    ring_bits: Annotated[int, msgspec.Meta(ge=1, le=62)]
    weight_frac: Annotated[int, msgspec.Meta(ge=0, le=61)]


Widths = Mapping[str, Width]
T = TypeVar("T")

# Part of the program id: raise it whenever two versions would not understand each other's bytes.
PROTOCOL_VERSION = 2


@dataclasses.dataclass(frozen=True)
class Value:
    """A value as it is known before any run: shape with the batch, bits, scale 2^frac * divisor."""

    shape: Shape
    bits: int
    frac: int
    divisor: int = 1

    @property
    def scale(self) -> float:
        """Ring units per real unit."""
        return float(2**self.frac * self.divisor)


@dataclasses.dataclass(frozen=True)
class WeightSpec:
    """A layer's weights as ring elements: each times its scale, rounded, modulo 2^bits."""

    shape: Shape
    bias_shape: Shape
    bits: int
    weight_scale: float
    bias_scale: float


@dataclasses.dataclass(frozen=True)
class Program:
    """Steps in order, their inputs, their result and the weights they need."""

    steps: tuple[Step, ...]
    inputs: dict[str, Value]
    output: str
    result: Value
    weights: dict[str, WeightSpec]
    params: Params

    @property
    def cost(self) -> Cost:
        """Declared cost of one run."""
        return sum((step.cost for step in self.steps), Cost())

    @property
    def result_is_index(self) -> bool:
        """Whether the result counts classes: an unsigned integer, not a fixed-point number."""
        last = (step for step in self.steps if step.output == self.output)
        return any(isinstance(step, (Argmax, Positions)) for step in last)

    @property
    def may_repeat(self) -> bool:
        """Whether a selection may fail, so that a batch is run again under the next number."""
        return any(isinstance(step, TopK) for step in self.steps)

    @property
    def digest(self) -> bytes:
        """32 bytes that differ whenever two programs do: every field of every step is in it."""
        fields = (self.steps, self.inputs, self.output, self.result, self.weights, self.params)
        return hashlib.sha256(repr((PROTOCOL_VERSION, *fields)).encode()).digest()

    @property
    def input(self) -> Value:
        """The only input, for programs that have one."""
        [value] = self.inputs.values()
        return value

    def mask_shapes(self) -> dict[str, tuple[Shape, int]]:
        """(shape, bits) of every static weight mask; none where weights are public."""
        if self.params.weights == "public":
            return {}
        return {layer: (spec.shape, spec.bits) for layer, spec in self.weights.items()}

    def run(self, session: Session, *shares: Additive) -> Additive:
        """One server's evaluation.

        Raises BadShape, FracMismatch where a share does not fit the program's input.
        """
        for share, (name, value) in zip(shares, self.inputs.items(), strict=True):
            if (shape := tuple(share.words.shape)) != value.shape:
                raise BadShape(f"input '{name}' has shape {shape}, the program wants {value.shape}")
            if (share.frac, share.divisor) != (value.frac, value.divisor):
                raise FracMismatch(
                    f"input '{name}' has scale 2^{share.frac} * {share.divisor}",
                    f"the program wants 2^{value.frac} * {value.divisor}",
                    "encode the input for this plan",
                )
        values = dict(zip(self.inputs, shares, strict=True))
        for step in self._walk(values):
            session.at(step.name)
            values[step.output] = step.run(session, *(values[name] for name in step.inputs))
        session.finish(self.cost)
        return values[self.output]

    @property
    def prepared_bytes(self) -> int:
        """Memory that all words of `prepare` take."""
        return sum(step.prepared_bytes for step in self.steps)

    def prepare(self, draws: PartyRandomness) -> Iterator[tuple[str, Words]]:
        """The work that a server can do before it has an input: (step, words), in program order."""
        values: dict[str, Any] = dict.fromkeys(self.inputs)
        for step in self._walk(values):
            draws.at(step.name)
            values[step.output] = step.prepare(draws, *(values[name] for name in step.inputs))
            if step.prepared_bytes:
                yield step.name, values[step.output]

    def plain(self, clear: Clear, *inputs: Words, trace: dict[str, Words] | None = None) -> Words:
        """The same in the clear, on signed words; `trace` receives every value by name."""
        values = dict(zip(self.inputs, inputs, strict=True))
        for step in self._walk(values):
            values[step.output] = step.plain(clear, *(values[name] for name in step.inputs))
            if trace is not None:
                trace[step.output] = values[step.output]
        return values[self.output]

    def _walk(self, values: dict[str, T]) -> Iterator[Step]:
        """The steps in order; a value is dropped after the last step that reads it."""
        last_use = {name: i for i, step in enumerate(self.steps) for name in step.inputs}
        for i, step in enumerate(self.steps):
            yield step
            for name in set(step.inputs):
                if last_use[name] == i and name != self.output:
                    del values[name]
