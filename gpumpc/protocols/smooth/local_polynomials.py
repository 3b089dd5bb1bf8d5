"""A smooth function of a shared value, from one opening of it.

The servers open y = x + r. Its top bits tell, by one comparison with the dealer's, whether x lies
in a window; the dealer's share of "the middle bits of r are v", one bit a v, multiplied by the
opened comparison, says in which cell. The bits of that cell's coefficients are then XOR shares, for
nothing: the table is public. Opened under masks they become a polynomial of the low bits of r.
"""

import dataclasses
import functools

from gpumpc.cost import Cost
from gpumpc.errors import PlanError
from gpumpc.offline.deal_batch import Dealing
from gpumpc.protocols.chains import OPENED_WEIGHT, ROUND_WEIGHT, plan_chain
from gpumpc.protocols.comparison import Comparison, Digit, ones_at_party_0
from gpumpc.protocols.relu import lift_of_two, split_top
from gpumpc.protocols.smooth.cells import Pieces
from gpumpc.protocols.step import Clear, Step
from gpumpc.protocols.truncation import LiftBits
from gpumpc.ring.backend import Backend, Lanes, Words, lane_bytes, packed_bytes
from gpumpc.session import Session, Xor
from gpumpc.shares import Additive


class LessAndEqual(Comparison):
    """[y_c < r] and [y_c = r] of two public values. Cost, Error, Source: `Comparison`."""

    def both(self, session: Session, y_planes: list[Lanes], n: int) -> list[Digit]:
        """Shares of (less, equal) of each y."""
        chains = self._leaves(session, y_planes, n)
        for level in range(self.n_levels):
            self._combine_level(session, chains, level, n)
        return [chain[0] for chain in chains]


@functools.cache
def plan_top(bits: int) -> LessAndEqual:
    """The cheapest of two copies that keep equality."""
    chains = [plan_chain(bits, depth, True, 2) for depth in range(4)]
    options = [LessAndEqual(chain, None, 2) for chain in chains if chain]
    return min(
        options,
        key=lambda c: OPENED_WEIGHT * c.opened_bits + c.dealt_bits + ROUND_WEIGHT * c.rounds,
    )


