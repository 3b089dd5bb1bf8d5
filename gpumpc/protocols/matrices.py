"""Products of many pairs of shared matrices, each pair on its own."""

import dataclasses
import math

from gpumpc.cost import Cost
from gpumpc.offline.deal_batch import Dealing
from gpumpc.protocols.linear import MatMul
from gpumpc.protocols.step import Clear, Shape, Step
from gpumpc.ring.backend import Words, packed_bytes
from gpumpc.session import Session, Sum
from gpumpc.shares import Additive, Masked


@dataclasses.dataclass(frozen=True)
class OpenMatrices(Step):
    """Mask and open all matrices of (G, M, K) in one round, each as an operand of its own.

    **Computes**, **Hides**, **Cost**, **Error**, **Source**: as `linear.Open`.
    """

    bits: int

    @property
    def cost(self) -> Cost:
        return Cost.both_ways(1, packed_bytes(self.n, self.bits))

    def deal(self, dealing: Dealing, *masks: object) -> Words:
        return dealing.sum_words("A", self.shape, self.bits)

    def run(self, session: Session, x: Additive) -> list[Masked]:
        backend = session.backend
        x = x.at_bits(backend, self.bits)
        mask = session.words("A", self.shape, self.bits)
        [opened] = session.open_many(Sum(x.words - mask, self.bits))
        pairs = (
            [backend.operand(words[i], self.bits) for words in (opened, mask)]
            for i in range(self.shape[0])
        )
        return [Masked(e, a, self.bits, x.frac, x.divisor, x.owner) for e, a in pairs]

    def plain(self, clear: Clear, x: Words) -> Words:
        return x


@dataclasses.dataclass(frozen=True)
class MatrixProducts(Step):
    """X_g Y_g of shared matrices (G, M, K) and (G, K, N), all opened before.

    **Computes** modulo 2^ring_bits what `linear.BeaverProduct` computes, matrix by matrix.
    **Hides** nothing is sent here. **Cost** no round; ring_bits correction bits an output entry.
    **Error** none. **Source** Beaver 1991. `scale`: ring units of the result a real unit.
    """

    out_shape: Shape
    ring_bits: int
    scale: float

    @property
    def cost(self) -> Cost:
        return Cost(dealer_bytes=packed_bytes(math.prod(self.out_shape), self.ring_bits))

    def deal(self, dealing: Dealing, *masks: Words) -> None:
        backend, bits = dealing.backend, self.ring_bits
        products = []
        for i in range(self.out_shape[0]):
            a, b = (backend.operand(mask[i], bits) for mask in masks)
            products.append(MatMul().apply(backend, a, b, bits)[None])
        dealing.deal_words("C", backend.concat(products, 0), bits)

    def run(self, session: Session, xs: list[Masked], ys: list[Masked]) -> Additive:
        backend, bits = session.backend, self.ring_bits
        c = session.dealt_words("C", self.out_shape, bits)
        products = []
        for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
            x.check_like(y)
            x.check_bits(bits)
            y.check_bits(bits)
            products.append(MatMul().beaver(backend, x, y, c[i], session.party, bits)[None])
        x, y = xs[0], ys[0]
        words = backend.concat(products, 0)
        return Additive(words, bits, x.frac + y.frac, x.divisor * y.divisor, x.owner)

    def plain(self, clear: Clear, x: Words, y: Words) -> Words:
        backend, bits = clear.backend, self.ring_bits
        pairs = (
            (backend.operand(x[i], bits), backend.operand(y[i], bits))
            for i in range(self.out_shape[0])
        )
        products = [MatMul().apply(backend, a, b, bits)[None] for a, b in pairs]
        return backend.sign_extend(backend.concat(products, 0), bits)
