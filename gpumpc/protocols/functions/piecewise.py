"""A public piecewise polynomial of a shared integer, from one opening of it.

The servers open y = u + r modulo 2^b, with u = x + 2^(b-1) in [0, 2^b). As integers, u is d = y - r
where y >= r, and d + 2^b where not: with w = [y < r], u = d + 2^b w. On segment j the function is
P_j; in steps D_j = P_j - P_{j-1} it is

    g(u) = P_0(u) + sum_j [u >= theta_j] D_j(u).

The dealer's only comparisons are w and B_j = [(y - theta_j mod 2^b) < r]. Where the public e_j =
[y >= theta_j] is 1, u >= theta_j without a wrap exactly if B_j is 0, and with one always; where it
is 0, never without a wrap, and with one exactly if B_j is 0. Hence

    g = P_0(d) + sum_j e_j D_j(d) + w (P_J(d + 2^b) - P_0(d)) - sum_j B_j D_j(d + 2^b (1 - e_j)):

polynomials in r with public coefficients, each times one secret bit at most. The dealer has shared
r, .., r^n as words, and t, t r, .., t r^n for a random bit t a comparison; the opened c = bit ^ t
turns the product of a bit and r^i into c r^i + (1 - 2 c) t r^i.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

from gpumpc.cost import Cost
from gpumpc.errors import PlanError
from gpumpc.offline.deal_batch import Dealing
from gpumpc.protocols.comparison import Comparison, plan_comparison
from gpumpc.protocols.step import Clear, Step
from gpumpc.ring.backend import Backend, Lanes, Words, lane_bytes, packed_bytes
from gpumpc.session import Session, Xor
from gpumpc.shares import Additive

Coefficients = tuple[int, ...]  # of x^0, x^1, ..


@dataclasses.dataclass(frozen=True)
class Piecewise(Step):
    """A public piecewise polynomial with integer coefficients, entry by entry.

    **Computes** P_j(x) modulo 2^high at scale 2^frac, j the number of thresholds <= x, for
    -2^(bits-1) <= x < 2^(bits-1). Segments that are not chosen may wrap: only their products with
    zero are added. **Hides** x: y under r, every bit of a comparison under masks of its own, each
    comparison's result under its own t. **Cost** 2 + tree rounds; each way `bits`, tree bits and a
    bit a comparison an entry; corrections: tables, products, n words of r and (n + 1) words a
    comparison, of `high` bits, for polynomials of degree n and one comparison more than thresholds.
    **Error** none. **Source** this project; docs/protocols.md section 9c.

    Raises PlanError for thresholds that do not ascend inside the ring, or segments of two degrees.
    """

    bits: int
    high: int
    frac: int
    thresholds: tuple[int, ...]
    segments: tuple[Coefficients, ...]

    def __post_init__(self) -> None:
        half = 1 << (self.bits - 1)
        edges = (-half, *self.thresholds, half)
        ascends = all(low < high for low, high in itertools.pairwise(edges))
        one_degree = len(set(map(len, self.segments))) == 1
        if not (ascends and one_degree and len(self.segments) == len(self.thresholds) + 1):
            raise PlanError(
                f"step '{self.name}' has thresholds outside {self.bits} bits, or other segments",
                "each must lie above the one before, and there is one segment more",
                "choose a larger k: the values that this function takes need more bits",
            )

    @property
    def degree(self) -> int:
        """Of every segment."""
        return len(self.segments[0]) - 1

    @functools.cached_property
    def unsigned(self) -> tuple[int, ...]:
        """Thresholds of u = x + 2^(bits-1)."""
        return tuple(theta + (1 << (self.bits - 1)) for theta in self.thresholds)

    @property
    def n_bits(self) -> int:
        """Secret bits an entry: the wrap, and one a threshold."""
        return 1 + len(self.thresholds)

    @property
    def comparison(self) -> Comparison:
        """[y < r] and [y - theta_j < r]; all agree in the low bits that no threshold has."""
        low = min(
            ((theta & -theta).bit_length() - 1 for theta in self.unsigned if theta), default=0
        )
        return plan_comparison(self.bits, min(low, self.bits - 1), self.n_bits)

    @property
    def cost(self) -> Cost:
        n, tree = self.n, self.comparison
        sent = packed_bytes(n, self.bits) + lane_bytes(n, tree.opened_bits + self.n_bits)
        words = self.degree + self.n_bits * (self.degree + 1)
        dealt = lane_bytes(n, tree.dealt_bits) + packed_bytes(words * n, self.high)
        return Cost.both_ways(2 + tree.rounds, sent, dealt)

    def deal(self, dealing: Dealing, *masks: object) -> None:
        backend, n = dealing.backend, self.n
        r = dealing.sum_words("r", (n,), self.bits)
        self.comparison.deal(dealing, backend.to_planes(r, self.bits), n)
        powers = [backend.add_constant(backend.zeros((n,)), 1, 64)]
        for _ in range(self.degree):
            powers.append(backend.multiply(powers[-1], r, self.high))
        bits = dealing.xor_lanes("t'", self.n_bits, n)
        rows = powers[1:]
        for lane in bits:
            t = backend.from_bit(lane, (n,))
            rows = [*rows, *(backend.multiply(t, power, self.high) for power in powers)]
        dealing.deal_words("powers", backend.concat([row[None] for row in rows], 0), self.high)

    def run(self, session: Session, x: Additive) -> Additive:
        backend, n = session.backend, self.n
        x.check_bits(self.bits)  # an opening is reduced
        u = session.public(x, 1 << (self.bits - 1)).words.reshape(-1)
        [y] = session.open_many(session.masked(u, "r", self.bits))
        compared = [y, *(backend.add_constant(y, -theta, self.bits) for theta in self.unsigned)]
        planes = [backend.to_planes(words, self.bits) for words in compared]
        found = self.comparison.run(session, planes, n)
        chosen = backend.concat([lane[None] for lane in found], 0)
        dealt = session.dealt_words(
            "powers", (self.degree + self.n_bits * (self.degree + 1), n), self.high
        )
        [c] = session.open_many(Xor(chosen ^ session.lanes("t'", self.n_bits, n), n))
        words = self._sum(session, y, c, dealt).reshape(self.shape)
        return Additive(words, self.high, self.frac, owner=x.owner)

    def _sum(self, session: Session, y: Words, c: Lanes, dealt: Words) -> Words:
        """The share of g from public y and c, and shares of r^i and t r^i."""
        backend, size = session.backend, self.degree + 1
        first, last = self._about_u(self.segments[0]), self._about_u(self.segments[-1])
        wrapped = backend.add_constant(y, 1 << self.bits, 64)
        plain = _at(backend, first, y)
        # Public coefficients of r^i that each secret bit multiplies; the wrap's come first.
        factors = [
            [b - a for a, b in zip(plain, _at(backend, last, wrapped), strict=True)],
        ]
        for theta, (below, above) in zip(
            self.unsigned, itertools.pairwise(map(self._about_u, self.segments)), strict=True
        ):
            step = tuple(b - a for a, b in zip(below, above, strict=True))
            under = backend.bit(backend.add_constant(y, -theta, 64), 63)
            here = _at(backend, step, backend.select(under, wrapped, y))
            zero = backend.zeros(y.shape)
            plain = [p + backend.select(under, zero, h) for p, h in zip(plain, here, strict=True)]
            factors.append([backend.scale(h, -1, 64) for h in here])
        powers = [
            backend.add_constant(backend.zeros(y.shape), 1 - session.party, 64),
            *dealt[: self.degree],
        ]
        total = backend.zeros(y.shape)
        for i in range(size):
            coefficient, flipped = plain[i], backend.zeros(y.shape)
            for bit, row in enumerate(factors):
                zero = backend.zeros(y.shape)
                taken = backend.select(c[bit], row[i], zero)
                coefficient = coefficient + taken
                signed = row[i] - backend.scale(taken, 2, 64)
                flipped = flipped + signed * dealt[self.degree + bit * size + i]
            total = total + coefficient * powers[i] + flipped
        return backend.reduce(total, self.high)

    def _about_u(self, coefficients: Sequence[int]) -> Coefficients:
        """The polynomial of x as one of u = x + 2^(bits-1)."""
        return shifted(coefficients, -(1 << (self.bits - 1)))

    def plain(self, clear: Clear, x: Words) -> Words:
        backend, total = clear.backend, _horner(clear.backend, self.segments[0], x)
        for theta, (below, above) in zip(
            self.thresholds, itertools.pairwise(self.segments), strict=True
        ):
            step = tuple(b - a for a, b in zip(below, above, strict=True))
            under = backend.bit(backend.add_constant(x, -theta, 64), 63)
            here = _horner(backend, step, x)
            total = total + backend.select(under, backend.zeros(x.shape), here)
        return backend.sign_extend(total, self.high)


def trailing_zeros(positive: int) -> int:
    """Low bits of a positive integer that are zero."""
    return (positive & -positive).bit_length() - 1


def value_at(coefficients: Sequence[int], x: int) -> int:
    """P(x), without a ring."""
    return sum(c * x**i for i, c in enumerate(coefficients))


def shifted(coefficients: Sequence[int], by: int) -> Coefficients:
    """P(x + by) as a polynomial of x."""
    n = len(coefficients)
    return tuple(
        sum(coefficients[m] * math.comb(m, i) * by ** (m - i) for m in range(i, n))
        for i in range(n)
    )


def _at(backend: Backend, coefficients: Sequence[int], base: Words) -> list[Words]:
    """P(base - r) as public coefficients of 1, r, r^2, ..: P's derivatives at `base`."""
    n = len(coefficients)
    return [
        _horner(
            backend,
            [(-1) ** i * math.comb(m, i) * coefficients[m] for m in range(i, n)],
            base,
        )
        for i in range(n)
    ]


def _horner(backend: Backend, coefficients: Sequence[int], x: Words) -> Words:
    """A polynomial of public words modulo 2^64."""
    total = backend.add_constant(backend.zeros(x.shape), coefficients[-1], 64)
    for coefficient in reversed(coefficients[:-1]):
        total = backend.add_constant(total * x, coefficient, 64)
    return total
