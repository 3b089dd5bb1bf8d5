"""A step of a program: one layer's work, as `cost`, `deal`, `run` and `plain`.

The dealer and the two servers walk the same list of steps. `plain` computes the same
in the clear: the mode `fixed` walks it, and tests compare `run` with it.
"""

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from gpumpc.cost import Cost
from gpumpc.offline.deal_batch import Dealing
from gpumpc.ring.backend import Backend, Words
from gpumpc.session import PartyRandomness, Session

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True, repr=False)
class Clear:
    """A backend, and the integer weights by layer: all that `plain` may use."""

    backend: Backend
    weights: Mapping[str, tuple[Words, Words]]


@dataclasses.dataclass(frozen=True)
class Step(abc.ABC):
    """One entry of a program.

    Attributes:
        name: unique in the program; a part of the name of every seed of the step.
        inputs, output: names of the values it reads and of the one it makes.
        shape: shape of its first input, batch first.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    shape: Shape

    @property
    def n(self) -> int:
        """Elements of the first input."""
        return math.prod(self.shape)

    @property
    def cost(self) -> Cost:
        """Rounds and bytes of `run`, and the correction bytes of `deal`."""
        return Cost()

    @property
    def dealer_bytes(self) -> int:
        """Correction bytes of `deal`."""
        return self.cost.dealer_bytes

    def deal(self, dealing: Dealing, *masks: Words) -> Words | None:
        """The dealer's side. Returns the mask of an opening, None for other steps.

        `masks` are those of the inputs, in order.
        """
        return None

    @property
    def prepared_bytes(self) -> int:
        """Memory that the words of `prepare` take until `run`."""
        return 0

    def prepare(self, draws: PartyRandomness, *masks: Words) -> Words | None:
        """Compute the part of `run` that depends on no input and no message.

        A step with `prepared_bytes` finds it by `Session.ahead`, under its name; `masks` are as for
        `deal`.
        """
        return None

    @abc.abstractmethod
    def run(self, session: Session, *values: Any) -> Any:
        """One server's side, in lock step with the other's."""

    @abc.abstractmethod
    def plain(self, clear: Clear, *values: Any) -> Words:
        """The same in the clear, on signed words modulo 2^64."""
