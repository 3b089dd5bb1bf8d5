"""Functions of one number, and their piecewise polynomials with integer coefficients.

A fit is made once, when a network is imported, and travels in its plan as integers: no party
repeats floating point arithmetic. The error of a fit is measured at every argument there is.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from gpumpc.errors import PlanError

Floats = npt.NDArray[np.float64]
Line = tuple[float, float]  # a + b x

# Largest error of a fit against the function: of the value, or relative where a kind says so.
ERROR = 2.0**-10
_DEGREES = (2, 3)
_erf = np.vectorize(math.erf, otypes=[np.float64])


@dataclasses.dataclass(frozen=True)
class Kind:
    """A function, and where it is a straight line up to the error of a fit.

    Attributes:
        of: the function of (x, parameter), for any real x.
        low, high: the line `left` holds below `low`, `right` from `high` on.
        relative: whether the error of a fit is relative to the value.
        error: the largest one.
        frac: fraction bits of the argument.
        grid: thresholds are multiples of it, at scale 2^frac: comparisons share the bits below.
    """

    of: Callable[[Floats, float], Floats]
    low: float
    high: float
    left: Line
    right: Line
    relative: bool = False
    error: float = ERROR
    frac: int = 10
    grid: int = 1 << 7


def _gelu(x: Floats, _: float) -> Floats:
    return np.asarray(0.5 * x * (1 + _erf(x / math.sqrt(2))))


def _gelu_tanh(x: Floats, _: float) -> Floats:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def _sigmoid(x: Floats, _: float) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))


def _elu(x: Floats, alpha: float) -> Floats:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _softplus(x: Floats, _: float) -> Floats:
    return np.asarray(np.logaddexp(x, 0))


def _hardswish(x: Floats, _: float) -> Floats:
    return x * np.clip(x + 3, 0, 6) / 6


def _of_positive(
    function: Callable[[Floats], Floats], low: float, high: float, frac: int, error: float
) -> Kind:
    """A function of positive numbers, constant outside [low, high]."""
    ends = [float(function(np.array([end]))[0]) for end in (low, high)]

    def of(x: Floats, _: float) -> Floats:
        return function(np.clip(x, low, high))

    return Kind(
        of,
        low,
        high,
        (ends[0], 0.0),
        (ends[1], 0.0),
        relative=True,
        error=error,
        frac=frac,
        grid=1 << 4,
    )


KINDS: dict[str, Kind] = {
    "sigmoid": Kind(_sigmoid, -8, 8, (0, 0), (1, 0)),
    "tanh": Kind(lambda x, _: np.tanh(x), -4.5, 4.5, (-1, 0), (1, 0)),
    "silu": Kind(lambda x, _: x * _sigmoid(x, 0), -10, 10, (0, 0), (0, 1)),
    "gelu": Kind(_gelu, -4, 4, (0, 0), (0, 1)),
    "gelu_tanh": Kind(_gelu_tanh, -4, 4, (0, 0), (0, 1)),
    "mish": Kind(lambda x, _: x * np.tanh(_softplus(x, 0)), -11, 8, (0, 0), (0, 1)),
    "elu": Kind(_elu, -8, 0, (-1, 0), (0, 1)),
    "softplus": Kind(_softplus, -8, 8, (0, 0), (0, 1)),
    "hardswish": Kind(_hardswish, -3, 3, (0, 0), (0, 1)),
    "exp": Kind(lambda x, _: np.exp(np.minimum(x, 0)), -9, 0, (0, 0), (1, 0)),
    "reciprocal": _of_positive(np.reciprocal, 1.0, 2.0**10, 10, 2.0**-8),
    "rsqrt": _of_positive(lambda x: 1 / np.sqrt(x), 2.0**-10, 2.0**8, 16, ERROR),
    "sqrt": _of_positive(np.sqrt, 2.0**-10, 2.0**8, 16, ERROR),
}


def function(kind: str, x: Floats, parameter: float = 0.0) -> Floats:
    """The real function."""
    return np.asarray(KINDS[kind].of(x, parameter), dtype=np.float64)


@dataclasses.dataclass(frozen=True)
class Fit:
    """Fields of `graph.Function`, and the largest error over all arguments."""

    frac: int
    out_frac: int
    thresholds: tuple[int, ...]
    segments: tuple[tuple[int, ...], ...]
    error: float


@functools.cache
def fit(kind: str, parameter: float = 0.0) -> Fit:
    """The cheapest piecewise polynomial of a function within its error.

    Raises PlanError for an unknown kind.
    """
    if kind not in KINDS:
        raise PlanError(f"there is no function '{kind}'", hint=f"use one of {', '.join(KINDS)}")
    fitters = [_Fitter(KINDS[kind], parameter, degree) for degree in _DEGREES]
    # The widest rings have 62 bits: a sign, and values up to 2^10.
    return min((f.fit() for f in fitters if f.out_frac <= 50), key=_price)


def _price(fit: Fit) -> int:
    """Bits an entry, roughly: words of r^i and t r^i, and some forty a comparison."""
    degree, compared = len(fit.segments[0]) - 1, len(fit.thresholds) + 1
    return (degree + compared * (degree + 1)) * (fit.out_frac + 4) + 40 * compared


class _Fitter:
    """Greedy: each segment as long as the error allows."""

    def __init__(self, kind: Kind, parameter: float, degree: int) -> None:
        self.kind, self.parameter, self.degree = kind, parameter, degree
        self.unit = 2.0**kind.frac
        # Coefficients of z^degree at this scale are integers that are precise enough.
        self.out_frac = degree * kind.frac + math.ceil(-math.log2(kind.error)) + 1
        # Long segments are tried at some of their arguments only.
        self.aimed = 0.94 * kind.error

    def fit(self) -> Fit:
        """Thresholds and segments from left to right."""
        low, high = (round(end * self.unit) for end in (self.kind.low, self.kind.high))
        scale = self.parameter if self.kind is KINDS["elu"] else 1.0
        left = self.kind.left[0] * scale, self.kind.left[1]
        thresholds, segments = [low], [self._line(left)]
        start, worst = low, 0.0
        while start < high:
            stop = self._end(start, high)
            segment, error = self._segment(start, stop)
            segments.append(segment)
            worst = max(worst, error)
            thresholds.append(stop)
            start = stop
        segments.append(self._line(self.kind.right))
        return Fit(self.kind.frac, self.out_frac, tuple(thresholds), tuple(segments), worst)

    def _end(self, start: int, high: int) -> int:
        """The largest end within the error, in steps of the grid."""
        grid, size = self.kind.grid, self.kind.grid
        while start + 2 * size <= high and self._fits(start, 2 * size):
            size *= 2
        step = size // 2
        while step >= grid:
            if start + size + step <= high and self._fits(start, size + step):
                size += step
            step //= 2
        return min(start + size, high)

    def _fits(self, start: int, size: int) -> bool:
        return self._segment(start, start + size)[1] <= self.aimed

    def _segment(self, start: int, stop: int) -> tuple[tuple[int, ...], float]:
        """Integer coefficients for [start, stop), and the error there."""
        half = max((stop - start) / 2, 0.5)
        middle = (start + stop) // 2
        angles = (np.arange(self.degree + 1) + 0.5) * np.pi / (self.degree + 1)
        nodes = np.cos(angles) * half + (start + stop) / 2
        values = self.kind.of(nodes / self.unit, self.parameter)
        local = np.linalg.solve(np.vander((nodes - middle) / half, increasing=True), values)
        scale = 2.0**self.out_frac
        integers = [round(c * scale / half**i) for i, c in enumerate(local)]
        x = np.arange(start, stop, max(1, (stop - start) // 512))
        z = (x - middle).astype(np.float64)
        found = np.polynomial.polynomial.polyval(z, np.array(integers, dtype=np.float64)) / scale
        exact = self.kind.of(x / self.unit, self.parameter)
        gap = np.abs(found - exact)
        worst = float((gap / np.abs(exact) if self.kind.relative else gap).max())
        return _moved(integers, -middle), worst

    def _line(self, line: Line) -> tuple[int, ...]:
        """a + b x with x at scale 2^frac."""
        scale = 2.0**self.out_frac
        first = round(line[0] * scale), round(line[1] * scale / self.unit)
        return (*first, *(0 for _ in range(self.degree - 1)))


def _moved(coefficients: list[int], by: int) -> tuple[int, ...]:
    """P(x + by) as a polynomial of x."""
    n = len(coefficients)
    return tuple(
        sum(coefficients[m] * math.comb(m, i) * by ** (m - i) for m in range(i, n))
        for i in range(n)
    )