@dataclasses.dataclass(frozen=True)
class Smooth(Step):
    """A function that `Pieces` describes, element by element.

    **Computes** f(x), for low - 2^(bits-1) + 2^window_bits <= x < low + 2^(bits-1) - 2^width_bits;
    modulo 2^out_bits at scale 2^out_frac. **Hides** x: y under r; every bit of the top comparison
    under a mask of its own, its two results under `a`; each bit of a coefficient, and of the tail,
    under a `t'` of its own; lifts as `LiftBits`. **Cost** 3 + tree rounds, and one if lifted; each
    way `bits`, tree bits, two, a bit a coefficient's bit; corrections: three bits a cell, and words
    only as wide as the rest of the sum above that bit.
    **Error** none against the polynomial of the cell and of rho, which depend on x and r: a value
    near an edge may be computed from either side, so both are approximations there; then truncation
    as `Truncate`. **Source** this project; docs/protocols.md section 9d.
    """

    bits: int
    high: int
    pieces: Pieces

    def __post_init__(self) -> None:
        if self.bits < self.pieces.window_bits + 2:
            raise PlanError(
                f"step '{self.name}' reads {self.bits} bits, and its window has "
                f"{self.pieces.window_bits}",
                "at least two more are compared",
                "choose a larger k",
            )

    # cost

    @property
    def comparison(self) -> LessAndEqual:
        """Of the bits above the window."""
        return plan_top(self.bits - 1 - self.pieces.window_bits)

    @property
    def out_bits(self) -> int:
        """Bits of the result."""
        return self.high if self._identity else max(self.high, self.pieces.value_bits)

    @property
    def _identity(self) -> bool:
        return self.pieces.tail is not None and self.pieces.tail.is_identity

    @property
    def lift(self) -> LiftBits | None:
        """The lift of the table's part."""
        low = self.pieces.value_bits
        return LiftBits(self.n, low, self.out_bits) if self.out_bits > low else None

    @property
    def identity_lift(self) -> LiftBits | None:
        """The lift of the two candidates for the argument."""
        return lift_of_two(self.n, self.bits, self.out_bits) if self._identity else None

    @property
    def cost(self) -> Cost:
        n, pieces, tree = self.n, self.pieces, self.comparison
        lifts = [lift for lift in (self.lift, self.identity_lift) if lift]
        sent = packed_bytes(n, self.bits) + lane_bytes(n, tree.opened_bits + 2 + pieces.n_choices)
        sent += sum(lift.masked_bytes for lift in lifts)
        dealt = lane_bytes(n, tree.dealt_bits) + 3 * packed_bytes(n, 1 << pieces.cell_bits)
        dealt += sum(packed_bytes(n, width) for width in self._widths())
        dealt += sum(lift.dealer_bytes for lift in lifts)
        return Cost.both_ways(3 + tree.rounds + (1 if self.lift else 0), sent, dealt)

    def _widths(self) -> list[int]:
        """Bits of every dealt word."""
        pieces = self.pieces
        basis = [self._width(c.shift) for c in pieces.coefficients[1:]]
        words = [self._width(pieces.coefficients[k].shift + i) for k, i in pieces.choices]
        if self._constant_bits:
            words.append(self._constant_bits)
        return basis + words + [self.bits] * (2 if self._identity else 0)

    def _width(self, shift: int) -> int:
        """Bits of a word that is multiplied by 2^shift."""
        return max(1, self.pieces.ring_bits - shift)

    @property
    def _constant_bits(self) -> int:
        """Bits of the word that carries the tail's constant, 0 without one."""
        constant = self.pieces.tail.constant if self.pieces.tail else 0
        return self._width((constant & -constant).bit_length() - 1) if constant else 0

    # dealer

    def deal(self, dealing: Dealing, *masks: object) -> None:
        backend, n, pieces = dealing.backend, self.n, self.pieces
        r = dealing.sum_words("r", (n,), self.bits)
        low, top = split_top(backend.to_planes(r, self.bits))
        self.comparison.deal(dealing, low[pieces.window_bits :], n)
        self._deal_cells(dealing, backend.reduce(r, pieces.window_bits))
        t = dealing.xor_lanes("t'", pieces.n_choices, n)
        basis = self._basis(backend, r)
        # The comparison leaves msb(r) in the tail's bit.
        tail = backend.from_bit(t[len(t) - 1] ^ top, (n,))
        if self._identity:
            self._deal_identity(dealing, tail, r)
        for k, phi in enumerate(basis[1:], 1):
            dealing.deal_words(f"basis.{k}", phi, self._width(pieces.coefficients[k].shift))
        for lane, (k, i) in zip(t, pieces.choices, strict=False):
            width = self._width(pieces.coefficients[k].shift + i)
            bit = backend.from_bit(lane, (n,))
            value = bit if k == 0 else backend.multiply(bit, basis[k], width)
            dealing.deal_words(f"t.{k}.{i}", value, width)
        if self._constant_bits:
            dealing.deal_words("tail", tail, self._constant_bits)
        if self.lift:
            self.lift.deal(dealing)

    def _deal_cells(self, dealing: Dealing, r: Words) -> None:
        """One bit a v, [v = middle of r], and its products with both masks of the comparison."""
        backend, size = dealing.backend, 1 << self.pieces.cell_bits
        one = backend.add_constant(backend.zeros((self.n,)), 1, 64)
        hot = one << backend.shift_signed(r, self.pieces.width_bits)
        dealing.deal_bits("cell", hot, size)
        for i, a in enumerate(dealing.xor_lanes("a", 2, self.n)):
            dealing.deal_bits(
                f"cell.a{i}", backend.multiply(backend.from_bit(a, (self.n,)), hot, 64), size
            )

    def _deal_identity(self, dealing: Dealing, t: Words, r: Words) -> None:
        dealing.at(f"{self.name}/identity")
        dealing.deal_words("t", t, self.bits)
        dealing.deal_words("t r", dealing.backend.multiply(t, r, self.bits), self.bits)
        if self.identity_lift:
            self.identity_lift.deal(dealing)
        dealing.at(self.name)

    def _basis(self, backend: Backend, r: Words) -> list[Words]:
        """1, rho, rho^2 - 1/2 at rho_bits, rounded, from the low bits of r."""
        pieces = self.pieces
        width, p = pieces.width_bits, pieces.rho_bits
        rho = backend.add_constant(
            backend.scale(backend.reduce(r, width), -2, 64), (1 << width) - 1, 64
        )
        rho = _rounded(backend, rho, width - p)
        square = _rounded(backend, backend.multiply(rho, rho, 64), p)
        half = backend.add_constant(square, -(1 << (p - 1)), 64)
        return [rho, rho, half][: len(pieces.coefficients)]

    # servers

    def run(self, session: Session, x: Additive) -> Additive:
        backend, n, pieces = session.backend, self.n, self.pieces
        x.check_bits(self.bits)
        v = backend.reduce(x.words.reshape(-1), self.bits)
        [y] = session.open_many(session.masked(v, "r", self.bits))
        place = backend.add_constant(y, -pieces.low, self.bits)
        less, packed = self._cells(session, place)
        lanes = backend.to_planes(packed, pieces.n_choices)
        if pieces.tail:
            lanes = backend.concat([lanes[:-1], (lanes[-1] ^ less)[None]], 0)
        lanes = lanes ^ session.lanes("t'", pieces.n_choices, n)
        choices, argument = self._open_choices(session, lanes, v, y)
        total = self._sum(session, choices)
        total = backend.truncate(total, pieces.ring_bits, pieces.shift, session.party)
        words = self._lifted(session, total)
        if argument is not None:
            words = words + argument
        words = backend.reduce(words, self.out_bits).reshape(self.shape)
        result = Additive(words, self.out_bits, pieces.out_frac, x.divisor, x.owner)
        return session.public(result, pieces.below)

    def _cells(self, session: Session, place: Words) -> tuple[Lanes, Words]:
        """Shares of the top comparison for the tail, and of the table's word of x's cell."""
        backend, n, pieces = session.backend, self.n, self.pieces
        size, window = 1 << pieces.cell_bits, pieces.window_bits
        above = backend.add_constant(place, -(1 << window), self.bits)
        (low_0, _), (low_1, top_1) = (
            split_top(backend.to_planes(p, self.bits)[window:]) for p in (place, above)
        )
        (less, equal_1), (_, equal_0) = self.comparison.both(session, [low_1, low_0], n)
        less = less ^ ones_at_party_0(session, n)
        if session.party == 0:
            less = less ^ top_1
        equal = backend.concat([equal_0[None], equal_1[None]], 0) ^ session.lanes("a", 2, n)
        [opened] = session.open_many(Xor(equal, n))
        # Bits v <= Y: without a borrow. There [top equal] is the first result, else the second.
        start = backend.reduce(place, window)
        one = backend.add_constant(backend.zeros((n,)), 1, 64)
        upto = (one << backend.shift_signed(start, pieces.width_bits) << 1) - one
        public = [backend.scale(backend.from_bit(lane, (n,)), -1, 64) for lane in opened]
        cell, with_0, with_1 = (
            session.dealt_words(name, (n,), size) for name in ("cell", "cell.a0", "cell.a1")
        )
        # [v = middle of r][equal] = o [v = middle of r] ^ a [v = middle of r]
        first, second = cell & public[0] ^ with_0, cell & public[1] ^ with_1
        chosen = second ^ (upto & (first ^ second))
        table = backend.upload(pieces.both_tables)
        start = backend.shift_signed(start, pieces.dropped)
        stride = 1 << pieces.place_bits
        return less, backend.look_up_chosen(chosen, start, stride, table, size)

    def _open_choices(
        self, session: Session, lanes: Lanes, v: Words, y: Words
    ) -> tuple[Lanes, Words | None]:
        """Open the choices; select and lift the argument with them, where the tail has it."""
        backend, n = session.backend, self.n
        if not self._identity:
            [choices] = session.open_many(Xor(lanes, n))
            return choices, None
        session.at(f"{self.name}/identity")
        t, t_r = (session.dealt_words(name, (n,), self.bits) for name in ("t", "t r"))
        zero, one = backend.candidates(y, t, t_r, v, self.bits)
        if self.identity_lift is None:
            session.at(self.name)
            [choices] = session.open_many(Xor(lanes, n))
            return choices, backend.select(choices[-1], one, zero)
        pending = self.identity_lift.mask_top_bits(session, [zero, one])
        session.at(self.name)
        choices, theirs = session.open_many(Xor(lanes, n), pending.message)
        return choices, pending.finish(session, theirs, choices[-1], [zero, one])

    def _sum(self, session: Session, choices: Lanes) -> Words:
        """The polynomial, a bit of a coefficient after the other, and the tail's constant."""
        backend, pieces = session.backend, self.pieces
        ring, shape = pieces.ring_bits, (self.n,)
        widths = [self._width(coefficient.shift) for coefficient in pieces.coefficients]
        basis = [
            session.dealt_words(f"basis.{k}", shape, width) for k, width in enumerate(widths[1:], 1)
        ]
        total = backend.zeros(shape)
        for lane, (k, i) in zip(choices, pieces.choices, strict=False):
            coefficient = pieces.coefficients[k]
            word = session.dealt_words(f"t.{k}.{i}", shape, self._width(coefficient.shift + i))
            weight = coefficient.weight(i) % (1 << 64)
            # bit phi = c phi + (1 - 2c) t phi, with c = bit ^ t
            if k == 0:
                total = backend.add_flipped(total, lane, word, weight, session.party, ring)
            else:
                total = backend.add_flipped_part(total, lane, word, basis[k - 1], weight, ring)
        if pieces.tail and self._constant_bits:
            word = session.dealt_words("tail", shape, self._constant_bits)
            constant = pieces.tail.constant % (1 << 64)
            total = backend.add_flipped(total, choices[-1], word, constant, session.party, ring)
        return total

    def _lifted(self, session: Session, total: Words) -> Words:
        """The signed sum modulo 2^out_bits, as `Lift` does it."""
        if self.lift is None:
            return total
        backend, half = session.backend, 1 << (self.lift.low - 2) if session.party == 0 else 0
        shifted = backend.add_constant(total, half, self.lift.low)
        pending = self.lift.mask_top_bits(session, [shifted])
        [theirs] = session.open_many(pending.message)
        words = pending.finish(session, theirs, None, [shifted])
        return backend.add_constant(words, -half, self.out_bits)

    # in the clear

    def plain(self, clear: Clear, x: Words) -> Words:
        """As `run` with r = 2^(width_bits - 1), the middle of a cell; rounded to nearest."""
        backend, pieces = clear.backend, self.pieces
        flat = x.reshape(-1)
        middle = backend.add_constant(backend.zeros(flat.shape), 1 << (pieces.width_bits - 1), 64)
        basis = self._basis(backend, middle)
        place = backend.add_constant(flat, -pieces.low, 64) + middle

        def from_on(edge: int) -> Words:
            """[place >= edge], as words."""
            less = backend.bit(backend.add_constant(place, -edge, 64), 63)
            ones = backend.add_constant(backend.zeros(flat.shape), 1, 64)
            return ones - backend.from_bit(less, flat.shape)

        inside = from_on(0) - from_on(1 << pieces.window_bits)
        start = backend.shift_signed(backend.reduce(place, pieces.window_bits), pieces.dropped)
        packed = backend.look_up_chosen(inside, start, 1, backend.upload(pieces.table), 1)
        total = backend.zeros(flat.shape)
        for number, (k, i) in enumerate(pieces.choices):
            bit = backend.from_bit(backend.bit(packed, number), flat.shape)
            bit = bit if k == 0 else bit * basis[k]
            total = total + backend.scale(bit, pieces.coefficients[k].weight(i), 64)
        tail = pieces.tail
        above = from_on(tail.cell << pieces.width_bits) if tail else total
        if tail:
            total = total + backend.scale(above, tail.constant, 64)
        result = backend.add_constant(_rounded(backend, total, pieces.shift), pieces.below, 64)
        return (result + above * flat if self._identity else result).reshape(x.shape)


def _rounded(backend: Backend, words: Words, shift: int) -> Words:
    """Signed words over 2^shift, to nearest, ties up."""
    if shift == 0:
        return words
    return backend.shift_signed(backend.add_constant(words, 1 << (shift - 1), 64), shift)
