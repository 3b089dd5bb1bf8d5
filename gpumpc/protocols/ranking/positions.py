"""Steps, nothing sent, from a selection of the smallest keys to indices of the largest values."""

import dataclasses

from gpumpc.protocols.step import Clear, Step
from gpumpc.ring.backend import Words
from gpumpc.session import Session
from gpumpc.shares import Additive


@dataclasses.dataclass(frozen=True)
class Negate(Step):
    """-x modulo 2^bits: the largest becomes the smallest."""

    bits: int

    def run(self, session: Session, x: Additive) -> Additive:
        backend = session.backend
        x = x.at_bits(backend, self.bits)
        return x.with_words(backend.scale(x.words, -1, self.bits))

    def plain(self, clear: Clear, x: Words) -> Words:
        return clear.backend.scale(x, -1, 64)


@dataclasses.dataclass(frozen=True)
class Positions(Step):
    """The positions in keys value * 2^id_bits + position: a share modulo a smaller power of two is
    free and exact.

    **Hides** the values: the sum of the two shares is a position alone.
    """

    id_bits: int

    def run(self, session: Session, keys: Additive) -> Additive:
        return keys.at_bits(session.backend, self.id_bits)

    def plain(self, clear: Clear, keys: Words) -> Words:
        return clear.backend.reduce(keys, self.id_bits)
