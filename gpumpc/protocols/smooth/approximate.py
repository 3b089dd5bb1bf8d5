"""From a function and an allowed error to the cells, scales and table of a `Smooth` step."""

import functools
import itertools
from decimal import Decimal

from gpumpc.errors import PlanError
from gpumpc.protocols.smooth.cells import MAX_CELL_BITS, Coefficient, Pieces, Tail
from gpumpc.protocols.smooth.decimals import FUNCTIONS, Function

# Half widths of the window, in powers of two.
_REACHES = (2, 3, 4)
# Places of a table in a cell: the argument's middle is known to 1/2^PLACE_BITS of a cell.
_PLACE_BITS = 8


@functools.cache
def approximate(name: str, frac: int, error_bits: int) -> Pieces:
    """A function of `FUNCTIONS` of integers at scale 2^frac, with a result at the same scale.

    The table errs by at most 2^-error_bits, the step by one unit of 2^-frac more for its
    truncation; tests/protocols/test_smooth.py measures it over every integer.

    Raises PlanError where no table of 64 cells is good enough.
    """
    if name not in FUNCTIONS:
        raise PlanError(
            f"there is no smooth function '{name}'",
            "a table is made for known functions only",
            f"choose one of {', '.join(FUNCTIONS)}",
        )
    function = FUNCTIONS[name]
    for reach, cell_bits in itertools.product(_REACHES, range(3, MAX_CELL_BITS + 1)):
        width_bits = frac + reach + 1 - cell_bits
        if width_bits < 5 or not _tails_fit(function, name, reach, error_bits):
            continue
        grid = _Grid(function, name, frac, reach, cell_bits)
        if grid.error() <= 2.0 ** -(error_bits + 1):
            return _pieces(grid, error_bits)
    raise PlanError(
        f"no table of {1 << MAX_CELL_BITS} cells gives '{name}' at 2^{frac} to 2^-{error_bits}",
        "its window or its curvature is too large for that",
        "allow a larger error or use more fraction bits",
    )


def _tails_fit(function: Function, name: str, reach: int, error_bits: int) -> bool:
    """Whether the limits stand for the function outside the window, by half of the error."""
    # An approximated edge is one cell wide; half a unit of `reach` is kept from it.
    edge, most = Decimal(1 << reach) - Decimal("0.5"), Decimal(2) ** -error_bits
    left = abs(function.value(-edge) - function.below)
    if name == "exp":
        return left <= most
    right = function.value(edge) - function.above - (edge if function.is_identity else 0)
    return left <= most and abs(right) <= most


class _Grid:
    """The function on a grid of half places, and its local polynomials."""

    def __init__(
        self, function: Function, name: str, frac: int, reach: int, cell_bits: int
    ) -> None:
        self.function, self.frac, self.cell_bits = function, frac, cell_bits
        self.width_bits = frac + reach + 1 - cell_bits
        self.place_bits = min(_PLACE_BITS, self.width_bits - 1)
        self.dropped = self.width_bits - self.place_bits
        width = 1 << self.width_bits
        # exp is asked for up to zero only: two cells above it are enough.
        self.low = -(1 << (frac + reach)) if name != "exp" else 2 * width - (width << cell_bits)
        has_tail = name != "exp"
        # The first cell that lies at zero or above, whichever way it is rounded.
        first = -self.low // width + (1 if function.is_identity else 0)
        self.tail_cell = first if has_tail else (1 << cell_bits)
        self.has_tail = has_tail
        # Chebyshev's nodes, moved to the grid: 7/16 of a cell from the middle.
        self.node = 7 << self.place_bits >> 4
        n_points = (1 << (cell_bits + self.place_bits)) + 2 * self.node
        start = self.low - width // 2 - (self.node << self.dropped)
        step = 1 << self.dropped
        self.places = [start + step // 2 + step * i for i in range(n_points)]
        self._points: dict[int, float] = {}

    def point(self, i: int) -> float:
        """The function at a point of the grid."""
        if i not in self._points:
            x = Decimal(self.places[i]) / Decimal(1 << self.frac)
            self._points[i] = float(self.function.value(x))
        return self._points[i]

    def target(self, point: int, cell: int) -> float:
        """What the table gives at a point of the grid, for this cell."""
        value = self.point(point) - self.function.below
        if self.has_tail and cell >= self.tail_cell:
            value -= self.function.above - self.function.below
            if self.function.is_identity:
                value -= self.places[point] / (1 << self.frac)
        return value

    def polynomial(self, place: int) -> tuple[float, float, float]:
        """Coefficients of 1, rho, rho^2 - 1/2 about this place of the table."""
        cell, i = place >> self.place_bits, place + self.node
        left, middle, right = (self.target(j, cell) for j in (i - self.node, i, i + self.node))
        at = self.node / (1 << (self.place_bits - 1))
        square = ((right + left) / 2 - middle) / (at * at)
        return middle + square / 2, (right - left) / (2 * at), square

    def error(self) -> float:
        """The largest error of the polynomials, at an eighth of every half cell."""
        worst, half = 0.0, 1 << (self.place_bits - 1)
        for place in range(0, 1 << (self.cell_bits + self.place_bits), max(1, half >> 3)):
            c_0, c_1, c_2 = self.polynomial(place)
            for offset in range(-self.node, self.node + 1, max(1, half >> 3)):
                rho = offset / half
                value = c_0 + c_1 * rho + c_2 * (rho * rho - 0.5)
                exact = self.target(place + self.node + offset, place >> self.place_bits)
                worst = max(worst, abs(value - exact))
        return worst


def _pieces(grid: _Grid, error_bits: int) -> Pieces:
    """Scales so that all roundings together stay below a half of the error."""
    rows = [grid.polynomial(j) for j in range(1 << (grid.cell_bits + grid.place_bits))]
    fracs = (error_bits + 2, error_bits + 2, error_bits + 1)
    slope = max(abs(row[1]) for row in rows)
    # Rounding rho errs by slope 2^-(rho_bits + 1).
    rho_bits = min(grid.width_bits, max(3, error_bits + 2 + _exponent(slope)))
    frac = max(fracs[0], fracs[1] + rho_bits, grid.frac)
    columns = [[round(row[k] * (1 << fracs[k])) for row in rows] for k in range(3)]
    coefficients = []
    for k, column in enumerate(columns):
        shift = frac - fracs[k] - (rho_bits if k else 0)
        magnitude = max(max(column), -min(column) - 1, 1)
        is_signed = min(column) < 0
        coefficients.append(
            Coefficient(magnitude.bit_length() + (1 if is_signed else 0), is_signed, shift)
        )
    table = []
    for values in zip(*columns, strict=True):
        word, at = 0, 0
        for coefficient, value in zip(coefficients, values, strict=True):
            word |= coefficient.packed(value) << at
            at += coefficient.bits
        table.append(word)
    function = grid.function
    jump = function.above - function.below
    largest = max(max(abs(row[0]) + abs(row[1]) + abs(row[2]) for row in rows), float(abs(jump)))
    # The lift wants sums below a quarter of their ring.
    ring_bits = frac + max(0, _exponent(largest) + 1) + 2
    tail = Tail(grid.tail_cell, jump << frac, function.is_identity) if grid.has_tail else None
    place = grid.low, grid.width_bits, grid.cell_bits, grid.dropped, rho_bits
    rings = ring_bits, frac, grid.frac, function.below << grid.frac, tail
    return Pieces(*place, tuple(coefficients), tuple(table), *rings)


def _exponent(value: float) -> int:
    """The least e with value <= 2^e, at least -8."""
    return next(e for e in range(-8, 64) if value <= 2.0**e)
