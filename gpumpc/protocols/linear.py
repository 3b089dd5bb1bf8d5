"""Products: with weights under a static mask, with public weights, and of two fresh operands.

`o` is one of the `Operator`s below: bilinear, so the same formulas serve matrix products,
convolutions and element-wise multiplication. Zero padding pads an opened value and its mask alike.
"""

import abc
import dataclasses
import math
from typing import cast

from gpumpc.cost import Cost
from gpumpc.offline.deal_batch import Dealing
from gpumpc.protocols.step import Clear, Shape, Step
from gpumpc.ring.backend import Backend, Operand, Padding, Pair, Pairs, Words, packed_bytes
from gpumpc.session import PartyRandomness, Session, Sum
from gpumpc.shares import Additive, Masked


class _Weighted(abc.ABC):
    """A product that may stand in a sum of two."""

    def apply(self, backend: Backend, x: Operand, w: Operand, bits: int) -> Words:
        """x o w."""
        return self.sum(backend, [(x, w)], bits)

    @abc.abstractmethod
    def sum(self, backend: Backend, pairs: Pairs, bits: int, *added: Words | None) -> Words:
        """x o w of each pair, added up, plus words of the result's shape and a bias, if given."""

    def beaver(
        self, backend: Backend, x: Masked, y: Masked, c: Words, party: int, bits: int
    ) -> Words:
        """(1-p) E o F + E o B_p + A_p o F + C_p, as two products."""
        right = y.mask if party else backend.sum_of(y.mask, y.opened, bits)
        return self.sum(backend, [(x.opened, right), (x.mask, y.opened)], bits, c)


@dataclasses.dataclass(frozen=True)
class MatMul(_Weighted):
    """(M, K) o (K, N) -> (M, N)."""

    def sum(self, backend: Backend, pairs: Pairs, bits: int, *added: Words | None) -> Words:
        return backend.matmul_sum(pairs, bits, *added)


@dataclasses.dataclass(frozen=True)
class Convolution(_Weighted):
    """(B, H, W, Cin) o (kh, kw, Cin / groups, Cout) -> (B, Ho, Wo, Cout)."""

    kernel: Pair
    stride: Pair
    padding: Padding
    groups: int

    def sum(self, backend: Backend, pairs: Pairs, bits: int, *added: Words | None) -> Words:
        return backend.conv2d_sum(pairs, self.stride, self.padding, self.groups, bits, *added)


@dataclasses.dataclass(frozen=True)
class Elementwise:
    """Two operands of one shape."""

    def apply(self, backend: Backend, x: Operand, w: Operand, bits: int) -> Words:
        return backend.multiply(x, w, bits)

    def beaver(
        self, backend: Backend, x: Masked, y: Masked, c: Words, party: int, bits: int
    ) -> Words:
        return backend.beaver(x.opened, y.opened, x.mask, y.mask, c, party, bits)


Operator = MatMul | Convolution | Elementwise


@dataclasses.dataclass(frozen=True)
class Open(Step):
    """Mask and open an operand: E = X - A modulo 2^bits.

    **Computes** the public E and each server's mask share A_p; every product that reads the value
    uses the same E. **Hides** X: A = A_0 + A_1 is uniform modulo 2^bits, and each server
    knows only its own part. **Cost** 1 round; bits an element each way; no corrections.
    **Error** none.
    **Source** Beaver 1991; here A is drawn from seeds.
    """

    bits: int

    @property
    def cost(self) -> Cost:
        return Cost.both_ways(1, packed_bytes(self.n, self.bits))

    def deal(self, dealing: Dealing, *masks: object) -> Words:
        return dealing.sum_words("A", self.shape, self.bits)

    def prepare(self, draws: PartyRandomness, *masks: object) -> Words:
        return draws.words("A", self.shape, self.bits)

    def run(self, session: Session, x: Additive) -> Masked:
        x.check_bits(self.bits)  # an opening is reduced
        mask, masked = session.masked_operand(x.words, "A", self.bits)
        [opened] = session.open_many(masked)
        own = session.backend.operand(mask, self.bits)
        return Masked(opened, own, self.bits, x.frac, x.divisor, x.owner)

    def plain(self, clear: Clear, x: Words) -> Words:
        return x


