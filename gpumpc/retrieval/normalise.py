"""Vectors scaled to length one on shares, so that an inner product of two is a cosine.

|v|^2 is a sum of squares of the opened operand. A `Staircase` (step function) gives a coarse 1 /
|v| from it; v times that is nearly a unit vector w, and one Newton step, w (3 - |w|^2) / 2, reduces
its error e to 1.5 e^2. So 32 thresholds an octave suffice instead of thousands, and the Newton step
works on numbers near one, whatever the length of v was.
"""

import functools
import math

from gpumpc.errors import PlanError
from gpumpc.protocols import linear
from gpumpc.protocols.functions.staircase import Staircase
from gpumpc.protocols.ranking import distances
from gpumpc.protocols.step import Step
from gpumpc.protocols.truncation import Lift, Truncate

# Fraction bits of a normalised vector, of the coarse one before it, and of the factor between.
UNIT_FRAC = 13
COARSE_FRAC = 15
FACTOR_FRAC = 15
PER_OCTAVE = 32
# The rounding, sqrt(dim) at most, must stay small compared with the coarse vector's length.
MAX_DIM = 1 << 22

_FACTOR_LOW = FACTOR_FRAC + 3
# For |w|^2 < 2^(2 COARSE_FRAC + 1) and 3 - |w|^2; truncated, the factor has FACTOR_FRAC + 3 bits.
_NORM_BITS = 2 * COARSE_FRAC + 4
_PRODUCT_BITS = COARSE_FRAC + FACTOR_FRAC + 3


def unit_score_bits(dim: int) -> int:
    """|q.v| < 2^(bits-2) for normalised q and v, of length 2^UNIT_FRAC + 2 + sqrt(dim) at most.

    Raises PlanError.
    """
    if dim > MAX_DIM:
        raise PlanError(
            f"vectors of {dim} numbers cannot be normalised",
            f"at most {MAX_DIM} can",
            "use l2 or ip",
        )
    return int(((1 << UNIT_FRAC) + 3 + math.isqrt(dim)) ** 2).bit_length() + 2


def largest_square(dim: int, value_bits: int) -> int:
    """|v|^2 is at most this, for |v_j| <= 2^(value_bits-2)."""
    return dim << 2 * (value_bits - 2)


