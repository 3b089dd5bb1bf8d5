"""Softmax over the last axis, and the two local steps that it needs."""

import dataclasses
import functools
import math

from gpumpc.protocols import linear, pooling
from gpumpc.protocols.functions.staircase import Staircase
from gpumpc.protocols.smooth.approximate import approximate
from gpumpc.protocols.smooth.local_polynomials import Smooth
from gpumpc.protocols.step import Clear, Step
from gpumpc.protocols.truncation import Lift, Truncate
from gpumpc.ring.backend import Words
from gpumpc.session import Session
from gpumpc.shares import Additive

# Thresholds an octave of the reciprocal of a sum: half a step is a relative error of 0.55 %.
PER_OCTAVE = 64
RECIPROCAL_FRAC = 13
EXP_ERROR_BITS = 10


@dataclasses.dataclass(frozen=True)
class LessColumn(Step):
    """x (N, L) minus a column (N, 1). **Hides** everything: nothing is sent. **Error** none."""

    def run(self, session: Session, x: Additive, column: Additive) -> Additive:
        backend = session.backend
        words = backend.scale(column.words, -1, 64)
        repeated = backend.take(words, [0] * self.shape[1], 1)
        return x.plus(backend, column.with_words(repeated))

    def plain(self, clear: Clear, x: Words, column: Words) -> Words:
        return x - clear.backend.take(column, [0] * self.shape[1], 1)


@dataclasses.dataclass(frozen=True)
class RowSum(Step):
    """The sums of rows: (N, L) -> (N,). **Hides** everything: nothing is sent. **Error** none."""

    def run(self, session: Session, x: Additive) -> Additive:
        return x.with_words(session.backend.reduce(self._sums(x.words), x.bits))

    def plain(self, clear: Clear, x: Words) -> Words:
        return self._sums(x)

    def _sums(self, x: Words) -> Words:
        total = x[:, 0]
        for column in range(1, self.shape[1]):
            total = total + x[:, column]
        return total


@functools.cache
def reciprocal_stairs(length: int, frac: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Thresholds and values of 2^RECIPROCAL_FRAC / s, s = 2^frac .. (length + 1) 2^frac."""
    edges = []
    for i in range(PER_OCTAVE * (length + 1).bit_length() + 1):
        root = 1 << i
        # The 64th root by rounded square roots of integers, so that all parties agree.
        scaled = root << (PER_OCTAVE * frac)
        for _ in range(PER_OCTAVE.bit_length() - 1):
            scaled = math.isqrt(scaled)
        edges.append(scaled)
    # The largest term is one, less the error of exp: the first step begins below it.
    edges = [edges[0] - (edges[0] >> 7), *edges[1:]]
    ends = [*edges[1:], 2 * edges[-1]]
    top = 1 << (RECIPROCAL_FRAC + frac + 1)
    values = [(top + (lo + hi) // 2) // (lo + hi) for lo, hi in zip(edges, ends, strict=True)]
    return tuple(edges), (values[0], *values)


def softmax(
    name: str, source: str, shape: tuple[int, int], bits: int, frac: int, high: int
) -> list[Step]:
    """Steps from `source` (N, L), modulo 2^bits at scale 2^frac, to `name`, modulo 2^high.

    **Computes** e^(x_j - m) / sum_i e^(x_i - m), m the row's maximum, for |x| < 2^(bits-2), and so
    that no entry lies more than 2^(bits-1) - 2^(frac+5) below the largest; high > 2 frac + 4.
    **Hides** everything: each step hides its values. **Cost** that of the steps: `MaxPool` along
    the row, `Smooth`, `Staircase` a row, two openings, a lift.
    **Error** E = 0.6 % of the value, and 2^-EXP_ERROR_BITS (1 + 1 / s) + 2 units of 2^-frac beside
    it. **Source** this project; docs/protocols.md section 9c.
    """
    n, length = shape
    pieces = approximate("exp", frac, EXP_ERROR_BITS)
    sum_bits = frac + (length + 1).bit_length() + 3
    product_bits = frac + RECIPROCAL_FRAC + 3
    edges, values = reciprocal_stairs(length, frac)
    best, less, terms, total = (f"{name}/{part}" for part in ("max", "less", "exp", "sum"))
    inverse, column, opened = (f"{name}/{part}" for part in ("inverse", "column", "opened"))
    product, short = f"{name}/product", f"{name}/short"
    window = pooling.Window(1, length, length, 0, 0)
    wide = max(sum_bits, product_bits)
    operands = (opened, column)
    return [
        pooling.MaxPool(best, (source,), best, shape, bits, (window,)),
        LessColumn(less, (source, best), less, shape),
        Smooth(terms, (less,), terms, shape, bits, wide, pieces),
        RowSum(total, (terms,), total, shape),
        Staircase(
            inverse, (total,), inverse, (n,), sum_bits, product_bits, RECIPROCAL_FRAC, edges, values
        ),
        linear.Open(opened, (terms,), opened, shape, product_bits),
        linear.OpenColumn(column, (inverse,), column, (n,), product_bits, length),
        linear.BeaverProduct(
            product, operands, product, shape, linear.Elementwise(), shape, product_bits
        ),
        Truncate(short, (product,), short, shape, product_bits, RECIPROCAL_FRAC),
        Lift(name, (short,), name, shape, product_bits - RECIPROCAL_FRAC, high),
    ]