@dataclasses.dataclass(frozen=True)
class _OpenedAndRepeated(Step):
    """Mask and open a value, and repeat it: an opened word serves every entry it multiplies.

    **Computes** E = x - A modulo 2^bits, and E and A_p repeated. **Hides** x as `Open`.
    **Cost** 1 round; bits an entry of x each way; no corrections. **Error** none.
    **Source** Beaver 1991.
    """

    bits: int

    @abc.abstractmethod
    def _repeated(self, backend: Backend, words: Words) -> Words:
        """The words in the shape of what they multiply."""

    @property
    def cost(self) -> Cost:
        return Cost.both_ways(1, packed_bytes(self.n, self.bits))

    def deal(self, dealing: Dealing, *masks: object) -> Words:
        return self._repeated(dealing.backend, dealing.sum_words("A", self.shape, self.bits))

    def run(self, session: Session, x: Additive) -> Masked:
        backend = session.backend
        x = x.at_bits(backend, self.bits)
        mask = session.words("A", self.shape, self.bits)
        [opened] = session.open_many(Sum(x.words - mask, self.bits))
        e, a = (
            backend.operand(self._repeated(backend, words), self.bits) for words in (opened, mask)
        )
        return Masked(e, a, self.bits, x.frac, x.divisor, x.owner)

    def plain(self, clear: Clear, x: Words) -> Words:
        return self._repeated(clear.backend, x)


@dataclasses.dataclass(frozen=True)
class OpenColumn(_OpenedAndRepeated):
    """One value a row, (N,), as an operand (N, columns) that multiplies every entry of its row.

    Computes, Hides, Cost, Error, Source: `_OpenedAndRepeated`.
    """

    columns: int

    def _repeated(self, backend: Backend, words: Words) -> Words:
        return backend.take(words[:, None], [0] * self.columns, 1)


@dataclasses.dataclass(frozen=True)
class OpenRepeated(_OpenedAndRepeated):
    """A value as an operand of `out_shape`, repeated along its axes of size 1.

    Computes, Hides, Cost, Error, Source: `_OpenedAndRepeated`.
    """

    out_shape: Shape

    def _repeated(self, backend: Backend, words: Words) -> Words:
        for axis, (size, wanted) in enumerate(zip(self.shape, self.out_shape, strict=True)):
            if size != wanted:
                words = backend.take(words, [0] * wanted, axis)
        return words


@dataclasses.dataclass(frozen=True)
class PrivateProduct(Step):
    """X o W + b with W under a static mask: F = W - Bm was opened when the weights were shared.

    **Computes** Z_p = E o W_p + A_p o F + C_p + b_p modulo 2^k, shares of X o W + b, with C of A o
    Bm dealt. **Hides** nothing is sent here; E and F hide X and W under uniform masks.
    **Cost** no round; k correction bits an output element.
    **Error** none: sum_p = E o (F + Bm) + A o F + A o Bm = (E + A) o (F + Bm) = X o W.
    **Source** Beaver 1991 with one operand's mask fixed; docs/protocols.md section 3.
    """

    layer: str
    operator: MatMul | Convolution
    out_shape: Shape
    ring_bits: int
    frac: int

    @property
    def cost(self) -> Cost:
        return Cost(dealer_bytes=packed_bytes(math.prod(self.out_shape), self.ring_bits))

    def deal(self, dealing: Dealing, *masks: Words) -> None:
        [a] = masks
        backend = dealing.backend
        bm = dealing.weight_masks[self.layer]
        c = self.operator.apply(backend, backend.operand(a, self.ring_bits), bm, self.ring_bits)
        dealing.deal_words("C", c, self.ring_bits)

    @property
    def prepared_bytes(self) -> int:
        return 8 * math.prod(self.out_shape)

    def prepare(self, draws: PartyRandomness, *masks: Words) -> Words:
        """A_p o F + b_p."""
        [a] = masks
        backend, static = draws.backend, draws.weights[self.layer]
        pair = (backend.operand(a, self.ring_bits), cast(Operand, static.opened))
        return self.operator.sum(backend, [pair], self.ring_bits, None, static.bias)

    def run(self, session: Session, x: Masked) -> Additive:
        x.check_bits(self.ring_bits)
        backend, static = session.backend, session.weights[self.layer]
        pairs = [(x.opened, static.weight)]
        added: tuple[Words | None, ...]
        if (ahead := session.ahead(self.name)) is None:
            pairs.append((x.mask, cast(Operand, static.opened)))
            added = (session.dealt_words("C", self.out_shape, self.ring_bits), static.bias)
        else:
            added = (session.plus_dealt(ahead, "C", self.ring_bits),)
        words = self.operator.sum(backend, pairs, self.ring_bits, *added)
        return Additive(words, self.ring_bits, self.frac, owner=x.owner)

    def plain(self, clear: Clear, x: Words) -> Words:
        return plain_product(self, clear, x)