def coarse_frac(largest: int) -> int:
    """Fraction bits of 1 / |v|: nine bits at the largest |v|, and enough at the smallest."""
    return max((largest.bit_length() + 1) // 2 + 9, COARSE_FRAC + 1)


@functools.cache
def thresholds(largest: int) -> tuple[int, ...]:
    """The integers floor(2^(i/32)) up to `largest`, from 1."""
    found: dict[int, None] = {}
    for i in range(PER_OCTAVE * largest.bit_length() + 1):
        root = 1 << i
        # The 32nd root by five rounded square roots of integers, so that all parties agree.
        for _ in range(PER_OCTAVE.bit_length() - 1):
            root = math.isqrt(root)
        if root <= largest:
            found[root] = None
    return tuple(found)


@functools.cache
def coarse_values(largest: int) -> tuple[int, ...]:
    """0, then per step lo..hi the g = 2 * 2^F / (sqrt(lo) + sqrt(hi)), best at both ends."""
    edges = thresholds(largest)
    ends = [*(edge - 1 for edge in edges[1:]), largest]
    scaled = 1 << (coarse_frac(largest) + 1 + 64)
    roots = (
        math.isqrt(lo << 128) + math.isqrt(hi << 128) for lo, hi in zip(edges, ends, strict=True)
    )
    return (0, *((scaled + both // 2) // both for both in roots))


def normalised(
    name: str, source: str, shape: tuple[int, int], value_bits: int, score_bits: int
) -> list[Step]:
    """Steps from `source`, quantised vectors modulo 2^value_bits, to `name`/wide, modulo
    2^score_bits.

    **Computes** u = 2^UNIT_FRAC v / |v| of each row of v (N, d), |v_j| <= 2^(value_bits-2); zero
    for v = 0. **Error** |u - 2^UNIT_FRAC v / |v|| <= sqrt(d) + 2^UNIT_FRAC (1.02 sqrt(d)
    2^-COARSE_FRAC + 1.5 b^2 + b^3 / 2) + 1/2: each entry of u is rounded by one unit at most, and
    so is each of the coarse w, which turns it; Newton's rest, where ||w| - 1| <= b = 0.7 % +
    sqrt(d) 2^-COARSE_FRAC; and the factor's rounding. So a cosine errs by 2 E + E^2 at most, E
    being this bound over 2^UNIT_FRAC. Roundings average out: at d = 1280 the bound is 1.1e-2 and
    the measured error 6e-5. **Hides** everything: each step hides its values; which step of the
    staircase a vector is on stays shared. **Source** this project; docs/protocols.md section
    9a. The refinement is Newton's for 1 / sqrt.
    """
    n_rows, dim = shape
    largest = largest_square(dim, value_bits)
    frac, square_bits = coarse_frac(largest), largest.bit_length() + 1
    product_bits = frac + 3
    operand_bits = max(square_bits, product_bits)
    v, w = f"{name}/v", f"{name}/w"
    rows, inverse, factor = (n_rows,), f"{v}/inverse", f"{w}/factor"
    edges, values = thresholds(largest), coarse_values(largest)
    short = 2 * COARSE_FRAC + 1 - FACTOR_FRAC
    return [
        distances.AsIntegers(f"{v}/integers", (source,), f"{v}/integers", shape),
        Lift(f"{v}/wide", (f"{v}/integers",), f"{v}/wide", shape, value_bits, operand_bits),
        *_squared(v, shape, operand_bits, square_bits, 0),
        Staircase(
            inverse, (f"{v}/square",), inverse, rows, square_bits, product_bits, frac, edges, values
        ),
        *_scaled(v, inverse, w, shape, product_bits, frac - COARSE_FRAC, _NORM_BITS),
        *_squared(w, shape, _NORM_BITS, _NORM_BITS, 2 * COARSE_FRAC),
        distances.ConstantLess(
            f"{w}/rest", (f"{w}/square",), f"{w}/rest", rows, 3 << 2 * COARSE_FRAC
        ),
        Truncate(f"{w}/short factor", (f"{w}/rest",), f"{w}/short factor", rows, _NORM_BITS, short),
        Lift(factor, (f"{w}/short factor",), factor, rows, _FACTOR_LOW, _PRODUCT_BITS),
        *_scaled(
            w, factor, name, shape, _PRODUCT_BITS, COARSE_FRAC + FACTOR_FRAC - UNIT_FRAC, score_bits
        ),
    ]


def _squared(
    name: str, shape: tuple[int, int], bits: int, square_bits: int, frac: int
) -> list[Step]:
    """`name`/wide opened, and the squared norms of its rows."""
    opened, square = f"{name}/opened", f"{name}/square"
    return [
        linear.Open(opened, (f"{name}/wide",), opened, shape, bits),
        distances.SquaredNorm(square, (opened,), square, shape, square_bits, frac),
    ]


def _scaled(
    name: str, factor: str, output: str, shape: tuple[int, int], bits: int, shift: int, high: int
) -> list[Step]:
    """Rows of `name`/opened times a factor each, modulo 2^bits, truncated, as `output`/wide."""
    product, short, column = f"{name}/product", f"{name}/short product", f"{factor}/opened"
    operands, operator = (f"{name}/opened", column), linear.Elementwise()
    return [
        linear.OpenColumn(column, (factor,), column, shape[:1], bits, shape[1]),
        linear.BeaverProduct(product, operands, product, shape, operator, shape, bits),
        Truncate(short, (product,), short, shape, bits, shift),
        Lift(f"{output}/wide", (short,), f"{output}/wide", shape, bits - shift, high),
    ]
