"""A step: one layer's work, with `cost`, `deal`, `run` and `plain` side by side.

The dealer and the two servers walk the same list of steps. `plain` says in the clear what the step
computes; the mode `fixed` walks it, and tests compare `run` with it.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Any

from gpumpc.cost import Cost
from gpumpc.offline.deal_batch import Dealing
from gpumpc.ring.backend import Backend, Words
from gpumpc.session import PartyRandomness, Session

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True, repr=False)
class Clear:
    """What `plain` may use: a backend, and the integer weights by layer."""

    backend: Backend
    weights: dict[str, tuple[Words, Words]]


@dataclasses.dataclass(frozen=True)
class Step(abc.ABC):
    """One entry of a program.

    Attributes:
        name: unique in the program; every seed name of the step hangs below it.
        inputs, output: names of the values it reads and makes.
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

    def deal(self, dealing: Dealing, *masks: Any) -> Any:
        """The dealer's side. What is returned reaches the `deal` of steps that read `output`."""
        return None

    @property
    def prepared_bytes(self) -> int:
        """Memory of what `prepare` leaves for `run`; 0 where it leaves nothing."""
        return 0

    def prepare(self, draws: PartyRandomness, *masks: Any) -> Any:
        """What of `run` depends on no input and no message, computed before.

        A step with `ahead_bytes` finds it by `Session.ahead`, under its name. As with `deal`, what
        is returned also reaches the `prepare` of steps that read `output`. None: nothing.
        """
        return None

    @abc.abstractmethod
    def run(self, session: Session, *values: Any) -> Any:
        """One server's side, in lock step with the other's."""

    @abc.abstractmethod
    def plain(self, clear: Clear, *values: Any) -> Words:
        """The same in the clear, on signed words modulo 2^64."""
