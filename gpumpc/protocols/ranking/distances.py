"""Squared norms and scores of shared vectors, which a search computes before it selects."""

import dataclasses
from typing import NamedTuple

from gpumpc.cost import Cost
from gpumpc.offline.deal_batch import Dealing
from gpumpc.protocols.step import Clear, Step
from gpumpc.ring.backend import Words, packed_bytes
from gpumpc.session import Session
from gpumpc.shares import Additive, Masked


@dataclasses.dataclass(frozen=True)
class SquaredNorm(Step):
    """|x|^2 of each row of an opened operand.

    **Computes** sum_j x_ij^2 of x (N, d), as (N,), modulo 2^k: with x = E + A, shares of E.E + 2
    E.A_p + [A.A]. **Hides** nothing is sent; E hides x. The dealer shares A.A, one word a row.
    **Cost** no round; k correction bits a row. **Error** none. **Source** Beaver 1991, both
    operands the same.
    """

    ring_bits: int
    frac: int

    @property
    def cost(self) -> Cost:
        return Cost(dealer_bytes=packed_bytes(self.shape[0], self.ring_bits))

    def deal(self, dealing: Dealing, *masks: Words) -> None:
        [a] = masks
        dealing.deal_words("A.A", dealing.backend.row_dot(a, a, self.ring_bits), self.ring_bits)

    def run(self, session: Session, x: Masked) -> Additive:
        backend = session.backend
        x.check_bits(self.ring_bits)
        e, mask = x.opened, x.mask
        cross = backend.row_dot(e, mask, self.ring_bits)
        words = cross + cross + session.dealt_words("A.A", (self.shape[0],), self.ring_bits)
        if session.party == 0:
            words = words + backend.row_dot(e, e, self.ring_bits)
        words = backend.reduce(words, self.ring_bits)
        return Additive(words, self.ring_bits, self.frac, owner=x.owner)

    def plain(self, clear: Clear, x: Words) -> Words:
        squares = clear.backend.row_dot(x, x, self.ring_bits)
        return clear.backend.sign_extend(squares, self.ring_bits)


@dataclasses.dataclass(frozen=True)
class AddColumn(Step):
    """x (Q, N) plus one value a row, y (Q,), modulo the smaller power of two. Nothing is sent."""

    def run(self, session: Session, x: Additive, y: Additive) -> Additive:
        return x.plus(session.backend, y.with_words(y.words[:, None]))

    def plain(self, clear: Clear, x: Words, y: Words) -> Words:
        return x + y[:, None]


@dataclasses.dataclass(frozen=True)
class AsIntegers(Step):
    """x at scale 1, for a result that does not depend on the scale. Nothing is sent."""

    def run(self, session: Session, x: Additive) -> Additive:
        return dataclasses.replace(x, frac=0, divisor=1)

    def plain(self, clear: Clear, x: Words) -> Words:
        return x


@dataclasses.dataclass(frozen=True)
class ConstantLess(Step):
    """(constant - x) / 2, the halving in the scale, modulo the bits of x.

    Nothing is sent. **Error** none.
    """

    constant: int

    def run(self, session: Session, x: Additive) -> Additive:
        negative = x.with_words(session.backend.scale(x.words, -1, x.bits))
        return dataclasses.replace(session.public(negative, self.constant), frac=x.frac + 1)

    def plain(self, clear: Clear, x: Words) -> Words:
        return clear.backend.add_constant(clear.backend.scale(x, -1, 64), self.constant, 64)


class Rows(NamedTuple):
    """New rows of an index: E with this server's mask share, and shares of the squared norms."""

    masked: Masked
    norms: Additive


@dataclasses.dataclass(frozen=True)
class KeepRows(Step):
    """The opened rows with their norms. Nothing is sent."""

    def run(self, session: Session, masked: Masked, norms: Additive) -> Rows:
        return Rows(masked, norms)

    def plain(self, clear: Clear, x: Words, norms: Words) -> Words:
        return x