@dataclasses.dataclass(frozen=True)
class PublicProduct(Step):
    """X o W + b with public W.

    **Computes** Z_p = X_p o W, plus b at server 0, modulo 2^k. **Hides** everything: nothing is
    sent. **Cost** none. **Error** none. **Source** linearity.
    """

    layer: str
    operator: MatMul | Convolution
    out_shape: Shape
    ring_bits: int
    frac: int

    def run(self, session: Session, x: Additive) -> Additive:
        backend, static = session.backend, session.weights[self.layer]
        operand = backend.operand(x.at_bits(backend, self.ring_bits).words, self.ring_bits)
        pairs = [(operand, static.weight)]
        words = self.operator.sum(backend, pairs, self.ring_bits, None, static.bias)
        return Additive(words, self.ring_bits, self.frac, owner=x.owner)

    def plain(self, clear: Clear, x: Words) -> Words:
        return plain_product(self, clear, x)


def plain_product(step: PrivateProduct | PublicProduct, clear: Clear, x: Words) -> Words:
    """X o W + b of signed words, in the clear."""
    weight, bias = clear.weights[step.layer]
    backend = clear.backend
    operands = backend.operand(x, step.ring_bits), backend.operand(weight, step.ring_bits)
    words = step.operator.apply(backend, *operands, step.ring_bits) + bias
    return backend.sign_extend(words, step.ring_bits)


@dataclasses.dataclass(frozen=True)
class BeaverProduct(Step):
    """X o Y of two fresh shared operands, both opened by `Open` steps.

    **Computes** Z_p = (1-p) E o F + E o B_p + A_p o F + C_p modulo 2^k, with E = X - A, F = Y - B,
    C = A o B. **Hides** nothing is sent here; E and F hide X and Y. **Cost** no round; k correction
    bits an output element. **Error** none. **Source** Beaver 1991. `scale` says how many ring units
    of the result are one real unit, for those who bound it.
    """

    operator: Operator
    out_shape: Shape
    ring_bits: int
    scale: float = 1.0

    @property
    def cost(self) -> Cost:
        return Cost(dealer_bytes=packed_bytes(math.prod(self.out_shape), self.ring_bits))

    def deal(self, dealing: Dealing, *masks: Words) -> None:
        a, b = (dealing.backend.operand(mask, self.ring_bits) for mask in masks)
        c = self.operator.apply(dealing.backend, a, b, self.ring_bits)
        dealing.deal_words("C", c, self.ring_bits)

    def run(self, session: Session, x: Masked, y: Masked) -> Additive:
        x.check_like(y)
        x.check_bits(self.ring_bits)
        y.check_bits(self.ring_bits)
        c = session.dealt_words("C", self.out_shape, self.ring_bits)
        words = self.operator.beaver(session.backend, x, y, c, session.party, self.ring_bits)
        return Additive(words, self.ring_bits, x.frac + y.frac, x.divisor * y.divisor, x.owner)

    def plain(self, clear: Clear, x: Words, y: Words) -> Words:
        backend = clear.backend
        operands = backend.operand(x, self.ring_bits), backend.operand(y, self.ring_bits)
        words = self.operator.apply(backend, *operands, self.ring_bits)
        return backend.sign_extend(words, self.ring_bits)
