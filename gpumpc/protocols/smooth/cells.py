"""What a smooth function is to the protocol: cells, a table of coefficients, rings and scales."""

import dataclasses
import functools

from gpumpc.errors import PlanError

_BUG = "this is a bug: please report it"
# The bits that name a cell stand in one word.
MAX_CELL_BITS = 6


@dataclasses.dataclass(frozen=True)
class Coefficient:
    """One coefficient of every local polynomial, as it stands in a word of the table.

    Attributes:
        bits: how many it takes there.
        is_signed: whether its top bit counts negative.
        shift: it is multiplied by 2^shift in the result's ring.
    """

    bits: int
    is_signed: bool
    shift: int

    def weight(self, i: int) -> int:
        """What bit i adds to the result, times the basis function."""
        weight = 1 << (self.shift + i)
        return -weight if self.is_signed and i == self.bits - 1 else weight

    def packed(self, value: int) -> int:
        """A value as its bits."""
        return value & ((1 << self.bits) - 1)

    def value(self, packed: int) -> int:
        """The inverse of `packed`."""
        negative = self.is_signed and packed >> (self.bits - 1)
        return packed - (1 << self.bits) if negative else packed


@dataclasses.dataclass(frozen=True)
class Tail:
    """What is added from a threshold on: a constant, or the argument itself.

    Attributes:
        cell: the first cell at which it is added; above the window it always is.
        constant: a multiple of the result's unit.
        is_identity: whether the argument is added too.
    """

    cell: int
    constant: int = 0
    is_identity: bool = False


@dataclasses.dataclass(frozen=True)
class Pieces:
    """A function of integers: `below` left of a window, a tail right of it, and between, a table.

    The window begins at `low` and has 2^cell_bits cells of 2^width_bits integers. With the public Y
    and the dealer's R, Y - R = x - low, cell s and place j of Y in the table name the coefficients
    of a polynomial of rho = (2^width_bits - 1 - 2 (R mod 2^width_bits)) / 2^width_bits, -1 < rho <
    1: its middle depends on Y alone. Basis: 1, rho, rho^2 - 1/2, at `rho_bits` fraction bits.

    Attributes:
        dropped: low bits of Y that do not choose in the table.
        ring_bits, frac: of the sum before it is truncated.
        out_frac: fraction bits of the result, and of `below`.

    Raises PlanError where it does not hold together.
    """

    low: int
    width_bits: int
    cell_bits: int
    dropped: int
    rho_bits: int
    coefficients: tuple[Coefficient, ...]
    table: tuple[int, ...]
    ring_bits: int
    frac: int
    out_frac: int
    below: int = 0
    tail: Tail | None = None

    def __post_init__(self) -> None:
        fits = (
            1 <= self.cell_bits <= MAX_CELL_BITS
            and 0 <= self.dropped < self.width_bits
            and 1 <= self.rho_bits <= self.width_bits
            and 1 <= len(self.coefficients) <= 3
            and len(self.table) == 1 << (self.cell_bits + self.place_bits)
            and self.out_frac <= self.frac < self.ring_bits <= 62
        )
        if not fits or (self.tail and not 0 <= self.tail.cell <= 1 << self.cell_bits):
            raise PlanError("cells, table and ring of a function do not fit together", hint=_BUG)

    @property
    def place_bits(self) -> int:
        """Bits of Y that choose within a cell."""
        return self.width_bits - self.dropped

    @property
    def window_bits(self) -> int:
        """The window has 2^window_bits integers."""
        return self.width_bits + self.cell_bits

    @property
    def shift(self) -> int:
        """Bits that are truncated at the end."""
        return self.frac - self.out_frac

    @property
    def value_bits(self) -> int:
        """Bits of the sum after truncation."""
        return self.ring_bits - self.shift

    @property
    def choices(self) -> list[tuple[int, int]]:
        """(degree, bit) of every bit of a table's word, lowest first; the tail's comes after."""
        degrees = enumerate(self.coefficients)
        return [(k, i) for k, coefficient in degrees for i in range(coefficient.bits)]

    @property
    def n_choices(self) -> int:
        """Bits that are opened under masks at the end."""
        return len(self.choices) + (1 if self.tail else 0)

    @functools.cached_property
    def both_tables(self) -> list[int]:
        """The table twice, with the tail's bit: a place below zero has borrowed from above.

        There the bit is flipped, as the top comparison did not count the borrow.
        """
        if self.tail is None:
            return [*self.table, *self.table]
        top, first = 1 << len(self.choices), self.tail.cell << self.place_bits
        bits = [top if j >= first else 0 for j in range(len(self.table))]
        once = [word | bit for word, bit in zip(self.table, bits, strict=True)]
        return once + [word ^ top for word in once]
