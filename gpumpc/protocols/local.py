"""Steps that each server does alone: entries moved, added, and multiplied by public numbers."""

import abc
import dataclasses

from gpumpc.protocols.step import Clear, Shape, Step
from gpumpc.ring.backend import Backend, Words
from gpumpc.session import Session
from gpumpc.shares import Additive


@dataclasses.dataclass(frozen=True)
class Arrangement(Step):
    """Entries moved to other places; none is changed. **Hides** everything: nothing is sent."""

    @abc.abstractmethod
    def arranged(self, backend: Backend, words: Words) -> Words:
        """The words where this step puts them."""

    def run(self, session: Session, x: Additive) -> Additive:
        return x.with_words(self.arranged(session.backend, x.words))

    def plain(self, clear: Clear, x: Words) -> Words:
        return self.arranged(clear.backend, x)


@dataclasses.dataclass(frozen=True)
class Reshape(Arrangement):
    """The same entries in the same order in another shape, which begins with any batch axis."""

    out_shape: Shape

    def arranged(self, backend: Backend, words: Words) -> Words:
        return words.reshape(self.out_shape)


@dataclasses.dataclass(frozen=True)
class Permute(Arrangement):
    """Axis j of the result is axis `axes[j]` of the input; axis 0 is the batch."""

    axes: tuple[int, ...]

    def arranged(self, backend: Backend, words: Words) -> Words:
        return backend.permute(words, self.axes)


@dataclasses.dataclass(frozen=True)
class Take(Arrangement):
    """Entries along one axis by number, -1 for zeros: zero is a share of zero at either server."""

    axis: int
    indices: tuple[int, ...]

    def arranged(self, backend: Backend, words: Words) -> Words:
        size = words.shape[self.axis]
        if min(self.indices) < 0:
            border = backend.zeros((*words.shape[: self.axis], 1, *words.shape[self.axis + 1 :]))
            words = backend.concat([words, border], self.axis)
        return backend.take(words, [i if i >= 0 else size for i in self.indices], self.axis)


@dataclasses.dataclass(frozen=True)
class Scale(Step):
    """factor x + offset with two public integers, modulo 2^bits; `frac` grows by `shift`, and
    `divisor`, if given, is the result's: where the real value stays what it was.

    **Hides** everything: nothing is sent. **Cost** none. **Error** none.
    **Source** linearity; server 0 alone adds the offset.
    """

    factor: int
    offset: int
    shift: int
    divisor: int | None = None

    def run(self, session: Session, x: Additive) -> Additive:
        words = session.backend.scale(x.words, self.factor, x.bits)
        frac, divisor = x.frac + self.shift, self.divisor or x.divisor
        scaled = dataclasses.replace(x, words=words, frac=frac, divisor=divisor)
        return session.public(scaled, self.offset)

    def plain(self, clear: Clear, x: Words) -> Words:
        return clear.backend.add_constant(clear.backend.scale(x, self.factor, 64), self.offset, 64)


@dataclasses.dataclass(frozen=True)
class Mix(Step):
    """Sums along one axis with public integer weights, modulo 2^bits; `frac` grows by `shift`.

    **Computes** entry i of the result as the sum over t of weights[i][t] x[taps[i][t]].
    **Hides** everything: nothing is sent. **Cost** none. **Error** none. **Source** linearity.
    """

    axis: int
    taps: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[int, ...], ...]
    shift: int

    def run(self, session: Session, x: Additive) -> Additive:
        words = self._mixed(session.backend, x.words, x.bits)
        return dataclasses.replace(x, words=words, frac=x.frac + self.shift)

    def plain(self, clear: Clear, x: Words) -> Words:
        return self._mixed(clear.backend, x, 64)

    def _mixed(self, backend: Backend, x: Words, bits: int) -> Words:
        """Term by term: the t-th taps of all sums at once; a short sum ends in weights of zero."""
        column = (len(self.taps), *(1 for _ in self.shape[self.axis + 1 :]))
        terms = max(map(len, self.taps))
        total = None
        for t in range(terms):
            taps = [row[t] if t < len(row) else 0 for row in self.taps]
            factors = [row[t] % (1 << 64) if t < len(row) else 0 for row in self.weights]
            weights = backend.upload(factors).reshape(column)
            term = backend.multiply(backend.take(x, taps, self.axis), weights, bits)
            total = term if total is None else total + term
        return backend.reduce(total if total is not None else x, bits)


@dataclasses.dataclass(frozen=True)
class Add(Step):
    """x + y of one scale, modulo the smaller power of two. **Hides**: nothing is sent."""

    def run(self, session: Session, x: Additive, y: Additive) -> Additive:
        return x.plus(session.backend, y)

    def plain(self, clear: Clear, x: Words, y: Words) -> Words:
        return x + y


@dataclasses.dataclass(frozen=True)
class Concat(Step):
    """Joined along the last axis, modulo the smallest power of two. **Hides**: nothing is sent."""

    def run(self, session: Session, *parts: Additive) -> Additive:
        for part in parts[1:]:
            parts[0].check_like(part)
        bits = min(part.bits for part in parts)
        words = [part.at_bits(session.backend, bits).words for part in parts]
        return dataclasses.replace(parts[0], words=session.backend.concat(words, -1), bits=bits)

    def plain(self, clear: Clear, *parts: Words) -> Words:
        return clear.backend.concat(parts, -1)
